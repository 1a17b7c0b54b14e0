//! What `top` draws, on a terminal that is none.

use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::status::{AssetRow, BudgetRow, FlowRow, HolderRow, SinkRow};

fn snapshot(mib: u64) -> Snapshot {
    let holder = |pid, exe: &str, taken| HolderRow {
        pid,
        exe: exe.to_owned(),
        cmdline: String::new(),
        uid: 0,
        asset: "llm".to_owned(),
        taken,
        asset_bytes: 1 << 30,
        exited: pid == 9,
    };
    let flow = |pid, exe: &str, to: &str, control: &str, bound| FlowRow {
        pid,
        exe: exe.to_owned(),
        asset: "llm".to_owned(),
        bound,
        to: to.to_owned(),
        kind: "file".to_owned(),
        control: control.to_owned(),
    };
    let budget = |rule: &str, name: &str, measure: &str, sum, line| BudgetRow {
        rule: rule.to_owned(),
        budget: name.to_owned(),
        exception: String::new(),
        of: "llm".to_owned(),
        over_seconds: 3600,
        measure: measure.to_owned(),
        sum,
        line,
        severity: "medium".to_owned(),
        is_reached: false,
    };
    Snapshot {
        schema: 1,
        version: "0.1.0".to_owned(),
        pid: 812,
        at_ms: 11_520_000,
        started_ms: 0,
        sensor: "syscall".to_owned(),
        missing_hooks: vec![],
        rules: 10,
        rule_seconds: vec![],
        rules_digest: "ab".repeat(32),
        sequence: 240,
        open: vec![("critical".to_owned(), 1), ("low".to_owned(), 0)],
        assets: vec![AssetRow { name: "llm".to_owned(), kind: "weights".to_owned(), bytes: 1 << 30 }],
        holders: vec![holder(9, "/usr/bin/vllm", 1 << 30), holder(7, "/usr/bin/c\u{1b}[2Jp", mib << 20)],
        holder_count: 2,
        flows: vec![
            flow(7, "/usr/bin/cp", "/mnt/usb/w", "uncontrolled", mib << 20),
            flow(9, "/usr/bin/vllm", "10.20.0.9:443/tcp", "controlled", 900 << 20),
        ],
        flow_count: 2,
        budgets: vec![
            budget("WB-0003", "hour", "bound", mib << 20, 200 << 20),
            budget("SITE-1", "day", "count", 3, 10),
        ],
        budget_count: 2,
        loss: vec![],
        sinks: vec![SinkRow {
            name: "journald".to_owned(),
            sent: 1,
            waiting: 2,
            trouble: "no socket".to_owned(),
        }],
    }
}

fn press(view: &mut View, code: KeyCode) -> bool {
    view.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn drawn(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.draw(frame)).unwrap();
    let text = terminal.backend().to_string();
    text.lines().map(|line| line.trim_matches('"').trim_end()).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_moves_is_shown_with_its_growth_and_cannot_drive_a_terminal() {
    let mut view = View::default();
    assert_eq!(drawn(&view, 30, 2).trim_end(), "waiting for the agent");
    view.take(snapshot(100));
    view.take(snapshot(164));
    insta::assert_snapshot!(drawn(&view, 84, 20), @r"
    weighbridge 0.1.0  pid 812  up 3 h 12 m  rules 10  sinks 1, failing 1
    findings: 1 critical  lost: none
    assets
    size        can be out  share    asset
    1.0 GiB     164.0 MiB   16.0 %   llm
    holders (2)
    taken       +           share    process
    1.0 GiB                 100.0 %  /usr/bin/vllm (pid 9) (ended) of llm
    164.0 MiB   +64.0 MiB   16.0 %   /usr/bin/c\u{1b}[2Jp (pid 7) of llm

    can have reached (2)
    bound       +           control      where to, by whom
    900.0 MiB               controlled   10.20.0.9:443/tcp  by /usr/bin/vllm (pid 9) of
    164.0 MiB   +64.0 MiB   uncontrolled /mnt/usb/w  by /usr/bin/cp (pid 7) of llm

    budgets (2)
    sum         +           used     line, budget, of what
    164.0 MiB   +64.0 MiB   82.0 %   of 200.0 MiB to medium: WB-0003 hour of llm
    3                       30.0 %   of 10 to medium: SITE-1 day of llm
    q quit  s sort: bytes  p pause  up/down scroll
    ");
}

#[test]
fn rows_are_sorted_by_what_is_asked_for() {
    let mut view = View::default();
    view.take(snapshot(100));
    view.take(snapshot(164));
    let first = |view: &View| {
        let mut rows = holders(view.now.as_ref().unwrap(), &view.before);
        view.sort(&mut rows);
        rows[0].key.clone()
    };
    assert!(first(&view).starts_with("holder 9"), "the most bytes");
    assert!(!press(&mut view, KeyCode::Char('s')));
    assert!(first(&view).starts_with("holder 7"), "the most growth");
    press(&mut view, KeyCode::Char('s'));
    assert!(first(&view).starts_with("holder 7"), "c before v");
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(view.order, Order::Bytes);
}

#[test]
fn keys_pause_scroll_and_quit() {
    let mut view = View::default();
    view.take(snapshot(100));
    press(&mut view, KeyCode::Char('p'));
    view.take(snapshot(164));
    assert_eq!(view.now, Some(snapshot(100)), "paused");
    for _ in 0..9 {
        press(&mut view, KeyCode::Down);
    }
    assert_eq!(view.from, 1, "never past the last row");
    press(&mut view, KeyCode::Up);
    press(&mut view, KeyCode::Up);
    assert_eq!(view.from, 0);
    assert!(press(&mut view, KeyCode::Char('q')) && press(&mut view, KeyCode::Esc));
    assert!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(!press(&mut view, KeyCode::Char('c')));
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    let mut view = View::default();
    view.take(snapshot(100));
    for (width, height) in [(1, 1), (3, 40), (200, 2), (10, 8), (300, 100)] {
        drawn(&view, width, height);
    }
}

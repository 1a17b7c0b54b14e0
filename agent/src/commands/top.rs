//! `weighbridge top` on a terminal: assets, holders, flows and budgets as they move.
//!
//! What is shown is a [`Snapshot`] each second and a [`View`] of it; `run` alone knows the terminal, so that the rest is tested
//! without one. Text of processes is made harmless before it is drawn.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::Duration,
};

use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::Line,
    widgets::{Block, Paragraph, Row, Table},
};

use super::{
    INTERNAL, OK, UNREACHABLE,
    status::{amount, first, since, used, whose},
};
use crate::{
    alerts::{human_bytes, printable},
    status::{Snapshot, Watch},
};

/// How long a key may wait for its effect.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many of a row's keys and bytes are remembered for the next snapshot is bounded by what a snapshot has.
type Sizes = BTreeMap<String, u64>;

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Bytes,
    Growth,
    Name,
}

impl Order {
    const fn next(self) -> Self {
        match self {
            Self::Bytes => Self::Growth,
            Self::Growth => Self::Name,
            Self::Name => Self::Bytes,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Growth => "growth",
            Self::Name => "name",
        }
    }
}

/// A snapshot and how somebody looks at it.
#[derive(Debug)]
struct View {
    now: Option<Snapshot>,
    /// What each row had in the snapshot before.
    before: Sizes,
    order: Order,
    paused: bool,
    /// Rows that are scrolled past.
    from: usize,
}

/// One line of a table.
struct Shown {
    key: String,
    bytes: u64,
    growth: u64,
    cells: Vec<String>,
}

/// Shows what the agent says until somebody quits.
pub(super) fn run(lines: Watch) -> u8 {
    let snapshots = match read(lines) {
        Ok(snapshots) => snapshots,
        Err(error) => {
            eprintln!("error: no thread can be started: {error}");
            return INTERNAL;
        }
    };
    // Puts the terminal back when it panics, too.
    let mut terminal = match ratatui::try_init() {
        Ok(terminal) => terminal,
        Err(error) => {
            eprintln!("error: this terminal cannot be drawn on: {error}; `weighbridge status` only prints");
            return INTERNAL;
        }
    };
    let mut view = View::default();
    let ended = loop {
        match snapshots.try_recv() {
            Ok(Ok(snapshot)) => view.take(snapshot),
            Ok(Err(why)) => break Err(why),
            Err(TryRecvError::Disconnected) => break Err("the agent ended".to_owned()),
            Err(TryRecvError::Empty) => {}
        }
        // A terminal that changed its size is drawn anew as a whole.
        if let Err(error) = terminal.draw(|frame| view.draw(frame)) {
            break Err(format!("the terminal went away: {error}"));
        }
        match key() {
            Ok(Some(key)) if view.key(key) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(format!("the terminal went away: {error}")),
        }
    };
    ratatui::restore();
    match ended {
        Ok(()) => OK,
        Err(why) => {
            eprintln!("error: {why}");
            UNREACHABLE
        }
    }
}

/// Snapshots as they come; the last word is why there are no more.
fn read(mut lines: Watch) -> io::Result<Receiver<Result<Snapshot, String>>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new().name("top".to_owned()).spawn(move || {
        loop {
            let snapshot: Result<Snapshot, String> = first(&mut lines).map_err(|error| error.to_string());
            let is_last = snapshot.is_err();
            // Nobody looks any more.
            if sender.send(snapshot).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn key() -> io::Result<Option<KeyEvent>> {
    if !event::poll(LOOK_EVERY)? {
        return Ok(None);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind == KeyEventKind::Press => Some(key),
        _ => None,
    })
}

impl Default for View {
    fn default() -> Self {
        Self { now: None, before: Sizes::new(), order: Order::Bytes, paused: false, from: 0 }
    }
}

impl View {
    fn take(&mut self, snapshot: Snapshot) {
        if self.paused {
            return;
        }
        if let Some(old) = &self.now {
            self.before = holders(old, &Sizes::new())
                .into_iter()
                .chain(flows(old, &Sizes::new()))
                .chain(budgets(old, &Sizes::new()))
                .map(|row| (row.key, row.bytes))
                .collect();
        }
        self.now = Some(snapshot);
    }

    /// Whether somebody wants to leave.
    fn key(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Down | KeyCode::Char('j') => self.from = (self.from + 1).min(self.most()),
            KeyCode::Up | KeyCode::Char('k') => self.from = self.from.saturating_sub(1),
            KeyCode::Home => self.from = 0,
            _ => {}
        }
        false
    }

    fn most(&self) -> usize {
        self.now
            .as_ref()
            .map_or(0, |now| now.holders.len().max(now.flows.len()).max(now.budgets.len()).saturating_sub(1))
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let Some(now) = &self.now else {
            frame.render_widget(Paragraph::new("waiting for the agent"), frame.area());
            return;
        };
        let assets = u16::try_from(now.assets.len().min(4)).unwrap_or(4) + 2;
        // A host has few budgets; what it has of them is shown whole where there is room for six.
        let budgets_shown = u16::try_from(now.budgets.len().clamp(1, 6)).unwrap_or(6) + 2;
        let [head, top, middle, bottom, last, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(assets),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Length(budgets_shown),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(header(now)), head);
        let of_assets = asset_rows(now).into_iter().take(4).collect();
        table(frame, top, "assets", &["size", "can be out", "share", "asset"], of_assets, &[11, 11, 8]);
        let mut rows = holders(now, &self.before);
        self.sort(&mut rows);
        let title = format!("holders ({})", now.holder_count);
        table(frame, middle, &title, &["taken", "+", "share", "process"], self.cells(rows), &[11, 11, 8]);
        let mut rows = flows(now, &self.before);
        self.sort(&mut rows);
        let title = format!("can have reached ({})", now.flow_count);
        table(
            frame,
            bottom,
            &title,
            &["bound", "+", "control", "where to, by whom"],
            self.cells(rows),
            &[11, 11, 12],
        );
        let mut rows = budgets(now, &self.before);
        if self.order != Order::Bytes {
            self.sort(&mut rows);
        }
        let title = format!("budgets ({})", now.budget_count);
        let heads = ["sum", "+", "used", "line, budget, of what"];
        table(frame, last, &title, &heads, self.cells(rows), &[11, 11, 8]);
        let state = if self.paused { "  paused" } else { "" };
        let keys = format!("q quit  s sort: {}  p pause  up/down scroll{state}", self.order.as_str());
        frame.render_widget(Paragraph::new(keys), foot);
    }

    fn sort(&self, rows: &mut [Shown]) {
        rows.sort_by(|a, b| match self.order {
            Order::Bytes => b.bytes.cmp(&a.bytes).then_with(|| a.key.cmp(&b.key)),
            Order::Growth => b.growth.cmp(&a.growth).then_with(|| b.bytes.cmp(&a.bytes)),
            Order::Name => a.cells.last().cmp(&b.cells.last()),
        });
    }

    fn cells(&self, rows: Vec<Shown>) -> Vec<Vec<String>> {
        rows.into_iter().skip(self.from).map(|row| row.cells).collect()
    }
}

fn header(now: &Snapshot) -> Vec<Line<'static>> {
    let list = |pairs: &[(String, u64)]| {
        let some = pairs.iter().filter(|(_, n)| *n != 0).map(|(name, n)| format!("{n} {}", printable(name)));
        let some = some.collect::<Vec<_>>().join(", ");
        if some.is_empty() { "none".to_owned() } else { some }
    };
    let seconds = (now.at_ms - now.started_ms).max(0) / 1000;
    let failing = now.sinks.iter().filter(|sink| !sink.trouble.is_empty()).count();
    let first = format!(
        "weighbridge {}  pid {}  up {}  rules {}  sinks {}, failing {failing}",
        printable(&now.version),
        now.pid,
        since(seconds),
        now.rules,
        now.sinks.len()
    );
    vec![Line::from(first), Line::from(format!("findings: {}  lost: {}", list(&now.open), list(&now.loss)))]
}

/// Assets with what can be out of control: the bounds of the flows that are shown, together at most the asset.
fn asset_rows(now: &Snapshot) -> Vec<Vec<String>> {
    let out = |name: &str| {
        let flows = now.flows.iter().filter(|flow| {
            flow.asset == name && ["uncontrolled", "unmetered"].contains(&flow.control.as_str())
        });
        flows.fold(0_u64, |sum, flow| sum.saturating_add(flow.bound))
    };
    let mut rows: Vec<_> =
        now.assets.iter().map(|asset| (out(&asset.name).min(asset.bytes), asset)).collect();
    rows.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
    rows.into_iter()
        .map(|(out, asset)| {
            vec![human_bytes(asset.bytes), human_bytes(out), share(out, asset.bytes), printable(&asset.name)]
        })
        .collect()
}

fn holders(now: &Snapshot, before: &Sizes) -> Vec<Shown> {
    now.holders
        .iter()
        .map(|row| {
            let key = format!("holder {} {} {}", row.pid, row.exe, row.asset);
            let gone = if row.exited { " (ended)" } else { "" };
            let name =
                format!("{} (pid {}){gone} of {}", printable(&row.exe), row.pid, printable(&row.asset));
            shown(key, row.taken, before, share(row.taken, row.asset_bytes), name)
        })
        .collect()
}

fn flows(now: &Snapshot, before: &Sizes) -> Vec<Shown> {
    now.flows
        .iter()
        .map(|row| {
            let key = format!("flow {} {} {} {}", row.pid, row.exe, row.asset, row.to);
            let name = format!(
                "{}  by {} (pid {}) of {}",
                printable(&row.to),
                printable(&row.exe),
                row.pid,
                printable(&row.asset)
            );
            shown(key, row.bound, before, printable(&row.control), name)
        })
        .collect()
}

/// As they come: those that are used up most are first.
fn budgets(now: &Snapshot, before: &Sizes) -> Vec<Shown> {
    now.budgets
        .iter()
        .map(|row| {
            let key = format!("budget {} {} {} {}", row.rule, row.budget, row.exception, row.of);
            let name = format!(
                "of {} to {}: {} {} of {}",
                amount(row, row.line),
                printable(&row.severity),
                printable(&row.rule),
                printable(&row.budget),
                whose(row)
            );
            let mut shown = shown(key, row.sum, before, used(row), name);
            if matches!(row.measure.as_str(), "count" | "distinct") {
                shown.cells[0] = row.sum.to_string();
                shown.cells[1] = if shown.growth == 0 { String::new() } else { format!("+{}", shown.growth) };
            }
            shown
        })
        .collect()
}

/// A row is new in the first snapshot that is taken, too: then nothing is known to have grown.
fn shown(key: String, bytes: u64, before: &Sizes, third: String, name: String) -> Shown {
    let growth =
        if before.is_empty() { 0 } else { bytes.saturating_sub(before.get(&key).copied().unwrap_or(0)) };
    let grown = if growth == 0 { String::new() } else { format!("+{}", human_bytes(growth)) };
    Shown { key, bytes, growth, cells: vec![human_bytes(bytes), grown, third, name] }
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!("{:.1} %", part as f64 / whole as f64 * 100.0)
}

fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    head: &[&str],
    rows: Vec<Vec<String>>,
    widths: &[u16],
) {
    let columns = widths.iter().map(|width| Constraint::Length(*width)).chain([Constraint::Fill(1)]);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let table = Table::new(rows.into_iter().map(Row::new), columns)
        .header(
            Row::new(head.iter().map(|name| (*name).to_owned()))
                .style(Style::new().add_modifier(Modifier::DIM)),
        )
        .block(Block::new().title(Line::styled(title.to_owned(), bold)));
    frame.render_widget(table, area);
}

#[cfg(test)]
#[path = "top_tests.rs"]
mod tests;

//! What the tests found, for `cargo xtask score`: of every finding that a test expects, the truth, the bound that the agent
//! stated and how long it took. It judges nothing; that is `expect`'s part.

use std::cell::{Cell, RefCell};

use serde_json::{Value, json};
use tests::lab::alert::Alert;

thread_local! {
    static FOUND: RefCell<Vec<Value>> = const { RefCell::new(Vec::new()) };
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Notes that `rule` was expected with a bound `from` up to `to`, and the lines of the finding that was raised; none when
/// there is none. The latency is that of its first line: from the byte that it was about to its own time, in ms.
pub(crate) fn note(rule: &str, (from, to): (u64, u64), lines: &[&Alert]) {
    let time = |line: &Alert, pointer: &str| line.0.pointer(pointer).and_then(Value::as_i64);
    let latency = lines
        .first()
        .and_then(|line| Some(time(line, "/time")? - time(line, "/finding_info/last_seen_time")?))
        .map(|ms| ms.max(0));
    let bound = lines.last().map(|line| line.bound());
    FOUND.with_borrow_mut(|found| {
        found
            .push(json!({"rule": rule, "truth": from, "at_most": to, "bound": bound, "latency_ms": latency}));
    });
}

/// Notes that the test demands that nothing be raised.
pub(crate) fn note_silence() {
    SILENT.set(true);
}

/// What was noted since the last call, and whether silence was demanded.
pub(crate) fn take() -> (Vec<Value>, bool) {
    (FOUND.take(), SILENT.take())
}

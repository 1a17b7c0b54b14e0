//! Steps in their order within their time.

use super::*;

#[test]
fn a_sequence_fires_for_its_steps_in_order_within_its_time() {
    let rule = "    sequence:
      by: [process.pid]
      over: 1m
      steps:
        - {on: act, match: {act.kind: ptrace}}
        - {on: act, match: {act.kind: [ptrace, proc_mem]}}
        - {match: {sink.kind: file}}
    group_by: [asset.name, process.pid]
";
    let mut engine = Engine::new(rule_set("alert", rule));
    let steps = [
        flow(0, "8:16", 7, MIB),
        act(1, ActKind::Ptrace, 7),
        // One event is one step, and another process is another sequence.
        flow(2, "8:16", 7, MIB),
        act(3, ActKind::ProcMem, 8),
        flow(4, "8:16", 7, MIB),
        act(5, ActKind::ProcMem, 7),
    ];
    assert_eq!(seen(&mut engine, &steps), [None; 6]);
    assert!(observe(&mut engine, &flow(6, "8:16", 8, MIB)).is_none());
    let found = observe(&mut engine, &flow(61, "8:16", 7, MIB)).expect("the last step");
    assert_eq!((found.severity, found.bound_bytes), (Severity::Low, MIB));
    assert!(observe(&mut engine, &flow(62, "8:16", 7, MIB)).is_none(), "too long after the first");
    let later = [act(63, ActKind::Ptrace, 7), act(64, ActKind::Ptrace, 7), flow(65, "8:16", 7, MIB)];
    assert!(seen(&mut engine, &later)[2].is_some());
    let _ = expire(&mut engine, 3600);
    assert_eq!(engine.group_count(), 0);
}

#[test]
fn a_flood_of_sequences_ends_none_that_came_further() {
    let rule = "    match: {asset.name: llm}
    sequence:
      by: [process.pid]
      over: 1h
      steps: [{match: {sink.device: '1:1'}}, {match: {sink.device: '1:2'}}, {match: {sink.device: '1:3'}}]
    group_by: [asset.name]
";
    let mut engine = Engine::new(rule_set("alert", rule));
    for device in ["1:1", "1:2"] {
        assert!(observe(&mut engine, &flow(100, device, 7, 1)).is_none());
    }
    for pid in 1000..7000 {
        assert!(observe(&mut engine, &flow(101, "1:1", pid, 1)).is_none());
    }
    assert_eq!(engine.evicted(), 6001 - 4096);
    observe(&mut engine, &flow(102, "1:3", 7, 1)).expect("the last step of the one that came furthest");
}

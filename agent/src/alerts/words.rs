//! Words for people: sizes, shares, and one sentence for what happened.
//!
//! Names come from whoever ran the process, so everything here is safe to print on a terminal.

use crate::{
    event::{Act, ActKind, Control, Process, RecordKind, Sink, SinkKind},
    rules::Match,
};

/// `204.8 MiB`; whole bytes below 1 KiB.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would print as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `0.15 %`, with enough digits that a small share is not 0.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 10.0 {
        format!("{percent:.0} %")
    } else if percent >= 0.01 {
        format!("{percent:.2} %")
    } else if percent >= 0.000_1 {
        format!("{percent:.4} %")
    } else {
        "under 0.0001 %".to_owned()
    }
}

/// What happened: `up to 200.0 MiB (209715200 bytes, 0.15 %) of llm-70b written to …, by …`.
pub(super) fn sentence(matched: &Match) -> String {
    let record = &matched.record;
    if let Some(act) = &record.act {
        let doer = largest(matched);
        let who = if doer.pid == 0 { "the host".to_owned() } else { who(doer) };
        let touched = if record.asset.name.is_empty() {
            String::new()
        } else if matched.bound_bytes > 0 {
            format!("; up to {} in reach", how_much(matched))
        } else {
            format!("; {} is touched", printable(&record.asset.name))
        };
        return format!("{who} {}{touched}", deed(act, record.victim.as_deref()));
    }
    if record.kind == RecordKind::Egress {
        let to = record.sink.as_deref().map_or_else(|| "unknown peers".to_owned(), destination);
        return format!("this host sent up to {} to uncontrolled peers, last to {to}", how_much(matched));
    }
    let by = if matched.contributors.count > 1 {
        let others = matched.contributors.count - 1;
        let s = if others == 1 { "" } else { "es" };
        format!("{} and {others} other process{s}", who(largest(matched)))
    } else {
        who(largest(matched))
    };
    match record.sink.as_deref() {
        Some(sink) => {
            format!("up to {} {} {}, by {by}", how_much(matched), verb(sink.kind), destination(sink))
        }
        None => format!("up to {} taken by {by}", how_much(matched)),
    }
}

/// What an act was: `traced /usr/bin/vllm (pid 812)`.
pub(super) fn deed(act: &Act, victim: Option<&Process>) -> String {
    let verb = match act.kind {
        ActKind::Ptrace => "traced",
        ActKind::ProcessVmRead => "read the memory of",
        ActKind::ProcessVmWrite => "wrote into the memory of",
        ActKind::ProcMem => "opened the memory in /proc of",
        ActKind::ProcFd => "opened by way of /proc an asset of",
        ActKind::PidfdGetfd => "took a descriptor of",
        ActKind::CoreDump => "dumped the core of",
        ActKind::RawDevice => "opened a device below an asset:",
        ActKind::LoopSetup => "set up a loop device over an asset:",
        ActKind::NbdSetup => "set up a network block device over an asset:",
        ActKind::Snapshot => "set up a device that shows an asset:",
        ActKind::Packet => "opened a packet socket:",
        ActKind::Xdp => "opened an XDP socket:",
        ActKind::Rdma => "opened an RDMA device:",
        ActKind::Vfio => "opened a VFIO device:",
        ActKind::GpuDirect => "opened a GPU direct channel:",
        ActKind::GpuShared => "opened a GPU that a holder has open:",
        ActKind::Tunnel => "has a tunnel open:",
        ActKind::RawMemory => "has the memory of the host open:",
        ActKind::RawSocket => "has a socket whose bytes are not counted:",
        ActKind::Signalled => "signalled the agent:",
        ActKind::Ended => "ended the agent in the orderly way:",
        ActKind::Stopped => "stopped the agent:",
        ActKind::LinksTouched => "touched the agent's links:",
        ActKind::PinsTouched => "touched the agent's pins:",
        ActKind::MapsTouched => "touched the agent's maps:",
        ActKind::FilesChanged => "changed files of the agent:",
        ActKind::ClockSet => "set the clock:",
        ActKind::HookSilent => "has a hook that is silent:",
        ActKind::Lost => "lost facts:",
        ActKind::Restarted => "started the agent anew:",
        ActKind::RulesRefused => "keeps its old rules, for the new ones are wrong:",
    };
    let mut text = verb.to_owned();
    if let Some(victim) = victim {
        text += &format!(" {}", who(victim));
    }
    match (&act.target, victim) {
        (Some(target), Some(_)) => text += &format!(" ({})", printable(target)),
        (Some(target), None) => text += &format!(" {}", printable(target)),
        (None, Some(_)) => {}
        (None, None) => text = text.trim_end_matches(':').to_owned(),
    }
    text
}

/// `200.0 MiB (209715200 bytes, 0.15 %) of llm-70b`.
pub(super) fn how_much(matched: &Match) -> String {
    format!(
        "{} ({} bytes, {}) of {}",
        human_bytes(matched.bound_bytes),
        matched.bound_bytes,
        percent(matched.share),
        printable(&matched.record.asset.name)
    )
}

/// `uncontrolled file /mnt/usb/model (exfat on 8:16, removable)`.
#[must_use]
pub fn destination(sink: &Sink) -> String {
    let noun = match sink.kind {
        SinkKind::File => "file",
        SinkKind::BlockDevice => "block device",
        SinkKind::CharDevice => "character device",
        SinkKind::Terminal => "terminal",
        SinkKind::Peer => "peer",
        SinkKind::Process | SinkKind::Unmetered => "channel",
    };
    let control = match sink.control {
        Control::Controlled => "controlled ",
        Control::Uncontrolled => "uncontrolled ",
        Control::Memory => "in-memory ",
        Control::Process => "",
        Control::Unmetered => "unmetered ",
    };
    let name = sink.path.as_deref().or(sink.peer.as_deref()).or(sink.channel.as_deref()).map(printable);
    let device = sink.device.as_deref().map(printable);
    let mut notes = Vec::new();
    match (sink.kind, sink.fstype.as_deref(), &device) {
        (SinkKind::File, Some(fstype), Some(device)) => {
            notes.push(format!("{} on {device}", printable(fstype)))
        }
        (_, _, Some(device)) if name.is_some() => notes.push(device.clone()),
        _ => {}
    }
    if sink.removable == Some(true) {
        notes.push("removable".to_owned());
    }
    let name = name.or(device).unwrap_or_else(|| "without a name".to_owned());
    let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
    format!("{control}{noun} {name}{notes}")
}

const fn verb(kind: SinkKind) -> &'static str {
    match kind {
        SinkKind::File | SinkKind::BlockDevice | SinkKind::CharDevice => "written to",
        SinkKind::Terminal => "printed on",
        SinkKind::Peer => "sent to",
        SinkKind::Process => "passed to another process through",
        SinkKind::Unmetered => "possibly moved through",
    }
}

/// `/usr/bin/rsync (pid 48213)`.
pub(super) fn who(process: &Process) -> String {
    if process.exe.is_empty() {
        format!("an unknown program (pid {})", process.pid)
    } else {
        format!("{} (pid {})", printable(&process.exe), process.pid)
    }
}

/// Who the alert names: for a sum over several, the largest.
pub(super) fn largest(matched: &Match) -> &Process {
    match matched.contributors.top.first() {
        Some((_, process, _)) if matched.contributors.count > 1 => process,
        _ => &matched.record.process,
    }
}

/// `text` without anything that moves a cursor, changes a colour or turns the direction of writing.
#[must_use]
pub fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_read_well() {
        let sizes: Vec<String> = [0, 1023, 1024, 1 << 20, (1 << 20) - 1, 204_800 << 10, u64::MAX]
            .into_iter()
            .map(human_bytes)
            .collect();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 MiB", "200.0 MiB", "16.0 EiB"]);
        let shares: Vec<String> = [1.0, 0.5, 0.001_5, 0.000_012, 0.0].into_iter().map(percent).collect();
        assert_eq!(shares, ["100 %", "50 %", "0.15 %", "0.0012 %", "under 0.0001 %"]);
    }

    #[test]
    fn names_cannot_write_on_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\r\nc\u{202e}é"), "a\\u{1b}[31mb\\r\\nc\\u{202e}é");
    }
}

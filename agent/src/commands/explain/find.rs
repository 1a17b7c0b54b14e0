//! The alert that is asked for, in the logs or on standard input, and how its finding went. It must not know what is told of it.

use std::{
    io::{self, Read as _},
    path::PathBuf,
};

use super::super::{
    INVALID, UNFIT, USAGE,
    log::{LONGEST_LINE, lines},
};
use crate::{
    alerts::{Told, printable},
    config::{Config, SinkConfig},
};

/// Most lines of one finding that are told one by one.
const MOST_STEPS: usize = 20;

/// The alert, the steps of its finding, and how many lines that has.
type Found = (Told, Vec<Told>, usize);

pub(super) fn read_one() -> Result<Found, (u8, String)> {
    let mut line = String::new();
    let read = io::stdin().lock().take(LONGEST_LINE).read_to_string(&mut line);
    read.map_err(|error| (UNFIT, format!("cannot read standard input: {error}")))?;
    let told = Told::read(&line).or_else(|| Told::read(line.lines().next()?));
    told.map(|told| (told, Vec::new(), 1))
        .ok_or_else(|| (INVALID, "standard input has no line of an alert log: give one".to_owned()))
}

/// The alert, and the steps of its finding.
pub(super) fn find(alert: &str, logs: &[PathBuf], config: Option<&Config>) -> Result<Found, (u8, String)> {
    let configured = config.and_then(|config| {
        config.sinks.iter().find_map(|sink| match sink {
            SinkConfig::File { path } => Some(path.value.clone()),
            _ => None,
        })
    });
    let logs = if logs.is_empty() { configured.into_iter().collect() } else { logs.to_vec() };
    if logs.is_empty() {
        return Err((USAGE, "no alert log is configured: give one with --log".to_owned()));
    }
    let seq: Option<u64> = alert.parse().ok();
    let is_it = |told: &Told| match seq {
        Some(seq) => told.seq() == seq,
        None => told.finding() == alert || told.uid() == alert,
    };
    let mut found: Option<Told> = None;
    each(&logs, alert, |told| {
        if is_it(&told) && found.as_ref().is_none_or(|known| known.seq() <= told.seq()) {
            found = Some(told);
        }
    })?;
    let shown = logs.iter().map(|log| log.display().to_string()).collect::<Vec<_>>().join(", ");
    let told = found.ok_or_else(|| {
        let alert = printable(alert);
        (USAGE, format!("no alert {alert} in {shown}: give the uid of a finding, or the number of a line, as `log show` prints it"))
    })?;
    let (mut steps, mut count) = (Vec::<Told>::new(), 0);
    each(&logs, told.finding(), |step| {
        if step.finding() != told.finding() {
            return;
        }
        count += 1;
        let rose = steps.last().is_none_or(|last| {
            (step.detail().severity, step.activity_id == CLOSE)
                != (last.detail().severity, last.activity_id == CLOSE)
        });
        if rose && steps.len() < MOST_STEPS {
            steps.push(step);
        }
    })?;
    Ok((told, steps, count))
}

/// OCSF's activity of a line that closes a finding.
const CLOSE: u64 = 3;

/// Gives each alert of the logs whose line has a text in it.
fn each(logs: &[PathBuf], with: &str, mut take: impl FnMut(Told)) -> Result<(), (u8, String)> {
    for log in logs {
        let read = lines(log, |line| {
            if line.contains(with)
                && let Some(told) = Told::read(line)
            {
                take(told);
            }
            true
        });
        read.map_err(|error| (UNFIT, format!("cannot read {}: {error}", log.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const EXAMPLE: &str = include_str!("../../alerts/example.json");

    /// One line of a log, with other values in some places.
    fn line(change: impl FnOnce(&mut Value)) -> String {
        let mut line: Value = serde_json::from_str(EXAMPLE).expect("json");
        change(&mut line);
        format!("{line}\n")
    }

    #[test]
    fn a_finding_is_found_by_its_uid_a_line_by_its_number_and_the_way_it_went_is_told() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let log = folder.path().join("alerts.ndjson");
        let other = line(|one| one["finding_info"]["uid"] = "wb-0001-other".into());
        let at = |seq: u64, activity: u64, severity: &str, mib: u64| {
            line(|one| {
                one["activity_id"] = activity.into();
                let ours = &mut one["unmapped"]["weighbridge"];
                (ours["chain"]["seq"], ours["severity"], ours["bound_bytes"]) =
                    (seq.into(), severity.into(), (mib << 20).into());
            })
        };
        let lines =
            [at(2, 1, "medium", 1), at(3, 2, "medium", 2), at(4, 2, "high", 16), at(5, 3, "high", 20)];
        std::fs::write(&log, format!("{other}not an alert\n{}", lines.concat())).expect("write");
        let logs = [log];
        let uid = Told::read(EXAMPLE).expect("an alert").finding().to_owned();
        let (told, steps, count) = find(&uid, &logs, None).unwrap_or_else(|(_, why)| panic!("{why}"));
        assert_eq!((told.seq(), count), (5, 4));
        let steps: Vec<u64> = steps.iter().map(Told::seq).collect();
        assert_eq!(steps, [2, 4, 5]);
        let (told, ..) = find("3", &logs, None).unwrap_or_else(|(_, why)| panic!("{why}"));
        assert_eq!(told.detail().bound_bytes, 2 << 20);
        assert_eq!(find("wb-0001-none", &logs, None).err().map(|(code, _)| code), Some(USAGE));
        assert_eq!(find("3", &[folder.path().join("none")], None).err().map(|(code, _)| code), Some(UNFIT));
        assert_eq!(find("3", &[], None).err().map(|(code, _)| code), Some(USAGE));
    }
}

//! docs/tuning.md as somebody follows it who has nothing else: its files as they stand there, put in place, and its commands as
//! they stand there, run one after the other. The recording is of the backup and of the model that the guide speaks of.

use std::{fs, path::Path, sync::Arc};

use clap::Parser as _;

use super::*;
use crate::{
    event::{
        Asset, AssetId, AssetKind, AssetSet, BootNs, Control, Dev, Event, HolderId, ObjectId, Process, Proto,
        Sink, SinkKey, SinkKind, Source,
    },
    pipeline::today,
    recording::{Change, Reader, Writer, compare, fixtures::header, replay},
    rules::{Mode, RuleSet, Severity},
};

const GUIDE: &str = "../docs/tuning.md";
const PACK: &str = "/usr/share/weighbridge/rules";
const SECOND: u64 = 1_000_000_000;

/// What is fenced as `language` below a heading.
fn below<'g>(guide: &'g str, heading: &str, language: &str) -> &'g str {
    let (_, rest) = guide.split_once(&format!("## {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, rest) = rest.split_once(&format!("```{language}\n")).expect("a block");
    rest.split_once("```").expect("its end").0
}

/// Runs a line as a shell would that knows `&&` and comments.
fn sh(line: &str, folder: &Path) -> Vec<u8> {
    let line = line.split(" #").next().unwrap_or_default();
    let mut codes = Vec::new();
    for command in line.split(" && ") {
        let words = command.split_whitespace().map(|word| match word {
            PACK => "../rules".to_owned(),
            "rules.d" | "monday.wbrec" | "./next-release" => folder.join(word).to_string_lossy().into_owned(),
            word => word.to_owned(),
        });
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
        codes.push(run_command(&cli));
        if codes.last() != Some(&OK) {
            break;
        }
    }
    codes
}

/// The weekly backup to its drive, and 300 KiB of the unreleased model to a stranger.
fn record(file: &Path) {
    let mut writer = Writer::create(file, &header()).expect("a new file");
    let mut write = |event: Event, second: u64| writer.write(BootNs(second * SECOND), &event).expect("room");
    let object = ObjectId { dev: Dev::new(8, 16), ino: 1, generation: 0 };
    let drive = Sink {
        path: Some("/mnt/backup/data/1".to_owned()),
        device: Some("8:16".to_owned()),
        device_serial: Some("S6Z2NF0W512345".to_owned()),
        ..Sink::new(SinkKind::File, Control::Uncontrolled)
    };
    let stranger = Sink {
        peer: Some("203.0.113.9:443/tcp".to_owned()),
        ..Sink::new(SinkKind::Peer, Control::Uncontrolled)
    };
    let to = SinkKey::Peer { ip: [203, 0, 113, 9].into(), port: 443, proto: Proto::Tcp };
    let told = [
        ("llm-70b", 141_000_000_000, "backup.service", 1 << 30, SinkKey::File(object), drive),
        ("llm-next", 500_000_000_000, "eval.service", 300 << 10, to, stranger),
    ];
    for (nth, (name, size, unit, bytes, key, sink)) in told.into_iter().enumerate() {
        let (id, second) = (AssetId(nth as u16), nth as u64 + 1);
        let asset = Asset {
            id,
            name: name.to_owned(),
            kind: AssetKind::Weights,
            bytes: size,
            most: size,
            has_readers: true,
        };
        write(Event::Asset(Arc::new(asset)), second);
        let at = BootNs(second * SECOND);
        let holder = HolderId { tgid: 100 + nth as u32, exec: 0, start: at };
        let process = Process {
            pid: holder.tgid,
            exe: "/usr/bin/restic".to_owned(),
            exe_sha256: Some("9f2c86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a".to_owned()),
            unit: Some(unit.to_owned()),
            ..Process::host()
        };
        write(Event::Process { holder, process: Arc::new(process) }, second);
        let of = AssetSet::default().with(id);
        write(
            Event::Take {
                holder,
                source: Source::Asset(id),
                bytes: size,
                listed: [id].into_iter().collect(),
                at,
            },
            second,
        );
        write(Event::Sink { key, sink: Arc::new(sink) }, second);
        write(Event::Flow { holder, sink: key, assets: of, bytes, at }, second);
    }
    writer.flush().expect("room");
}

#[test]
fn the_guide_works_word_for_word() {
    let guide = fs::read_to_string(GUIDE).expect("the guide");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let rules = folder.path().join("rules.d");
    fs::create_dir(&rules).expect("a folder");
    let recording = folder.path().join("monday.wbrec");
    record(&recording);
    // Two months, as the guide says; the day that stands there passes.
    let soon = today().checked_add(jiff::Span::new().days(60)).expect("a day").to_string();
    let exception = below(&guide, "Silence a backup job for two months", "yaml");
    let stricter = below(&guide, "Lower a line for one asset", "yaml");
    assert!(exception.contains("expires: 2027-01-20"));
    fs::write(rules.join("backup.yaml"), exception.replace("2027-01-20", &soon)).expect("a file");
    fs::write(rules.join("llm-next.yaml"), stricter).expect("a file");

    let release = folder.path().join("next-release");
    fs::create_dir(&release).expect("a folder");
    let core = fs::read_to_string("../rules/core.yaml").expect("the pack");
    fs::write(release.join("core.yaml"), core.replacen("revision: 1", "revision: 99", 1)).expect("a file");

    let commands: Vec<&str> = below(&guide, "Prove it, and ship it", "sh").lines().collect();
    let ended: Vec<Vec<u8>> = commands.iter().map(|line| sh(line, folder.path())).collect();
    // Lint and test find nothing; the next release changes a rule, and the site's files what the recording raises.
    assert_eq!(ended, [vec![OK, OK], vec![FOUND], vec![FOUND]], "{commands:?}");

    let load = |paths: &[&Path]| {
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        Arc::new(
            RuleSet::load(&paths, today())
                .unwrap_or_else(|faults| panic!("{}", yaml::render(&faults, false))),
        )
    };
    let put_through = |set| replay(&mut Reader::open(&recording).expect("a recording"), &set);
    let before = put_through(load(&[Path::new("../rules")]));
    let after = put_through(load(&[&rules, Path::new("../rules")]));
    let mut changes: Vec<(String, Option<Mode>, Mode, Severity)> = compare(&before, &after)
        .into_iter()
        .map(|change| match change {
            Change::Appears(now) => (now.rule, None, now.mode, now.severity),
            Change::Becomes(was, now) => (now.rule, Some(was.mode), now.mode, now.severity),
            Change::Vanishes(was) => panic!("{was:?} vanishes"),
        })
        .collect();
    changes.sort();
    assert_eq!(
        changes,
        [
            ("SITE-0001".to_owned(), None, Mode::Alert, Severity::High),
            ("WB-0001".to_owned(), Some(Mode::Alert), Mode::Shadow, Severity::High),
            ("WB-0003".to_owned(), Some(Mode::Alert), Mode::Shadow, Severity::High),
        ]
    );
}

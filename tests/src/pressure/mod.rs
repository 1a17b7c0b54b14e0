//! Under pressure: full maps, a flooded ring, floods of processes. Sums must still be upper bounds of the truth, and whatever was
//! lost must be said.

use std::{fs, path::Path, process::Command, sync::atomic::Ordering, time::Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::lab::{
    KIB, MIB,
    alert::{Alert, findings},
    metrics,
    outside::UNCONTROLLED,
    process::{Finished, Running, resident},
    wait_for,
};

use crate::world::{ALERT_WITHIN, ASSET, LONG, PATIENCE, Scene, Test, World, size};

pub(crate) const TESTS: &[Test] = &[
    ("flows_full", flows_full),
    ("takes_full", takes_full),
    ("holders_full", holders_full),
    ("objects_full", objects_full),
    ("acts_and_reached_full", acts_and_reached_full),
    ("tampers_full", tampers_full),
    ("flood_of_readers_and_senders", flood_of_readers_and_senders),
    ("flood_of_processes", flood_of_processes),
];

/// Full of a holder's small files, the map has no row for the copy that matters.
fn flows_full(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.limits = vec![("flows", 16)];
    scene.start();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let small = scene.uncontrolled.join("small");
    let text = format!(
        "f=open({source:?},'rb'); d=f.read()\nfor n in range(64): open({small:?}+str(n),'wb').write(d[:16])\nopen({copy:?},'wb').write(d)"
    );
    scene.run(Command::new(World::python()).args(["-c", &text]));
    let bytes = size(&copy);
    at_least(&mut scene, "WB-0001", bytes);
    lost(&mut scene, "flows_full");
    scene.stop();
}

/// Readers that hold on to a row each.
fn readers(scene: &Scene<'_>, source: &Path) -> Vec<Running> {
    let mut readers: Vec<_> = (0..24)
        .map(|_| {
            let text =
                format!("f=open({source:?},'rb'); f.read(70000); print('holding', flush=True); input()");
            scene.spawn(Command::new(World::python()).args(["-c", &text]))
        })
        .collect();
    for reader in &mut readers {
        assert_eq!(reader.line().expect("it holds"), "holding");
    }
    readers
}

/// What a process reads through carriers that have no row counts for what it holds.
fn takes_full(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.limits = vec![("takes", 16)];
    scene.start();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let readers = readers(&scene, &source);
    scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = size(&copy);
    at_least(&mut scene, "WB-0001", bytes);
    lost(&mut scene, "takes_full");
    for mut reader in readers {
        reader.go().expect("it goes on");
        reader.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    }
    scene.stop();
}

/// Those who found no room share one row.
fn holders_full(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.limits = vec![("holders", 16)];
    scene.start();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let readers = readers(&scene, &source);
    scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = size(&copy);
    at_least(&mut scene, "WB-0001", bytes);
    lost(&mut scene, "holders_full");
    // A fork of one of them, and what it executes, is counted there too.
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    scene.shell(&format!(
        "cat {} | cat > {}",
        source.display(),
        scene.uncontrolled.join("relayed").display()
    ));
    scene.run(&mut scene.mover("sendfile", "-", &source, &format!("tcp:{addr}")));
    let sent = scene.received(&source, receiver);
    at_least(&mut scene, "WB-0002", sent);
    for mut reader in readers {
        reader.go().expect("it goes on");
        reader.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    }
    scene.stop();
}

/// Carriers without a row: what goes into them counts as gone.
fn objects_full(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.limits = vec![("objects", 16)];
    scene.start();
    let source = scene.model.files[0].clone();
    let inside = scene.controlled.join("inside");
    let text = format!(
        "f=open({source:?},'rb'); d=f.read(); k=[open({inside:?}+str(n),'wb') for n in range(32)]\nopen({inside:?}+'copy','wb').write(d)"
    );
    scene.run(Command::new(World::python()).args(["-c", &text]));
    let relayed = scene.uncontrolled.join("relayed");
    fs::copy(scene.controlled.join("insidecopy"), &relayed).expect("a copy");
    let bytes = size(&relayed);
    at_least(&mut scene, "WB-0001", bytes);
    lost(&mut scene, "objects_full");
    scene.stop();
}

/// Every one of a crowd reads from every one of another: what finds no room counts for all that its reader and its victim held.
fn acts_and_reached_full(w: &mut World) {
    const WANTED: u64 = 4 * MIB;
    let mut scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mut command = scene.python("crowd.py", include_str!("../techniques/scripts/crowd.py"));
    command.arg(&scene.model.files[0]).arg(&copy).args(["128", "132", &WANTED.to_string()]);
    let mut crowd = scene.spawn(&mut command);
    let thief: u64 = crowd.line().unwrap_or_else(|error| panic!("{error:#}")).parse().expect("a pid");
    let alert = at_least(&mut scene, "WB-0001", WANTED);
    assert_eq!((alert.bound(), alert.number("/process/pid")), (WANTED, Some(thief)));
    for stage in ["acts_full", "reached_full"] {
        lost(&mut scene, stage);
    }
    crowd.go().expect("it listens");
    crowd.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    scene.stop();
}

/// More processes tamper than there are rows for, while the agent cannot make room: that somebody did is told all the same.
fn tampers_full(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    let agent = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the agent runs");
    kill_process(agent, Signal::STOP).expect("the agent runs");
    // RLIMIT_CORE, to what it is, by a process each.
    let text = format!(
        "import os, resource\nlimit = resource.prlimit({pid}, 4)\nfor n in range(4200):\n if os.fork() == 0:\n  \
         resource.prlimit({pid}, 4, limit)\n  os._exit(0)\n os.wait()"
    );
    scene.run(Command::new(World::python()).args(["-c", &text]));
    kill_process(agent, Signal::CONT).expect("the agent is there");
    let said = scene.agent().wait(PATIENCE, |alerts| {
        alerts
            .iter()
            .any(|alert| {
                alert.rule() == "WB-0010" && alert.text("/act/target") == "something that found no room"
            })
            .then_some(())
    });
    assert!(said.unwrap_or_else(|error| panic!("{error:#}")).is_some(), "what found no room is not told");
    scene.stop();
}

/// Many processes read and send at full speed, in chunks so small that facts outnumber what the ring can hold. For the first of
/// them the agent gets no processor at all: before they start the ring is full, so that every fact about them is lost.
fn flood_of_readers_and_senders(w: &mut World) {
    const PROCESSES: usize = 64;
    let mut scene = w.scene();
    let source = scene.model.files[0].clone();
    let own = std::env::current_exe().expect("a process knows its executable");
    let seconds = if LONG.load(Ordering::Relaxed) { 60 } else { 0 };
    let agent = i32::try_from(scene.agent().pid()).ok().and_then(Pid::from_raw).expect("the agent runs");
    kill_process(agent, Signal::STOP).expect("the agent runs");
    let scattered = fill_the_ring(&scene, &source);
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let start = Instant::now();
    let (mut truth, mut sent) = (0, 0);
    while sent == 0 || start.elapsed().as_secs() < seconds {
        let movers: Vec<_> = (0..PROCESSES)
            .map(|_| {
                let receiver =
                    scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
                let mut command = scene.mover("read", "send", &source, &format!("tcp:{}", receiver.addr));
                (scene.spawn(command.args(["--chunk", "4096"])), receiver)
            })
            .collect();
        for (mover, receiver) in movers {
            mover.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
            truth += scene.received(&source, receiver);
            sent += size(&source);
        }
        // For those that follow it has to keep up.
        kill_process(agent, Signal::CONT).expect("the agent is there");
    }
    assert_eq!(truth, sent);
    // Every process's bound, which the metric sums without the cap of the asset.
    let wanted = truth + scattered + size(&copy);
    let mut counted = 0;
    wait_for(ALERT_WITHIN, || {
        counted = metric(&mut scene, "flow_bytes_total", &[("asset", ASSET), ("control", "uncontrolled")]);
        (counted >= wanted).then_some(())
    });
    assert_eq!(counted, wanted);
    let bytes = scene.model.bytes.min(truth);
    let alert = at_least(&mut scene, "WB-0002", bytes);
    assert_eq!((alert.bound(), Path::new(alert.text("/process/exe"))), (bytes, own.as_path()));
    assert!(alert.number("/loss/ring_full") > Some(0), "{}", alert.detail()["loss"]);
    // Who ran while the ring was full, and where to, is known all the same.
    let bytes = scattered + size(&copy);
    let alert = at_least(&mut scene, "WB-0001", bytes);
    assert_eq!((alert.bound(), alert.number("/process/pid")), (bytes, cp.pid.map(u64::from)));
    assert_eq!(Path::new(alert.text("/process/exe")), cp.exe);
    assert_eq!(Path::new(alert.text("/sink/path")), copy);
    lost(&mut scene, "ring_full");
    scene.stop();
}

/// A holder puts a byte into each of so many files that what is told of them, a path each, is several times what the ring holds. How many
/// bytes it put.
fn fill_the_ring(scene: &Scene<'_>, source: &Path) -> u64 {
    const FILES: u64 = 16_384;
    let small = scene.uncontrolled.join("small");
    let text = format!(
        "d=open({source:?},'rb').read(1<<20)\nfor n in range({FILES}): open({small:?}+str(n),'wb').write(d[n:n+1])"
    );
    scene.run(Command::new(World::python()).args(["-c", &text]));
    FILES
}

/// Forks, exits and ids that come round: nobody is charged for another, and nothing grows.
fn flood_of_processes(w: &mut World) {
    let seconds = if LONG.load(Ordering::Relaxed) { 600 } else { 10 };
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    let own = std::env::current_exe().expect("a process knows its executable");
    let source = scene.model.files[0].clone();
    // One round first: what is allocated once is no growth.
    forks(&scene, &own, 1);
    let before = resident(pid).expect("the agent runs");
    let start = Instant::now();
    let forked = forks(&scene, &own, seconds);
    eprintln!("    {:.0} processes a second", forked as f64 / start.elapsed().as_secs_f64());
    // A holder among them is still the only one that is charged.
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = size(&copy);
    let alert = at_least(&mut scene, "WB-0001", bytes);
    assert_eq!((alert.bound(), alert.number("/process/pid")), (bytes, cp.pid.map(u64::from)));
    let after = resident(pid).expect("the agent runs");
    assert!(after <= before + 16 * MIB, "the agent grew from {} to {} KiB", before / KIB, after / KIB);
    let alerts = scene.stop();
    let others: Vec<Alert> = findings(&alerts)
        .into_iter()
        .filter(|alert| alert.alarms() && !["WB-0001", "WB-0010", "WB-0011"].contains(&alert.rule()))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

fn forks(scene: &Scene<'_>, own: &Path, seconds: u64) -> u64 {
    let mut command = Command::new(own);
    let forker = scene.spawn(command.args(["work", "forks", &seconds.to_string()]));
    let limit = PATIENCE + std::time::Duration::from_secs(seconds);
    let Finished { stdout, code, stderr, .. } =
        forker.finish(limit).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(code, Some(0), "{stderr}");
    stdout.trim().parse().expect("it says how many")
}

/// Waits until the findings of a rule for [`ASSET`] sum up to `bytes`: full maps spread a sum over places.
fn at_least(scene: &mut Scene<'_>, rule: &str, bytes: u64) -> Alert {
    let mut most = 0;
    let found = scene.agent().wait(ALERT_WITHIN, |alerts| {
        let newest: Vec<Alert> = findings(alerts)
            .into_iter()
            .filter(|alert| alert.rule() == rule && alert.asset() == ASSET)
            .collect();
        most = newest.iter().map(Alert::bound).sum();
        if most >= bytes { newest.into_iter().max_by_key(Alert::bound) } else { None }
    });
    found
        .unwrap_or_else(|error| panic!("{error:#}"))
        .unwrap_or_else(|| panic!("{rule} says {most} bytes, {bytes} moved"))
}

/// The loss is counted, said in the alerts, and an alert itself.
fn lost(scene: &mut Scene<'_>, stage: &str) {
    let counted = wait_for(ALERT_WITHIN, || {
        (metric(scene, "events_lost_total", &[("stage", stage)]) > 0).then_some(())
    });
    assert!(counted.is_some(), "no loss of {stage} was counted");
    let said = scene.agent().wait(ALERT_WITHIN, |alerts| {
        alerts
            .iter()
            .any(|alert| {
                alert.rule() == "WB-0010"
                    && alert.text("/act/kind") == "lost"
                    && alert.text("/act/target") == stage
            })
            .then_some(())
    });
    assert!(
        said.unwrap_or_else(|error| panic!("{error:#}")).is_some(),
        "WB-0010 does not say that {stage} lost something"
    );
}

/// A metric's sum; 0 while there is none.
fn metric(scene: &mut Scene<'_>, name: &str, labels: &[(&str, &str)]) -> u64 {
    let samples = scene.agent().metrics().unwrap_or_else(|error| panic!("{error:#}"));
    metrics::sum(&samples, &format!("weighbridge_{name}"), labels).unwrap_or(0.0) as u64
}

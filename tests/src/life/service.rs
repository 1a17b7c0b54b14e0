//! The agent as a service: an ordinary user with five capabilities, a watchdog that only proofs feed, a hardened unit.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tests::lab::{BPFFS, agent::Start, metrics, run, wait_for};

use crate::{
    confine::SERVICE,
    expect::Expected,
    world::{PATIENCE, Scene, Test, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("unit_is_hardened", unit_is_hardened),
    ("five_capabilities_are_enough", five_capabilities_are_enough),
    ("each_capability_is_asked_for", each_capability_is_asked_for),
    ("the_canary_flies", the_canary_flies),
    ("the_watchdog_is_fed_by_proofs_only", the_watchdog_is_fed_by_proofs_only),
];

/// Nobody's: no account of this host.
const USER: u32 = 64_217;

fn unit_is_hardened(_: &mut World) {
    World::needs("systemd-analyze");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy").join("weighbridge.service");
    let text = fs::read_to_string(&unit).expect("the unit is there");
    let said = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=30", "--no-pager"])
        .arg(&unit)
        .output()
        .expect("systemd-analyze runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the key is there");
        assert_eq!(line.split(' ').collect::<Vec<_>>(), SERVICE, "{key}");
    }
}

/// As the unit starts it: no root, no group, five capabilities, a directory for its pins that somebody made for it.
fn five_capabilities_are_enough(w: &mut World) {
    let mut scene = service(w, &SERVICE);
    scene.config.pin = true;
    let top = Path::new(BPFFS).join("weighbridge");
    fs::create_dir(&top).expect("a folder of pins can be made");
    own(&top);
    scene.start();
    let status = fs::read_to_string(format!("/proc/{}/status", scene.agent().pid())).expect("it runs");
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).expect("the field is there").trim().to_owned()
    };
    let bits: u64 = [39, 38, 12, 19, 2].iter().map(|bit| 1_u64 << bit).sum();
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).expect("hex"), bits, "{set}");
    }
    assert!(field("Uid:").split_whitespace().all(|uid| uid == USER.to_string()));
    // Its files in /proc are root's: nobody else of its user dumps, traces or reads it.
    let owner = fs::metadata(format!("/proc/{}/mem", scene.agent().pid())).expect("it runs").uid();
    assert_eq!(owner, 0, "it can be dumped");
    // Root's files, which it may not read by their mode.
    fs::set_permissions(&scene.model.dir, fs::Permissions::from_mode(0o700)).expect("a mode can be set");
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.kill();
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    scene.start();
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// Exit code 4, and the name of what is missing, for each.
fn each_capability_is_asked_for(w: &mut World) {
    for missing in SERVICE {
        let given: Vec<&str> = SERVICE.into_iter().filter(|name| *name != missing).collect();
        let scene = service(w, &given);
        let file = scene.work.join("weighbridge.yaml");
        scene.config.write(&file).expect("a configuration can be written");
        let [launcher, arguments @ ..] = scene.config.start.launcher.as_slice() else {
            panic!("no launcher")
        };
        let mut command = Command::new(launcher);
        command.args(arguments).arg(scene.work.join("weighbridge")).args(["run", "--config"]).arg(&file);
        let said = scene.spawn(&mut command).finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(said.code, Some(4), "without {missing}: {}", said.stderr);
        for name in SERVICE {
            assert_eq!(
                said.stderr.contains(name),
                name == missing,
                "{name} without {missing}: {}",
                said.stderr
            );
        }
    }
}

/// Through hooks, maps, ring and drain, every second; and nobody is told of it.
fn the_canary_flies(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.start.arguments = ["--prove-every", "1"].map(str::to_owned).to_vec();
    scene.start();
    let proved = |scene: &mut Scene<'_>| {
        let samples = scene.agent().metrics().unwrap_or_else(|error| panic!("{error:#}"));
        let sum = |name| metrics::sum(&samples, name, &[]).unwrap_or_else(|| panic!("no metric {name}"));
        (sum("weighbridge_selftest_success_timestamp_seconds"), sum("weighbridge_selftest_failed_total"))
    };
    let (mut last, _) = proved(&mut scene);
    for _ in 0..3 {
        let newer = wait_for(PATIENCE, || {
            let (at, failed) = proved(&mut scene);
            assert!(failed == 0.0, "a proof failed:\n{}", scene.agent().stderr());
            (at > last).then_some(at)
        });
        last = newer.expect("the canary comes through");
    }
    scene.expect_silence();
}

/// The service manager hears of the agent while proofs succeed, and no longer when they cannot.
fn the_watchdog_is_fed_by_proofs_only(w: &mut World) {
    let mut scene = w.prepare();
    let path = scene.work.join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket can be made");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout can be set");
    scene.config.start.arguments = ["--prove-every", "1"].map(str::to_owned).to_vec();
    scene.config.start.variables =
        [("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", "5000000".to_owned())]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec();
    scene.start();
    let next = || {
        let mut text = [0; 256];
        match socket.recv(&mut text) {
            Ok(len) => Some(String::from_utf8_lossy(&text[..len]).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("the socket: {error}"),
        }
    };
    let heard = |word: &str| wait_for(PATIENCE, || next().filter(|text| text.contains(word)));
    assert!(heard("READY=1").is_some(), "it does not say that it is ready");
    for _ in 0..3 {
        assert!(heard("WATCHDOG=1").is_some(), "the watchdog is not fed");
    }
    // The canary cannot put its bytes there: nothing is proved any more. While one is under way its file is there.
    let copy = scene.config.state_dir.join("canary.copy");
    assert!(wait_for(PATIENCE, || fs::create_dir(&copy).ok()).is_some(), "no folder can be made");
    let failed = wait_for(PATIENCE, || {
        let samples = scene.agent().metrics().unwrap_or_else(|error| panic!("{error:#}"));
        let labels = [("probe", "canary")];
        metrics::sum(&samples, "weighbridge_selftest_failed_total", &labels).filter(|failed| *failed >= 1.0)
    });
    assert!(failed.is_some(), "the failed proof is not counted");
    while next().is_some() {}
    // Two more ticks of the agent's, and no word.
    let quiet = (0..30).all(|_| next().is_none());
    assert!(quiet, "the watchdog is fed although nothing is proved");
    fs::remove_dir(&copy).expect("the folder can be removed");
    assert!(heard("WATCHDOG=1").is_some(), "the watchdog is not fed again");
    scene.expect_silence();
}

/// A scene whose agent is started as an ordinary user with these capabilities.
fn service<'w>(w: &'w mut World, capabilities: &[&str]) -> Scene<'w> {
    let mut scene = w.prepare();
    // Its own copies: the build's directory may lie where nobody else may look.
    let launcher = scene.work.join("e2e");
    fs::copy(std::env::current_exe().expect("a process knows its executable"), &launcher)
        .expect("it can be copied");
    fs::copy(&scene.world.binary, scene.work.join("weighbridge")).expect("the binary can be copied");
    scene.binary = Some(scene.work.join("weighbridge"));
    let home = scene.work.join("home");
    for folder in [home.clone(), home.join("state"), home.join("log")] {
        fs::create_dir(&folder).expect("a folder can be made");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("a mode can be set");
        own(&folder);
    }
    scene.config.state_dir = home.join("state");
    scene.config.alerts = home.join("log/alerts.ndjson");
    let rules = scene.work.join("rules.d");
    crate::bad_input::copy_rules(&scene, &rules);
    scene.config.rules = vec![rules];
    let words = ["confine".to_owned(), USER.to_string(), capabilities.join(",")];
    let launcher = std::iter::once(launcher).chain(words.map(PathBuf::from)).collect();
    scene.config.start = Start { launcher, ..Start::default() };
    scene
}

fn own(path: &Path) {
    run(Command::new("chown").arg(format!("{USER}:{USER}")).arg(path))
        .unwrap_or_else(|error| panic!("{error:#}"));
}

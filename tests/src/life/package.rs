//! The Debian package in a throw-away root: installed, configured, running, upgraded, removed, purged.
//!
//! The root is an overlay over this machine's own, so nothing is downloaded and nothing of it stays. No service manager runs in
//! there: the agent is started as the unit says, by the user that the package made, with the unit's capabilities.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};
use tests::lab::{
    BPFFS,
    agent::samples,
    alert::{Alert, Reader},
    process::{Finished, Running},
    wait_for,
};

use crate::{
    confine::SERVICE,
    world::{PATIENCE, Scene, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[("installed_upgraded_purged", installed_upgraded_purged)];

const CONFIG: &str = "etc/weighbridge/weighbridge.yaml";
const LOG: &str = "var/log/weighbridge/alerts.ndjson";

struct Root<'s, 'w> {
    scene: &'s Scene<'w>,
    path: PathBuf,
}

fn installed_upgraded_purged(w: &mut World) {
    for tool in ["chroot", "dpkg", "dpkg-deb", "setpriv", "systemd-analyze"] {
        World::needs(tool);
    }
    let Some(package) = w.package.clone() else {
        skip("no package was given (--package, see `cargo xtask dist`)");
    };
    let mut scene = w.prepare();
    let path = overlay(&mut scene);
    scene.config.pin = true;
    scene.config.rules = vec!["/usr/share/weighbridge/rules".into()];
    scene.config.state_dir = "/var/lib/weighbridge".into();
    scene.config.alerts = Path::new("/").join(LOG);
    let root = Root { scene: &scene, path };

    // The self-test's files must lie on a filesystem of their own: of a file on overlayfs the kernel knows two identities.
    let (state, state_in_root) = (scene.work.join("state"), root.path.join("var/lib/weighbridge"));
    fs::create_dir(&state).and_then(|()| fs::create_dir(&state_in_root)).expect("a folder for the state");
    lab_run(Command::new("mount").arg("--bind").arg(&state).arg(&state_in_root));
    root.dpkg("-i", &package);
    root.is_as_it_should_be();

    // What is shipped names a model that nobody has: it is refused with its place, and nothing starts on it.
    let refused = root.finish(&["weighbridge", "check"]);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("/models/llm-70b"), "{}", refused.stderr);
    let configured = scene.config.to_yaml();
    fs::write(root.path.join(CONFIG), &configured).expect("an operator's configuration");
    root.run(&["weighbridge", "check"]);

    let agent = root.start();
    let mut log = Reader::new(&root.path.join(LOG));
    root.steal("first", &mut log);
    let next = newer(&package, &scene.work.join("newer"));
    root.dpkg("-i", &next);
    assert_eq!(
        fs::read_to_string(root.path.join(CONFIG)).ok().as_ref(),
        Some(&configured),
        "the operator's is kept"
    );
    stop(agent);
    // In between the kernel weighs on.
    root.steal_unseen("second");
    let agent = root.start();
    root.wait_for_copy("second", &mut log);
    stop(agent);
    root.run(&["weighbridge", "log", "verify", &format!("/{LOG}")]);

    root.dpkg("-r", Path::new("weighbridge"));
    assert!(!root.path.join("usr/bin/weighbridge").exists());
    assert!(
        root.path.join(CONFIG).exists() && root.path.join(LOG).exists(),
        "a removal keeps what was configured and seen"
    );
    let pins = fs::read_dir(Path::new(BPFFS).join("weighbridge")).map_or(0, Iterator::count);
    assert_eq!(pins, 0, "and leaves nothing in the kernel");
    lab_run(Command::new("umount").arg(&state_in_root));
    root.dpkg("-P", Path::new("weighbridge"));
    for gone in [
        "etc/weighbridge",
        "var/lib/weighbridge",
        "var/log/weighbridge",
        "usr/share/weighbridge",
        "usr/share/doc/weighbridge",
    ] {
        assert!(!root.path.join(gone).exists(), "{gone} stays after a purge");
    }
    assert_ne!(root.finish(&["dpkg", "-s", "weighbridge"]).code, Some(0), "dpkg still knows it");
}

/// A root of its own for the scene: this machine's below, a tmpfs above, and the scene's volume at its place.
fn overlay(scene: &mut Scene<'_>) -> PathBuf {
    let kinds = fs::read_to_string("/proc/filesystems").expect("the kernel's list of filesystems");
    if !kinds.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        skip("this kernel has no overlayfs");
    }
    let (above, root) = (scene.work.join("above"), scene.work.join("root"));
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let mount = |scene: &mut Scene<'_>, list: &[&str], place: &Path| {
        let list = words(list);
        let list: Vec<&std::ffi::OsStr> = list.iter().map(AsRef::as_ref).collect();
        scene.mount(&list, place)
    };
    mount(scene, &["-t", "tmpfs", "-o", "mode=0755", "tmpfs"], &above)
        .unwrap_or_else(|error| panic!("{error:#}"));
    for folder in ["upper", "work"] {
        fs::create_dir(above.join(folder)).expect("a folder on the tmpfs");
    }
    let options = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", above.display());
    if let Err(error) = mount(scene, &["-t", "overlay", "-o", &options, "overlay"], &root) {
        skip(format_args!("no overlay over this machine's root: {error:#}"));
    }
    if root.join("usr/bin/weighbridge").exists() {
        skip("a weighbridge is installed on this machine");
    }
    let volume = scene.world.controlled.path().to_owned();
    let place = root.join(volume.strip_prefix("/").expect("an absolute path"));
    fs::create_dir_all(&place).expect("the volume's place");
    let volume = volume.display().to_string();
    for (list, place) in [
        (&["-t", "proc", "proc"][..], root.join("proc")),
        (&["--rbind", "/sys"], root.join("sys")),
        (&["--rbind", "/dev"], root.join("dev")),
        (&["--bind", &volume], place),
    ] {
        scene.mount_over(list, &place).unwrap_or_else(|error| panic!("{error:#}"));
    }
    root
}

impl Root<'_, '_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.path).args(words).env("DEBIAN_FRONTEND", "noninteractive").env("NO_COLOR", "1");
        command
    }

    fn finish(&self, words: &[&str]) -> Finished {
        self.scene
            .spawn(&mut self.command(words))
            .finish(PATIENCE)
            .unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn run(&self, words: &[&str]) {
        self.finish(words).success().unwrap_or_else(|error| panic!("{words:?}: {error:#}"));
    }

    /// A package by its name, or by its file, which the scene's work folder is lent for.
    fn dpkg(&self, word: &str, package: &Path) {
        let name = package.file_name().expect("a name");
        if package.is_absolute() {
            fs::copy(package, self.path.join(name)).expect("the package can be copied");
        }
        let place =
            if package.is_absolute() { format!("/{}", name.display()) } else { name.display().to_string() };
        self.run(&["dpkg", word, &place]);
    }

    fn is_as_it_should_be(&self) {
        let user = self.finish(&["id", "-u", "weighbridge"]);
        let uid: u32 = user.stdout.trim().parse().expect("the package made its user");
        for (folder, owner, mode) in [
            ("var/lib/weighbridge", uid, 0o700),
            ("var/log/weighbridge", uid, 0o700),
            ("etc/weighbridge/credentials", 0, 0o700),
            ("etc/weighbridge", 0, 0o755),
            ("usr/bin/weighbridge", 0, 0o755),
        ] {
            let meta =
                fs::metadata(self.path.join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
            assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777), (owner, mode), "{folder}");
        }
        let conffiles = self.finish(&["dpkg-query", "-f", "${Conffiles}", "-W", "weighbridge"]);
        let listed: Vec<&str> = conffiles
            .stdout
            .lines()
            .filter_map(|line| line.trim().split(' ').next())
            .filter(|path| !path.is_empty())
            .collect();
        assert_eq!(listed, [format!("/{CONFIG}")]);
        assert_eq!(self.finish(&["dpkg", "--verify", "weighbridge"]).stdout, "", "every sum is right");
        let unit = "/usr/lib/systemd/system/weighbridge.service";
        self.run(&["systemd-analyze", "verify", "--man=no", unit]);
        self.run(&["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", unit]);
        self.run(&["bash", "-n", "/usr/share/bash-completion/completions/weighbridge"]);
        self.run(&[
            "gzip",
            "-t",
            "/usr/share/man/man8/weighbridge.8.gz",
            "/usr/share/man/man8/weighbridge-rules-lint.8.gz",
        ]);
        self.run(&["weighbridge", "rules", "test", "/usr/share/weighbridge/rules"]);
    }

    /// As the unit starts it.
    fn start(&self) -> Running {
        let pins = format!("{BPFFS}/weighbridge");
        self.run(&["install", "-d", "-o", "weighbridge", "-g", "weighbridge", "-m", "0700", &pins]);
        let names: Vec<String> =
            SERVICE.iter().map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect();
        let only = format!("-all,+{}", names.join(",+"));
        let mut command = self.command(&[
            "setpriv",
            "--reuid=weighbridge",
            "--regid=weighbridge",
            "--clear-groups",
            "--no-new-privs",
        ]);
        for set in ["inh-caps", "ambient-caps", "bounding-set"] {
            command.arg(format!("--{set}={only}"));
        }
        command.args(["/usr/bin/weighbridge", "run", "--config", &format!("/{CONFIG}")]);
        let agent = self.scene.spawn(&mut command);
        let listen = self.scene.config.listen;
        let ready = wait_for(PATIENCE, || {
            let samples = samples(listen).ok()?;
            let proved =
                tests::lab::metrics::sum(&samples, "weighbridge_selftest_success_timestamp_seconds", &[]);
            proved.filter(|at| *at > 0.0)
        });
        if ready.is_none() {
            let said = agent.finish(PATIENCE).map(|finished| finished.stderr).unwrap_or_default();
            panic!("the agent of the package is not ready: {said}");
        }
        agent
    }

    fn steal_unseen(&self, name: &str) {
        let copy = self.scene.uncontrolled.join(name);
        self.scene.run(Command::new("cp").arg(&self.scene.model.files[0]).arg(copy));
    }

    fn steal(&self, name: &str, log: &mut Reader) {
        self.steal_unseen(name);
        self.wait_for_copy(name, log);
    }

    /// Waits for the alert that has all of what was copied so far.
    fn wait_for_copy(&self, name: &str, log: &mut Reader) {
        let bytes: u64 = fs::read_dir(&self.scene.uncontrolled)
            .expect("the volume")
            .map(|entry| entry.and_then(|entry| entry.metadata()).expect("a file").len())
            .sum();
        let is_it = |alert: &Alert| alert.rule() == "WB-0001" && alert.bound() == bytes;
        let came = wait_for(PATIENCE, || {
            let alerts = log.read().unwrap_or_else(|error| panic!("{error:#}"));
            alerts.iter().any(is_it).then_some(())
        });
        assert!(
            came.is_some(),
            "no alert of {bytes} bytes after the copy {name}: {:#?}",
            log.read().map(<[Alert]>::last)
        );
    }
}

fn stop(agent: Running) {
    let pid = agent.identity.pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
    kill_process(pid, Signal::TERM).expect("it runs");
    agent.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
}

/// The same package with a higher version.
fn newer(package: &Path, dir: &Path) -> PathBuf {
    lab_run(Command::new("dpkg-deb").arg("-R").arg(package).arg(dir));
    let control = dir.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("a control file");
    let raised: String = text
        .lines()
        .map(
            |line| {
                if line.starts_with("Version: ") { format!("{line}+newer\n") } else { format!("{line}\n") }
            },
        )
        .collect();
    fs::write(&control, raised).expect("a control file");
    let made = dir.with_extension("deb");
    lab_run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).arg(dir).arg(&made));
    made
}

fn lab_run(command: &mut Command) {
    tests::lab::run(command).unwrap_or_else(|error| panic!("{error:#}"));
}

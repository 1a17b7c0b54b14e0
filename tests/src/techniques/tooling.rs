//! What the tests with real tools share: who ran, who listens, and an SSH server outside. Must not know of any alert.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use ::tests::lab::{
    outside::{CONTROLLED, UNCONTROLLED},
    process::{Identity, Running},
    wait_for, which,
};

use crate::world::{PATIENCE, Scene, World, skip};

/// What a step that must work gave.
pub(crate) fn ok<T>(outcome: anyhow::Result<T>) -> T {
    outcome.unwrap_or_else(|error| panic!("{error:#}"))
}

/// A descendant of a process that ran, or that process after an exec: of its program only the name is known.
pub(crate) fn descendant(of: &Identity, program: &str) -> Identity {
    let exe = which(program).unwrap_or_else(|| skip(format_args!("needs {program}")));
    Identity { pid: None, exe, cmdline: None, started: None, ..of.clone() }
}

/// The same, with the command line that it had.
pub(crate) fn descendant_as(of: &Identity, program: &str, cmdline: &str) -> Identity {
    Identity { cmdline: Some(cmdline.to_owned()), ..descendant(of, program) }
}

/// A C program built for the scene; skips the test where it cannot be.
pub(crate) fn built(scene: &Scene<'_>, name: &str, text: &str, flags: &[&str]) -> PathBuf {
    World::needs("gcc");
    let (source, program) = (scene.work.join(format!("{name}.c")), scene.work.join(name));
    fs::write(&source, text).expect("a source file can be written");
    let mut gcc = Command::new("gcc");
    if let Err(error) = ::tests::lab::run(gcc.args(flags).arg("-o").arg(&program).arg(&source)) {
        skip(format_args!("gcc does not build {name} here: {error:#}"));
    }
    program
}

/// A port of the loopback interface that nobody uses; the lab has the interface to itself.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// Waits until somebody listens on a TCP port in the network namespace of a process.
pub(crate) fn wait_listening(server: &Running, port: u16) {
    let table = format!("/proc/{}/net/tcp", server.identity.pid.expect("it runs"));
    let listens = || {
        let text = fs::read_to_string(&table).ok()?;
        text.lines().any(|line| is_listener(line, port)).then_some(())
    };
    assert!(wait_for(PATIENCE, listens).is_some(), "nobody listens on port {port}");
}

/// `0: 0100007F:1F90 00000000:0000 0A …`: 0A is the state of a listener.
fn is_listener(line: &str, port: u16) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    fields.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
        && fields.get(3) == Some(&"0A")
}

/// Waits until something is at a path.
pub(crate) fn wait_there(path: &Path) {
    assert!(wait_for(PATIENCE, || path.exists().then_some(())).is_some(), "{} never came", path.display());
}

/// A cgroup of version 2; those that had to be made go with it, innermost first.
pub(crate) struct Cgroup {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Cgroup {
    /// One called `below` from where cgroup2 is mounted, as systemd or a container runtime would have made it; skips the test where
    /// none can be made.
    pub(crate) fn make(below: &str) -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("a process sees its mounts");
        let base = table
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .unwrap_or_else(|| skip("this host has no cgroup2"));
        let path = Path::new(base).join(below);
        let above = path.ancestors().take_while(|folder| *folder != Path::new(base));
        let made = above.filter(|folder| !folder.exists()).map(Path::to_path_buf).collect();
        if let Err(error) = fs::create_dir_all(&path) {
            skip(format_args!("no cgroup can be made here: {error}"));
        }
        Self { path, made }
    }

    /// What a shell says to be in it.
    pub(crate) fn join(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.path.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for group in &self.made {
            // Empty by now. One that stays is an empty folder of the kernel's, and the next boot's is without it.
            let _ = fs::remove_dir(group);
        }
    }
}

/// An SSH server that listens outside, with keys, a user and a home of its own; nothing of the machine's is read or changed.
pub(crate) struct Ssh {
    /// For `ssh -F`: knows the hosts `uncontrolled` and `controlled`.
    pub(crate) config: PathBuf,
    /// What comes is stored here.
    pub(crate) home: PathBuf,
    _server: Running,
}

impl Ssh {
    pub(crate) const PORT: u16 = 2222;

    /// Starts it; skips the test where the tools are missing.
    pub(crate) fn start(scene: &Scene<'_>) -> Self {
        Self::with_host_key(scene, "ed25519")
    }

    /// The same with a host key of another kind: dropbear gives up on clients that prefer a kind that it does not have.
    pub(crate) fn with_host_key(scene: &Scene<'_>, kind: &str) -> Self {
        for tool in ["dropbear", "dropbearkey", "ssh", "ssh-keygen", "unshare"] {
            World::needs(tool);
        }
        let home = scene.work.join("ssh-home");
        let keys = home.join(".ssh");
        fs::create_dir_all(&keys).expect("a folder can be made");
        let [host_key, user_key, config, users] =
            ["host", "user", "config", "passwd"].map(|name| scene.work.join(format!("ssh-{name}")));
        let mut hosted = Command::new("dropbearkey");
        ok(::tests::lab::run(hosted.args(["-t", kind, "-f"]).arg(&host_key)));
        let mut generate = Command::new("ssh-keygen");
        ok(::tests::lab::run(generate.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&user_key)));
        fs::copy(user_key.with_extension("pub"), keys.join("authorized_keys")).expect("a key can be copied");
        for (path, mode) in [(&home, 0o700), (&keys, 0o700), (&keys.join("authorized_keys"), 0o600)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
        }
        fs::write(&users, format!("root:x:0:0:root:{}:/bin/sh\n", home.display()))
            .expect("a file can be written");
        let host = |name, ip| format!("Host {name}\n  HostName {ip}\n  HostKeyAlias {name}\n");
        let text = format!(
            "{}{}Host *\n  Port {}\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  BatchMode yes\n  \
             StrictHostKeyChecking no\n  UserKnownHostsFile {}\n  LogLevel ERROR\n",
            host("uncontrolled", UNCONTROLLED),
            host("controlled", CONTROLLED),
            Self::PORT,
            user_key.display(),
            scene.work.join("ssh-known").display(),
        );
        fs::write(&config, text).expect("a file can be written");
        // In a mount namespace of its own the server finds the user's home by a list of users that is not the machine's.
        let serve = format!(
            "mount --bind {} /etc/passwd && exec dropbear -F -E -s -r {} -P {} -p {UNCONTROLLED}:{port} -p {CONTROLLED}:{port}",
            users.display(),
            host_key.display(),
            scene.work.join("ssh-pid").display(),
            port = Self::PORT,
        );
        let mut command = Command::new("unshare");
        let server = scene.spawn(scene.world.outside.inside_of(command.args(["-m", "sh", "-c", &serve])));
        wait_listening(&server, Self::PORT);
        Self { config, home, _server: server }
    }

    /// `-F CONFIG` as one word, for tools that split it themselves.
    pub(crate) fn command(&self) -> String {
        format!("ssh -F {}", self.config.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let listener = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1";
        let connection = "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 2";
        assert!(is_listener(listener, 8080));
        assert!(!is_listener(connection, 8080));
        assert!(!is_listener(listener, 8081));
    }
}

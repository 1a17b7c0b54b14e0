//! `cargo xtask setup`: finds what the build, the tests and the demo need, and installs what is missing.
//!
//! It says what it will do before it does it, and does nothing when nothing is missing. How a toolchain is recognised is
//! `toolchain.rs`; this file only knows which packages bring one.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    UNFIT, shell,
    toolchain::{self, LLVM, MIN_BPF_LINKER, MIN_RUSTC},
};

/// Programs that the build, the tests and the demo call: (program, Debian package, what for).
const TOOLS: [(&str, &str, &str); 7] = [
    ("cc", "gcc", "compiles the crate ring and links every program"),
    ("ip", "iproute2", "makes the network namespace of tests and demo"),
    ("losetup", "mount", "makes the scratch volumes of tests and demo"),
    ("mkfs.ext4", "e2fsprogs", "makes the scratch volumes of tests and demo"),
    ("mount", "mount", "makes the scratch volumes of tests and demo"),
    ("python3", "python3", "plays the thief and the benign loader in tests and demo"),
    ("unshare", "util-linux", "makes the namespaces of tests and demo"),
];

/// Programs that only tests call; a test whose program is missing is skipped. Those that thieves and benign loads use are
/// about 120 MB installed and start nothing: the SSH server of the tests is `dropbear-bin`, which is the program alone.
const TEST_TOOLS: [(&str, &str, &str); 27] = [
    ("age", "age", "encrypts what a test steals"),
    ("bindfs", "bindfs", "serves a model through FUSE in a test"),
    ("busybox", "busybox-static", "copies and serves with its own calls in tests"),
    ("curl", "curl", "uploads in tests"),
    ("dropbear", "dropbear-bin", "is the SSH server outside in tests"),
    ("file", "file", "looks into a model in a benign test"),
    ("git", "git", "pushes a model in a test"),
    ("gpg", "gpg", "encrypts what a test steals"),
    ("gpg-agent", "gpg-agent", "holds the key of gpg in a test"),
    ("mkfs.btrfs", "btrfs-progs", "makes a btrfs volume in tests"),
    ("mkfs.erofs", "erofs-utils", "makes an image in a test"),
    ("mkfs.xfs", "xfsprogs", "makes an XFS volume in tests"),
    ("nc", "netcat-openbsd", "sends in tests"),
    ("openssl", "openssl", "encrypts and sends in tests"),
    ("ping", "iputils-ping", "sends in a benign test"),
    ("rclone", "rclone", "copies and uploads in tests"),
    ("restic", "restic", "backs up in tests"),
    ("rsync", "rsync", "copies and uploads in tests"),
    ("/usr/lib/sftp-server", "openssh-sftp-server", "is the SFTP server outside in tests"),
    ("socat", "socat", "relays in tests"),
    ("ssh", "openssh-client", "uploads in tests"),
    ("sshfs", "sshfs", "mounts the outside in a test"),
    ("wget", "wget", "uploads in a test"),
    ("xz", "xz-utils", "compresses in a test"),
    ("zstd", "zstd", "compresses in a test"),
    ("prometheus-alertmanager", "prometheus-alertmanager", "receives alerts in tests"),
    ("promtool", "prometheus", "checks the metrics and the rules for Prometheus in tests"),
];

/// Versions of cargo's own tools that were tried with this tree.
const AUDITABLE: &str = "0.7.7";
const DENY: &str = "0.20.2";

/// What those packages start on a machine with systemd, and nobody asked for here.
const TEST_SERVICES: [&str; 2] = ["prometheus.service", "prometheus-alertmanager.service"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only report what is missing, change nothing; exit 4 when something is
    #[arg(long)]
    check: bool,
    /// Also build what makes and judges a release, cargo-auditable and cargo-deny: a quarter of an hour
    #[arg(long)]
    tools: bool,
}

/// The error of a machine that lacks something which could not be installed; `main` turns it into exit code 4.
#[derive(Debug)]
pub(crate) struct Unfit;

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this machine is not set up")
    }
}

/// One thing that is not there.
struct Need {
    /// What is missing, and what for.
    what: String,
    cure: Cure,
}

/// What brings it. The packages of all needs go into one call of apt.
enum Cure {
    Packages(Vec<String>),
    /// bpf-linker, built from source against the packages named here.
    BpfLinker(Vec<String>),
    /// Nothing that this program may do: the remedy in words.
    ByHand(String),
}

/// Runs the chore and reports what is there.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.tools && !args.check {
        ensure()?;
        for (word, version) in [("auditable", AUDITABLE), ("deny", DENY)] {
            ensure_tool(word, version)?;
        }
    }
    let needs = survey_for_tests();
    if needs.is_empty() {
        let toolchain = toolchain::find()?;
        eprintln!("setup: everything is here; eBPF is built by {toolchain}");
        return Ok(ExitCode::SUCCESS);
    }
    if args.check {
        for need in &needs {
            eprintln!("missing: {}", need.what);
        }
        eprintln!("remedy: `cargo xtask setup` as root{}", by_hand(&needs));
        return Ok(ExitCode::from(UNFIT));
    }
    install(&needs).context(Unfit)?;
    let toolchain = toolchain::find()?;
    eprintln!("setup: done; eBPF is built by {toolchain}");
    Ok(ExitCode::SUCCESS)
}

/// What every chore that builds calls first: silent when nothing is missing.
pub(crate) fn ensure() -> Result<()> {
    let needs = survey();
    if needs.is_empty() { Ok(()) } else { install(&needs).context(Unfit) }
}

/// What `test` calls first: the same, and the programs that only tests call.
pub(crate) fn ensure_for_tests() -> Result<()> {
    ensure()?;
    let needs: Vec<Need> = missing(&TEST_TOOLS).collect();
    if !needs.is_empty()
        && let Err(error) = install(&needs)
    {
        eprintln!("warning: {error:#}\n  the tests that need these programs are skipped");
    }
    Ok(())
}

/// What `dist` calls first: what a build needs, and the tool that writes the list of dependencies into the binary.
pub(crate) fn ensure_for_dist() -> Result<()> {
    ensure()?;
    ensure_tool("auditable", AUDITABLE)
}

/// A command of cargo's that others wrote, built from source when it is missing.
fn ensure_tool(word: &str, version: &str) -> Result<()> {
    if cargo_has(word) {
        return Ok(());
    }
    let name = format!("cargo-{word}");
    eprintln!(
        "missing: {name}; setup will build version {version} into cargo's bin directory (some minutes)"
    );
    let mut command = shell::cargo();
    command.args(["install", &name, "--version", version, "--locked"]);
    shell::quietly(&format!("building {name}"), command).context(Unfit)
}

/// Whether cargo knows a command, such as `deny`.
pub(crate) fn cargo_has(word: &str) -> bool {
    let mut command = shell::cargo();
    command.args([word, "--version"]);
    command.output().is_ok_and(|output| output.status.success())
}

fn survey_for_tests() -> Vec<Need> {
    let mut needs = survey();
    needs.extend(missing(&TEST_TOOLS));
    needs
}

/// The programs of a table that are not in PATH.
fn missing<'a>(tools: &'a [(&str, &str, &str)]) -> impl Iterator<Item = Need> + 'a {
    tools.iter().filter(|(program, _, _)| shell::which(program).is_none()).map(|(program, package, why)| {
        Need { what: format!("{program}, which {why}"), cure: Cure::Packages(vec![(*package).to_owned()]) }
    })
}

/// Everything that is missing, in the order in which it is installed.
fn survey() -> Vec<Need> {
    let mut needs = Vec::new();
    match toolchain::version_of(Path::new("rustc")) {
        Some(version) if version >= MIN_RUSTC => {}
        found => {
            let found = found.map_or_else(|| "none".to_owned(), |version| version.to_string());
            needs.push(Need {
                what: format!(
                    "rustc {MIN_RUSTC} or newer in PATH, which builds the workspace (found: {found})"
                ),
                cure: Cure::ByHand(format!("install Rust {MIN_RUSTC} with rustup and put it first in PATH")),
            });
        }
    }
    if let Err(what) = toolchain::compiler() {
        let packages =
            ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"].map(str::to_owned).to_vec();
        needs.push(Need { what, cure: Cure::Packages(packages) });
    }
    if let Err(what) = toolchain::bpf_linker() {
        let packages = [
            format!("llvm-{LLVM}-dev"),
            format!("libpolly-{LLVM}-dev"),
            "zlib1g-dev".to_owned(),
            "libzstd-dev".to_owned(),
        ];
        needs.push(Need { what, cure: Cure::BpfLinker(packages.to_vec()) });
    }
    needs.extend(missing(&TOOLS));
    needs
}

/// Says what is missing and what it is going to do, then does it and looks again.
fn install(needs: &[Need]) -> Result<()> {
    let mut packages = Vec::new();
    let mut build_linker = false;
    for need in needs {
        eprintln!("missing: {}", need.what);
        match &need.cure {
            Cure::Packages(list) => packages.extend(list.iter().map(String::as_str)),
            Cure::BpfLinker(list) => {
                packages.extend(list.iter().map(String::as_str));
                build_linker = true;
            }
            Cure::ByHand(_) => {}
        }
    }
    packages.sort_unstable();
    packages.dedup();
    let manual = by_hand(needs);
    if !manual.is_empty() {
        bail!("setup cannot go on{manual}");
    }

    if !packages.is_empty() {
        eprintln!("setup will install Debian packages (a few minutes): {}", packages.join(" "));
    }
    if build_linker {
        eprintln!("setup will build bpf-linker {MIN_BPF_LINKER} into cargo's bin directory (some minutes)");
    }
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    if build_linker {
        install_linker()?;
    }

    if packages.iter().any(|package| TEST_TOOLS.iter().any(|(_, known, _)| known == package)) {
        stop_services();
    }

    let left = survey();
    ensure!(
        left.is_empty(),
        "still missing after the installation: {}; see `cargo xtask setup --check`, and whether apt knows Debian 12's \
         security suite, which has the newer compiler",
        left.iter().map(|need| need.what.as_str()).collect::<Vec<_>>().join("; ")
    );
    Ok(())
}

/// The remedies that only a person can apply, as the tail of a message.
fn by_hand(needs: &[Need]) -> String {
    needs
        .iter()
        .filter_map(|need| match &need.cure {
            Cure::ByHand(remedy) => Some(format!("; {remedy}")),
            Cure::Packages(_) | Cure::BpfLinker(_) => None,
        })
        .collect()
}

/// `apt-get install`, as root or through sudo.
fn install_packages(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let Some(apt) = shell::which("apt-get") else {
        bail!(
            "this system has no apt-get: install by its own means what Debian calls {list}, then run this again"
        );
    };
    let prefix = if shell::is_root() {
        None
    } else if let Some(sudo) = shell::which("sudo") {
        Some(sudo)
    } else {
        bail!(
            "not root, and there is no sudo: run as root \
             `apt-get update && apt-get install -y --no-install-recommends {list}`, then run this again"
        );
    };
    let apt = |arguments: &[&str]| {
        // Through env(1), because sudo drops the variable that keeps packages from asking questions.
        let mut command = Command::new(prefix.as_deref().unwrap_or_else(|| Path::new("env")));
        if prefix.is_some() {
            command.arg("env");
        }
        command.arg("DEBIAN_FRONTEND=noninteractive").arg(&apt).args(["-o", "DPkg::Lock::Timeout=300"]);
        command.args(arguments);
        command
    };
    // Old lists name packages that the archive has replaced since. Where updating fails the lists may still do.
    if let Err(error) = shell::quietly("updating the package lists", apt(&["update"])) {
        eprintln!("warning: {error:#}\n  trying with the lists that are here");
    }
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    shell::quietly("installing packages", apt(&arguments)).with_context(|| {
        format!("apt could not install {list}: see its lines above, mend that, then run this again")
    })
}

/// Stops what the packages of the tests started: the tests run programs of their own, and this machine is no monitoring
/// server. Was one of them there before, so was its package, and then nothing was installed here.
fn stop_services() {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    eprintln!("setup stops and disables what the packages started: {}", TEST_SERVICES.join(" "));
    let mut command = Command::new("systemctl");
    command.args(["disable", "--now"]).args(TEST_SERVICES);
    if let Err(error) = shell::quietly("stopping services", command) {
        eprintln!("warning: {error:#}\n  they go on running; nothing here needs them");
    }
}

/// Builds bpf-linker against Debian's LLVM, which is the LLVM of Debian's rustc.
fn install_linker() -> Result<()> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    ensure!(
        prefix.join("bin/llvm-config").is_file(),
        "LLVM {LLVM} is not at {}: install Debian's llvm-{LLVM}-dev, then run this again",
        prefix.display()
    );
    let mut command = shell::cargo();
    command
        .args(["install", "bpf-linker", "--version", &MIN_BPF_LINKER.to_string(), "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{LLVM}")])
        .env("LLVM_PREFIX", prefix);
    shell::quietly("building bpf-linker", command)
        .context("bpf-linker could not be built: mend what its last lines say, then run this again")
}

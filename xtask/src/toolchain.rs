//! Finds what compiles eBPF programs in Rust, and makes the cargo call that does it.
//!
//! `agent/build.rs` includes this very file by `#[path]`, so it uses std only and must know nothing of xtask. It never
//! installs anything: that is `setup.rs`.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Oldest compiler that builds the workspace (`rust-version` in Cargo.toml).
pub(crate) const MIN_RUSTC: Version = Version([1, 95, 0]);
/// Oldest bpf-linker that was seen to link our programs with their BTF.
pub(crate) const MIN_BPF_LINKER: Version = Version([0, 13, 0]);
/// The LLVM that `setup` builds bpf-linker with. A compiler with a newer one writes bitcode that it cannot read.
pub(crate) const LLVM: u32 = 22;
/// The binary of the crate `agent-ebpf`; cargo leaves it at `<target_dir>/<TARGET>/release/<PROGRAMS>`.
pub(crate) const PROGRAMS: &str = "weighbridge-ebpf";
/// BPF runs in the byte order of its host.
pub(crate) const TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Everything that one build of the eBPF programs needs.
#[derive(Debug)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

/// A rustc and its cargo that can build `core` for BPF: nightly by nature or by `RUSTC_BOOTSTRAP`, with the library's
/// sources beside it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    name: String,
    bin: PathBuf,
    /// A stable release (Debian's) that must be told to accept `-Z`.
    bootstrap: bool,
}

/// What is not there; says the remedy too.
#[derive(Debug)]
pub(crate) struct Missing(String);

/// `major.minor.patch`, without what may follow a dash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version([u32; 3]);

/// Compiler and linker, or the first of the two that is missing.
pub(crate) fn find() -> Result<Toolchain, Missing> {
    Ok(Toolchain { compiler: compiler().map_err(Missing)?, linker: bpf_linker().map_err(Missing)? })
}

/// A rustup nightly that has rust-src, the newest first; else the distribution's own compiler under `/usr`. The error
/// says what is missing and why each candidate was refused.
pub(crate) fn compiler() -> Result<Compiler, String> {
    let mut refused = Vec::new();
    let nightlies = rustup_nightlies();
    for (name, prefix, bootstrap) in
        nightlies.into_iter().chain([("/usr/bin/rustc".to_owned(), PathBuf::from("/usr"), true)])
    {
        match refusal(&prefix) {
            None => return Ok(Compiler { name, bin: prefix.join("bin"), bootstrap }),
            Some(reason) => refused.push(format!("{name}: {reason}")),
        }
    }
    Err(format!(
        "a compiler that can build core for {TARGET} (rustc {MIN_RUSTC} or newer with the library's sources); {}",
        refused.join("; ")
    ))
}

/// The path of a bpf-linker that is new enough, from PATH or from cargo's bin directory. The error says what is missing.
pub(crate) fn bpf_linker() -> Result<PathBuf, String> {
    let mut refused = Vec::new();
    for path in search_path().into_iter().map(|dir| dir.join("bpf-linker")).filter(|path| path.is_file()) {
        match version_of(&path) {
            Some(version) if version >= MIN_BPF_LINKER => return Ok(path),
            Some(version) => refused.push(format!("{} is {version}", path.display())),
            // It is linked to LLVM's shared library and does not even start without it.
            None => refused.push(format!("{} does not run", path.display())),
        }
    }
    refused.dedup();
    if refused.is_empty() {
        refused.push("there is none in PATH nor in cargo's bin directory".to_owned());
    }
    Err(format!("bpf-linker {MIN_BPF_LINKER} or newer, which links eBPF programs; {}", refused.join("; ")))
}

/// What `PROGRAM --version` says; `None` when it does not run or says something else.
pub(crate) fn version_of(program: &Path) -> Option<Version> {
    let output = Command::new(program).arg("--version").output().ok()?;
    if output.status.success() { Version::parse(&String::from_utf8_lossy(&output.stdout)) } else { None }
}

impl Toolchain {
    /// `cargo SUBCOMMAND` (build, clippy) of the eBPF programs in `crate_dir`, with its own target directory: the outer
    /// cargo holds the lock of the workspace's. The caller may append arguments, and runs it.
    pub(crate) fn cargo(&self, subcommand: &str, crate_dir: &Path, target_dir: &Path) -> Command {
        let bin = &self.compiler.bin;
        let mut command = Command::new(bin.join("cargo"));
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(belongs_to_outer_build) {
                command.env_remove(name);
            }
        }
        // The two compilers live side by side, so this one comes first for this one call and for nothing else.
        let path = env::var_os("PATH").unwrap_or_default();
        if let Ok(path) = env::join_paths([bin.clone()].into_iter().chain(env::split_paths(&path))) {
            command.env("PATH", path);
        }
        let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker);
        let flags = [
            linker,
            "-Clink-arg=--btf".into(),
            "-Cdebuginfo=2".into(),
            format!("--cfg=bpf_target_arch=\"{arch}\"").into(),
        ];
        command
            .current_dir(crate_dir)
            .args([subcommand, "--release", "--locked", "-Z", "build-std=core", "--target", TARGET])
            .args(["--features", "programs", "--bin", PROGRAMS, "--target-dir"])
            .arg(target_dir)
            .env("RUSTC", bin.join("rustc"))
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join(std::ffi::OsStr::new("\u{1f}")))
            // The workspace's release profile is the agent's. A program for the kernel has one unit, no unwinding, and
            // keeps its debug information, out of which bpf-linker makes the BTF.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
            .env("CARGO_PROFILE_RELEASE_LTO", "fat")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
            .env("CARGO_PROFILE_RELEASE_STRIP", "none");
        if self.compiler.bootstrap {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.compiler, self.linker.display())
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missing: {}: run `cargo xtask setup`", self.0)
    }
}

impl Error for Missing {}

impl Version {
    /// The first word of `text` that is a version, as in `rustc 1.95.0 (59807616e 2026-04-14)`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut parts = word.split('-').next()?.splitn(3, '.').map(|part| part.parse().ok());
            Some(Self([parts.next()??, parts.next()??, parts.next()??]))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// (name, prefix, needs `RUSTC_BOOTSTRAP`) of rustup's nightlies, read from its folders: asking rustup itself could make
/// it download.
fn rustup_nightlies() -> Vec<(String, PathBuf, bool)> {
    let Some(home) = home("RUSTUP_HOME", ".rustup") else { return Vec::new() };
    let Ok(entries) = fs::read_dir(home.join("toolchains")) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path(), false))
        .filter(|(name, ..)| name.starts_with("nightly"))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found
}

/// Why the compiler under `prefix` cannot build core for BPF; `None` when it can.
fn refusal(prefix: &Path) -> Option<String> {
    let rustc = prefix.join("bin/rustc");
    if !rustc.is_file() {
        return Some("is not installed".to_owned());
    }
    if !prefix.join("bin/cargo").is_file() {
        return Some("has no cargo beside it".to_owned());
    }
    if !prefix.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
        return Some("has no library sources (rust-src)".to_owned());
    }
    let output = Command::new(&rustc).arg("-vV").env_remove("LD_LIBRARY_PATH").output();
    let Ok(text) = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) else {
        return Some("does not run".to_owned());
    };
    refusal_by_version(&text)
}

/// The same, from what `rustc -vV` prints.
fn refusal_by_version(text: &str) -> Option<String> {
    let Some(version) = Version::parse(text) else { return Some("does not say its version".to_owned()) };
    if version < MIN_RUSTC {
        return Some(format!("is {version}"));
    }
    let llvm = text.lines().find_map(|line| Version::parse(line.strip_prefix("LLVM version: ")?));
    match llvm {
        Some(Version([major, ..])) if major <= LLVM => None,
        Some(version) => Some(format!("has LLVM {version}, newer than bpf-linker's LLVM {LLVM}")),
        None => Some("does not say which LLVM it has".to_owned()),
    }
}

/// What cargo and rustup set for a build script or for `cargo run`, or what a user set for the outer build. Kept: where
/// crates come from, and how many jobs may run.
fn belongs_to_outer_build(name: &str) -> bool {
    const KEPT: [&str; 9] = [
        "CARGO_BUILD_JOBS",
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "RUSTUP_HOME",
        "RUST_BACKTRACE",
    ];
    // cargo points LD_LIBRARY_PATH at the outer compiler's own libraries.
    name == "LD_LIBRARY_PATH"
        || (name.starts_with("CARGO") || name.starts_with("RUST"))
            && !KEPT.iter().any(|kept| name.starts_with(kept))
}

/// PATH, then cargo's bin directory, which is not in PATH for every service user.
fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(home("CARGO_HOME", ".cargo").map(|home| home.join("bin"))).collect()
}

/// The directory that `variable` names, else `fallback` in the user's home.
fn home(variable: &str, fallback: &str) -> Option<PathBuf> {
    match env::var_os(variable) {
        Some(dir) => Some(dir.into()),
        None => Some(Path::new(&env::var_os("HOME")?).join(fallback)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_tools_print_and_compared_by_number() {
        let cases = [
            ("rustc 1.95.0 (59807616e 2026-04-14)", [1, 95, 0]),
            ("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)", [1, 97, 0]),
            ("bpf-linker 0.13.0", [0, 13, 0]),
            ("22.1.8", [22, 1, 8]),
        ];
        for (text, version) in cases {
            assert_eq!(Version::parse(text), Some(Version(version)), "{text}");
        }
        for text in ["", "bpf-linker", "1.95", "one.two.three", "99999999999.0.0"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert!(Version([0, 9, 9]) < MIN_BPF_LINKER);
        assert!(Version([1, 100, 0]) > MIN_RUSTC);
    }

    #[test]
    fn a_compiler_is_refused_by_its_age_or_by_a_newer_llvm() {
        let text = |rustc: &str, llvm: &str| {
            format!("rustc {rustc} (x 2026-01-01)\nhost: h\nLLVM version: {llvm}\n")
        };
        assert_eq!(refusal_by_version(&text("1.96.0", "22.1.8")), None);
        assert_eq!(refusal_by_version(&text("1.85.0", "19.1.7")).as_deref(), Some("is 1.85.0"));
        assert_eq!(
            refusal_by_version(&text("1.99.0-nightly", "23.1.0")).as_deref(),
            Some("has LLVM 23.1.0, newer than bpf-linker's LLVM 22")
        );
        assert_eq!(refusal_by_version("rustc 1.96.0").as_deref(), Some("does not say which LLVM it has"));
    }

    #[test]
    fn the_outer_build_leaves_no_trace_but_where_crates_come_from() {
        for name in [
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_TARGET_DIR",
            "LD_LIBRARY_PATH",
        ] {
            assert!(belongs_to_outer_build(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_REGISTRIES_X_INDEX", "CARGO_NET_OFFLINE", "PATH", "HOME"] {
            assert!(!belongs_to_outer_build(name), "{name}");
        }
    }
}

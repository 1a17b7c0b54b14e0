//! The Debian package: which file of the tree lies where on a host, and the control file. Built by `dpkg-deb` from a staged
//! folder; no other tool of Debian's is needed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// In the tree, on a host. A folder goes with the files in it.
const FILES: [(&str, &str); 15] = [
    ("deploy/weighbridge.yaml", "etc/weighbridge/weighbridge.yaml"),
    ("deploy/weighbridge.service", "usr/lib/systemd/system/weighbridge.service"),
    ("deploy/sysusers.conf", "usr/lib/sysusers.d/weighbridge.conf"),
    ("deploy/tmpfiles.conf", "usr/lib/tmpfiles.d/weighbridge.conf"),
    ("rules/core.yaml", "usr/share/weighbridge/rules/core.yaml"),
    ("rules/prometheus", "usr/share/weighbridge/prometheus"),
    ("deploy/grafana", "usr/share/weighbridge/grafana"),
    ("deploy/alertmanager.yml", "usr/share/doc/weighbridge/examples/alertmanager.yml"),
    ("docs", "usr/share/doc/weighbridge/docs"),
    ("docs/runbooks", "usr/share/doc/weighbridge/docs/runbooks"),
    ("README.md", "usr/share/doc/weighbridge/README.md"),
    ("SECURITY.md", "usr/share/doc/weighbridge/SECURITY.md"),
    ("CHANGELOG.md", "usr/share/doc/weighbridge/changelog"),
    ("LICENSE-MIT", "usr/share/doc/weighbridge/LICENSE-MIT"),
    ("deploy/debian/copyright", "usr/share/doc/weighbridge/copyright"),
];
/// What the agent's `manual` writes, and where shells look for it.
const COMPLETIONS: [(&str, &str); 3] = [
    ("weighbridge.bash", "usr/share/bash-completion/completions/weighbridge"),
    ("_weighbridge", "usr/share/zsh/vendor-completions/_weighbridge"),
    ("weighbridge.fish", "usr/share/fish/vendor_completions.d/weighbridge.fish"),
];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Builds the package of `binary` in `out`, with `list` in it.
pub(super) fn build(binary: &Path, list: &Path, out: &Path, made_at: i64) -> Result<PathBuf> {
    let root = out.join("staged");
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", root.display()));
        }
        _ => {}
    }
    put(binary, &root.join("usr/bin/weighbridge"), 0o755)?;
    put(list, &root.join("usr/share/doc/weighbridge/sbom.cdx.json"), 0o644)?;
    for (from, to) in FILES {
        let (from, to) = (shell::root().join(from), root.join(to));
        if from.is_dir() {
            for file in files(&from)? {
                put(&file, &to.join(file.file_name().unwrap_or_default()), 0o644)?;
            }
        } else {
            put(&from, &to, 0o644)?;
        }
    }
    manual(binary, out, &root)?;
    compress(&root.join("usr/share/doc/weighbridge/changelog"))?;

    let control = root.join("DEBIAN");
    for script in SCRIPTS {
        put(&shell::root().join("deploy/debian").join(script), &control.join(script), 0o755)?;
    }
    write(&control.join("conffiles"), "/etc/weighbridge/weighbridge.yaml\n")?;
    let mut all = Vec::new();
    below(&root, &mut all)?;
    all.retain(|path| !path.starts_with(&control));
    all.sort();
    let mut sums = Command::new("md5sum");
    sums.current_dir(&root);
    let mut bytes = 0;
    for path in &all {
        sums.arg(path.strip_prefix(&root).unwrap_or(path));
        bytes += fs::metadata(path).with_context(|| format!("cannot stat {}", path.display()))?.len();
    }
    write(&control.join("md5sums"), &run(sums)?)?;
    write(&control.join("control"), &control_file(binary, bytes)?)?;

    let package = out.join(format!("weighbridge_{}_amd64.deb", version()));
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "-Zxz", "--build"]).arg(&root).arg(&package);
    // dpkg-deb takes times of the package from here.
    command.env("SOURCE_DATE_EPOCH", made_at.to_string());
    run(command)?;
    Ok(package)
}

/// The version of the workspace; what comes after a hyphen there sorts before the release here.
fn version() -> String {
    env!("CARGO_PKG_VERSION").replace('-', "~")
}

fn control_file(binary: &Path, bytes: u64) -> Result<String> {
    let text = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let (major, minor) = newest_glibc(&text).context("the binary asks for no version of the C library")?;
    Ok(format!(
        "Package: weighbridge\n\
         Version: {}\n\
         Architecture: amd64\n\
         Maintainer: the Weighbridge developers <weighbridge@localhost>\n\
         Installed-Size: {}\n\
         Depends: libc6 (>= {major}.{minor}), libgcc-s1, systemd (>= 252)\n\
         Section: admin\n\
         Priority: optional\n\
         Description: weighs every byte of AI model weights that can leave this host\n \
         An eBPF agent that counts, in the kernel, what each process took from protected files and\n \
         what it put where, and raises an alert when more can have left than may.\n",
        version(),
        bytes.div_ceil(1024)
    ))
}

/// The newest `GLIBC_2.N` that is named anywhere in a program: what its dynamic symbols ask for, or more.
fn newest_glibc(program: &[u8]) -> Option<(u32, u32)> {
    const NAME: &[u8] = b"GLIBC_";
    let number = |bytes: &[u8]| {
        let end = bytes.iter().position(|c| !c.is_ascii_digit()).unwrap_or(bytes.len());
        let value =
            std::str::from_utf8(bytes.get(..end).filter(|digits| digits.len() <= 4)?).ok()?.parse().ok()?;
        Some((value, end))
    };
    let version = |at: usize| {
        let rest = program.get(at + NAME.len()..)?;
        let (major, end) = number(rest)?;
        let (minor, _) = number(rest.get(end..)?.strip_prefix(b".")?)?;
        Some((major, minor))
    };
    (0..program.len()).filter(|&at| program[at..].starts_with(NAME)).filter_map(version).max()
}

/// Manual pages and completions, as the binary itself writes them.
fn manual(binary: &Path, out: &Path, root: &Path) -> Result<()> {
    let written = out.join("manual");
    let mut command = Command::new(binary);
    command.arg("manual").arg(&written);
    run(command)?;
    for page in files(&written.join("man"))? {
        let name = page.file_name().unwrap_or_default();
        let to = root.join("usr/share/man/man8").join(name);
        put(&page, &to, 0o644)?;
        compress(&to)?;
    }
    for (from, to) in COMPLETIONS {
        put(&written.join("completions").join(from), &root.join(to), 0o644)?;
    }
    Ok(())
}

/// As policy wants it; without name and time, so that it is the same tomorrow.
fn compress(path: &Path) -> Result<()> {
    let mut command = Command::new("gzip");
    command.args(["-9", "-n", "-f"]).arg(path);
    run(command).map(drop)
}

/// What it printed.
fn run(mut command: Command) -> Result<String> {
    let line = shell::line(&command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    ensure!(
        output.status.success(),
        "`{line}` failed with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed no text"))
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let place = || format!("cannot copy {} to {}", from.display(), to.display());
    folder(to)?;
    fs::copy(from, to).with_context(place)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(place)
}

fn write(to: &Path, text: &str) -> Result<()> {
    folder(to)?;
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644)).context("cannot set a mode")
}

/// The folders of a file, with the mode that a package's folders have, whatever the umask is.
fn folder(of: &Path) -> Result<()> {
    let Some(parent) = of.parent() else { return Ok(()) };
    if parent.is_dir() {
        return Ok(());
    }
    folder(parent)?;
    fs::create_dir(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).context("cannot set a mode")
}

/// The files of a folder, not of those below it, sorted.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry.context("cannot read a folder")?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn below(dir: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry.context("cannot read a folder")?.path();
        if path.is_dir() { below(&path, all)? } else { all.push(path) }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_the_c_library_is_found() {
        assert_eq!(newest_glibc(b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0"), Some((2, 34)));
        for odd in [&b""[..], b"GLIBC_", b"GLIBC_2", b"GLIBC_2.", b"GLIBC_999999999999.1"] {
            assert_eq!(newest_glibc(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn whatever_is_shipped_is_in_the_tree() {
        for (from, _) in FILES {
            assert!(shell::root().join(from).exists(), "{from}");
        }
        for script in SCRIPTS {
            assert!(shell::root().join("deploy/debian").join(script).is_file(), "{script}");
        }
    }
}

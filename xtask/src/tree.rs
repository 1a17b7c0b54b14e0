//! What no file of the tree may say: a path of the machine it was written on, or the host of a package registry; and links
//! in documents must lead somewhere.
//!
//! Only tracked files and new ones that git would track are read, and only text.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// Files above this size are data.
const LARGEST: u64 = 1 << 20;
/// cargo writes files of this name, and names its registry in them.
const GENERATED: &str = "Cargo.lock";
/// Folders of other people's homes and scratch space; test code may use them as examples.
const PLACES: [&str; 3] = ["/root/", "/home/", "/tmp/"];
/// Hosts of package registries, in halves so that this file does not name them.
const HOSTS: [(&str, &str); 9] = [
    ("crates", ".io"),
    ("static.rust-lang", ".org"),
    ("deb.debian", ".org"),
    ("security.debian", ".org"),
    ("archive.ubuntu", ".com"),
    ("pypi", ".org"),
    ("registry.npmjs", ".org"),
    ("proxy.golang", ".org"),
    ("ghcr", ".io"),
];

/// One line per offence, `path:line: what`.
pub(crate) fn complaints() -> Result<Vec<String>> {
    let root = shell::root();
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot start git, which lists the files of the tree")?;
    ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let here = here(root);
    let hosts: Vec<String> = HOSTS.map(|(name, domain)| format!("{name}{domain}")).to_vec();
    let mut complaints = Vec::new();
    for name in output.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        let path = root.join(&name);
        let small = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST);
        // A file that is deleted but still in the index, a submodule or a binary fixture says nothing.
        let Some(text) = small.then(|| fs::read_to_string(&path).ok()).flatten() else { continue };
        if Path::new(&name).file_name().is_some_and(|file| file == GENERATED) {
            continue;
        }
        complaints.extend(in_text(&name, &text, &here, &hosts));
        if name.ends_with(".md") {
            complaints.extend(dead_links(&name, &text, |target| {
                path.parent().is_some_and(|dir| dir.join(target).exists())
            }));
        }
    }
    Ok(complaints)
}

/// This machine's own places: the checkout, the home, cargo's home. They are forbidden in tests too.
fn here(root: &Path) -> Vec<String> {
    let homes = ["HOME", "CARGO_HOME", "CARGO_TARGET_DIR"].into_iter().filter_map(|name| env::var(name).ok());
    let checkout = root.to_string_lossy().into_owned();
    homes
        .chain([checkout])
        .map(|dir| dir.trim_end_matches('/').to_owned())
        // A short one, such as `/src` in a container, is a word of ordinary text.
        .filter(|dir| dir.len() > 5)
        .collect()
}

fn in_text(name: &str, text: &str, here: &[String], hosts: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    // This file holds the patterns themselves. Test code may use anybody's folders as examples.
    let mut example = name.starts_with("tests/") || name.contains("/tests/") || name == "xtask/src/tree.rs";
    for (number, line) in text.lines().enumerate() {
        example |= name.ends_with(".rs") && line.starts_with("mod tests {");
        let number = number + 1;
        let mut complain = |what: &str| complaints.push(format!("{name}:{number}: {what}"));
        for place in here.iter().filter(|place| line.contains(place.as_str())) {
            complain(&format!("names a place of this machine, {place}"));
        }
        if !example {
            for place in PLACES.iter().filter(|place| line.contains(*place)) {
                complain(&format!("names a place below {place}"));
            }
        }
        for host in hosts.iter().filter(|host| line.contains(host.as_str())) {
            complain(&format!("names the registry host {host}"));
        }
    }
    complaints
}

/// Relative targets of `[text](target)` that `exists` denies.
fn dead_links(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let Some((target, _)) = rest.split_once(')') else { continue };
            let file = target.split('#').next().unwrap_or(target);
            if !file.is_empty() && !target.contains("://") && !target.starts_with("mailto:") && !exists(file)
            {
                complaints.push(format!("{name}:{}: links to {file}, which is not there", number + 1));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_hosts_are_found_where_they_must_not_be() {
        let here = ["/opt/checkout".to_owned()];
        let hosts = ["registry.example".to_owned()];
        let text = "a /home/eve/x\nb\nmod tests {\n  /tmp/x /opt/checkout/y\n  https://registry.example/z\n";
        assert_eq!(
            in_text("agent/src/a.rs", text, &here, &hosts),
            [
                "agent/src/a.rs:1: names a place below /home/",
                "agent/src/a.rs:4: names a place of this machine, /opt/checkout",
                "agent/src/a.rs:5: names the registry host registry.example",
            ]
        );
        assert_eq!(in_text("tests/src/a.rs", "/tmp/x", &here, &hosts), [""; 0]);
    }

    #[test]
    fn links_must_lead_somewhere() {
        let text = "[a](LICENSE) [b](docs/none.md#x)\n[c](https://example.org) [d](#below)";
        assert_eq!(
            dead_links("README.md", text, |file| file == "LICENSE"),
            ["README.md:1: links to docs/none.md, which is not there"]
        );
    }
}

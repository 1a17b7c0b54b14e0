//! What the binary is made of, as CycloneDX 1.5: from `cargo metadata` and the lock file, with no tool of its own.
//!
//! The binary holds two programs, the agent and the eBPF object, so both sides' dependencies are in it. What only builds or
//! tests them is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Stdio,
};

use ::tests::lab::process::sha256;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::shell;

/// For the user side, and for the eBPF side.
const HOST: &str = "x86_64-unknown-linux-gnu";
const KERNEL: &str = "bpfel-unknown-none";

/// A package as the list names it.
struct Part {
    name: String,
    version: String,
    licence: Option<String>,
    ours: bool,
    needs: BTreeSet<String>,
}

/// The list of the binary `weighbridge`, made at this time (seconds since 1970).
pub(super) fn of_the_agent(made_at: i64) -> Result<Value> {
    let mut parts = BTreeMap::new();
    collect(&metadata(HOST, None)?, "weighbridge", &mut parts)?;
    collect(&metadata(KERNEL, Some("agent-ebpf/programs"))?, "agent-ebpf", &mut parts)?;
    let lock = shell::root().join("Cargo.lock");
    let sums = checksums(&fs::read_to_string(&lock).context("cannot read Cargo.lock")?);
    // The same lock file gives the same number, another one another.
    Ok(list(&parts, &sums, &sha256(&lock)?, made_at))
}

fn metadata(target: &str, feature: Option<&str>) -> Result<Value> {
    let mut command = shell::cargo();
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]);
    if let Some(feature) = feature {
        command.args(["--features", feature]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed with {}", output.status);
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// Adds `root` and all that it needs when it runs. Keys are what cargo calls a package.
fn collect(metadata: &Value, root: &str, parts: &mut BTreeMap<String, Part>) -> Result<()> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let of = |list: &'static str| metadata.pointer(list).and_then(Value::as_array).into_iter().flatten();
    let by_id = |list| -> BTreeMap<String, &Value> {
        of(list).filter_map(|one| Some((text(&one["id"])?, one))).collect()
    };
    let (packages, nodes) = (by_id("/packages"), by_id("/resolve/nodes"));
    let first = packages.iter().find(|(_, package)| package["name"] == root && package["source"].is_null());
    let mut waiting = vec![first.with_context(|| format!("cargo knows no package {root}"))?.0.clone()];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let package = packages.get(&id).with_context(|| format!("cargo describes no package {id}"))?;
        let node = nodes.get(&id).with_context(|| format!("cargo resolved no package {id}"))?;
        let runs = |kinds: &Value| {
            kinds.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        };
        let needs = node["deps"].as_array().into_iter().flatten().filter(|dep| runs(&dep["dep_kinds"]));
        let needs: BTreeSet<String> = needs.filter_map(|dep| text(&dep["pkg"])).collect();
        waiting.extend(needs.iter().cloned());
        let part = parts.entry(id).or_insert_with(|| Part {
            name: text(&package["name"]).unwrap_or_default(),
            version: text(&package["version"]).unwrap_or_default(),
            licence: text(&package["license"]),
            ours: package["source"].is_null(),
            needs: BTreeSet::new(),
        });
        part.needs.extend(needs);
    }
    Ok(())
}

/// The SHA-256 of each package that was downloaded, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut sums = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let field = |name: &str| {
            package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(sum)) = (field("name"), field("version"), field("checksum")) {
            sums.insert((name.to_owned(), version.to_owned()), sum.to_owned());
        }
    }
    sums
}

fn list(
    parts: &BTreeMap<String, Part>,
    sums: &BTreeMap<(String, String), String>,
    seed: &str,
    made_at: i64,
) -> Value {
    let purl = |part: &Part| format!("pkg:cargo/{}@{}", part.name, part.version);
    let component = |part: &Part| {
        let mut component = json!({
            "type": if part.name == "weighbridge" { "application" } else { "library" },
            "bom-ref": purl(part), "name": part.name, "version": part.version, "purl": purl(part),
        });
        if let Some(licence) = &part.licence {
            // Some packages write an old form of `OR`, which is no expression.
            component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
        }
        if let Some(sum) = sums.get(&(part.name.clone(), part.version.clone())).filter(|_| !part.ours) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        }
        component
    };
    let is_root = |part: &&Part| part.name == "weighbridge" && part.ours;
    let root = parts.values().find(is_root).map(component);
    let mut components: Vec<Value> = parts.values().filter(|part| !is_root(part)).map(component).collect();
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let mut needs: Vec<Value> = parts
        .values()
        .map(|part| {
            let needs: BTreeSet<String> =
                part.needs.iter().filter_map(|id| parts.get(id)).map(purl).collect();
            json!({"ref": purl(part), "dependsOn": needs})
        })
        .collect();
    needs.sort_by_key(|one| one["ref"].to_string());
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": number(seed),
        "version": 1,
        "metadata": {
            "timestamp": rfc3339(made_at),
            "tools": {"components": [{"type": "application", "name": "cargo xtask dist", "version": env!("CARGO_PKG_VERSION")}]},
            "component": root,
        },
        "components": components,
        "dependencies": needs,
    })
}

/// A UUID of version 8 (RFC 9562) out of a SHA-256 in hex.
fn number(seed: &str) -> String {
    let hex: String = seed.chars().take(32).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("urn:uuid:{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

/// A time in UTC; the civil calendar counted from 1 March of year 0 (400 years have 146,097 days).
fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (date, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_both_programs_and_is_closed() {
        let list = of_the_agent(1_795_348_800).unwrap();
        let refs: BTreeSet<&str> = list["components"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&list["metadata"]["component"]])
            .map(|component| component["bom-ref"].as_str().unwrap())
            .collect();
        assert_eq!(refs.len(), list["components"].as_array().unwrap().len() + 1, "each once");
        let has = |name: &str| refs.iter().any(|one| one.starts_with(&format!("pkg:cargo/{name}@")));
        for name in ["weighbridge", "agent-ebpf", "aya", "aya-ebpf", "ring"] {
            assert!(has(name), "{name}");
        }
        for name in ["proptest", "insta", "xtask", "tests"] {
            assert!(!has(name), "{name} only builds or tests");
        }
        for one in list["dependencies"].as_array().unwrap() {
            for needed in one["dependsOn"].as_array().unwrap().iter().chain([&one["ref"]]) {
                assert!(refs.contains(needed.as_str().unwrap()), "{needed}");
            }
        }
        for component in list["components"].as_array().unwrap() {
            assert!(component["licenses"][0]["expression"].is_string(), "{component}");
            let ours = ["pkg:cargo/agent-ebpf@"]
                .iter()
                .any(|own| component["purl"].as_str().unwrap().starts_with(own));
            assert_eq!(component["hashes"][0]["content"].is_string(), !ours, "{component}");
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_350_896, "2026-11-22T12:34:56Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn a_number_is_a_uuid() {
        let seed = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        assert_eq!(number(seed), "urn:uuid:01234567-89ab-8def-8123-456789abcdef");
    }
}

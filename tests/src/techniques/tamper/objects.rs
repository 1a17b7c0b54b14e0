//! What the agent has in the kernel: maps, programs, links, and the pins that keep them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::lab::{BPFFS, metrics, process::Identity};

use super::{check_actor, pinned, tampering};
use crate::{
    techniques::tooling::ok,
    world::{Scene, World, skip},
};

pub(super) fn map_opened_by_its_id(w: &mut World) {
    let mut scene = w.scene();
    let maps = objects(&mut scene, "map_id");
    assert!(!maps.is_empty(), "the agent has no map");
    let by = touch(&scene, "map", maps[0]);
    let alert = tampering(&mut scene, "maps_touched", |target| target.starts_with("map "));
    check_actor(&alert, &by);
    scene.stop();
}

pub(super) fn program_opened_by_its_id(w: &mut World) {
    let mut scene = w.scene();
    let programs = objects(&mut scene, "prog_id");
    let by = touch(&scene, "prog", programs[0]);
    let alert = tampering(&mut scene, "links_touched", |target| target.starts_with("program "));
    check_actor(&alert, &by);
    scene.stop();
}

pub(super) fn host_wide_link_detached(w: &mut World) {
    let mut scene = w.scene();
    let pages = pages(&mut scene);
    let link = pages.iter().find(|page| page.contains("cgroup_id")).and_then(|page| number(page, "link_id"));
    let Some(link) = link else { skip("the agent's kernel has no link on a cgroup") };
    let by = touch(&scene, "detach", link);
    let alert = tampering(&mut scene, "links_touched", |target| {
        target == format!("link {link}")
            || target.starts_with(&format!("link {link} of program")) && !target.ends_with("changed")
    });
    check_actor(&alert, &by);
    let alert = tampering(&mut scene, "links_touched", |target| target.ends_with(" changed"));
    assert!(alert.detail()["process"].is_null());
    // What Prometheus alerts on where nobody reads the log.
    let attached = |probe| metrics::sum(&scene.metrics(), "weighbridge_probe_attached", &[("probe", probe)]);
    assert_eq!((attached("cgroup_skb_egress"), attached("sys_exit")), (Some(0.0), Some(1.0)));
    scene.stop();
}

pub(super) fn pins_removed(w: &mut World) {
    let mut scene = pinned(w);
    for name in ["FLOWS", "link_sys_exit"] {
        fs::remove_file(pin(name)).expect("root can remove a pin");
        let alert = tampering(&mut scene, "pins_touched", |target| target == format!("{name} was removed"));
        assert!(alert.detail()["process"].is_null());
    }
    scene.stop();
}

/// By its pin, as whoever wants to know what the agent knows, or to change it.
pub(super) fn map_opened_while_no_agent_ran(w: &mut World) {
    let mut scene = pinned(w);
    scene.stop();
    let script = include_str!("../scripts/bpf_touch.py");
    let by = scene.run(scene.python("bpf_touch.py", script).arg("pin").arg(pin("FLOWS")));
    scene.start();
    let alert =
        tampering(&mut scene, "maps_touched", |target| target == "what is pinned, while no agent ran");
    check_actor(&alert, &by);
    scene.stop();
}

/// The pins are there, and nobody can see them: that is said, and what moves is weighed on.
pub(super) fn pins_hidden_under_a_mount(w: &mut World) {
    let mut scene = pinned(w);
    let place = pin("FLOWS").parent().expect("a folder").to_owned();
    ok(tests::lab::run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&place)));
    tampering(&mut scene, "pins_touched", |target| target == "FLOWS was removed");
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = fs::metadata(&copy).expect("a copy").len();
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001" && alert.bound() == bytes);
    ok(tests::lab::run(Command::new("umount").arg(&place)));
    scene.stop();
}

/// Of the one agent that has pins in the lab's BPF filesystem.
fn pin(name: &str) -> PathBuf {
    let top = fs::read_dir(Path::new(BPFFS).join("weighbridge")).expect("the agent has pins");
    let found = top.flatten().map(|place| place.path().join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not pinned"))
}

fn touch(scene: &Scene<'_>, command: &str, id: u64) -> Identity {
    let script = include_str!("../scripts/bpf_touch.py");
    scene.run(scene.python("bpf_touch.py", script).args([command, &id.to_string()]))
}

/// The ids under this key of all descriptors of the agent.
fn objects(scene: &mut Scene<'_>, key: &str) -> Vec<u64> {
    pages(scene)
        .iter()
        .filter(|page| !page.contains("link_id"))
        .filter_map(|page| number(page, key))
        .collect()
}

fn pages(scene: &mut Scene<'_>) -> Vec<String> {
    let folder = PathBuf::from(format!("/proc/{}/fdinfo", scene.agent().pid()));
    let entries = fs::read_dir(folder).expect("the agent's descriptors can be listed").flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
}

fn number(page: &str, key: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
}

//! Two processes on one GPU (TECHNIQUES 1H): what one keeps there the other may reach, and no hook sees it. There is no GPU
//! here: the driver of another character device that several can open is configured as one.

use std::{fs, path::Path};

use tests::lab::process::{Finished, Identity, Running};

use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("gpu_of_a_holder", |w| beside(w, &["take", "open", "wait"], &["open"])),
    ("gpu_opened_before_the_holder_opened_it", opened_before_the_holder),
    ("gpu_opened_before_anybody_held", before_anybody_held),
    ("gpu_descriptor_that_was_passed", passed),
    ("gpu_shared_before_the_agent", before_the_agent),
    ("gpu_of_a_holder_that_ended", of_one_that_ended),
    ("name_of_a_gpu", name_only),
];

const NODE: &str = "/dev/cpu/0/cpuid";
/// Its driver's name in `/proc/devices`.
const DRIVER: &str = "cpu/cpuid";

/// A scene with the rule that `deploy/examples` has for operators who want it. Its agent does not run yet.
fn prepared(w: &mut World) -> Scene<'_> {
    if !Path::new(NODE).exists() {
        skip(format_args!("this kernel has no {NODE}, which stands for a GPU"));
    }
    let mut scene = w.prepare();
    let example = scene.config.rules[0].with_file_name("deploy").join("examples/gpu-shared.yaml");
    let example = fs::read_to_string(example).expect("an example");
    // One finding for each process: all of them run the same program here.
    let wanted = "group_by: [asset.name, process.executable, victim.executable, act.target]";
    assert!(example.contains(wanted), "the example groups by something else");
    let rules = scene.work.join("gpu.yaml");
    fs::write(&rules, example.replace(wanted, "group_by: [asset.name, process.pid, act.target]"))
        .expect("a file can be written");
    scene.config.rules.push(rules);
    scene.config.more.push_str(&format!("gpu_drivers: [{DRIVER}]\n"));
    scene
}

/// A process that goes through `steps`; it has said `ready` if one of them waits.
fn process(scene: &Scene<'_>, steps: &[&str]) -> Running {
    let mut command = scene.python("gpu.py", include_str!("scripts/gpu.py"));
    command.arg(NODE);
    for step in steps {
        if ["take", "keep"].contains(step) {
            command.arg(format!("{step}={}", scene.model.files[0].display()));
        } else {
            command.arg(step);
        }
    }
    let mut running = scene.spawn(&mut command);
    if steps.iter().any(|step| *step == "wait" || step.starts_with("give=")) {
        assert_eq!(running.line().unwrap_or_else(|error| panic!("{error:#}")), "ready");
    }
    running
}

fn end(running: Running) -> Identity {
    running.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"))
}

fn told(scene: &Scene<'_>, thief: &Identity, holder: &Identity) -> [Expected; 1] {
    [Expected::act(scene, "SITE-0008", "gpu_shared", thief).of_victim(holder).to(NODE)]
}

fn beside(w: &mut World, holder: &[&str], thief: &[&str]) {
    let mut scene = prepared(w);
    scene.start();
    let holder = process(&scene, holder);
    let thief = end(process(&scene, thief));
    let expected = told(&scene, &thief, &end(holder));
    scene.expect(&expected);
}

fn opened_before_the_holder(w: &mut World) {
    let mut scene = prepared(w);
    scene.start();
    let thief = process(&scene, &["open", "wait"]);
    let holder = end(process(&scene, &["take", "open"]));
    let expected = told(&scene, &end(thief), &holder);
    scene.expect(&expected);
}

fn before_anybody_held(w: &mut World) {
    let mut scene = prepared(w);
    scene.start();
    let mut holder = process(&scene, &["open", "wait", "take", "wait"]);
    let thief = process(&scene, &["open", "wait"]);
    holder.go().expect("the holder listens");
    assert_eq!(holder.line().expect("it holds"), "ready");
    let holder = end(holder);
    let expected = told(&scene, &end(thief), &holder);
    scene.expect(&expected);
}

/// Somebody who never opened the node gets it over a Unix socket from somebody who holds nothing.
fn passed(w: &mut World) {
    let mut scene = prepared(w);
    scene.start();
    let socket = scene.work.join("gpu.sock");
    let holder = process(&scene, &["take", "open", "wait"]);
    let giver = process(&scene, &["open", &format!("give={}", socket.display())]);
    let getter = process(&scene, &[&format!("get={}", socket.display()), "wait"]);
    let giver = end(giver);
    // What it got is found by the next scan.
    let pid = getter.identity.pid.expect("it was started");
    scene.wait_for("the one that got the node", |alert| {
        alert.rule() == "SITE-0008" && alert.number("/process/pid") == Some(u64::from(pid))
    });
    let (getter, holder) = (end(getter), end(holder));
    let [giver, getter] = [giver, getter].map(|thief| {
        let [told] = told(&scene, &thief, &holder);
        told
    });
    scene.expect(&[giver, getter]);
}

fn before_the_agent(w: &mut World) {
    let mut scene = prepared(w);
    let holder = process(&scene, &["keep", "open", "wait"]);
    let thief = process(&scene, &["open", "wait"]);
    scene.start();
    let expected = told(&scene, &end(thief), &end(holder));
    scene.expect(&expected);
}

/// One after the other is no sharing.
fn of_one_that_ended(w: &mut World) {
    let mut scene = prepared(w);
    scene.start();
    end(process(&scene, &["open"]));
    end(process(&scene, &["take", "open"]));
    end(process(&scene, &["open"]));
    scene.expect_silence();
}

/// A descriptor that only names the node (`O_PATH`) has not been through its driver.
fn name_only(w: &mut World) {
    let mut scene = prepared(w);
    scene.start();
    let holder = process(&scene, &["take", "open", "wait"]);
    end(process(&scene, &["name"]));
    end(holder);
    scene.expect_silence();
}

//! More assets than the kernel's sets have bits: several share a mark there, and alerts must name the one that was moved.

use std::{path::PathBuf, process::Command};

use tests::lab::{KIB, MIB, weights::Weights, which};

use super::tooling::{descendant_as, ok};
use crate::{
    expect::Expected,
    world::{Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("copy_of_one_of_two", copy_of_one_of_two),
    ("copy_of_both", copy_of_both),
    ("relay_of_one_of_two", relay_of_one_of_two),
    ("stranger_to_its_twin", stranger_to_its_twin),
    ("memory_that_grows", memory_that_grows),
];

/// So many assets that the third round over the marks has begun.
const ASSETS: usize = 130;
/// The place of the asset under test in the configuration. That of the first, its twin, is 0: both have the first mark.
const TESTED: usize = 63;
const TWIN: &str = "twin";

/// A scene of many assets, and the twin's only file.
fn many(w: &mut World) -> (Scene<'_>, PathBuf) {
    let mut scene = w.prepare();
    let marker = scene.config.assets.pop().expect("the marker");
    let tested = scene.config.assets.pop().expect("the asset under test");
    let mut file = PathBuf::new();
    for place in 0..ASSETS - 1 {
        if place == TESTED {
            scene.config.assets.push(tested.clone());
            continue;
        }
        let (name, shards, bytes) = match place {
            0 => (TWIN.to_owned(), 1, 4 * MIB),
            _ => (format!("small-{place}"), 3, 2 * KIB),
        };
        let model = ok(Weights::safetensors(&scene.controlled.join(&name), shards, bytes, place as u64));
        scene.config = scene.config.clone().asset(&name, &model.dir);
        if place == 0 {
            file.clone_from(&model.files[0]);
        }
    }
    scene.config.assets.push(marker);
    assert_eq!(scene.config.assets[TESTED].name, tested.name);
    (scene, file)
}

fn copy_of_one_of_two(w: &mut World) {
    let (mut scene, _) = many(w);
    scene.start();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// Each is bounded by what was taken of it.
fn copy_of_both(w: &mut World) {
    let (mut scene, twin) = many(w);
    scene.start();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let both = format!("{} {}", twin.display(), source.display());
    let mut cat = scene.shell(&format!("exec cat {both} > {}", copy.display()));
    cat.exe = which("cat").expect("cat");
    cat.cmdline = Some(format!("cat {both}"));
    let of_twin = Expected::copy(&scene, &cat, &copy, size(&twin)).of(TWIN, size(&twin));
    let expected = [Expected::copy(&scene, &cat, &copy, size(source)), of_twin];
    scene.expect(&expected);
}

fn relay_of_one_of_two(w: &mut World) {
    let (mut scene, _) = many(w);
    scene.start();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell =
        scene.shell(&format!("cat {} | dd bs=64K of={} status=none", source.display(), copy.display()));
    let dd = descendant_as(&shell, "dd", &format!("dd bs=64K of={} status=none", copy.display()));
    let expected = [Expected::copy(&scene, &dd, &copy, scene.arrived(source, &copy)).through(1)];
    scene.expect(&expected);
}

/// Who is on the reader list of the one is not on that of the other.
fn stranger_to_its_twin(w: &mut World) {
    let (mut scene, twin) = many(w);
    let tool = |name| which(name).expect("coreutils");
    scene.config.assets[0].readers = vec![tool("sha256sum")];
    scene.config.assets[TESTED].readers = vec![tool("md5sum")];
    scene.start();
    let source = scene.model.files[0].clone();
    scene.run(Command::new("sha256sum").arg(twin));
    scene.run(Command::new("md5sum").arg(&source));
    let stranger = scene.run(Command::new("sha256sum").arg(&source));
    let expected = [Expected::take(&scene, &stranger, size(&source))];
    scene.expect(&expected);
}

/// `mremap` does not tell of which file: a server that has one asset mapped and lets its own memory grow has nothing of the other.
fn memory_that_grows(w: &mut World) {
    const SCRIPT: &str = "
import mmap, sys
with open(sys.argv[1], 'rb') as file:
    model = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(model[::4096])
own = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
own.resize(64 << 20)
";
    let (mut scene, twin) = many(w);
    scene.config.assets[0].readers = vec![World::python()];
    scene.config.assets[TESTED].readers = vec![which("md5sum").expect("coreutils")];
    scene.start();
    scene.run(scene.python("grows.py", SCRIPT).arg(twin));
    scene.expect_silence();
}

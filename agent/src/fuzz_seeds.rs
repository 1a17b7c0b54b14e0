//! The seeds of the fuzz targets (`fuzz/corpus`) through the very functions that are fuzzed, so that neither can rot between two
//! runs of `cargo xtask fuzz`.

use std::{fs, path::Path};

#[expect(unreachable_pub, reason = "it is the library of another crate too")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Says whether it accepted its input.
type Target = fn(&[u8]) -> bool;

/// Each must accept one seed at least: seeds that are all refused at the door lead a fuzzer nowhere.
#[test]
fn the_seeds_of_every_fuzz_target_are_read() {
    let targets: [(&str, Target); 5] = [
        ("rules", targets::rules),
        ("config", targets::config),
        ("recording", targets::recording),
        ("facts", targets::facts),
        ("log", targets::log),
    ];
    for (name, target) in targets {
        let folder = Path::new("../fuzz/corpus").join(name);
        let seeds = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let accepted = seeds.flatten().filter(|seed| target(&fs::read(seed.path()).expect("a seed"))).count();
        assert!(accepted > 0, "no seed of `{name}` is accepted: mend them with what the format is now");
    }
}

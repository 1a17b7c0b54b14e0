//! Registries of real trees, what changes in them, and what is wrong with them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    process::Command,
    sync::Arc,
};

use super::*;
use crate::{
    config::{AssetConfig, Controlled, FilesystemSelector, Limits, Placed, SensorChoice},
    event::AssetKind,
    host::{mounts::MountTable, state::StateDir, sysfs::Devices},
};

struct Scratch {
    directory: tempfile::TempDir,
    config: Config,
    classifier: Classifier,
}

impl Scratch {
    /// Assets `a0`, `a1`, … at these paths below a scratch directory, whose filesystem is controlled.
    fn new(paths: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let table = Arc::new(MountTable::read().unwrap());
        let point = table.of_path(&root).unwrap().point.clone();
        let selector = Placed { value: FilesystemSelector::Mount(point), line: 1, column: 1 };
        let controlled = Controlled { filesystems: vec![selector], networks: Vec::new() };
        let (classifier, _) = Classifier::new(&controlled, table, Devices::default());
        let assets = paths.iter().zip(10..).enumerate().map(|(index, (path, line))| AssetConfig {
            name: format!("a{index}"),
            kind: AssetKind::Weights,
            paths: vec![Placed { value: root.join(path), line, column: 13 }],
            readers: Vec::new(),
        });
        let config = Config {
            file: root.join("config.yaml"),
            assets: assets.collect(),
            controlled,
            rules: Vec::new(),
            state_dir: root.join("state"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            pin: false,
            sensor: SensorChoice::Auto,
            sinks: Vec::new(),
            propagation_floor: 65536,
            limits: Limits::default(),
            gpu_drivers: Vec::new(),
        };
        Self { directory, config, classifier }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn scan(&self) -> Result<(Registry, Vec<Problem>), Vec<Problem>> {
        Registry::scan(&self.config, &self.classifier, &Registry::default(), second(1))
    }

    /// Problems with the scratch directory taken out of their text.
    fn texts(&self, problems: &[Problem]) -> String {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        lines.join("\n").replace(&*self.path("").to_string_lossy(), "/S/").replace("//", "/")
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn kinds(changes: &[Change]) -> Vec<(String, &ChangeKind)> {
    let name = |change: &Change| change.path.file_name().unwrap().to_string_lossy().into_owned();
    changes.iter().map(|change| (name(change), &change.kind)).collect()
}

#[test]
fn files_below_a_directory_are_registered() {
    let scratch = Scratch::new(&["m", "one.gguf"]);
    scratch
        .write("m/deep/er/w.gguf", b"GGUF\x03\0\0\0")
        .write("m/config.json", b"{}")
        .write("one.gguf", b"1");
    let (registry, problems) = scratch.scan().unwrap();
    assert_eq!(problems, []);
    let names: Vec<_> = registry
        .files()
        .iter()
        .map(|e| (e.asset.0, e.path.file_name().unwrap().to_str().unwrap(), e.size, e.format.to_string()))
        .collect();
    assert_eq!(
        names,
        [
            (0, "config.json", 2, "unknown".to_owned()),
            (0, "w.gguf", 8, "gguf".to_owned()),
            (1, "one.gguf", 1, "unknown".to_owned())
        ]
    );
    let directories: Vec<_> =
        registry.directories().iter().map(|d| (d.asset.0, d.path.to_path_buf(), d.object.ino)).collect();
    let expected = ["m", "m/deep", "m/deep/er"].map(|name| scratch.path(name));
    assert_eq!(
        directories,
        expected.map(|path| (0, path.clone(), fs::metadata(&path).unwrap().ino())),
        "a path that is a file protects no directory"
    );
    let sizes: Vec<_> = registry.assets(&scratch.config).iter().map(|asset| asset.bytes).collect();
    assert_eq!(sizes, [10, 1]);
    let entry = &registry.files()[0];
    let filesystem = registry.filesystem(entry).unwrap();
    assert_eq!(filesystem.dev, entry.object.dev);
    assert!(entry.object.generation.is_some() || !matches!(&*filesystem.fstype, "ext4" | "xfs" | "tmpfs"));
}

#[test]
fn what_is_wrong_has_its_place_and_its_remedy() {
    let scratch = Scratch::new(&["gone", "m", "m/sub", "pipe"]);
    scratch.write("m/sub/w", b"x");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        scratch.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    insta::assert_snapshot!(scratch.texts(&scratch.scan().unwrap_err()), @r"
    10:13: error: asset a0: cannot find /S/gone: No such file or directory (os error 2): create it, mount its filesystem, or correct the path
    12:13: error: asset a2: /S/m/sub/w is also in asset a1 as /S/m/sub/w: a file belongs to one asset, take it out of the other
    13:13: error: asset a3: /S/pipe is neither a file nor a directory: correct the path
    ");
}

#[test]
fn an_asset_on_an_uncontrolled_filesystem_is_an_error() {
    let mut scratch = Scratch::new(&["m"]);
    scratch.write("m/w", b"x");
    let table = scratch.classifier.table().clone();
    (scratch.classifier, _) = Classifier::new(&Controlled::default(), table, Devices::default());
    let problems = scratch.scan().unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].severity, problems[0].place), (Severity::Error, Some((10, 13))));
    assert!(problems[0].text.contains("which is not controlled: add `{mount: "), "{}", problems[0].text);
}

#[test]
fn links_register_their_targets() {
    let scratch = Scratch::new(&["m"]);
    scratch.write("blobs/abc", b"GGUF\x03\0\0\0").write("m/inside", b"12").write("other/x", b"1");
    symlink("../blobs/abc", scratch.path("m/w.gguf")).unwrap();
    symlink("inside", scratch.path("m/same")).unwrap();
    symlink("../other", scratch.path("m/directory")).unwrap();
    symlink("../nothing", scratch.path("m/dangling")).unwrap();
    symlink("/proc/version", scratch.path("m/elsewhere")).unwrap();
    fs::hard_link(scratch.path("m/inside"), scratch.path("m/again")).unwrap();
    let (registry, problems) = scratch.scan().unwrap();
    let paths: Vec<_> = registry.files().iter().map(|entry| entry.path.to_path_buf()).collect();
    assert_eq!(paths, [scratch.path("blobs/abc"), scratch.path("m/again")]);
    let mut texts: Vec<_> = scratch.texts(&problems).lines().map(ToOwned::to_owned).collect();
    texts.sort();
    insta::assert_snapshot!(texts.join("\n"), @r"
    10:13: warning: asset a0: the link /S/m/dangling leads nowhere (No such file or directory (os error 2)): remove it, or restore its target
    10:13: warning: asset a0: the link /S/m/directory leads out of the asset and is not followed, to the directory /S/other: name it as a path of the asset
    10:13: warning: asset a0: the link /S/m/elsewhere leads out of the asset and is not followed, to /proc/version on proc proc, which is not controlled: move the file, or list the filesystem
    ");
}

#[test]
fn a_rescan_says_what_changed() {
    let scratch = Scratch::new(&["m"]);
    for name in ["grows", "shrinks", "moves", "goes", "replaced", "stays"] {
        scratch.write(&format!("m/{name}"), name.as_bytes());
    }
    let (mut registry, _) = scratch.scan().unwrap();
    assert_eq!(registry.rescan(&scratch.config, &scratch.classifier, second(2)).0, []);
    scratch.write("m/grows", b"grows and grows").write("m/shrinks", b"s").write("m/new", b"n");
    fs::rename(scratch.path("m/moves"), scratch.path("m/moved")).unwrap();
    fs::remove_file(scratch.path("m/goes")).unwrap();
    scratch.write("next", b"next");
    fs::rename(scratch.path("next"), scratch.path("m/replaced")).unwrap();
    let was = registry.files().iter().find(|entry| entry.path.ends_with("replaced")).unwrap().object;
    let (changes, problems) = registry.rescan(&scratch.config, &scratch.classifier, second(2));
    assert_eq!(problems, []);
    let from = scratch.path("m/moves").into();
    let name = |name: &str| name.to_owned();
    assert_eq!(
        kinds(&changes),
        [
            (name("grows"), &ChangeKind::Grown { from: 5 }),
            (name("moved"), &ChangeKind::Renamed { from }),
            (name("new"), &ChangeKind::Added),
            (name("replaced"), &ChangeKind::Replaced { was }),
            (name("shrinks"), &ChangeKind::Rewritten { from: 7 }),
            (name("goes"), &ChangeKind::Removed),
        ]
    );
    let seen: Vec<_> = registry.files().iter().map(|entry| entry.first_seen.as_second()).collect();
    // grows, moved, new, replaced, shrinks, stays
    assert_eq!(seen, [1, 1, 2, 2, 1, 1]);
}

#[test]
fn first_seen_outlives_the_agent() {
    let scratch = Scratch::new(&["m"]);
    scratch.write("m/w.gguf", b"GGUF\x03\0\0\0").write("m/x", b"x");
    let state = StateDir::open(&scratch.config.state_dir).unwrap();
    assert_eq!(Registry::load(&state, &scratch.config).unwrap().files(), []);
    let (registry, _) = scratch.scan().unwrap();
    registry.save(&state, &scratch.config).unwrap();
    let loaded = Registry::load(&state, &scratch.config).unwrap();
    let (again, _) = Registry::scan(&scratch.config, &scratch.classifier, &loaded, second(9)).unwrap();
    assert_eq!(again.files(), registry.files());
    assert_eq!(again.renewed_since(&loaded), HashMap::new());
    scratch.write("m/x", b"rewritten");
    let (rewritten, _) = Registry::scan(&scratch.config, &scratch.classifier, &loaded, second(9)).unwrap();
    assert_eq!(rewritten.renewed_since(&loaded), HashMap::from([(AssetId(0), 9)]));
    // A later version's file, or a damaged one, is an error that names the remedy.
    state.replace(STORE, |file| std::io::Write::write_all(file, b"{\"schema\":2,\"files\":[]}")).unwrap();
    let error = Registry::load(&state, &scratch.config).unwrap_err();
    insta::assert_snapshot!(scratch.texts(&[]) + &error.to_string(), @"registry.json has schema 2, this agent reads 1: upgrade the agent, or move the file away to start the first-seen times anew");
}

#[test]
fn a_failed_walk_forgets_no_file_that_is_still_there() {
    let mut scratch = Scratch::new(&["m", "n"]);
    scratch.write("m/w", b"w").write("m/gone", b"g").write("n/w", b"w");
    let (mut registry, _) = scratch.scan().unwrap();
    fs::remove_file(scratch.path("m/gone")).unwrap();
    // The walk of the first asset fails from now on, but its file is there.
    scratch.config.assets[0].paths[0].value = scratch.path("missing");
    let (changes, problems) = registry.rescan(&scratch.config, &scratch.classifier, second(2));
    assert_eq!(problems.len(), 1);
    assert_eq!(kinds(&changes), [("gone".to_owned(), &ChangeKind::Removed)]);
    let names: Vec<_> =
        registry.files().iter().map(|entry| (entry.asset.0, entry.path.to_path_buf())).collect();
    assert_eq!(names, [(0, scratch.path("m/w")), (1, scratch.path("n/w"))]);
}

/// btrfs numbers the inodes of every subvolume from 257, and shows another `st_dev` than the kernel's `s_dev`.
#[test]
fn subvolumes_with_the_same_inode_numbers_are_kept_apart() {
    let run = |tool: &str, arguments: &[&str]| {
        Command::new(tool).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let scratch = Scratch::new(&["m"]);
    let (image, point) = (scratch.path("image"), scratch.path("m"));
    fs::create_dir(&point).unwrap();
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    let (image, point) = (image.to_str().unwrap(), point.to_str().unwrap());
    if !run("mkfs.btrfs", &["-q", image]) || !run("mount", &["-o", "loop", image, point]) {
        crate::skipping::skipped("needs btrfs-progs, root, and a loop device");
        return;
    }
    let made = ["a", "b"].map(|name| run("btrfs", &["subvolume", "create", &format!("{point}/{name}")]));
    let scanned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        scratch.write("m/a/w", b"12").write("m/b/w", b"345");
        let table = Arc::new(MountTable::read().unwrap());
        let dev = table.at(Path::new(point)).unwrap().dev;
        let selector = Placed { value: FilesystemSelector::Mount(point.into()), line: 1, column: 1 };
        let controlled = Controlled { filesystems: vec![selector], networks: Vec::new() };
        let (classifier, problems) = Classifier::new(&controlled, table, Devices::default());
        assert_eq!(problems, []);
        (dev, Registry::scan(&scratch.config, &classifier, &Registry::default(), second(1)))
    }));
    assert!(run("umount", &[point]));
    let (dev, scanned) = scanned.unwrap();
    let (registry, problems) = scanned.unwrap();
    assert_eq!((made, problems), ([true; 2], Vec::new()));
    let [a, b] = registry.files() else { panic!("{:?}", registry.files()) };
    assert_eq!((a.object.dev, b.object.dev), (dev, dev));
    assert_eq!(a.object.ino, b.object.ino, "otherwise this test proves nothing");
    assert_eq!(registry.assets(&scratch.config)[0].bytes, 5);
}

/// DESIGN asks for 10,000 files in an agent of 32 MiB.
#[test]
fn an_entry_is_small() {
    assert!(size_of::<Entry>() <= 112, "{}", size_of::<Entry>());
}

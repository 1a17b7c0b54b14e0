//! What people and daemons do beside a model (TECHNIQUES B07, B11, B12, B14–B18): copy where it is allowed, back up, look around,
//! move other data. None of it may raise an incident.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command};

use tests::lab::{
    MIB,
    outside::{CONTROLLED, UNCONTROLLED},
    process::Finished,
    weights::safetensors,
    which,
};

use crate::{
    techniques::tooling::{Ssh, free_port, ok, wait_listening},
    world::{PATIENCE, Scene, Test, World, size, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("rsync_within_the_controlled_volume", rsync_within),
    ("scp_to_a_controlled_peer", scp_to_a_controlled_peer),
    ("rsync_to_a_controlled_peer", rsync_to_a_controlled_peer),
    ("backup_by_a_declared_reader", backup_by_a_declared_reader),
    ("hashes_and_scanners", hashes_and_scanners),
    ("find_du_file_and_an_index", find_du_file),
    ("somebody_else_moves_a_gigabyte_on_loopback", a_gigabyte_on_loopback),
    ("somebody_else_sends_half_a_gigabyte", half_a_gigabyte_outside),
    ("somebody_listens_to_the_loopback_device", listener),
    ("heap_of_who_was_started_by_a_reader", heap_grows),
    ("container_reads_through_an_overlay", container_overlay),
    ("container_is_set_up_over_the_model", container_is_set_up),
    ("admin_looks_at_the_configuration", admin),
    ("pings_and_small_talk", small_talk),
    ("mounts_come_and_go", mounts_come_and_go),
    ("scrub_and_trim", scrub_and_trim),
];

/// A monitor hears a whole model pass and keeps none of it.
fn listener(w: &mut World) {
    let scene = w.scene();
    for way in ["packets_read", "packets_mapped", "raw_tcp"] {
        let mut command = scene.python("sniffed.py", include_str!("../techniques/scripts/sniffed.py"));
        scene.run(command.arg(way).arg(&scene.model.files[0]).args(["nowhere", "0"]));
    }
    scene.expect_no_incident();
}

fn rsync_within(w: &mut World) {
    World::needs("rsync");
    let scene = w.scene();
    scene.run(Command::new("rsync").arg("-a").arg(&scene.model.dir).arg(scene.controlled.join("mirror")));
    scene.expect_no_incident();
}

/// The peer of the lab is a process of this host in another network namespace, so that what it stores is weighed: it stores it in
/// memory, which raises nothing.
fn home_in_memory(scene: &mut Scene<'_>) {
    let home = scene.work.join("ssh-home");
    let words = ["-t", "tmpfs", "lab"].map(OsStr::new);
    scene.mount(&words, &home).unwrap_or_else(|error| panic!("{error:#}"));
}

fn scp_to_a_controlled_peer(w: &mut World) {
    World::needs("scp");
    let mut scene = w.scene();
    home_in_memory(&mut scene);
    let ssh = Ssh::start(&scene);
    let source = &scene.model.files[0];
    scene.run(Command::new("scp").arg("-q").arg("-F").arg(&ssh.config).arg(source).arg("controlled:w"));
    scene.arrived(source, &ssh.home.join("w"));
    scene.expect_no_incident();
}

fn rsync_to_a_controlled_peer(w: &mut World) {
    World::needs("rsync");
    let mut scene = w.scene();
    home_in_memory(&mut scene);
    let ssh = Ssh::start(&scene);
    let source = &scene.model.files[0];
    scene.run(Command::new("rsync").arg("-e").arg(ssh.command()).arg(source).arg("controlled:w"));
    scene.arrived(source, &ssh.home.join("w"));
    scene.expect_no_incident();
}

/// Listed, and its repository is on the controlled volume.
fn backup_by_a_declared_reader(w: &mut World) {
    World::needs("restic");
    let mut scene = w.prepare();
    scene.config.assets[0].readers = vec![which("restic").expect("restic")];
    scene.start();
    let repository = scene.controlled.join("backup");
    for words in [&["init"][..], &["backup", &scene.model.dir.to_string_lossy()]] {
        let mut command = Command::new("restic");
        command.arg("-r").arg(&repository).args(["--no-cache", "--quiet"]).args(words);
        command.env("RESTIC_PASSWORD", "lab").env("HOME", &scene.work).env("TMPDIR", &scene.controlled);
        scene.run(&mut command);
    }
    scene.expect_no_incident();
}

/// Everything is read, nothing is put anywhere but some lines.
fn hashes_and_scanners(w: &mut World) {
    let scene = w.scene();
    let log = scene.uncontrolled.join("scan.log");
    let dir = scene.model.dir.display();
    scene.shell(&format!(
        "for f in {dir}/*; do md5sum $f; b2sum $f; cksum $f; cmp $f $f; grep -c EICAR $f; done > {} 2>&1; true",
        log.display()
    ));
    assert!(size(&log) > 100);
    scene.expect_silence();
}

fn find_du_file(w: &mut World) {
    World::needs("file");
    let scene = w.scene();
    let (dir, out) = (scene.controlled.display(), scene.uncontrolled.join("index"));
    scene.shell(&format!(
        "(find {dir} -printf '%p %s\\n'; du -ab {dir}; file {dir}/llm/*; ls -lRi {dir}; stat -f {dir}; head -c 64 {dir}/llm/* | od -c) > {}",
        out.display()
    ));
    scene.expect_silence();
}

/// A shell reads 64 bytes of the model and becomes another program, whose allocator moves its heap and which writes all of it.
fn heap_grows(w: &mut World) {
    let scene = w.scene();
    let text = "import mmap, sys\n\
                heap = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n\
                heap.resize(8 << 20)\n\
                with open(sys.argv[1], 'wb') as out:\n    out.write(heap)\n";
    let (grown, out) = (scene.python("heap.py", text), scene.uncontrolled.join("heap"));
    let program = [grown.get_program().to_owned(), scene.work.join("heap.py").into(), out.clone().into()];
    let mut shell = Command::new("bash");
    shell.args(["-c", "read -r -N 64 line < \"$0\"; exec \"$@\""]).arg(&scene.model.files[0]).args(program);
    scene.run(&mut shell);
    assert_eq!(size(&out), 8 * MIB);
    scene.expect_silence();
}

/// A process that holds nothing, to another that holds nothing.
fn a_gigabyte_on_loopback(w: &mut World) {
    World::needs("socat");
    let scene = w.scene();
    let port = free_port();
    let mut sink = Command::new("socat");
    let sink = scene.spawn(sink.args([
        "-u",
        "-b",
        "1048576",
        &format!("TCP-LISTEN:{port},bind=127.0.0.1"),
        "OPEN:/dev/null",
    ]));
    wait_listening(&sink, port);
    scene.shell(&format!("head -c 1G /dev/zero | socat -u -b 1048576 STDIN TCP:127.0.0.1:{port}"));
    ok(sink.finish(PATIENCE).and_then(Finished::success));
    scene.expect_silence();
}

/// Less than what a host may send in a day to all strangers together.
fn half_a_gigabyte_outside(w: &mut World) {
    let scene = w.scene();
    let other = scene.work.join("dataset.tar");
    fs::File::create_new(&other).and_then(|file| file.set_len(512 * MIB)).expect("a sparse file");
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    scene.run(&mut scene.mover("sendfile", "-", &other, &format!("tcp:{}", receiver.addr)));
    assert_eq!(scene.received(&other, receiver), 512 * MIB);
    scene.expect_silence();
}

/// The runtime's upper layer is on the controlled disk; what runs inside loads the model.
fn container_overlay(w: &mut World) {
    let mut scene = w.scene();
    let place = overlay_over_the_model(&mut scene, "controlled");
    let own = std::env::current_exe().expect("a process knows its executable");
    let names = scene.model.files.iter().map(|file| place.join(file.file_name().expect("a name")));
    scene.run(Command::new(own).args(["work", "load-mmap"]).args(names));
    scene.shell(&format!("echo log > {}/run.log", place.display()));
    scene.expect_silence();
}

/// Packages are unpacked beside the model, logs are written and turned, and what else is there changes its mode, owner and name.
fn container_is_set_up(w: &mut World) {
    let mut scene = w.prepare();
    fs::create_dir(scene.model.dir.join("etc")).expect("a folder can be made");
    let place = overlay_over_the_model(&mut scene, "uncontrolled");
    scene.start();
    let text = format!(
        "cd {}; chmod 755 . etc; ls -laR . > log.0; i=0; while [ $i -lt 40 ]; do \
         mkdir -p usr/$i; head -c 100000 /dev/zero > usr/$i/lib.new; chmod 644 usr/$i/lib.new; chown 0:0 usr/$i/lib.new; \
         touch -d @1 usr/$i/lib.new; mv usr/$i/lib.new usr/$i/lib; ln usr/$i/lib usr/$i/lib.so; mv log.$i log.$((i + 1)); \
         rm -f usr/$i/lib.so; i=$((i + 1)); done; rm -rf usr etc",
        place.display()
    );
    scene.shell(&text);
    scene.expect_silence();
}

fn overlay_over_the_model(scene: &mut Scene<'_>, volume: &str) -> PathBuf {
    let base = if volume == "controlled" { scene.controlled.clone() } else { scene.uncontrolled.clone() };
    let [upper, scratch] = ["upper", "scratch"].map(|name| base.join(name));
    for folder in [&upper, &scratch] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let place = scene.work.join("merged");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        scene.model.dir.display(),
        upper.display(),
        scratch.display()
    );
    let words = ["-t", "overlay", "overlay", "-o", &options].map(OsStr::new);
    if let Err(error) = scene.mount(&words, &place) {
        skip(format_args!("no overlay here: {error:#}"));
    }
    place
}

/// A shell that stays open: configuration is read, searched and copied, a shard's header is looked at.
fn admin(w: &mut World) {
    World::needs("bash");
    let scene = w.scene();
    let dir = scene.model.dir.display();
    fs::write(scene.model.dir.join("config.json"), r#"{"hidden_size": 4096, "model_type": "llama"}"#)
        .expect("a file can be written");
    let text = format!(
        "cd {dir}; cat config.json; grep -rl hidden_size --include=*.json .; head -c 300 *.safetensors | strings | head; \
         cp config.json {out}/; tar -czf {out}/config.tgz config.json; ls -la; history; \
         grep -c layers model-00001*; wc -c *; echo done > {out}/notes",
        out = scene.uncontrolled.display()
    );
    scene.run(Command::new("bash").args(["-c", &text]));
    scene.expect_silence();
}

/// What every host says to others.
fn small_talk(w: &mut World) {
    World::needs("ping");
    let scene = w.scene();
    for ip in [CONTROLLED, UNCONTROLLED] {
        scene.run(
            Command::new("ping").args(["-q", "-c", "3", "-i", "0.05", "-s", "1400"]).arg(ip.to_string()),
        );
    }
    scene.expect_silence();
}

/// A volume plugin's day, with nothing of the model in it.
fn mounts_come_and_go(w: &mut World) {
    let scene = w.scene();
    let (image, other, place) =
        (scene.work.join("image"), scene.work.join("other"), scene.work.join("volume"));
    safetensors(&other, 8 * MIB, 5).expect("a file can be made");
    fs::create_dir(&place).expect("a folder can be made");
    let text = format!(
        "truncate -s 32M {image} && mkfs.ext4 -q -F -E nodiscard {image} && for i in 1 2 3; do \
         mount -o loop {image} {place} && cp {} {place}/w && umount {place} || exit 1; done",
        other.display(),
        image = image.display(),
        place = place.display()
    );
    scene.shell(&text);
    scene.expect_silence();
}

/// The kernel itself reads every block of the model, and writes some.
fn scrub_and_trim(w: &mut World) {
    if w.record.is_some() {
        skip(
            "the recorder is an agent too: it looks at this volume's device as it starts, and the one that runs says so",
        );
    }
    let volume = w.volume("btrfs");
    World::needs("btrfs");
    let mut scene = w.prepare();
    scene.config.controlled.push(volume.path().to_path_buf());
    let model = ok(tests::lab::weights::Weights::safetensors(&volume.path().join("other"), 1, 12 * MIB, 3));
    scene.config = scene.config.clone().asset("other", &model.dir);
    scene.start();
    let at = volume.path().display();
    scene.shell(&format!("sync -f {at} && btrfs scrub start -B -q {at} && btrfs filesystem defragment -r {at}; fstrim {at}; true"));
    scene.expect_silence();
}

//! What is controlled, what is not, and what is said of it.

use proptest::prelude::*;

use super::*;
use crate::config::{FilesystemSelector, Placed};

const TABLE: &str = "\
27 1 8:1 / / rw - ext4 /dev/sda1 rw
30 27 8:16 / /models rw - xfs /dev/sdb rw
31 27 8:16 /a /srv/a rw - xfs /dev/sdb rw
32 27 0:50 / /nas rw - nfs4 filer:/weights rw
33 27 0:51 / /scratch rw - tmpfs filer:/weights rw
34 27 0:52 / /ssh rw - fuse.sshfs me@there: rw
35 27 0:53 / /ctr/merged rw - overlay overlay rw
36 27 8:32 /data /bind rw - ext4 /dev/sdc rw
37 27 8:32 / /whole rw - ext4 /dev/sdc rw
";
const OVER: &str = "40 30 8:48 / /models rw - vfat /dev/sdd1 rw\n";

fn table(text: &str) -> Arc<MountTable> {
    Arc::new(MountTable::parse(text.as_bytes()).unwrap())
}

fn classifier(filesystems: &[FilesystemSelector]) -> (Classifier, Vec<Problem>) {
    let filesystems = filesystems.iter().map(|s| Placed { value: s.clone(), line: 7, column: 5 }).collect();
    let networks = ["10.20.0.0/16", "2001:db8::/32", "0.0.0.0/8"].map(|n| n.parse().unwrap()).into();
    let nowhere = Devices::below("/nonexistent".into(), "/nonexistent".into());
    Classifier::new(&Controlled { filesystems, networks }, table(TABLE), nowhere)
}

fn mount(point: &str) -> FilesystemSelector {
    FilesystemSelector::Mount(point.into())
}

fn texts(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn control_belongs_to_the_filesystem() {
    let (classifier, problems) = classifier(&[mount("/models")]);
    assert_eq!(problems, []);
    let sink = classifier.file(Dev::new(8, 16), 0x5846_5342, Some("/a/x"));
    assert_eq!(sink.control, Control::Controlled);
    assert_eq!(sink.path.as_deref(), Some("/srv/a/x"));
    assert_eq!((sink.mount.as_deref(), sink.fstype.as_deref()), (Some("/srv/a"), Some("xfs")));
    assert_eq!(sink.device.as_deref(), Some("8:16"));
    assert_eq!(classifier.file(Dev::new(8, 1), 0xef53, Some("/etc/x")).control, Control::Uncontrolled);
    assert_eq!(classifier.file(Dev::new(0, 53), 0x794c_7630, None).control, Control::Uncontrolled);
    assert_eq!(classifier.block_device(Dev::new(8, 16)).control, Control::Uncontrolled);
}

#[test]
fn memory_is_told_by_magic_unless_listed() {
    let (none, _) = classifier(&[]);
    let memfd = none.file(Dev::new(0, 1), 0x0102_1994, Some("/memfd:x"));
    assert_eq!((memfd.control, memfd.mount, memfd.fstype.as_deref()), (Control::Memory, None, Some("tmpfs")));
    assert_eq!(memfd.path.as_deref(), Some("/memfd:x"));
    assert_eq!(none.file(Dev::new(0, 9), 0x9584_58f6, None).control, Control::Memory);
    let (listed, _) = classifier(&[mount("/scratch")]);
    assert_eq!(listed.file(Dev::new(0, 51), 0x0102_1994, Some("/x")).control, Control::Controlled);
}

#[test]
fn a_filesystem_of_nobody_is_uncontrolled() {
    let (classifier, _) = classifier(&[mount("/models")]);
    let sink = classifier.file(Dev::new(8, 99), 0x4d44, Some("/x"));
    assert_eq!((sink.control, sink.fstype.as_deref()), (Control::Uncontrolled, Some("vfat")));
}

#[test]
fn sources_name_network_filesystems_only() {
    let (classifier, problems) = classifier(&[
        FilesystemSelector::Source("filer:/weights".to_owned()),
        FilesystemSelector::Source("me@there:".to_owned()),
    ]);
    assert!(classifier.controls(Dev::new(0, 50)));
    assert!(!classifier.controls(Dev::new(0, 51)), "a tmpfs can call its source anything");
    assert!(classifier.controls(Dev::new(0, 52)));
    insta::assert_snapshot!(texts(&problems), @"7:5: warning: source me@there: is a fuse.sshfs mount, whose bytes go wherever its server puts them: list it only if you control that server");
}

#[test]
fn surprises_are_said_at_the_start() {
    let (_, problems) = classifier(&[mount("/bind"), mount("/nothing")]);
    insta::assert_snapshot!(texts(&problems), @r"
    7:5: warning: mount /bind shows only /data of its filesystem; all of it is controlled, also at /whole: give the weights a filesystem of their own
    7:5: warning: mount /nothing names no mounted filesystem, so nothing is controlled by this line: mount it, or correct the line
    ");
}

#[test]
fn a_stick_mounted_over_a_listed_point_is_not_controlled() {
    let (mut classifier, _) = classifier(&[mount("/models")]);
    let problems = classifier.refresh(table(&format!("{TABLE}{OVER}")));
    assert!(classifier.controls(Dev::new(8, 16)) && !classifier.controls(Dev::new(8, 48)));
    insta::assert_snapshot!(texts(&problems), @"7:5: warning: mount /models now also names another filesystem (vfat /dev/sdd1 on 8:48, mounted at /models), which stays uncontrolled: unmount it, or restart the agent if it is meant");
    // Unmounting the real one first does not help.
    let without: String = TABLE.lines().filter(|l| !l.contains("8:16")).map(|l| format!("{l}\n")).collect();
    let problems =
        classifier.refresh(table(&format!("{without}41 27 8:48 / /models rw - vfat /dev/sdd1 rw\n")));
    assert!(!classifier.controls(Dev::new(8, 48)));
    assert_eq!(problems, [], "told already");
    // The real one comes back.
    assert_eq!(classifier.refresh(table(TABLE)), []);
    assert!(classifier.controls(Dev::new(8, 16)));
}

#[test]
fn the_root_filesystem_of_this_host_is_found_by_its_uuid() {
    let table = Arc::new(MountTable::read().unwrap());
    let root = table.at(std::path::Path::new("/")).unwrap().clone();
    let Some(uuid) = Devices::default().uuid(&root) else {
        crate::skipping::skipped("the root filesystem has no UUID that can be read");
        return;
    };
    let selector = Placed { value: FilesystemSelector::Uuid(uuid), line: 1, column: 1 };
    let controlled = Controlled { filesystems: vec![selector], networks: Vec::new() };
    let (classifier, _) = Classifier::new(&controlled, table, Devices::default());
    assert!(classifier.controls(root.dev));
}

#[test]
fn peers_are_unmapped_and_nobody_lists_loopback() {
    let (classifier, _) = classifier(&[]);
    let peer = |ip: &str, proto| {
        let sink = classifier.peer(ip.parse().unwrap(), 443, proto);
        (sink.control, sink.peer.or(sink.channel).unwrap())
    };
    let text = |control, text: &str| (control, text.to_owned());
    assert_eq!(peer("203.0.113.9", Proto::Tcp), text(Control::Uncontrolled, "203.0.113.9:443/tcp"));
    assert_eq!(peer("::ffff:10.20.1.1", Proto::Tcp), text(Control::Controlled, "10.20.1.1:443/tcp"));
    assert_eq!(peer("2001:db8::1", Proto::Udp), text(Control::Controlled, "[2001:db8::1]:443/udp"));
    assert_eq!(peer("2001:db9::1", Proto::Udp), text(Control::Uncontrolled, "[2001:db9::1]:443/udp"));
    assert_eq!(peer("127.8.9.1", Proto::Udp), text(Control::Uncontrolled, "127.8.9.1:443/udp"));
    assert_eq!(peer("::1", Proto::Udp), text(Control::Uncontrolled, "[::1]:443/udp"));
    assert_eq!(peer("::ffff:127.0.0.1", Proto::Udp), text(Control::Uncontrolled, "127.0.0.1:443/udp"));
    assert_eq!(peer("10.20.1.1", Proto::Vsock), text(Control::Uncontrolled, "10.20.1.1:443/vsock"));
    assert_eq!(peer("0.0.0.0", Proto::Udp), text(Control::Uncontrolled, "0.0.0.0:443/udp"));
    assert_eq!(peer("10.20.1.1", Proto::Raw), text(Control::Uncontrolled, "10.20.1.1:443/raw"));
    assert_eq!(peer("10.20.1.1", Proto::Icmp), text(Control::Uncontrolled, "10.20.1.1:443/icmp"));
    assert_eq!(peer("::", Proto::Raw), text(Control::Uncontrolled, "[::]:443/raw"));
}

#[test]
fn devices_have_names_and_null_swallows() {
    let (classifier, _) = Classifier::new(&Controlled::default(), Arc::default(), Devices::default());
    let null = classifier.char_device(Dev::new(1, 3));
    assert_eq!((null.control, null.path.as_deref()), (Control::Memory, Some("/dev/null")));
    assert_eq!(classifier.char_device(Dev::new(10, 229)).control, Control::Uncontrolled);
    let pty = classifier.terminal(Dev::new(136, 7));
    assert_eq!((pty.control, pty.path.as_deref()), (Control::Uncontrolled, Some("/dev/pts/7")));
}

proptest! {
    #[test]
    fn what_nobody_listed_is_never_controlled(dev in any::<u32>(), magic in any::<u32>(), ip in any::<u32>()) {
        let (classifier, _) = Classifier::new(&Controlled::default(), table(TABLE), Devices::default());
        prop_assert!(classifier.file(Dev(dev), magic, None).control != Control::Controlled);
        prop_assert!(classifier.peer(IpAddr::from(ip.to_be_bytes()), 1, Proto::Tcp).control != Control::Controlled);
    }
}

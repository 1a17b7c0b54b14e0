//! The BTF reader and the offsets against bytes that are no kernel's: kernels that were changed, types that were made up.

use agent_ebpf::fields::ABSENT;
use proptest::prelude::*;

use super::{
    super::{
        btf::{Btf, BtfError, Kind},
        offsets::{self, OffsetError},
    },
    KERNELS, fixture, resolve,
};

#[test]
fn a_removed_field_is_named() {
    let removed = |from: &str, name: &str, other: &str| {
        let mut bytes = fixture(from);
        rename(&mut bytes, name, other);
        resolve(&bytes)
    };
    insta::assert_snapshot!(removed("6.12", "i_ino", "j_ino").unwrap_err(), @"kernel BTF: struct inode has no field i_ino: this kernel is not supported");
    insta::assert_snapshot!(removed("6.18", "f_path", "g_path").unwrap_err(), @"kernel BTF: struct file has no field f_path.dentry: this kernel is not supported");
    insta::assert_snapshot!(removed("6.1.", "super_block", "super_blick").unwrap_err(), @"kernel BTF has no struct super_block: this kernel is not supported");
    // An optional one is absent, and nothing else changes.
    let mut expected = resolve(&fixture("6.18")).unwrap();
    expected.iter_mut().find(|(global, _)| *global == "OVL_FILE_REAL").unwrap().1 = ABSENT;
    assert_eq!(removed("6.18", "realfile", "realfyle").unwrap(), expected);
}

#[test]
fn a_struct_defined_twice_must_have_one_layout() {
    let original = fixture("6.12");
    let btf = Btf::parse(&original).unwrap();
    let inode = btf.structs("inode").next().unwrap();
    let mut words: Vec<u32> = inode.words.iter().map(|&word| u32::from_ne_bytes(word)).collect();

    let mut same = original.clone();
    append(&mut same, &words);
    assert_eq!(resolve(&same), resolve(&original));

    // The second member's place.
    words[3 + 3 + 2] += 64;
    let mut other = original.clone();
    append(&mut other, &words);
    insta::assert_snapshot!(resolve(&other).unwrap_err(), @"kernel BTF defines struct inode 2 times with different layouts: which one is meant is not known");
}

#[test]
fn a_bit_field_is_refused() {
    let original = fixture("6.12");
    let btf = Btf::parse(&original).unwrap();
    let inode = btf.structs("inode").next().unwrap();
    let names: Vec<&[u8]> = btf.members(&inode).map(|member| member.name).collect();
    let index = names.iter().position(|name| *name == b"i_rdev").unwrap();
    let mut words: Vec<u32> = inode.words.iter().map(|&word| u32::from_ne_bytes(word)).collect();
    words[1] |= 1 << 31;
    words[3 + index * 3 + 2] |= 12 << 24;
    let mut bytes = original.clone();
    rename(&mut bytes, "inode", "jnode");
    words[0] = name_of(&mut bytes, "inode");
    append(&mut bytes, &words);
    insta::assert_snapshot!(resolve(&bytes).unwrap_err(), @"kernel BTF: field i_rdev of struct inode is a bit field, which cannot be read by an offset");
}

#[test]
fn what_is_no_btf_is_refused_with_its_reason() {
    let bytes = fixture("6.18");
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        Btf::parse(&bytes).map(|btf| btf.count()).unwrap_err()
    };
    let swapped = u16::from_ne_bytes([bytes[1], bytes[1]]);
    assert_eq!(changed(0, bytes[1]), BtfError::Magic(swapped));
    assert_eq!(changed(2, 2), BtfError::Version(2));
    assert_eq!(changed(3, 1), BtfError::Flags(1));
    assert_eq!(changed(4, 8), BtfError::Short(8));
    // The lengths' highest bytes.
    assert_eq!(changed(15, 1), BtfError::Section("type"));
    assert_eq!(changed(23, 1), BtfError::Section("string"));
    // The first type's name, kind; a reference.
    assert_eq!(changed(24 + 3, 1), BtfError::Name(1));
    assert_eq!(changed(24 + 7, 20), BtfError::Kind { id: 1, kind: 20 });
    assert_eq!(changed(24 + 7, 0), BtfError::Kind { id: 1, kind: 0 });
    let strings = bytes.len() - 1;
    assert_eq!(changed(strings, b'x'), BtfError::Strings);
    assert_eq!(Btf::parse(b"").map(|btf| btf.count()).unwrap_err(), BtfError::Short(0));
    let mut dangling = bytes.clone();
    let count = Btf::parse(&bytes).unwrap().count();
    append(&mut dangling, &[0, 2 << 24, count + 2]);
    assert_eq!(
        Btf::parse(&dangling).map(|btf| btf.count()).unwrap_err(),
        BtfError::Reference { id: count + 1, to: count + 2, count: count + 1 }
    );
    insta::assert_snapshot!(OffsetError::from(changed(24 + 7, 20)), @"kernel BTF cannot be parsed: type 1 has the unknown kind 20");
}

/// Types that are made of each other, many times over: looking through all of them would take longer than the world is old.
#[test]
fn circles_of_types_come_to_an_end() {
    const RING: u32 = 40;
    const TIMES: u32 = 100;
    let mut bytes = empty();
    let name = name_of(&mut bytes, "task_struct");
    for id in 1..=RING {
        let mut words = vec![if id == 1 { name } else { 0 }, 4 << 24 | TIMES, 8];
        for _ in 0..TIMES {
            words.extend([0, id % RING + 1, 0]);
        }
        append(&mut bytes, &words);
    }
    // Typedefs in a circle, behind one more struct of the name.
    append(&mut bytes, &[name, 4 << 24 | 1, 8, 0, RING + 2, 0]);
    append(&mut bytes, &[0, 8 << 24, RING + 3]);
    append(&mut bytes, &[0, 10 << 24, RING + 2]);
    assert_eq!(resolve(&bytes), Err(OffsetError::NoField("task_struct", "group_leader")));
    let btf = Btf::parse(&bytes).unwrap();
    assert!(btf.plain(RING + 2).is_none());

    let typedef = name_of(&mut bytes, "btf_trace_sys_exit");
    append(&mut bytes, &[typedef, 8 << 24, RING + 5]);
    // A pointer to itself.
    append(&mut bytes, &[0, 2 << 24, RING + 5]);
    assert!(Btf::parse(&bytes).unwrap().tracepoint("sys_exit").is_some());
}

#[test]
fn every_kind_is_read() {
    let kinds: [(u32, &[u32]); 19] = [
        (1 << 24, &[32]),
        (2 << 24, &[]),
        (3 << 24, &[1, 1, 2]),
        (4 << 24 | 1, &[0, 1, 0]),
        (5 << 24 | 1, &[0, 1, 0]),
        (6 << 24 | 2, &[0, 1, 0, 2]),
        (7 << 24, &[]),
        (8 << 24, &[]),
        (9 << 24, &[]),
        (10 << 24, &[]),
        (11 << 24, &[]),
        // The linkage stands where others have a count.
        (12 << 24 | 2, &[]),
        (13 << 24 | 2, &[0, 1, 0, 0]),
        (14 << 24, &[1]),
        (15 << 24 | 1, &[1, 0, 4]),
        (16 << 24, &[]),
        (17 << 24, &[u32::MAX]),
        (18 << 24, &[]),
        (19 << 24 | 1, &[0, 1, 2]),
    ];
    let mut bytes = empty();
    for (info, rest) in kinds {
        append(&mut bytes, &[&[0, info, 4][..], rest].concat());
    }
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.count(), 19);
    assert_eq!(btf.get(19).layout.kind, Kind::Enum64);
    assert_eq!(btf.get(20).layout.kind, Kind::Void);
}

/// BTF without types.
fn empty() -> Vec<u8> {
    let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    for word in [24_u32, 0, 0, 0, 1] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.push(0);
    bytes
}

fn header(bytes: &[u8], at: usize) -> usize {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn grow(bytes: &mut [u8], at: usize, by: usize) {
    let value = (header(bytes, at) + by) as u32;
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

/// Appends a type; the strings follow the types.
fn append(bytes: &mut Vec<u8>, words: &[u32]) {
    let end = 24 + header(bytes, 12);
    let words: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    grow(bytes, 12, words.len());
    grow(bytes, 16, words.len());
    bytes.splice(end..end, words);
}

/// Appends a string; returns its offset.
fn name_of(bytes: &mut Vec<u8>, name: &str) -> u32 {
    let offset = header(bytes, 20);
    bytes.extend(name.as_bytes());
    bytes.push(0);
    grow(bytes, 20, name.len() + 1);
    offset as u32
}

/// Gives a string another value of the same length, wherever it is used.
fn rename(bytes: &mut [u8], from: &str, to: &str) {
    let from = format!("\0{from}\0");
    let at = bytes.windows(from.len()).rposition(|window| window == from.as_bytes()).unwrap();
    bytes[at + 1..=at + to.len()].copy_from_slice(to.as_bytes());
}

/// All that the agent asks of a BTF; only that it comes to an end without a panic matters.
fn use_all(bytes: &[u8]) {
    if let Ok(btf) = Btf::parse(bytes) {
        let _ = offsets::resolve(&btf);
        for name in ["sock_send_length", "io_uring_complete", "sys_exit"] {
            let _ = btf.tracepoint(name);
        }
        for id in 0..=btf.count() + 1 {
            let _ = btf.plain(id);
            let members = btf.members(&btf.get(id)).filter(|member| btf.is_bit_field(member)).count();
            assert!(members < bytes.len());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        use_all(&bytes);
    }

    #[test]
    fn any_types_come_to_an_end(
        // Name, kind, times, kind_flag and third word of each, and what follows it.
        types in proptest::collection::vec(
            (0..6_usize, 1..20_u32, 0..4_u32, any::<bool>(), 0..60_u32, prop::array::uniform12(0..50_u32)),
            60,
        ),
    ) {
        let mut bytes = empty();
        let mut names = vec![0];
        for name in ["task_struct", "thread_info", "status", "tgid", "btf_trace_sys_exit"] {
            names.push(name_of(&mut bytes, name));
        }
        for (name, kind, times, flag, third, rest) in types {
            let len = match kind {
                1 | 14 | 17 => 1,
                3 => 3,
                4 | 5 | 15 | 19 => times * 3,
                6 | 13 => times * 2,
                _ => 0,
            };
            let mut words = vec![names[name], u32::from(flag) << 31 | kind << 24 | times, third];
            words.extend(&rest[..len as usize]);
            append(&mut bytes, &words);
        }
        // Names of members are offsets below 50, and so are the numbers of types.
        prop_assert!(Btf::parse(&bytes).is_ok());
        use_all(&bytes);
    }

    #[test]
    fn a_changed_kernel_comes_to_an_end(
        kernel in 0..KERNELS.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = KERNELS[kernel].1.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        use_all(&bytes);
    }

    #[test]
    fn a_cut_kernel_is_refused(kernel in 0..KERNELS.len(), len in any::<prop::sample::Index>()) {
        let bytes = KERNELS[kernel].1;
        prop_assert!(Btf::parse(&bytes[..len.index(bytes.len())]).is_err());
    }
}

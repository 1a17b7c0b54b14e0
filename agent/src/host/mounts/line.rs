//! One line of mountinfo (`proc_pid_mountinfo(5)`). It must not know the others.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use super::Mount;
use crate::event::Dev;

pub(super) fn parse(line: &[u8]) -> Result<Mount, &'static str> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut next = |what| fields.next().filter(|field| !field.is_empty()).ok_or(what);
    let id = number(next("no mount id")?).ok_or("mount id is not a number")?;
    let parent = number(next("no parent id")?).ok_or("parent id is not a number")?;
    let dev = parse_dev(next("no device number")?).ok_or("device number is not major:minor")?;
    let root = unescape(next("no root")?).ok_or("bad escape in the root")?;
    let point = unescape(next("no mount point")?).ok_or("bad escape in the mount point")?;
    next("no mount options")?;
    // Optional fields, of which there may come more, end with a single hyphen.
    while next("no separator")? != b"-" {}
    let fstype = unescape(next("no filesystem type")?).ok_or("bad escape in the filesystem type")?;
    // The source may be empty: `mount -t tmpfs "" /mnt`.
    let source = fields.next().ok_or("no source")?;
    let source = unescape(source).ok_or("bad escape in the source")?;
    let options = fields.next().ok_or("no filesystem options")?;
    Ok(Mount {
        id,
        parent,
        dev,
        root: root.into(),
        point: point.into(),
        fstype: fstype.to_string_lossy().into_owned(),
        source: source.to_string_lossy().into_owned(),
        super_options: String::from_utf8_lossy(options).into_owned(),
        visible: true,
    })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn parse_dev(field: &[u8]) -> Option<Dev> {
    let colon = field.iter().position(|&byte| byte == b':')?;
    let (major, minor): (u32, u32) = (number(&field[..colon])?, number(&field[colon + 1..])?);
    (major < 1 << 12 && minor < 1 << 20).then(|| Dev::new(major, minor))
}

/// Undoes the kernel's `mangle`: a backslash and three octal digits stand for one byte.
fn unescape(field: &[u8]) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'\\' {
            let digits = after.get(..3)?;
            if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
                return None;
            }
            let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            bytes.push(u8::try_from(value).ok()?);
            rest = &after[3..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    Some(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::MountTable;

    /// The path as the kernel's `mangle` prints it; the inverse of [`super::unescape`].
    fn escape(text: &[u8]) -> Vec<u8> {
        let mut escaped = Vec::new();
        for &byte in text {
            if b" \t\n\\#".contains(&byte) {
                escaped.extend_from_slice(format!("\\{byte:03o}").as_bytes());
            } else {
                escaped.push(byte);
            }
        }
        escaped
    }

    #[test]
    fn bad_lines_are_named() {
        let error = |text: &str| MountTable::parse(text.as_bytes()).unwrap_err().to_string();
        insta::assert_snapshot!(error("21 27 0:21 / /proc rw - proc proc rw\n22 x"),
            @"/proc/self/mountinfo line 2: parent id is not a number");
        insta::assert_snapshot!(error("21 27 0:21 / /a\\04 rw - proc proc rw"),
            @"/proc/self/mountinfo line 1: bad escape in the mount point");
        insta::assert_snapshot!(error("21 27 0:21 / /a rw shared:1"), @"/proc/self/mountinfo line 1: no separator");
        insta::assert_snapshot!(error("21 27 4096:21 / /a rw - a b c"),
            @"/proc/self/mountinfo line 1: device number is not major:minor");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<Vec<u8>>()) {
            let _ = MountTable::parse(&text);
        }

        #[test]
        fn lines_of_words_never_panic(text in "([0-9]{1,3} ){2}[0-9]{1,4}:[0-9]{1,4} (/[a-z\\\\0-7]{0,6} ){2}rw( -)?( [a-z]{1,3}){0,4}") {
            let _ = MountTable::parse(text.as_bytes());
        }

        #[test]
        fn escapes_round_trip(name in proptest::collection::vec(1_u8.., 1..40)) {
            let mut line = b"1 0 8:1 / /".to_vec();
            line.extend(escape(&name));
            line.extend(b" rw - ext4 /dev/sda rw\n");
            let table = MountTable::parse(&line).unwrap();
            prop_assert_eq!(table.entries()[0].point.as_os_str().as_encoded_bytes(), [b"/", &name[..]].concat());
        }
    }
}

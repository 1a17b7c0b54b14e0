//! Windows as they are kept: those of a filesystem under its UUID, because its device number is another's after a reboot.
//!
//! Must not know where they are kept.

use std::collections::{HashMap, hash_map::Entry};

use crate::{
    event::Dev,
    host::volumes::Volumes,
    rules::{Places, Row as SumRow},
};

/// The field whose values are device numbers.
pub(super) const FIELD: &str = "sink.device";
/// In front of a UUID in the place of a number.
const UUID: &str = "uuid:";

/// Rows under names that outlive a reboot. Of a filesystem that had two numbers both are one.
pub(super) fn kept(
    rows: impl IntoIterator<Item = SumRow>,
    places: &Places,
    volumes: &Volumes,
) -> Vec<SumRow> {
    let mut kept: HashMap<(String, String, Vec<String>), SumRow> = HashMap::new();
    for mut row in rows {
        rename(&mut row, places, |name| {
            let volume = volumes.of(parse(name)?)?;
            Some(format!("{UUID}{}", volume.uuid))
        });
        match kept.entry((row.rule.clone(), row.sum.clone(), row.key.clone())) {
            Entry::Occupied(mut known) => known.get_mut().join(row),
            Entry::Vacant(vacant) => drop(vacant.insert(row)),
        }
    }
    kept.into_values().collect()
}

/// Rows under the numbers of now, and those of filesystems that are not mounted.
pub(super) fn found(rows: Vec<SumRow>, places: &Places, volumes: &Volumes) -> (Vec<SumRow>, Vec<SumRow>) {
    let mut rows = rows;
    for row in &mut rows {
        rename(row, places, |name| Some(volumes.dev_of(name.strip_prefix(UUID)?)?.to_string()));
    }
    rows.into_iter().partition(|row| {
        let at = places.get(&(row.rule.clone(), row.sum.clone()));
        !at.into_iter().flatten().filter_map(|&at| row.key.get(at)).any(|name| name.starts_with(UUID))
    })
}

fn rename(row: &mut SumRow, places: &Places, name: impl Fn(&str) -> Option<String>) {
    for &at in places.get(&(row.rule.clone(), row.sum.clone())).into_iter().flatten() {
        if let Some(value) = row.key.get_mut(at)
            && let Some(new) = name(value)
        {
            *value = new;
        }
    }
}

fn parse(number: &str) -> Option<Dev> {
    let (major, minor) = number.split_once(':')?;
    Some(Dev::new(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::{mounts::MountTable, sysfs::Devices};

    fn row(device: &str, bytes: u64) -> SumRow {
        SumRow {
            rule: "R".to_owned(),
            sum: "s".to_owned(),
            key: vec![String::new(), "llm".to_owned(), device.to_owned()],
            asset: "llm".to_owned(),
            asset_bytes: 9,
            first_at: 5,
            last_at: 6,
            largest: 0,
            bytes: vec![(bytes.cast_signed(), bytes)],
            events: Vec::new(),
            values: Vec::new(),
        }
    }

    #[test]
    fn a_filesystem_goes_on_under_the_number_that_it_has_then() {
        // A tree of udev's knows the UUIDs, so that no disk is needed.
        let scratch = tempfile::tempdir().unwrap();
        let devices = Devices::below(scratch.path().to_owned(), scratch.path().join("dev"));
        std::fs::create_dir(scratch.path().join("udev")).unwrap();
        for number in ["8:1", "8:17"] {
            let text = "E:ID_FS_TYPE=ext4\nE:ID_FS_UUID=12-34\n";
            std::fs::write(scratch.path().join(format!("udev/b{number}")), text).unwrap();
        }
        let table = |text: &str| Arc::new(MountTable::parse(text.as_bytes()).unwrap());
        let first = table("27 1 8:1 / /nowhere rw - ext4 x rw\n");
        let then = table("27 1 8:17 / /nowhere rw - ext4 x rw\n");
        let places = Places::from([(("R".to_owned(), "s".to_owned()), vec![2])]);
        let mut volumes = Volumes::default();
        volumes.refresh(&devices, &first);
        let rows = kept(vec![row("8:1", 3), row("0:45", 1)], &places, &volumes);
        let mut names: Vec<&str> = rows.iter().map(|row| &*row.key[2]).collect();
        names.sort_unstable();
        assert_eq!(names, ["0:45", "uuid:12-34"]);
        // After a reboot: not there yet, and then under another number.
        let mut volumes = Volumes::default();
        let (now, waiting) = found(rows, &places, &volumes);
        assert_eq!((now, waiting.len()), (vec![row("0:45", 1)], 1));
        volumes.refresh(&devices, &then);
        assert_eq!(found(waiting, &places, &volumes), (vec![row("8:17", 3)], Vec::new()));
        // It had both numbers in one life.
        volumes.refresh(&devices, &first);
        let both = kept(vec![row("8:1", 3), row("8:17", 2)], &places, &volumes);
        assert_eq!(both.len(), 1);
        assert_eq!(both[0].bytes, [(2, 2), (3, 3)]);
    }
}

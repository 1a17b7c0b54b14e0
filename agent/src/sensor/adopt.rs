//! Going on where an earlier agent stopped: its pinned maps and links, and when they are replaced.
//!
//! Programs and maps of the same making are taken over as they run, so that nothing is counted twice or missed. Other programs
//! on maps of the same layout are replaced: each new one is attached before the old one goes, and what moves while both run
//! counts twice. Maps of another layout are refused.

use std::fs;

use aya::{
    maps::{Array, MapData, MapError},
    programs::links::{FdLink, PinnedLink},
};

use super::{
    Hook, SensorError,
    layout::{Label, Layout, Mismatch, TEXT_BYTES},
    pins::{LINK, PinError, Pins},
    told,
};

/// Maps that outlive the agent. The others are scratch of one program, or belong to one agent.
pub(super) const MAPS: [&str; 41] = [
    "MARKS_OF",
    "SHARED",
    "OBJECTS",
    "NAMES",
    "DEVICES",
    "HOLDERS",
    "TAKES",
    "FLOWS",
    "ACTS",
    "REACHED",
    "GPU_USERS",
    "STORES",
    "CHANNELS",
    "LAYERED",
    "COPYABLE",
    "PROCESSES",
    "REQUESTS",
    "SPACES",
    "SHARERS",
    "RACED",
    "MEMORY",
    "EXPOSED",
    "LOOPED",
    "FOLLOWED",
    "NEIGHBOURS",
    "PENDING",
    "SENT",
    "IMAGES",
    "SINKS",
    "TAMPERS",
    "TAMPERED",
    "OWN_OBJECTS",
    "OWN_FILES",
    "PEERS",
    "NETWORKS",
    "REST_OF",
    "SCALE",
    "HALF",
    "IDENTITIES_OF",
    "FACTS",
    "LOSSES_OF",
];

/// Under which the layout is pinned: last, so that where it is missing nothing was ever ready.
pub(super) const LAYOUT: &str = "LAYOUT";

/// What is to be kept beyond the agent's end, and for whom.
#[derive(Debug)]
pub struct Keep {
    pub pins: Pins,
    /// The kernel's id of this boot.
    pub boot: String,
    /// The assets, in the order of their ids.
    pub assets: Vec<Label>,
    /// Attach programs of this agent even where those of the earlier one are the same.
    pub renew: bool,
}

/// What was taken over from an earlier agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Assets that are new, or protect more than they did, as a set.
    pub added: u64,
    /// Hooks that should have been attached and were not: nothing was counted there for a time that nobody knows.
    pub gaps: Vec<&'static str>,
    /// The programs were replaced by those of this agent; for a moment both counted.
    pub replaced: bool,
}

/// What was found, while the programs are being loaded.
pub(super) struct Adoption {
    layout: Layout,
    /// `None`: nothing of an earlier agent.
    added: Option<u64>,
    links: Vec<(&'static str, FdLink)>,
    replaced: bool,
}

/// Looks at what an earlier agent left, and removes what was never ready.
pub(super) fn look(keep: &Keep, programs: String, is_logging: bool) -> Result<Adoption, SensorError> {
    let layout = Layout::new(keep.boot.clone(), programs, keep.assets.clone());
    let Some(was) = stored(&keep.pins)? else {
        let removed = keep.pins.clear()?;
        if !removed.is_empty() {
            tracing::warn!(pins = removed.len(), "removed the pins of a start that was cut short");
        }
        return Ok(Adoption { layout, added: None, links: Vec::new(), replaced: false });
    };
    let added = was.adopted_by(&layout).map_err(|mismatch| refused(keep, mismatch))?;
    let missing: Vec<&str> = MAPS.into_iter().filter(|map| !keep.pins.has(map)).collect();
    if !missing.is_empty() {
        tracing::error!(
            ?missing,
            "pinned maps were removed while no agent ran: what was counted there is lost"
        );
    }
    // The kernel side's debug lines go to the agent that loaded it, so whoever wants them has to load it.
    let replaced = keep.renew || was.programs != layout.programs || !missing.is_empty() || is_logging;
    let mut links = Vec::new();
    if !replaced {
        for hook in super::HOOKS.iter().filter(|hook| hook.is_attached()) {
            if let Ok(link) = PinnedLink::from_pin(keep.pins.place(&link_name(hook.name))) {
                links.push((hook.name, link.into()));
            }
        }
    }
    Ok(Adoption { layout, added: Some(added), links, replaced })
}

impl Adoption {
    pub(super) const fn is_adopted(&self) -> bool {
        self.added.is_some()
    }

    /// The link of `hook` that an earlier agent attached.
    pub(super) fn link(&mut self, hook: Hook) -> Option<FdLink> {
        let at = self.links.iter().position(|(name, _)| *name == hook.name)?;
        Some(self.links.swap_remove(at).1)
    }

    pub(super) fn done(self, gaps: Vec<&'static str>) -> (Option<Adopted>, Option<Layout>) {
        let adopted = self.added.map(|added| Adopted { added, gaps, replaced: self.replaced });
        (adopted, Some(self.layout))
    }
}

/// Pins `link` in the place of what is pinned there.
pub(super) fn pin_link(keep: &Keep, hook: &str, link: FdLink) -> Result<FdLink, SensorError> {
    let (next, place) = (keep.pins.place("link_next"), keep.pins.place(&link_name(hook)));
    // A rest of a start that was cut short; when there is none, so much the better.
    let _ = fs::remove_file(&next);
    let failed = |source: anyhow::Error| PinError::Pin {
        what: format!("the link of {hook}"),
        path: keep.pins.path().to_owned(),
        source,
    };
    let pinned = link.pin(&next).map_err(|error| failed(error.into()))?;
    fs::rename(&next, &place).map_err(|error| failed(error.into()))?;
    Ok(pinned.into())
}

pub(super) fn link_name(hook: &str) -> String {
    format!("{LINK}{hook}")
}

/// The layout of what is pinned; `None` when it is incomplete.
fn stored(pins: &Pins) -> Result<Option<Layout>, SensorError> {
    if !pins.has(LAYOUT) {
        return Ok(None);
    }
    let map: Array<MapData, [u8; TEXT_BYTES]> = match told::array(MapData::from_pin(pins.place(LAYOUT))?) {
        // Of another length: written by another version.
        Err(SensorError::Map(MapError::InvalidValueSize { .. })) => {
            return Err(refused_at(pins, Mismatch::Abi));
        }
        map => map?,
    };
    let text = map.get(&0, 0)?;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    match serde_json::from_slice(text) {
        Ok(layout) => Ok(Some(layout)),
        // Written by a version that says other things there.
        Err(_) if !text.is_empty() => Err(refused_at(pins, Mismatch::Abi)),
        Err(_) => Ok(None),
    }
}

/// Writes the layout: from now on what is pinned can be adopted.
pub(super) fn store(pins: &Pins, layout: &Layout) -> Result<(), SensorError> {
    let text = serde_json::to_vec(layout).map_err(|error| SensorError::Scan(error.into()))?;
    let mut room = [0; TEXT_BYTES];
    let Some(place) = room.get_mut(..text.len()).filter(|_| text.len() < TEXT_BYTES) else {
        return Err(SensorError::TooManyPaths(text.len()));
    };
    place.copy_from_slice(&text);
    if !pins.has(LAYOUT) {
        let map: Array<MapData, [u8; TEXT_BYTES]> = Array::create(1, 0)?;
        map.pin(pins.place(LAYOUT)).map_err(|error| PinError::Pin {
            what: "the layout".to_owned(),
            path: pins.path().to_owned(),
            source: error.into(),
        })?;
    }
    let mut map: Array<MapData, [u8; TEXT_BYTES]> = told::array(MapData::from_pin(pins.place(LAYOUT))?)?;
    Ok(map.set(0, room, 0)?)
}

fn refused(keep: &Keep, mismatch: Mismatch) -> SensorError {
    refused_at(&keep.pins, mismatch)
}

fn refused_at(pins: &Pins, mismatch: Mismatch) -> SensorError {
    SensorError::Layout { mismatch, path: pins.path().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map that is not pinned is another one for the next agent than for the programs that it takes over.
    #[test]
    fn every_map_that_is_no_scratch_is_pinned() {
        let source = include_str!("../../../agent-ebpf/src/maps.rs");
        let declared: Vec<&str> = source
            .split("#[map]")
            .skip(1)
            .filter_map(|text| text.trim_start().strip_prefix("pub(crate) static ")?.split(':').next())
            .collect();
        assert!(declared.len() > MAPS.len(), "maps.rs is not read as it is written");
        let forgotten: Vec<&&str> =
            declared.iter().filter(|name| !name.ends_with("_SCRATCH") && !MAPS.contains(name)).collect();
        assert_eq!(forgotten, Vec::<&&str>::new());
        let unknown: Vec<&&str> = MAPS.iter().filter(|name| !declared.contains(name)).collect();
        assert_eq!(unknown, Vec::<&&str>::new());
    }
}

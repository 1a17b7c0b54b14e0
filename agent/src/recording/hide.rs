//! Takes names out of a recording that is to leave the host: paths, command lines, cgroups and units become keyed hashes.
//!
//! The same name becomes the same hash within one recording and nothing else does, so that sums per executable stay right
//! while rules that compare a name no longer match. The key is random and is not kept.

use std::{borrow::Cow, sync::Arc};

use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

use crate::event::{Ancestor, Event, Process, Sink};

/// Hides the names of one recording.
#[derive(Debug)]
pub struct Hider {
    key: hmac::Key,
}

impl Hider {
    /// With a key of its own.
    ///
    /// # Errors
    ///
    /// When the system has no random bytes.
    pub fn new() -> Result<Self, ring::error::Unspecified> {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key)?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// The event with its names hidden; numbers, addresses and the names of assets stay.
    #[must_use]
    pub fn hide<'e>(&self, event: &'e Event) -> Cow<'e, Event> {
        match event {
            Event::Process { holder, process } => {
                Cow::Owned(Event::Process { holder: *holder, process: Arc::new(self.process(process)) })
            }
            Event::Sink { key, sink } => Cow::Owned(Event::Sink {
                key: *key,
                sink: Arc::new(Sink {
                    path: self.maybe(sink.path.as_deref()),
                    mount: self.maybe(sink.mount.as_deref()),
                    ..Sink::clone(sink)
                }),
            }),
            Event::Act { holder, act, assets, at } => {
                let mut act = act.clone();
                act.target = self.maybe(act.target.as_deref());
                Cow::Owned(Event::Act { holder: *holder, act, assets: assets.clone(), at: *at })
            }
            _ => Cow::Borrowed(event),
        }
    }

    fn process(&self, process: &Process) -> Process {
        Process {
            exe: self.name(&process.exe),
            cmdline: self.name(&process.cmdline),
            cgroup: self.maybe(process.cgroup.as_deref()),
            container: self.maybe(process.container.as_deref()),
            unit: self.maybe(process.unit.as_deref()),
            ancestry: process
                .ancestry
                .iter()
                .map(|one| Ancestor {
                    pid: one.pid,
                    exe: self.name(&one.exe),
                    cmdline: self.name(&one.cmdline),
                })
                .collect(),
            ..process.clone()
        }
    }

    fn maybe(&self, name: Option<&str>) -> Option<String> {
        name.map(|name| self.name(name))
    }

    /// An empty name says that it is not known, and stays empty.
    fn name(&self, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        let tag = hmac::sign(&self.key, name.as_bytes());
        let hex: String = tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("hidden:{hex}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_hash_in_one_recording_only() {
        let (one, other) = (Hider::new().unwrap(), Hider::new().unwrap());
        assert_eq!(one.name("/usr/bin/cp"), one.name("/usr/bin/cp"));
        assert_ne!(one.name("/usr/bin/cp"), one.name("/usr/bin/mv"));
        assert_ne!(one.name("/usr/bin/cp"), other.name("/usr/bin/cp"));
        assert_eq!(one.name(""), "");
    }
}

//! The filesystems that files are looked for on, opened once for one round of looking. It must not know what the files hold.

use std::{collections::HashMap, fs::File, sync::Arc};

use crate::{
    event::Dev,
    host::{
        handles::{self, Found, Name},
        patience::Patience,
        sysfs::Devices,
        volumes::Volumes,
    },
};

#[derive(Default)]
pub(super) struct Roots {
    open: HashMap<Dev, Option<Arc<File>>>,
    vouched: HashMap<Dev, bool>,
}

impl Roots {
    /// As [`handles::find`], of what is mounted under that number. It may have to be read from a disk; one that does not answer says
    /// nothing.
    pub(super) fn find(
        &mut self,
        volumes: &Volumes,
        dev: Dev,
        name: Name,
        patience: &mut Patience<Dev>,
    ) -> Found {
        let Some(volume) = volumes.of(dev) else { return Found::Unknown };
        let root = self.open.entry(dev).or_insert_with(|| {
            let root = patience.ask(dev, volumes.root(dev));
            root.flatten().map(Arc::new)
        });
        let Some(root) = root.clone() else { return Found::Unknown };
        let fstype = volume.fstype.clone();
        patience.ask(dev, move || handles::find(&root, &fstype, name)).unwrap_or(Found::Unknown)
    }

    /// Whether what was found to be gone is. Each filesystem is asked once, so best after all was looked for: a disk that is there now
    /// was there before, for one that was pulled out never comes back under the same mount. One that does not answer in time
    /// vouches for nothing.
    pub(super) fn vouch(
        &mut self,
        volumes: &Volumes,
        devices: &Devices,
        dev: Dev,
        patience: &mut Patience<Dev>,
    ) -> bool {
        let root = self.open.get(&dev).and_then(Option::as_deref);
        let vouch = || {
            let question = root.and_then(|root| volumes.vouches(devices, dev, root));
            question.is_some_and(|question| {
                patience.ask(dev, question).unwrap_or_else(|| {
                    tracing::debug!(device = %dev, "a disk does not answer");
                    false
                })
            })
        };
        *self.vouched.entry(dev).or_insert_with(vouch)
    }
}

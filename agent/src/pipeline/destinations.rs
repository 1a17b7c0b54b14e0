//! From the kernel's name of a sink to where that is for people, and whether it is controlled.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use agent_ebpf as abi;

use crate::{
    event::{Dev, Event, ObjectId, Sink, SinkKey},
    host::{
        control::{self, Classifier},
        mounts::MountTable,
        patience::Patience,
    },
    sensor::FsPath,
};

/// Sinks remembered; when it is full it starts anew and each is told again.
const REMEMBERED: usize = 65_536;

pub(crate) struct Destinations {
    classifier: Classifier,
    known: HashMap<SinkKey, Known>,
    /// The assets' own files.
    registered: HashSet<ObjectId>,
    /// What it takes to know what is controlled lies below `/sys`, where others can mount what never answers.
    patience: Patience<()>,
    /// The mounts changed and what they are now is not known.
    behind: bool,
    /// What was mounted over the kernel's own files when it was looked at last.
    hiding: HashSet<Hiding>,
    /// What came there since, until it is told of.
    hidden: Vec<PathBuf>,
}

/// By sysfs, about all devices that are mounted, and by one of those about which one it is.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);

/// One mount over the kernel's own files. Another one at the same place is another.
type Hiding = (u64, Dev, PathBuf);

fn hiding(table: &MountTable) -> HashSet<Hiding> {
    table.hiding().map(|mount| (mount.id, mount.dev, mount.point.clone())).collect()
}

struct Known {
    magic: u64,
    path: Option<FsPath>,
    sink: Arc<Sink>,
}

impl Destinations {
    pub(super) fn new(classifier: Classifier) -> Self {
        let patience = Patience::new(ANSWERED_WITHIN);
        // A service manager hides some from each of its services.
        let hiding = hiding(classifier.table());
        Self {
            classifier,
            known: HashMap::new(),
            registered: HashSet::new(),
            patience,
            behind: false,
            hiding,
            hidden: Vec::new(),
        }
    }

    pub(crate) const fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// What was mounted over the kernel's own files since the last call.
    pub(super) fn hidden(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.hidden)
    }

    /// Whether the mounts are to be looked at again although none changed since.
    pub(crate) const fn are_behind(&self) -> bool {
        self.behind
    }

    /// The kernel said where a sink is.
    pub(super) fn locate(&mut self, key: SinkKey, magic: u64, path: FsPath) -> Event {
        self.remember(key, magic, Some(path))
    }

    /// Where a file lay within its filesystem when it was last told; `None` where that is not known whole.
    pub(super) fn path_of(&self, key: SinkKey) -> Option<&str> {
        let path = self.known.get(&key)?.path.as_ref()?;
        (!path.cut && !path.text.is_empty()).then_some(path.text.as_str())
    }

    /// The sink of a flow, unless it was told before.
    pub(super) fn resolve(&mut self, key: SinkKey, magic: u64) -> Option<Event> {
        (!self.known.contains_key(&key)).then(|| self.remember(key, magic, None))
    }

    /// A file is in the registry; says so of a sink that was told before.
    pub(super) fn register(&mut self, object: ObjectId) -> Option<Event> {
        self.registered.insert(object);
        let key = SinkKey::File(object);
        let known = self.known.get_mut(&key).filter(|known| known.sink.registered != Some(true))?;
        known.sink = Arc::new(Sink { registered: Some(true), ..Sink::clone(&known.sink) });
        Some(Event::Sink { key, sink: Arc::clone(&known.sink) })
    }

    /// Looks at the mounts again; the sinks that are another thing now.
    pub(super) fn refresh(&mut self) -> Vec<Event> {
        let table = match MountTable::read() {
            Ok(table) => Arc::new(table),
            Err(error) => {
                tracing::error!(%error, "the mounts cannot be read; what is controlled stays as it was");
                return Vec::new();
            }
        };
        let hiding = hiding(&table);
        self.hidden.extend(hiding.difference(&self.hiding).map(|(.., place)| place.clone()));
        self.hiding = hiding;
        let mut classifier = self.classifier.clone();
        let asked = self.patience.ask((), move || {
            let problems = classifier.refresh(table);
            (classifier, problems)
        });
        self.behind = asked.is_none();
        let Some((classifier, problems)) = asked else { return Vec::new() };
        self.classifier = classifier;
        for problem in problems {
            tracing::warn!("{}", problem.text);
        }
        let classifier = &self.classifier;
        let mut changed = Vec::new();
        for (&key, known) in &mut self.known {
            let sink = describe(classifier, &self.registered, key, known.magic, known.path.as_ref());
            if sink != *known.sink {
                known.sink = Arc::new(sink);
                changed.push(Event::Sink { key, sink: Arc::clone(&known.sink) });
            }
        }
        changed
    }

    fn remember(&mut self, key: SinkKey, magic: u64, path: Option<FsPath>) -> Event {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let sink = Arc::new(describe(&self.classifier, &self.registered, key, magic, path.as_ref()));
        self.known.insert(key, Known { magic, path, sink: Arc::clone(&sink) });
        Event::Sink { key, sink }
    }
}

fn describe(
    classifier: &Classifier,
    registered: &HashSet<ObjectId>,
    key: SinkKey,
    magic: u64,
    path: Option<&FsPath>,
) -> Sink {
    if key == SinkKey::FILE_BEYOND || key == SinkKey::PEER_BEYOND {
        let sink = describe_known(classifier, registered, key, magic, None);
        return Sink { channel: Some("overflow".to_owned()), ..sink };
    }
    describe_known(classifier, registered, key, magic, path)
}

fn describe_known(
    classifier: &Classifier,
    registered: &HashSet<ObjectId>,
    key: SinkKey,
    magic: u64,
    path: Option<&FsPath>,
) -> Sink {
    let text = path.filter(|path| !path.cut && !path.text.is_empty()).map(|path| path.text.as_str());
    match key {
        // The magic of every filesystem fits 32 bits.
        SinkKey::File(object) => Sink {
            registered: Some(registered.contains(&object)),
            ..classifier.file(object.dev, magic as u32, text)
        },
        SinkKey::BlockDevice(dev) => classifier.block_device(dev),
        SinkKey::CharDevice(dev) => classifier.char_device(dev),
        SinkKey::Terminal(dev) => classifier.terminal(dev),
        SinkKey::Peer { ip, port, proto } => classifier.peer(ip, port, proto),
        SinkKey::Process(object) => control::process(channel(object, magic)),
        SinkKey::Unmetered => control::unmetered("unknown"),
    }
}

/// The word for a channel to other processes.
fn channel(object: ObjectId, magic: u64) -> &'static str {
    /// `super_block.s_magic` of pipes and of POSIX message queues (`include/uapi/linux/magic.h`, `ipc/mqueue.c`).
    const PIPEFS: u64 = 0x5049_5045;
    const MQUEUE: u64 = 0x1980_0202;
    const PROC: u64 = 0x9fa0;
    match (object.dev.0, object.ino) {
        (abi::DEV_UNIX, _) | (abi::DEV_CLASS, abi::CLASS_UNIX_DATAGRAMS) => "unix",
        (abi::DEV_LOOPBACK | abi::DEV_UDP, _) => "loopback",
        (abi::DEV_MESSAGES, _) => "messages",
        (abi::DEV_KEY, _) => "key",
        (abi::DEV_TERMINAL, _) => "terminal",
        (abi::DEV_VSOCK, _) => "vsock",
        (abi::DEV_SENT, _) => "sent",
        (abi::DEV_CLASS, abi::CLASS_TUNNELS) => "tunnel",
        (abi::DEV_FUSE, _) => "fuse",
        (abi::DEV_CLASS, abi::CLASS_ATTRIBUTES) => "attributes",
        (abi::DEV_CLASS, abi::CLASS_SEMAPHORES) => "semaphores",
        (abi::DEV_CLASS, abi::CLASS_PACKETS) => "packets",
        (abi::DEV_CLASS, abi::CLASS_NETLINK..abi::CLASS_MEMORY) => "netlink",
        (abi::DEV_SEGMENT | abi::DEV_FAMILY | abi::DEV_CLASS, _) => "shm",
        (abi::DEV_BPF, _) if object.generation != 0 => "shm",
        _ if magic == MQUEUE => "messages",
        _ if magic == PROC => "memory",
        (abi::DEV_BPF, _) => "bpf_map",
        // A FIFO lies on any filesystem, and no descriptor but a mapping has none.
        _ if magic == PIPEFS || magic != 0 => "pipe",
        _ => "shm",
    }
}

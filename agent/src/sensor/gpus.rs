//! From who has which GPU open to acts: two processes that have one open at the same time, of which one holds something.
//!
//! The kernel side notes who has one open, whoever that is; here they are laid side by side, so that it does not matter who
//! came first, nor who came to hold something when. It must not know which devices are GPUs.

use std::collections::{BTreeMap, HashMap, HashSet};

use agent_ebpf::{
    self as abi, HolderKey,
    acts::{ANY_NODE, GpuKey, GpuValue},
};

use super::{
    SensorError,
    maps::{Maps, Raw, absent_is_fine, row, rows},
    reading::{self, Reading, SensedAct},
};
use crate::event::{AssetSet, BootNs, Dev};

/// Steps of one walk over the map: twice its size.
const WALK: usize = 1 << 15;

/// One process image on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    key: HolderKey,
    /// ns since boot.
    first: u64,
    /// ns since boot; `None` while it runs.
    ended: Option<u64>,
    /// Assets that it passes on.
    holds: u64,
}

/// `actor` has `device` open beside `victim`, which holds `assets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shared {
    actor: HolderKey,
    victim: HolderKey,
    device: u32,
    assets: u64,
    /// Since when, ns since boot.
    at: u64,
}

#[derive(Default)]
pub(super) struct Gpus {
    /// Assets that were told of, by who shares a node and which.
    told: HashMap<(HolderKey, u32), u64>,
    /// Rows of the last look.
    known: HashSet<GpuKey>,
    /// Images that had ended by then.
    ended: HashSet<HolderKey>,
}

impl Gpus {
    /// What is new. What began before `told` was told by an earlier agent.
    pub(super) fn look(
        &mut self,
        maps: &mut Maps,
        told: u64,
        readings: &mut Vec<Reading>,
    ) -> Result<(), SensorError> {
        let mut rows = rows::<GpuKey, Raw<GpuValue>>(&maps.gpu_users, WALK)?;
        // Read twice: a node can have been opened while the one that ended was still there.
        let leaving = std::mem::take(&mut self.ended);
        rows.retain(|(key, _)| !leaving.contains(&key.user));
        for key in self.known.iter().filter(|key| leaving.contains(&key.user)) {
            absent_is_fine(maps.gpu_users.remove(&Raw(*key)))?;
        }
        for key in leaving {
            self.forget(maps, &key, readings)?;
        }
        let ends: HashMap<HolderKey, u64> = rows
            .iter()
            .filter(|(key, Raw(value))| key.device == ANY_NODE && value.ended != 0)
            .map(|(key, Raw(value))| (key.user, value.ended))
            .collect();
        let mut nodes: BTreeMap<u32, Vec<User>> = BTreeMap::new();
        for (key, Raw(value)) in rows.iter().filter(|(key, _)| key.device != ANY_NODE) {
            let user = User {
                key: key.user,
                first: value.first,
                ended: ends.get(&key.user).copied(),
                holds: held(maps, key.user)?,
            };
            nodes.entry(key.device).or_default().push(user);
        }
        for (device, users) in nodes {
            for shared in self.compare(device, &users) {
                if shared.at >= told {
                    readings.push(act(&shared));
                }
            }
        }
        self.known = rows.into_iter().map(|(key, _)| key).collect();
        self.ended = ends.into_keys().collect();
        Ok(())
    }

    /// Who shares `device` with a holder, each once for each asset: with the first of those that hold it.
    fn compare(&mut self, device: u32, users: &[User]) -> Vec<Shared> {
        let held = users.iter().fold(0, |sum, user| sum | user.holds);
        let holders: Vec<&User> = users.iter().filter(|user| user.holds != 0).collect();
        let mut found = Vec::new();
        for actor in users {
            let told = self.told.get(&(actor.key, device)).copied().unwrap_or(0);
            if held & !told == 0 {
                continue;
            }
            let mut now = told;
            for victim in holders.iter().filter(|victim| shares(actor, victim)) {
                if victim.holds & !now != 0 {
                    now |= victim.holds;
                    let at = actor.first.max(victim.first);
                    let (actor, victim, assets) = (actor.key, victim.key, victim.holds);
                    found.push(Shared { actor, victim, device, assets, at });
                }
            }
            if now != told {
                self.told.insert((actor.key, device), now);
            }
        }
        found
    }

    /// After a scan: forgets nodes that nobody was seen to have open in it, of those that the last look knew.
    pub(super) fn sweep(
        &mut self,
        maps: &mut Maps,
        epoch: u64,
        readings: &mut Vec<Reading>,
    ) -> Result<(), SensorError> {
        if self.known.is_empty() {
            return Ok(());
        }
        let closed = |value: GpuValue| value.ended == 0 && value.seen < epoch;
        let mut open = HashSet::new();
        for key in self.known.iter().filter(|key| key.device != ANY_NODE).copied().collect::<Vec<_>>() {
            match row(&maps.gpu_users, key)? {
                Some(Raw(value)) if closed(value) => {
                    absent_is_fine(maps.gpu_users.remove(&Raw(key)))?;
                    self.known.remove(&key);
                    self.told.remove(&(key.user, key.device));
                }
                _ => drop(open.insert(key.user)),
            }
        }
        let images: Vec<GpuKey> =
            self.known.extract_if(|key| key.device == ANY_NODE && !open.contains(&key.user)).collect();
        for key in images {
            absent_is_fine(maps.gpu_users.remove(&Raw(key)))?;
            self.forget(maps, &key.user, readings)?;
        }
        Ok(())
    }

    /// Nothing more is said of an image here. Who holds something ends elsewhere.
    fn forget(
        &mut self,
        maps: &Maps,
        user: &HolderKey,
        readings: &mut Vec<Reading>,
    ) -> Result<(), SensorError> {
        let told = self.told.extract_if(|(key, _), _| key == user).count();
        if told != 0 && row(&maps.holders, *user)?.is_none() {
            let at = super::beyond::now();
            readings.push(Reading::Exit { holder: reading::holder(user), at });
        }
        Ok(())
    }
}

/// Whether `actor` is to be told of beside `victim`: two processes, at the same time. Of two that hold the same it is the later
/// one.
fn shares(actor: &User, victim: &User) -> bool {
    let ends = |user: &User| user.ended.unwrap_or(u64::MAX);
    let is_told_the_other_way = actor.holds & victim.holds == victim.holds
        && (actor.first, actor.key.tgid) < (victim.first, victim.key.tgid);
    actor.key.tgid != victim.key.tgid
        && actor.first <= ends(victim)
        && victim.first <= ends(actor)
        && !is_told_the_other_way
}

fn held(maps: &Maps, user: HolderKey) -> Result<u64, SensorError> {
    let value = row(&maps.holders, user)?;
    Ok(value.map_or(0, |Raw(value)| value.spreads & !(1 << abi::ASSET_MARKS)))
}

fn act(shared: &Shared) -> Reading {
    Reading::Act {
        holder: reading::holder(&shared.actor),
        victim: Some(reading::holder(&shared.victim)),
        act: SensedAct::GpuShared(Dev(shared.device)),
        assets: AssetSet(shared.assets),
        at: BootNs(shared.at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn user(tgid: u32, first: u64, ended: Option<u64>, holds: u64) -> User {
        User { key: HolderKey { tgid, exec: 1, start: 1 }, first, ended, holds }
    }

    fn told(users: &[User]) -> Vec<(u32, u32, u64)> {
        let found = Gpus::default().compare(7, users);
        found.iter().map(|shared| (shared.actor.tgid, shared.victim.tgid, shared.assets)).collect()
    }

    #[test]
    fn it_does_not_matter_who_came_first() {
        assert_eq!(told(&[user(1, 10, None, 1), user(2, 20, None, 0)]), [(2, 1, 1)]);
        assert_eq!(told(&[user(1, 20, None, 1), user(2, 10, None, 0)]), [(2, 1, 1)]);
    }

    #[test]
    fn who_was_gone_before_shares_nothing() {
        assert_eq!(told(&[user(1, 20, None, 1), user(2, 10, Some(19), 0)]), []);
        assert_eq!(told(&[user(1, 10, Some(19), 1), user(2, 20, None, 0)]), []);
        assert_eq!(told(&[user(1, 10, Some(30), 1), user(2, 20, Some(21), 0)]), [(2, 1, 1)]);
    }

    #[test]
    fn nobody_holds_anything() {
        assert_eq!(told(&[user(1, 10, None, 0), user(2, 20, None, 0)]), []);
        assert_eq!(told(&[user(1, 10, None, 1)]), []);
    }

    #[test]
    fn an_exec_is_no_second_process() {
        let mut later = user(1, 20, None, 0);
        later.key.exec = 2;
        assert_eq!(told(&[user(1, 10, None, 1), later]), []);
    }

    #[test]
    fn of_two_holders_of_one_asset_the_later_is_told_of() {
        assert_eq!(told(&[user(1, 10, None, 1), user(2, 20, None, 1)]), [(2, 1, 1)]);
        assert_eq!(told(&[user(1, 10, None, 1), user(2, 20, None, 2)]), [(1, 2, 2), (2, 1, 1)]);
    }

    #[test]
    fn once_for_each_asset_and_node() {
        let mut gpus = Gpus::default();
        let mut users = vec![user(1, 10, None, 1), user(2, 20, None, 0)];
        assert_eq!(gpus.compare(7, &users).len(), 1);
        assert_eq!(gpus.compare(7, &users).len(), 0);
        users.push(user(3, 30, None, 3));
        let found: Vec<_> = gpus.compare(7, &users).iter().map(|shared| shared.actor.tgid).collect();
        assert_eq!(found, [1, 2, 3], "the second asset is new to both, the first to the third");
        assert_eq!(gpus.compare(8, &users[..2]).len(), 1);
    }
}

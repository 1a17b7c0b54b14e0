//! `cargo xtask btf-fixture`: cuts a kernel's BTF down to what the agent looks for in it, for the tests of `sensor`.
//!
//! Kept are the structs of `FIELDS` with the members on the way to each field, the types of these, the prototypes of
//! `PROTOTYPES`, and what tells whether the programs can read directly. All numbers stay those of the kernel. It must not know what the agent makes of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::PathBuf,
    process::ExitCode,
};

use agent_ebpf::fields::{FIELDS, PROTOTYPES, RDONLY_CAST_NAME, RDONLY_CAST_TO_VOID};
use anyhow::{Context as _, Result, ensure};

#[path = "../../agent/src/sensor/btf.rs"]
#[expect(dead_code, unreachable_pub, reason = "the agent uses the rest, and it is a library")]
mod btf;

use btf::{Btf, Kind, Type, Word};

pub(crate) const EXAMPLE: &str = "\
Example, for the running kernel: cargo xtask btf-fixture /sys/kernel/btf/vmlinux agent/src/sensor/testdata/btf/$(uname -r).btf
For another one, from the ELF file inside of its vmlinuz: objcopy --dump-section .BTF=VMLINUX_BTF ELF /dev/null";

/// Pointers, typedefs and arrays that are kept from a prototype's parameter on.
const CHAIN: usize = 32;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Raw BTF of a kernel
    vmlinux_btf: PathBuf,
    /// The fixture to write; named after the kernel's release
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let source = args.vmlinux_btf.display();
    let bytes = fs::read(&args.vmlinux_btf).with_context(|| format!("cannot read {source}"))?;
    let btf = Btf::parse(&bytes).with_context(|| format!("{source} is not the BTF of a kernel"))?;
    let mut kept = Kept { btf: &btf, members: BTreeMap::new() };
    for field in FIELDS {
        // All of them: should there be two, the agent has to see both.
        let mut found = false;
        for structure in btf.structs(field.structure) {
            found |= kept.keep_path(structure, field.path);
        }
        if !found {
            eprintln!("not on this kernel: {} {}", field.structure, field.path);
        }
    }
    for (tracepoint, _) in PROTOTYPES {
        if !kept.keep_tracepoint(tracepoint) {
            eprintln!("not on this kernel: tracepoint {tracepoint}");
        }
    }
    for (kind, name) in [(Kind::Function, RDONLY_CAST_NAME), (Kind::Enum, RDONLY_CAST_TO_VOID)] {
        match btf.named(kind, name).next() {
            Some(found) => drop(kept.keep_type(found.id, false)),
            None => eprintln!("not on this kernel: {name}"),
        }
    }
    let fixture = kept.write()?;
    fs::write(&args.out, &fixture).with_context(|| format!("cannot write {}", args.out.display()))?;
    eprintln!(
        "{}: {} types of {} in {} bytes",
        args.out.display(),
        kept.members.len(),
        btf.count(),
        fixture.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// What of a BTF the fixture keeps.
struct Kept<'a> {
    btf: &'a Btf<'a>,
    /// By the number of the type, the members (of a struct or union) that are kept.
    members: BTreeMap<u32, BTreeSet<usize>>,
}

impl<'a> Kept<'a> {
    /// Keeps a field and what is passed on the way to it; returns whether it exists.
    fn keep_path(&mut self, structure: Type<'a>, path: &str) -> bool {
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        for (index, member) in self.btf.members(&structure).enumerate() {
            let inner = self.btf.plain(member.of);
            let found = if member.name == name.as_bytes() {
                rest.is_none_or(|rest| inner.is_some_and(|inner| self.keep_path(inner, rest)))
            } else {
                member.name.is_empty() && inner.is_some_and(|inner| self.keep_path(inner, path))
            };
            if found {
                self.members.entry(structure.id).or_default().insert(index);
                self.keep_type(member.of, false);
                return true;
            }
        }
        false
    }

    fn keep_tracepoint(&mut self, name: &str) -> bool {
        let Some(typedef) = self.btf.typedefs(&format!("btf_trace_{name}")).next() else { return false };
        let prototype = self.keep_type(typedef.id, true);
        for parameter in prototype.words.get(3..).unwrap_or_default().as_chunks::<2>().0 {
            self.keep_type(u32::from_ne_bytes(parameter[1]), true);
        }
        true
    }

    /// Keeps a type and those that it is made of, structs without their members; behind a pointer stands void unless they are
    /// wanted too. Returns the last.
    fn keep_type(&mut self, id: u32, pointees: bool) -> Type<'a> {
        let mut found = self.btf.get(id);
        for _ in 0..CHAIN {
            if found.id == 0 {
                break;
            }
            self.members.entry(found.id).or_default();
            found = match found.layout.kind {
                Kind::Pointer if !pointees => break,
                Kind::Array => self.btf.get(found.words.get(3).map_or(0, |&word| u32::from_ne_bytes(word))),
                Kind::Prototype => break,
                _ if found.layout.third == Word::Type => self.btf.get(found.third()),
                _ => break,
            };
        }
        found
    }

    /// The fixture: types renumbered, in the order of the kernel.
    fn write(&self) -> Result<Vec<u8>> {
        let numbers: HashMap<u32, u32> = self.members.keys().copied().zip(1..).collect();
        let mut types: Vec<u8> = Vec::new();
        let mut strings = Strings::default();
        for (&id, members) in &self.members {
            let kept = self.btf.get(id);
            let layout = kept.layout;
            let (common, rest) = kept.words.split_first_chunk::<3>().context("a type is cut off")?;
            let (once, each) = rest.split_at_checked(layout.once.len()).context("a type is cut off")?;
            let items: Vec<&[[u8; 4]]> = each
                .chunks_exact(layout.each.len().max(1))
                .enumerate()
                .filter(|(index, _)| layout.kind == Kind::Prototype || members.contains(index))
                .map(|(_, item)| item)
                .collect();
            let info = u32::from_ne_bytes(common[1]);
            // Where nothing is counted, as for functions, the number means something else.
            let info = if layout.each.is_empty() { info } else { info & !0xffff | items.len() as u32 };
            let common = [common[0], info.to_ne_bytes(), common[2]];
            let head = [Word::Name, Word::Number, layout.third];
            let parts = [(&head[..], &common[..]), (layout.once, once)];
            for (meanings, words) in
                parts.into_iter().chain(items.into_iter().map(|item| (layout.each, item)))
            {
                for (meaning, word) in meanings.iter().zip(words) {
                    let value = u32::from_ne_bytes(*word);
                    let value = match meaning {
                        Word::Name => strings.offset(self.btf.string(value)),
                        // What is not kept is void.
                        Word::Type => numbers.get(&value).copied().unwrap_or(0),
                        Word::Number => value,
                    };
                    types.extend(value.to_ne_bytes());
                }
            }
        }
        let mut fixture = Vec::new();
        fixture.extend(0xeb9f_u16.to_ne_bytes());
        fixture.extend([1, 0]);
        let types_len = u32::try_from(types.len()).context("too many types")?;
        let strings_len = u32::try_from(strings.bytes.len()).context("too many strings")?;
        for word in [24, 0, types_len, types_len, strings_len] {
            fixture.extend(word.to_ne_bytes());
        }
        fixture.extend(types);
        fixture.extend(strings.bytes);
        let written = Btf::parse(&fixture).context("the fixture would not be BTF")?.count() as usize;
        ensure!(
            written == self.members.len(),
            "the fixture would have {written} types of {}",
            self.members.len()
        );
        Ok(fixture)
    }
}

/// A string section, each string once.
struct Strings {
    bytes: Vec<u8>,
    offsets: HashMap<Vec<u8>, u32>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { bytes: vec![0], offsets: HashMap::from([(Vec::new(), 0)]) }
    }
}

impl Strings {
    fn offset(&mut self, string: &[u8]) -> u32 {
        let end = self.bytes.len() as u32;
        *self.offsets.entry(string.to_vec()).or_insert_with(|| {
            self.bytes.extend(string);
            self.bytes.push(0);
            end
        })
    }
}

//! Reads BTF, the description of a kernel's types, as far as offsets and prototypes need it.
//!
//! The format is that of the kernel's `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h`. Everything is checked once,
//! in [`Btf::parse`]: every length, every name, every reference, every kind; only a loop among types is found later, where it
//! is walked. Nothing is copied but where each type starts. This file must not know which types are wanted nor where the
//! bytes come from. xtask includes it to make fixtures.

use std::iter;

use thiserror::Error;

/// The largest BTF that is read, in bytes; kernels have up to 7 MB.
pub const LARGEST: usize = 64 << 20;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// `struct btf_header` without what later versions may append.
const HEADER: usize = 24;
/// Words before what differs from kind to kind: `struct btf_type`.
const COMMON: usize = 3;
/// Typedefs, qualifiers and pointers that are passed through on the way to one type; the kernel nests less than this.
const CHAIN: usize = 32;
/// Bytes of a name, as in the kernel (`KSYM_NAME_LEN`). What is longer is cut.
const NAME: usize = 512;
/// Parameters of a prototype that are told; a tracepoint has 12 at most.
const PARAMETERS: usize = 32;

/// Why bytes are not the BTF of a kernel of this machine.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    #[error("{0} bytes are too few for its header")]
    Short(usize),
    #[error("{0} bytes are more than the {LARGEST} that are read")]
    Large(usize),
    #[error("magic number {0:#06x} is not that of BTF in this machine's byte order")]
    Magic(u16),
    #[error("version {0} is not known")]
    Version(u8),
    #[error("flags {0:#x} are not known")]
    Flags(u8),
    #[error("its {0} section lies outside of it")]
    Section(&'static str),
    #[error("its string section does not begin and end with a NUL")]
    Strings,
    #[error("type {id} has the unknown kind {kind}")]
    Kind { id: u32, kind: u32 },
    #[error("type {0} is cut off")]
    CutOff(u32),
    #[error("type {0} has a name outside of the string section")]
    Name(u32),
    #[error("type {id} refers to type {to}, of {count}")]
    Reference { id: u32, to: u32, count: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Void,
    Int,
    Pointer,
    Array,
    Struct,
    Union,
    Enum,
    Forward,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Function,
    Prototype,
    Variable,
    Section,
    Float,
    DeclarationTag,
    TypeTag,
    Enum64,
}

/// What one 32-bit word of a type says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Offset in the string section.
    Name,
    /// Number of a type.
    Type,
    Number,
}

/// How the types of one kind are stored.
pub struct Layout {
    pub kind: Kind,
    /// What the third word is: the size in bytes, or the type that this one refers to.
    pub third: Word,
    /// The words that follow.
    pub once: &'static [Word],
    /// The words that follow these as often as the type says: members, values, parameters.
    pub each: &'static [Word],
}

const fn layout(kind: Kind, third: Word, once: &'static [Word], each: &'static [Word]) -> Layout {
    Layout { kind, third, once, each }
}

use Word::{Name, Number, Type as Refers};

/// By the number of the kind.
static LAYOUTS: [Layout; 20] = [
    layout(Kind::Void, Number, &[], &[]),
    layout(Kind::Int, Number, &[Number], &[]),
    layout(Kind::Pointer, Refers, &[], &[]),
    layout(Kind::Array, Number, &[Refers, Refers, Number], &[]),
    layout(Kind::Struct, Number, &[], &[Name, Refers, Number]),
    layout(Kind::Union, Number, &[], &[Name, Refers, Number]),
    layout(Kind::Enum, Number, &[], &[Name, Number]),
    layout(Kind::Forward, Number, &[], &[]),
    layout(Kind::Typedef, Refers, &[], &[]),
    layout(Kind::Volatile, Refers, &[], &[]),
    layout(Kind::Const, Refers, &[], &[]),
    layout(Kind::Restrict, Refers, &[], &[]),
    layout(Kind::Function, Refers, &[], &[]),
    layout(Kind::Prototype, Refers, &[], &[Name, Refers]),
    layout(Kind::Variable, Refers, &[Number], &[]),
    layout(Kind::Section, Number, &[], &[Refers, Number, Number]),
    layout(Kind::Float, Number, &[], &[]),
    layout(Kind::DeclarationTag, Refers, &[Number], &[]),
    layout(Kind::TypeTag, Refers, &[], &[]),
    layout(Kind::Enum64, Number, &[], &[Name, Number, Number]),
];

/// One type.
#[derive(Clone, Copy)]
pub struct Type<'a> {
    pub id: u32,
    pub layout: &'static Layout,
    /// `struct btf_type`, then what its layout says, as stored.
    pub words: &'a [[u8; 4]],
}

impl Type<'_> {
    /// The number of the type that this one refers to, or the size in bytes: see [`Layout::third`].
    #[must_use]
    pub fn third(&self) -> u32 {
        word(self.words, 2)
    }

    /// `kind_flag`: members carry the width of bit fields; a forward declaration is of a union.
    #[must_use]
    pub fn flag(&self) -> bool {
        word(self.words, 1) >> 31 == 1
    }

    fn rest(&self) -> &[[u8; 4]] {
        self.words.get(COMMON..).unwrap_or_default()
    }
}

/// A member of a struct or union.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Empty for an anonymous struct or union.
    pub name: &'a [u8],
    /// The number of its type.
    pub of: u32,
    /// Where it starts, in bits.
    pub bit_offset: u32,
    /// Its width in bits when it is a bit field, else 0.
    pub bit_width: u32,
}

/// Parsed BTF, over the bytes that it was parsed from.
pub struct Btf<'a> {
    types: &'a [[u8; 4]],
    strings: &'a [u8],
    /// Where each type starts in `types`; the first is type 1.
    starts: Vec<u32>,
    /// Structs, enums, typedefs and functions that have a name: the types that are looked for by it.
    named: Vec<u32>,
}

impl<'a> Btf<'a> {
    /// Checks all of `bytes`.
    ///
    /// # Errors
    ///
    /// Whatever is not as the format says; an unknown kind too, because what follows it cannot be found.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        if bytes.len() > LARGEST {
            return Err(BtfError::Large(bytes.len()));
        }
        let (types, strings) = sections(bytes)?;
        if strings.first() != Some(&0) || strings.last() != Some(&0) {
            return Err(BtfError::Strings);
        }
        let (types, rest) = types.as_chunks::<4>();
        let mut btf = Self { types, strings, starts: Vec::new(), named: Vec::new() };
        // A type may refer to a later one, so the highest reference is held against their number at the end.
        let mut highest = (0, 0);
        let mut start = 0;
        while start < types.len() {
            let id = btf.count() + 1;
            let len = btf.check(id, start, &mut highest)?;
            // No more than LARGEST.
            btf.starts.push(start as u32);
            start += len;
        }
        if !rest.is_empty() {
            return Err(BtfError::CutOff(btf.count() + 1));
        }
        let (to, id) = highest;
        if to > btf.count() {
            return Err(BtfError::Reference { id, to, count: btf.count() });
        }
        Ok(btf)
    }

    /// Checks the type that starts at `start`; returns the number of its words.
    fn check(&mut self, id: u32, start: usize, highest: &mut (u32, u32)) -> Result<usize, BtfError> {
        let words = self.types.get(start..).unwrap_or_default();
        if words.len() < COMMON {
            return Err(BtfError::CutOff(id));
        }
        let info = word(words, 1);
        let kind = info >> 24 & 0x1f;
        let layout = match LAYOUTS.get(kind as usize) {
            Some(layout) if layout.kind != Kind::Void => layout,
            _ => return Err(BtfError::Kind { id, kind }),
        };
        let (once, each) = (layout.once, layout.each);
        let times = (info & 0xffff) as usize;
        let len = COMMON + once.len() + times * each.len();
        let words = words.get(..len).ok_or(BtfError::CutOff(id))?;

        let common = [Name, Number, layout.third];
        let meanings = common.iter().chain(once).chain(iter::repeat_n(each, times).flatten());
        for (at, meaning) in meanings.enumerate() {
            let value = word(words, at);
            match meaning {
                Name if value as usize >= self.strings.len() => return Err(BtfError::Name(id)),
                Refers if value > highest.0 => *highest = (value, id),
                _ => {}
            }
        }
        let is_looked_for = matches!(layout.kind, Kind::Struct | Kind::Enum | Kind::Typedef | Kind::Function);
        if is_looked_for && word(words, 0) != 0 {
            self.named.push(id);
        }
        Ok(len)
    }

    /// How many types there are, which is the number of the last.
    #[must_use]
    pub fn count(&self) -> u32 {
        // No more than LARGEST / 12.
        self.starts.len() as u32
    }

    /// The type of this number, which stands in this BTF. 0 is void, and so is a number that this BTF does not have.
    #[must_use]
    pub fn get(&self, id: u32) -> Type<'a> {
        let found = (id as usize).checked_sub(1).and_then(|at| {
            let start = *self.starts.get(at)? as usize;
            let end = self.starts.get(at + 1).map_or(self.types.len(), |&end| end as usize);
            let words = self.types.get(start..end)?;
            Some(Type { id, layout: LAYOUTS.get((word(words, 1) >> 24 & 0x1f) as usize)?, words })
        });
        found.unwrap_or(Type { id: 0, layout: &LAYOUTS[0], words: &[] })
    }

    /// The structs of this name that are defined, not only declared. There should be one.
    pub fn structs(&self, name: &str) -> impl Iterator<Item = Type<'a>> {
        self.named(Kind::Struct, name)
    }

    /// The typedefs of this name.
    pub fn typedefs(&self, name: &str) -> impl Iterator<Item = Type<'a>> {
        self.named(Kind::Typedef, name)
    }

    /// The types of one kind and name: structs, enums, typedefs and functions are found.
    pub fn named(&self, kind: Kind, name: &str) -> impl Iterator<Item = Type<'a>> {
        self.named
            .iter()
            .map(|&id| self.get(id))
            .filter(move |found| found.layout.kind == kind && self.is_named(found, name))
    }

    fn is_named(&self, of: &Type<'_>, name: &str) -> bool {
        let rest = self.strings.get(word(of.words, 0) as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Empty when it has none.
    #[must_use]
    pub fn name(&self, of: &Type<'_>) -> &'a [u8] {
        self.string(word(of.words, 0))
    }

    /// The members of a struct or union, none of any other type.
    pub fn members(&self, of: &Type<'a>) -> impl Iterator<Item = Member<'a>> {
        let is_compound = matches!(of.layout.kind, Kind::Struct | Kind::Union);
        let words = if is_compound { of.words.get(COMMON..).unwrap_or_default() } else { &[] };
        let wide = of.flag();
        words.as_chunks::<3>().0.iter().map(move |member| {
            let [name, of, place] = member.map(u32::from_ne_bytes);
            let (bit_offset, bit_width) = if wide { (place & 0xff_ffff, place >> 24) } else { (place, 0) };
            Member { name: self.string(name), of, bit_offset, bit_width }
        })
    }

    /// Whether an offset in bytes is not enough to read it.
    #[must_use]
    pub fn is_bit_field(&self, member: &Member<'_>) -> bool {
        // Before kind_flag (4.20) an integer that is narrower than its size said so.
        let narrow = |of: Type<'_>| {
            of.layout.kind == Kind::Int && u64::from(word(of.rest(), 0) & 0xff) != u64::from(of.third()) * 8
        };
        member.bit_width != 0 || self.plain(member.of).is_some_and(narrow)
    }

    /// What a type is, behind typedefs and qualifiers. `None` for types that refer to each other in a circle.
    #[must_use]
    pub fn plain(&self, id: u32) -> Option<Type<'a>> {
        let mut found = self.get(id);
        for _ in 0..CHAIN {
            if !matches!(
                found.layout.kind,
                Kind::Typedef | Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag
            ) {
                return Some(found);
            }
            found = self.get(found.third());
        }
        None
    }

    /// The prototype of a tracepoint as C writes it, qualifiers left out: `(void *, struct sock *, int, int)`. `None` when the
    /// kernel has no tracepoint of this name. The first parameter is the tracing's own.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<String> {
        let typedef = self.typedefs(&format!("btf_trace_{name}")).next()?;
        let pointer = self.get(typedef.third());
        let prototype = self.get(pointer.third());
        if pointer.layout.kind != Kind::Pointer || prototype.layout.kind != Kind::Prototype {
            return Some(self.spelled(typedef.third()));
        }
        let parameters = prototype.rest().as_chunks::<2>().0.iter().take(PARAMETERS);
        let parameters: Vec<String> =
            parameters.map(|&[_, of]| self.spelled(u32::from_ne_bytes(of))).collect();
        Some(format!("({})", parameters.join(", ")))
    }

    /// A type as C writes it, short of what stands in parentheses or brackets.
    fn spelled(&self, id: u32) -> String {
        let mut found = self.get(id);
        let mut stars = String::new();
        for _ in 0..CHAIN {
            match found.layout.kind {
                Kind::Pointer => stars.push('*'),
                Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {}
                _ => break,
            }
            found = self.get(found.third());
        }
        let keyword = match found.layout.kind {
            Kind::Void => "void",
            Kind::Prototype => "function",
            Kind::Array => "array",
            Kind::Forward if found.flag() => "union ",
            Kind::Struct | Kind::Forward => "struct ",
            Kind::Union => "union ",
            Kind::Enum | Kind::Enum64 => "enum ",
            _ => "",
        };
        let space = if stars.is_empty() { "" } else { " " };
        format!("{keyword}{}{space}{stars}", String::from_utf8_lossy(self.name(&found)))
    }

    /// The string at an offset of the string section.
    #[must_use]
    pub fn string(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        let rest = rest.get(..NAME).unwrap_or(rest);
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

/// The sections of types and of strings.
fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    let Some((&[m0, m1, version, flags, ref rest @ ..], _)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(BtfError::Short(bytes.len()));
    };
    let magic = u16::from_ne_bytes([m0, m1]);
    if magic != MAGIC {
        return Err(BtfError::Magic(magic));
    }
    if version != VERSION {
        return Err(BtfError::Version(version));
    }
    if flags != 0 {
        return Err(BtfError::Flags(flags));
    }
    let words = rest.as_chunks::<4>().0;
    let header = word(words, 0) as usize;
    // A longer header may describe further sections, which are not needed.
    if header < HEADER {
        return Err(BtfError::Short(header));
    }
    let body = bytes.get(header..).ok_or(BtfError::Short(bytes.len()))?;
    let section = |name, at| {
        let start = word(words, at) as usize;
        let end = start.checked_add(word(words, at + 1) as usize);
        end.and_then(|end| body.get(start..end)).ok_or(BtfError::Section(name))
    };
    Ok((section("type", 1)?, section("string", 3)?))
}

/// 0 for a word that is not there, which [`Btf::check`] excludes.
fn word(words: &[[u8; 4]], at: usize) -> u32 {
    words.get(at).map_or(0, |&bytes| u32::from_ne_bytes(bytes))
}

//! Offsets of kernel struct fields from BTF, in the shape that the loader patches into the programs.
//!
//! Fails closed: a required field that is missing, a struct that is missing or defined twice is an error with its name.
//! This file must not know what a field is used for, and needs no root: it is tested against BTF of several kernels.

use agent_ebpf::fields::{ABSENT, FIELDS, Field};
use btf_rs::{Btf, Member, Type};
use thiserror::Error;

/// Members looked through on the way to one field; the kernel nests less than this.
const NESTING: usize = 8;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum OffsetError {
    #[error("kernel BTF cannot be parsed: {0}")]
    Btf(String),
    #[error("kernel BTF has no struct {0}: this kernel is not supported")]
    NoStruct(&'static str),
    #[error(
        "kernel BTF defines struct {0} {1} times with different layouts: which one is meant is not known"
    )]
    Ambiguous(&'static str, usize),
    #[error("kernel BTF: struct {0} has no field {1}: this kernel is not supported")]
    NoField(&'static str, &'static str),
    #[error("kernel BTF: field {1} of struct {0} is a bit field, which cannot be read by an offset")]
    BitField(&'static str, &'static str),
}

/// The offset of every field of [`FIELDS`], [`ABSENT`] for an optional one that this kernel lacks.
///
/// # Errors
///
/// When a required field cannot be found beyond doubt.
pub fn resolve(btf: &Btf) -> Result<Vec<(&'static str, u32)>, OffsetError> {
    FIELDS.iter().map(|field| Ok((field.global, offset(btf, field)?))).collect()
}

fn offset(btf: &Btf, field: &Field) -> Result<u32, OffsetError> {
    match find(btf, field) {
        Err(OffsetError::NoStruct(_) | OffsetError::NoField(..)) if !field.required => Ok(ABSENT),
        found => found,
    }
}

fn find(btf: &Btf, field: &Field) -> Result<u32, OffsetError> {
    // A kernel with duplicates of one layout (deduplication is best effort) is no problem; two layouts are.
    let mut found: Vec<Result<u32, OffsetError>> = Vec::new();
    for candidate in btf.resolve_types_by_name(field.structure).unwrap_or_default() {
        if let Type::Struct(structure) = candidate {
            let offset = walk(btf, &structure.members, field);
            if !found.contains(&offset) {
                found.push(offset);
            }
        }
    }
    match found.len() {
        0 => Err(OffsetError::NoStruct(field.structure)),
        1 => found.remove(0),
        times => Err(OffsetError::Ambiguous(field.structure, times)),
    }
}

fn walk(btf: &Btf, members: &[Member], field: &Field) -> Result<u32, OffsetError> {
    let missing = || OffsetError::NoField(field.structure, field.path);
    let mut bits = 0;
    let mut members = members.to_vec();
    let mut names = field.path.split('.').peekable();
    while let Some(name) = names.next() {
        let (at, member) = named(btf, &members, name, 0).ok_or_else(missing)?;
        bits += at;
        if names.peek().is_some() {
            members = members_of(btf, &member).ok_or_else(missing)?;
        } else if member.bitfield_size().is_some_and(|size| size != 0) || bits % 8 != 0 {
            return Err(OffsetError::BitField(field.structure, field.path));
        }
    }
    Ok(bits / 8)
}

/// The member called `name` and its offset in bits, looking through members without a name.
fn named(btf: &Btf, members: &[Member], name: &str, depth: usize) -> Option<(u32, Member)> {
    if depth > NESTING {
        return None;
    }
    for member in members {
        let own = btf.resolve_name(member).unwrap_or_default();
        if own == name {
            return Some((member.bit_offset(), member.clone()));
        }
        if own.is_empty()
            && let Some(inner) = members_of(btf, member)
            && let Some((at, found)) = named(btf, &inner, name, depth + 1)
        {
            return Some((member.bit_offset() + at, found));
        }
    }
    None
}

/// The members of the struct or union that `member` is, through typedefs and qualifiers.
fn members_of(btf: &Btf, member: &Member) -> Option<Vec<Member>> {
    let mut kind = btf.resolve_chained_type(member).ok()?;
    for _ in 0..NESTING {
        match kind {
            Type::Struct(inner) | Type::Union(inner) => return Some(inner.members),
            Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::Restrict(_) | Type::TypeTag(_) => {
                kind = btf.resolve_chained_type(kind.as_btf_type()?).ok()?;
            }
            _ => return None,
        }
    }
    None
}

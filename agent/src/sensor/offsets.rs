//! Offsets of kernel struct fields from BTF, in the shape that the loader patches into the programs.
//!
//! Fails closed: a required field that is missing, a struct that is missing or defined twice is an error with its name.
//! This file must not know what a field is used for, and needs no root: it is tested against BTF of several kernels.

use agent_ebpf::fields::{ABSENT, FIELDS, Field};
use thiserror::Error;

use super::btf::{Btf, BtfError, Member, Type};

/// Anonymous structs and unions looked through on the way to one field; the kernel nests less than this.
const NESTING: usize = 8;
/// Members looked at for one name, so that types that contain each other many times over come to an end; the kernel's largest
/// structs have a few hundred.
const MEMBERS: usize = 1 << 14;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum OffsetError {
    #[error("kernel BTF cannot be parsed: {0}")]
    Btf(#[from] BtfError),
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

/// The offset of every field of [`FIELDS`] in bytes, [`ABSENT`] for an optional one that this kernel lacks.
///
/// # Errors
///
/// When a required field cannot be found beyond doubt.
pub fn resolve(btf: &Btf<'_>) -> Result<Vec<(&'static str, u32)>, OffsetError> {
    let mut offsets = Vec::with_capacity(FIELDS.len());
    // The fields of one struct stand together: it is looked for once.
    for fields in FIELDS.chunk_by(|one, next| one.structure == next.structure) {
        let candidates: Vec<Type<'_>> =
            fields.first().map_or_else(Vec::new, |field| btf.structs(field.structure).collect());
        for field in fields {
            offsets.push((field.global, offset(btf, &candidates, field)?));
        }
    }
    Ok(offsets)
}

fn offset<'a>(btf: &Btf<'a>, candidates: &[Type<'a>], field: &Field) -> Result<u32, OffsetError> {
    match find(btf, candidates, field) {
        Err(OffsetError::NoStruct(_) | OffsetError::NoField(..)) if !field.required => Ok(ABSENT),
        found => found,
    }
}

fn find<'a>(btf: &Btf<'a>, candidates: &[Type<'a>], field: &Field) -> Result<u32, OffsetError> {
    // A kernel with duplicates of one layout (deduplication is best effort) is no problem; two layouts are.
    let mut found: Vec<Result<u32, OffsetError>> = Vec::new();
    for candidate in candidates {
        let offset = walk(btf, *candidate, field);
        if !found.contains(&offset) {
            found.push(offset);
        }
    }
    match found.len() {
        0 => Err(OffsetError::NoStruct(field.structure)),
        1 => found.remove(0),
        times => Err(OffsetError::Ambiguous(field.structure, times)),
    }
}

fn walk<'a>(btf: &Btf<'a>, mut structure: Type<'a>, field: &Field) -> Result<u32, OffsetError> {
    let missing = || OffsetError::NoField(field.structure, field.path);
    let mut bits = 0;
    let mut names = field.path.split('.').peekable();
    while let Some(name) = names.next() {
        let mut members = MEMBERS;
        let (at, member) = named(btf, structure, name, NESTING, &mut members).ok_or_else(missing)?;
        bits += at;
        if names.peek().is_some() {
            structure = btf.plain(member.of).ok_or_else(missing)?;
        } else if btf.is_bit_field(&member) || bits % 8 != 0 {
            return Err(OffsetError::BitField(field.structure, field.path));
        }
    }
    u32::try_from(bits / 8).ok().filter(|&offset| offset != ABSENT).ok_or_else(missing)
}

/// The member called `name` and its offset in bits, looking through members without a name.
fn named<'a>(
    btf: &Btf<'a>,
    structure: Type<'a>,
    name: &str,
    nesting: usize,
    members: &mut usize,
) -> Option<(u64, Member<'a>)> {
    for member in btf.members(&structure) {
        *members = members.checked_sub(1)?;
        let at = u64::from(member.bit_offset);
        if member.name == name.as_bytes() {
            return Some((at, member));
        }
        if member.name.is_empty()
            && nesting > 0
            && let Some(inner) = btf.plain(member.of)
            && let Some((further, found)) = named(btf, inner, name, nesting - 1, members)
        {
            return Some((at + further, found));
        }
    }
    None
}

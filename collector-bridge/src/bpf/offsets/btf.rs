//! Looks up structs and members in BTF.

use FieldType::{Array, AtLeast, Bytes, Pointer};
use btf_rs::{Btf, Member, Struct, Type};

use super::error::OffsetError;

/// A path of (struct, member) pairs through embedded structs: resolves to the offset of the last member in
/// the first struct.
pub(super) type MemberPath = &'static [(&'static str, &'static str)];

/// The type of a member, as far as reading it is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldType {
    Pointer,
    /// A number of this many bytes, or a struct of that size.
    Bytes(usize),
    /// A number of at least this many bytes, of which the programs read the low bytes.
    AtLeast(usize),
    Array,
}

impl std::fmt::Display for FieldType {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pointer => out.write_str("a pointer"),
            Bytes(size) => write!(out, "{size} bytes"),
            AtLeast(size) => write!(out, "at least {size} bytes"),
            Array => out.write_str("an array"),
        }
    }
}

/// The offset of the byte that holds a flag, and the flag's mask in it: the flag is a bool, or one bit of a
/// bit field.
pub(super) fn flag_mask(btf: &Btf, structure: &str, member: &str) -> Option<(u64, u64)> {
    let types = btf.resolve_types_by_name(structure).ok()?;
    types.iter().find_map(|candidate| {
        let Type::Struct(found) = candidate else { return None };
        let has_name = |field: &&Member| btf.resolve_name(*field).is_ok_and(|name| name == member);
        let field = found.members.iter().find(has_name)?;
        let mask = match field.bitfield_size() {
            Some(bits @ 1..=7) => ((1 << bits) - 1) << (field.bit_offset() % 8),
            _ => 0xff,
        };
        Some((u64::from(field.bit_offset() / 8), mask))
    })
}

/// The number of arguments that a program on a tracepoint gets: the arguments of the tracepoint's type
/// without the first, which is for the kernel.
pub(super) fn tracepoint_argument_count(btf: &Btf, tracepoint: &str) -> Option<usize> {
    let types = btf.resolve_types_by_name(tracepoint).ok()?;
    let Type::Typedef(typedef) = types.into_iter().find(|found| matches!(found, Type::Typedef(_)))? else {
        return None;
    };
    let Ok(Type::Ptr(pointer)) = btf.resolve_chained_type(&typedef) else { return None };
    let Ok(Type::FuncProto(prototype)) = btf.resolve_chained_type(&pointer) else { return None };
    prototype.parameters.len().checked_sub(1)
}

/// The number of arguments of a kernel function; `None` if the BTF lacks the function.
pub(super) fn function_argument_count(btf: &Btf, function: &str) -> Option<usize> {
    let types = btf.resolve_types_by_name(function).ok()?;
    let found = types.into_iter().find(|found| matches!(found, Type::Func(_)))?;
    let Type::Func(found) = found else { return None };
    let Ok(Type::FuncProto(prototype)) = btf.resolve_chained_type(&found) else { return None };
    Some(prototype.parameters.len())
}

/// The byte offset of a member path, after checking that the last member has the expected type.
pub(super) fn path_offset(
    btf: &Btf,
    expected: FieldType,
    path: &[(&'static str, &'static str)],
) -> Result<u64, OffsetError> {
    let mut sum = 0;
    let mut last = None;
    for &(structure, member) in path {
        let (offset, found) = member_offset(btf, structure, member)?;
        sum += offset;
        last = Some((structure, member, found));
    }
    if let Some((structure, member, found)) = last {
        let found = field_type(btf, &found);
        let matches = match (expected, found) {
            (AtLeast(least), Some(Bytes(size))) => size >= least,
            (expected, found) => Some(expected) == found,
        };
        if !matches {
            return Err(OffsetError::OtherType {
                kernel: release(),
                structure,
                member,
                found: found.map_or("another type".to_owned(), |found| found.to_string()),
                expected: expected.to_string(),
            });
        }
    }
    Ok(sum)
}

/// The type of a member, with typedefs and qualifiers resolved.
fn field_type(btf: &Btf, member: &Member) -> Option<FieldType> {
    /// Longest chain of types that is followed; malformed BTF may have a loop.
    const MAX_CHAIN: usize = 16;
    btf.chained_type_iter(member).take(MAX_CHAIN).find_map(|candidate| match candidate {
        Type::Ptr(_) => Some(Pointer),
        Type::Array(_) => Some(Array),
        Type::Int(found) => Some(Bytes(found.size())),
        Type::Enum(found) => Some(Bytes(found.size())),
        Type::Struct(found) | Type::Union(found) => Some(Bytes(found.size())),
        _ => None,
    })
}

/// The running kernel's release, for messages.
pub(super) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The byte offset of `member` in the struct named `structure`, and the member.
pub(super) fn member_offset(
    btf: &Btf,
    structure: &'static str,
    member: &'static str,
) -> Result<(u64, Member), OffsetError> {
    btf.resolve_types_by_name(structure)
        .unwrap_or_default()
        .iter()
        .find_map(|candidate| match candidate {
            Type::Struct(found) => find_member(btf, found, member),
            _ => None,
        })
        .ok_or_else(|| OffsetError::MissingMember { kernel: release(), structure, member })
}

/// The member named `member` and its byte offset in `structure`, also inside anonymous structs and unions.
fn find_member(btf: &Btf, structure: &Struct, member: &str) -> Option<(u64, Member)> {
    structure.members.iter().find_map(|candidate| {
        let at = u64::from(candidate.bit_offset() / 8);
        match btf.resolve_name(candidate).unwrap_or_default() {
            name if name == member => Some((at, candidate.clone())),
            name if name.is_empty() => match btf.resolve_chained_type(candidate) {
                Ok(Type::Struct(inner) | Type::Union(inner)) => {
                    let (within, found) = find_member(btf, &inner, member)?;
                    Some((at + within, found))
                }
                _ => None,
            },
            _ => None,
        }
    })
}

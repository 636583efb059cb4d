//! Changes the object file for a kernel that lacks a feature which the programs can do without.
//!
//! In: the object, and what the kernel can do. Out: the object to load. Must not: ask the kernel.

use std::borrow::Cow;
use std::ops::Range;

use object::{Object as _, ObjectSection as _, SectionKind};

/// The clock of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// `bpf_ktime_get_coarse_ns` (Linux 5.11), which costs less.
    Coarse,
    /// `bpf_ktime_get_ns`.
    Precise,
}

/// Arguments of global functions that the kernel accepts. A function with other arguments becomes a static one, which the verifier
/// walks at each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// Numbers, pointers to memory, and the context.
    All,
    /// Numbers and pointers to memory, because the kernel has no BTF of its own.
    NoContext,
}

/// What the programs use of the features that they can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptation {
    /// The clock.
    pub clock: Clock,
    /// The arguments of global functions.
    pub arguments: Arguments,
}

impl Adaptation {
    /// That of a kernel with all features.
    pub const NONE: Self = Self { clock: Clock::Coarse, arguments: Arguments::All };
}

/// `BPF_FUNC_ktime_get_ns`.
const KTIME_GET_NS: i32 = 5;
/// `BPF_FUNC_ktime_get_coarse_ns`.
const KTIME_GET_COARSE_NS: i32 = 160;

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_LD | BPF_IMM | BPF_DW`, the instruction that is two long.
const LOAD_IMMEDIATE: u8 = 0x18;

/// Changes an object. `None` if it is no object with eBPF programs and BTF.
pub(crate) fn adapt(object: &[u8], adaptation: Adaptation) -> Option<Cow<'_, [u8]>> {
    let Adaptation { clock, arguments } = adaptation;
    let sections = Sections::of(object)?;
    let mut adapted = Cow::Borrowed(object);
    if clock == Clock::Precise {
        for code in sections.code {
            for call in calls(adapted.to_mut().get_mut(code)?) {
                if *call == KTIME_GET_COARSE_NS.to_ne_bytes() {
                    *call = KTIME_GET_NS.to_ne_bytes();
                }
            }
        }
    }
    if arguments != Arguments::All {
        make_static(adapted.to_mut().get_mut(sections.btf)?)?;
    }
    Some(adapted)
}

/// Positions of an object's parts.
struct Sections {
    code: Vec<Range<usize>>,
    btf: Range<usize>,
}

impl Sections {
    fn of(object: &[u8]) -> Option<Self> {
        let file = object::File::parse(object).ok()?;
        let range = |section: object::Section<'_, '_>| {
            let (start, len_bytes) = section.file_range()?;
            let start = usize::try_from(start).ok()?;
            Some(start..start.checked_add(usize::try_from(len_bytes).ok()?)?)
        };
        let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
        Some(Self {
            code: code.map(range).collect::<Option<_>>()?,
            btf: range(file.section_by_name(".BTF")?)?,
        })
    }
}

/// The numbers of the helpers in the calls of a section.
fn calls(code: &mut [u8]) -> impl Iterator<Item = &mut [u8; 4]> {
    let (instructions, _rest) = code.as_chunks_mut::<8>();
    let mut is_second_half = false;
    instructions.iter_mut().filter_map(move |[opcode, registers, _, _, immediate @ ..]| {
        let is_first_half = *opcode == LOAD_IMMEDIATE && !is_second_half;
        // Other source registers stand for calls of functions.
        let is_helper = *opcode == CALL && *registers >> 4 == 0 && !is_second_half;
        is_second_half = is_first_half;
        is_helper.then_some(immediate)
    })
}

/// Size of a type record's fixed part: name, info, size or type.
const RECORD_LEN_BYTES: usize = 12;

/// Kinds of BTF types (`include/uapi/linux/btf.h`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// `BTF_FUNC_STATIC`, in the bits of a record that count members elsewhere.
const STATIC: u32 = 0;

/// Gives functions that take the context the linkage of static functions.
fn make_static(btf: &mut [u8]) -> Option<()> {
    let types = Types::of(btf)?;
    let functions = types.records.iter().filter(|record| record.kind == kind::FUNC);
    let changed: Vec<usize> = functions
        .filter(|function| types.takes_context(function))
        .map(|function| function.start)
        .collect();
    for start in changed {
        let info = kind::FUNC << 24 | STATIC;
        btf.get_mut(start + 4..start + 8)?.copy_from_slice(&info.to_ne_bytes());
    }
    Some(())
}

/// The type records of BTF.
struct Types<'a> {
    btf: &'a [u8],
    records: Vec<Record>,
    /// Start of the names.
    names: usize,
}

#[derive(Clone, Copy)]
struct Record {
    start: usize,
    kind: u32,
    n_members: usize,
    /// Size of the type, or the id of the type that it refers to.
    size_or_type: u32,
}

impl<'a> Types<'a> {
    fn of(btf: &'a [u8]) -> Option<Self> {
        // `struct btf_header`: magic, version and flags, then these sizes and offsets in bytes.
        let [header, types, len_types, names] =
            [4, 8, 12, 16].map(|at| number(btf, at).and_then(|found| usize::try_from(found).ok()));
        let (header, types) = (header?, types?);
        let mut at = header.checked_add(types)?;
        let end = at.checked_add(len_types?)?;
        let mut records = Vec::new();
        while at < end {
            let info = number(btf, at + 4)?;
            let (kind, n_members) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
            records.push(Record { start: at, kind, n_members, size_or_type: number(btf, at + 8)? });
            at += RECORD_LEN_BYTES
                + match kind {
                    kind::INT | kind::VAR | kind::DECL_TAG => 4,
                    kind::ARRAY => 12,
                    kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * n_members,
                    kind::ENUM | kind::FUNC_PROTO => 8 * n_members,
                    _ => 0,
                };
        }
        Some(Self { btf, records, names: header.checked_add(names?)? })
    }

    /// A type by its id. Id 0 is `void`, which has no record.
    fn by_id(&self, id: u32) -> Option<&Record> {
        self.records.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    fn name(&self, record: &Record) -> Option<&[u8]> {
        let name = usize::try_from(number(self.btf, record.start)?).ok()?;
        self.btf.get(self.names.checked_add(name)?..)?.split(|byte| *byte == 0).next()
    }

    fn takes_context(&self, function: &Record) -> bool {
        let Some(prototype) = self.by_id(function.size_or_type) else { return false };
        (0..prototype.n_members).any(|index| {
            let argument = prototype.start + RECORD_LEN_BYTES + 8 * index;
            let argument = number(self.btf, argument + 4).and_then(|id| self.by_id(id));
            let pointer = argument.filter(|argument| argument.kind == kind::PTR);
            let target = pointer.and_then(|pointer| self.by_id(pointer.size_or_type));
            target.and_then(|target| self.name(target)) == Some(b"__sk_buff")
        })
    }
}

fn number(btf: &[u8], at: usize) -> Option<u32> {
    let bytes = btf.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::kernel::HELPERS;
    use super::super::loader::OBJECT;
    use super::*;

    fn helpers(object: &[u8]) -> BTreeSet<i32> {
        let mut object = object.to_vec();
        let sections = Sections::of(&object).unwrap();
        let numbers = sections.code.into_iter().flat_map(|code| {
            calls(&mut object[code]).map(|call| i32::from_ne_bytes(*call)).collect::<Vec<_>>()
        });
        numbers.collect()
    }

    fn global_functions(object: &[u8]) -> BTreeSet<String> {
        let btf = Sections::of(object).unwrap().btf;
        let types = Types::of(&object[btf]).unwrap();
        let global = types
            .records
            .iter()
            .filter(|record| record.kind == kind::FUNC && record.n_members != 0);
        let name = |record| String::from_utf8(types.name(record).unwrap().to_vec()).unwrap();
        global.map(name).collect()
    }

    #[test]
    fn an_object_for_a_kernel_with_all_features_is_not_changed() {
        assert!(matches!(adapt(OBJECT, Adaptation::NONE), Some(Cow::Borrowed(_))));
        assert_eq!(adapt(b"no object", Adaptation::NONE), None);
    }

    #[test]
    fn the_kernel_is_asked_for_every_helper_that_the_programs_call() {
        let asked: BTreeSet<_> = HELPERS.iter().map(|helper| *helper as i32).collect();
        let precise = Adaptation { clock: Clock::Precise, ..Adaptation::NONE };
        let mut called = helpers(&adapt(OBJECT, precise).unwrap());
        assert!(called.remove(&KTIME_GET_NS));
        assert!(!called.contains(&KTIME_GET_COARSE_NS));
        assert_eq!(called, asked);
        assert!(helpers(OBJECT).contains(&KTIME_GET_COARSE_NS));
    }

    #[test]
    fn functions_that_take_the_context_become_static() {
        let all = global_functions(OBJECT);
        let adaptation = Adaptation { arguments: Arguments::NoContext, ..Adaptation::NONE };
        let left = global_functions(&adapt(OBJECT, adaptation).unwrap());
        let became_static: BTreeSet<_> = all.difference(&left).map(String::as_str).collect();
        for name in ["parse_ethernet", "parse_l3", "parse_quoted_ethernet", "parse_quoted_l3"] {
            assert!(became_static.contains(name), "{name}: {became_static:?}");
        }
        for name in ["current_flow", "identity_v4"] {
            assert!(left.contains(name), "{name}: {left:?}");
        }
    }
}

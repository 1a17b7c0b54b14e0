//! A test: the frames of every chain of calls in the programs fit the stack that every kernel gives them.
//!
//! Kernels from 6.13 on give some programs a stack of their own for each frame and refuse less, so that loading them here
//! would prove nothing about older ones. Reads the object file itself; it must not know what the programs do.

use std::collections::{BTreeMap, BTreeSet};

use super::load::OBJECT;

/// `MAX_BPF_STACK`.
const STACK: u32 = 512;
/// Each frame is rounded up to this (`check_max_stack_depth` in `kernel/bpf/verifier.c`).
const FRAME: u32 = 32;
/// `MAX_CALL_FRAMES`.
const CALLS: usize = 8;

const SYMBOLS: u32 = 2;
const RELOCATIONS: u32 = 9;
const FUNCTION: u8 = 2;

#[derive(Debug)]
struct Function {
    name: String,
    is_program: bool,
    frame: u32,
    calls: BTreeSet<Place>,
}

/// Section, offset.
type Place = (usize, u64);

fn word<const N: usize>(at: usize) -> [u8; N] {
    OBJECT[at..at + N].try_into().unwrap()
}

fn u32_at(at: usize) -> u32 {
    u32::from_le_bytes(word(at))
}

fn u64_at(at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(word(at))).unwrap()
}

/// `Elf64_Shdr`, as far as it is needed.
struct Section {
    name: u32,
    kind: u32,
    start: usize,
    size: usize,
    link: usize,
    info: usize,
}

fn sections() -> Vec<Section> {
    let (table, count) = (u64_at(40), u16::from_le_bytes(word(60)));
    let section = |number: u16| {
        let at = table + 64 * usize::from(number);
        Section {
            name: u32_at(at),
            kind: u32_at(at + 4),
            start: u64_at(at + 24),
            size: u64_at(at + 32),
            link: u32_at(at + 40) as usize,
            info: u32_at(at + 44) as usize,
        }
    };
    (0..count).map(section).collect()
}

fn text(table: &Section, offset: u32) -> String {
    let bytes = &OBJECT[table.start + offset as usize..];
    String::from_utf8(bytes.split(|&byte| byte == 0).next().unwrap().to_vec()).unwrap()
}

fn functions() -> BTreeMap<Place, Function> {
    let sections = sections();
    let names = &sections[usize::from(u16::from_le_bytes(word(62)))];
    let symbols = sections.iter().find(|section| section.kind == SYMBOLS).unwrap();
    // (name, kind, place, size)
    let symbol = |number: usize| {
        let at = symbols.start + 24 * number;
        let place = (usize::from(u16::from_le_bytes(word(at + 6))), u64_at(at + 8) as u64);
        (text(&sections[symbols.link], u32_at(at)), OBJECT[at + 4] & 15, place, u64_at(at + 16))
    };
    let mut relocated: BTreeMap<Place, usize> = BTreeMap::new();
    for table in sections.iter().filter(|section| section.kind == RELOCATIONS) {
        for at in (table.start..table.start + table.size).step_by(16) {
            relocated.insert((table.info, u64_at(at) as u64), u32_at(at + 12) as usize);
        }
    }
    let mut functions = BTreeMap::new();
    for (name, kind, (section, start), size) in (0..symbols.size / 24).map(symbol) {
        if kind != FUNCTION {
            continue;
        }
        let is_program = text(names, sections[section].name) != ".text";
        let mut function = Function { name, is_program, frame: 0, calls: BTreeSet::new() };
        let mut copy = None;
        let mut at = start;
        while at < start + size as u64 {
            let raw: [u8; 8] = word(sections[section].start + usize::try_from(at).unwrap());
            let (target, source) = (raw[1] & 15, raw[1] >> 4);
            let offset = i32::from(i16::from_le_bytes([raw[2], raw[3]]));
            let value = i32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]);
            let mut below = |offset: i32| function.frame = function.frame.max(offset.min(0).unsigned_abs());
            match raw[0] {
                // Loads, stores, and additions to a copy of the frame pointer.
                code if code & 7 == 1 && source == 10 => below(offset),
                code if matches!(code & 7, 2 | 3) && target == 10 => below(offset),
                0x07 if copy == Some(target) => below(value),
                0x85 if source == 1 => {
                    let called = match relocated.get(&(section, at)).map(|&number| symbol(number)) {
                        Some((_, FUNCTION, place, _)) => place,
                        Some((_, _, (section, base), _)) => {
                            (section, base + 8 * (i64::from(value) + 1) as u64)
                        }
                        None => (section, at.wrapping_add_signed(8 * (i64::from(value) + 1))),
                    };
                    function.calls.insert(called);
                }
                _ => {}
            }
            copy = (raw[0] == 0xbf && source == 10).then_some(target);
            at += if raw[0] == 0x18 { 16 } else { 8 };
        }
        functions.insert((section, start), function);
    }
    functions
}

/// The chain below `place` that needs most: its bytes, and its frames.
fn deepest(functions: &BTreeMap<Place, Function>, place: Place, above: usize) -> (u32, Vec<String>) {
    assert!(above < CALLS, "more than {CALLS} frames at {}", functions[&place].name);
    let function = &functions[&place];
    let below = function.calls.iter().map(|&called| deepest(functions, called, above + 1)).max();
    let (bytes, mut chain) = below.unwrap_or_default();
    chain.insert(0, format!("{} ({})", function.name, function.frame));
    (bytes + function.frame.max(1).next_multiple_of(FRAME), chain)
}

#[test]
fn every_chain_of_calls_fits_the_stack_of_old_kernels() {
    let functions = functions();
    let programs: Vec<Place> =
        functions.iter().filter(|(_, function)| function.is_program).map(|(&place, _)| place).collect();
    assert_eq!(programs.len(), super::HOOKS.len());
    for place in programs {
        let (bytes, chain) = deepest(&functions, place, 0);
        // An empty frame of a program that calls nothing would mean that this reads nonsense.
        assert!(functions[&place].frame > 0 || !functions[&place].calls.is_empty());
        assert!(bytes <= STACK, "{bytes} bytes: {}", chain.join(" > "));
    }
}

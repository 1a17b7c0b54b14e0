//! Memory that a burst of alerts needed goes back to the system: the allocator keeps what is freed, and the agent shares its
//! host with others. It must not know what needed it.

use std::ffi::c_int;

use crate::host::itself;

/// Growth of what is the agent's own since it was last made small, from which on it is made small again.
const GROWTH: u64 = 4 << 20;

/// Before there is a second thread: glibc makes an arena for each, and what one of them freed is of no use to the others. The
/// threads here seldom allocate at the same time.
pub(super) fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets a number of the allocator's, and touches no memory.
        let is_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        if is_set == 0 {
            tracing::debug!("threads keep arenas of their own");
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What was the agent's own when it was last made small, bytes.
    small: u64,
}

impl Memory {
    /// Call it about once a second: it costs a read of a line.
    pub(super) fn look(&mut self) {
        if own().is_some_and(|bytes| bytes > self.small.saturating_add(GROWTH)) {
            self.give_back();
        }
    }

    pub(super) fn give_back(&mut self) {
        #[cfg(target_env = "gnu")]
        // SAFETY: gives free pages back, and touches no memory that is in use.
        unsafe {
            libc::malloc_trim(0)
        };
        give_code_back();
        self.small = own().unwrap_or(u64::MAX);
    }
}

/// What ran or was read only once, at the start for instance, need not stay in memory; who runs it after all has it mapped from the
/// page cache again.
fn give_code_back() {
    // SAFETY: the function has the type that is asked for, keeps nothing that it is given, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(give_segments_back), std::ptr::null_mut()) };
}

/// Of the program itself, which is the first that is shown. Segments that can be written are left alone: the dynamic linker wrote into
/// them, and only they can hold what the file does not.
unsafe extern "C" fn give_segments_back(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> c_int {
    // SAFETY: the C library shows a valid description for the length of the call.
    let info = unsafe { &*info };
    let headers = if info.dlpi_phdr.is_null() {
        &[][..]
    } else {
        // SAFETY: so many headers lie there, for as long as the program is mapped.
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) }
    };
    let page = rustix::param::page_size() as u64;
    for header in
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0)
    {
        let start = (info.dlpi_addr + header.p_vaddr).next_multiple_of(page);
        let end = (info.dlpi_addr + header.p_vaddr + header.p_memsz) / page * page;
        if start < end {
            // SAFETY: whole pages of one segment, which are mapped from the file and were never written.
            unsafe { libc::madvise(start as *mut libc::c_void, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    // One is enough.
    1
}

/// Bytes in memory that are no file's: the second number of `/proc/self/statm` is the resident set, in pages, the third those of files.
/// Code comes back when it runs, and is no reason to give something back.
fn own() -> Option<u64> {
    let text = itself::text("statm");
    let mut pages = text.split(' ').skip(1).map(str::parse::<u64>);
    let (all, of_files) = (pages.next()?.ok()?, pages.next()?.ok()?);
    all.saturating_sub(of_files).checked_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_goes_back() {
        let mut memory = Memory::default();
        // Small ones, which the allocator would keep. So many that what other tests do meanwhile does not matter.
        let many: Vec<Box<[u8; 1000]>> = (0..128_000_u32).map(|n| Box::new([n as u8; 1000])).collect();
        let most = own().unwrap();
        drop(many);
        memory.look();
        let rest = own().unwrap();
        assert!(rest + (64 << 20) < most, "{rest} of {most}");
    }
}

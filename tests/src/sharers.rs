//! `e2e share TAKER SOURCE DESTINATION`: two processes with one memory (`clone(CLONE_VM)`), of which one takes and the other
//! puts. TAKER is `child` or `parent`.
//!
//! Rust, because an interpreter does not survive another process in its memory. Parent and child use nothing but plain calls
//! and two words of the memory that they share. Also the interpreter that a test registers.

use std::{
    ffi::CString,
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail, ensure};

const STACK: usize = 1 << 18;
const CHUNK: usize = 1 << 20;

/// How many bytes stand in the buffer: -1 while it is to be filled, 0 at the end of the source.
static FILLED: AtomicI64 = AtomicI64::new(-1);
/// Address of the buffer; the child has no arguments.
static BUFFER: AtomicUsize = AtomicUsize::new(0);
/// The taker's and the putter's file: (path, whether to write).
static PATHS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Runs `e2e share` with what follows these words.
///
/// # Errors
/// When a file cannot be opened or the clone is refused.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let [taker, source, destination] = arguments else { bail!("usage: e2e share TAKER SOURCE DESTINATION") };
    let paths = [source, destination].map(|path| CString::new(path.as_str()));
    for (place, path) in PATHS.iter().zip(paths) {
        place.store(path.context("a path has a NUL")?.into_raw() as usize, Ordering::SeqCst);
    }
    BUFFER.store(vec![0_u8; CHUNK].leak().as_mut_ptr() as usize, Ordering::SeqCst);
    let (child, parent): (extern "C" fn(*mut libc::c_void) -> i32, extern "C" fn(*mut libc::c_void) -> i32) =
        match taker.as_str() {
            "child" => (take, put),
            "parent" => (put, take),
            other => bail!("{other} is neither child nor parent"),
        };
    let stack = vec![0_u8; STACK].leak();
    // SAFETY: the child runs on a stack of its own that is never freed and calls only `open`, `read` and `write`, which need
    // nothing of this process but its memory.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr().add(STACK).cast(),
            libc::CLONE_VM | libc::SIGCHLD,
            std::ptr::null_mut(),
        )
    };
    ensure!(pid > 0, "clone: {}", std::io::Error::last_os_error());
    let failed = parent(std::ptr::null_mut());
    let mut status = 0;
    // SAFETY: waits for the child that was just made, into a word of ours.
    ensure!(unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid, "the child cannot be waited for");
    ensure!(failed == 0 && status == 0, "one of the two failed ({failed}, {status})");
    Ok(())
}

/// As the interpreter of `binfmt_misc`: copies the file that the kernel opened for it (`AT_EXECFD`).
pub(crate) fn copy_what_was_handed_over(copy: &Path) -> ExitCode {
    // SAFETY: asks for a number.
    let handed = unsafe { libc::getauxval(libc::AT_EXECFD) };
    let Ok(number) = i32::try_from(handed) else { return ExitCode::FAILURE };
    // SAFETY: the kernel opened it for this process, and nothing else in here owns it.
    let mut source = File::from(unsafe { OwnedFd::from_raw_fd(number) });
    let copied = File::create(copy).and_then(|mut copy| std::io::copy(&mut source, &mut copy));
    if copied.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Opens the path of one part.
fn open(part: usize, flags: i32) -> Option<File> {
    let path = PATHS[part].load(Ordering::SeqCst) as *const libc::c_char;
    // SAFETY: a string that was made by `main` and is never freed.
    let fd = unsafe { libc::open(path, flags, 0o600) };
    // SAFETY: a new descriptor that nothing else owns.
    (fd >= 0).then(|| File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn wait(filled: bool) -> i64 {
    loop {
        let now = FILLED.load(Ordering::SeqCst);
        if (now >= 0) == filled {
            return now;
        }
        std::thread::yield_now();
    }
}

extern "C" fn take(_: *mut libc::c_void) -> i32 {
    let Some(source) = open(0, libc::O_RDONLY) else { return 1 };
    loop {
        wait(false);
        let buffer = BUFFER.load(Ordering::SeqCst) as *mut libc::c_void;
        // SAFETY: the buffer is as long as that and is ours until it is said to be filled.
        let n = unsafe { libc::read(source.as_raw_fd(), buffer, CHUNK) };
        FILLED.store(n.max(0) as i64, Ordering::SeqCst);
        if n <= 0 {
            return i32::from(n < 0);
        }
    }
}

extern "C" fn put(_: *mut libc::c_void) -> i32 {
    let Some(target) = open(1, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC) else { return 1 };
    loop {
        let n = wait(true);
        if n == 0 {
            return 0;
        }
        let buffer = BUFFER.load(Ordering::SeqCst) as *const libc::c_void;
        // SAFETY: so many bytes of the buffer are filled, and it is ours until it is said to be empty.
        if unsafe { libc::write(target.as_raw_fd(), buffer, n as usize) } != n as isize {
            return 1;
        }
        FILLED.store(-1, Ordering::SeqCst);
    }
}

//! Reads a file that steers a root process: only from where nobody but root and the running user can write. It must
//! not know what is in it.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::{MAX_FILE_BYTES, diagnostic::Diagnostic};

const STICKY: u32 = 0o1000;
const WORLD_WRITABLE: u32 = 0o002;

/// The text of a regular file of at most [`MAX_FILE_BYTES`] in UTF-8.
///
/// # Errors
/// It cannot be read, or somebody else could have written it: the file or a directory above it is owned by another user
/// than root and the running one, or is writable by everyone. (A sticky directory such as the system's scratch folder may stand
/// above it: there, nobody can replace what he does not own.)
pub fn read(file: &Path) -> Result<String, Diagnostic> {
    let failed = |what: &str, error: std::io::Error| {
        Diagnostic::of_file(file, format!("cannot {what} the file: {}", describe(&error)))
    };
    // The real path is the one that is checked and opened, so that a link cannot lead past the checks. Its directories
    // are trusted before it is opened, so nobody can exchange it in between.
    let real = file.canonicalize().map_err(|error| failed("find", error))?;
    check_ancestors(file, &real)?;
    // NONBLOCK: opening a FIFO must not hang the agent.
    let mut handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(&real)
        .map_err(|error| failed("open", error))?;
    let metadata = handle.metadata().map_err(|error| failed("examine", error))?;
    if !metadata.is_file() {
        return Err(Diagnostic::of_file(file, "not a regular file").help("name a YAML file"));
    }
    check_owner(file, &real, &metadata, "the file")?;
    if metadata.mode() & WORLD_WRITABLE != 0 {
        return Err(world_writable(file, &real, "the file"));
    }
    read_text(file, &mut handle)
}

/// Refuses a directory of rule packs into which somebody else could put a file.
///
/// # Errors
/// As for [`read`]; being sticky does not help here, for a new file would be read too.
pub fn check_directory(directory: &Path) -> Result<(), Diagnostic> {
    let failed = |error: std::io::Error| {
        Diagnostic::of_file(directory, format!("cannot examine the directory: {}", describe(&error)))
    };
    let real = directory.canonicalize().map_err(failed)?;
    let metadata = real.metadata().map_err(failed)?;
    if metadata.mode() & WORLD_WRITABLE != 0 {
        return Err(world_writable(directory, &real, "the directory"));
    }
    check_owner(directory, &real, &metadata, "the directory")?;
    check_ancestors(directory, &real)
}

fn check_ancestors(named: &Path, real: &Path) -> Result<(), Diagnostic> {
    for above in real.ancestors().skip(1) {
        let metadata = above.metadata().map_err(|error| {
            Diagnostic::of_file(named, format!("cannot examine `{}`: {}", above.display(), describe(&error)))
        })?;
        let what = format!("the directory `{}` above it", above.display());
        check_owner(named, above, &metadata, &what)?;
        if metadata.mode() & WORLD_WRITABLE != 0 && metadata.mode() & STICKY == 0 {
            return Err(world_writable(named, above, &what));
        }
    }
    Ok(())
}

fn check_owner(named: &Path, real: &Path, metadata: &Metadata, what: &str) -> Result<(), Diagnostic> {
    let us = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    if owner == 0 || owner == us {
        return Ok(());
    }
    let message = format!("{what} is owned by user {owner}, who could change what the agent does");
    Err(Diagnostic::of_file(named, message).help(format!("run `chown {us} {}`", real.display())))
}

fn world_writable(named: &Path, real: &Path, what: &str) -> Diagnostic {
    Diagnostic::of_file(named, format!("{what} is writable by everyone"))
        .help(format!("run `chmod o-w {}`", real.display()))
}

fn read_text(file: &Path, handle: &mut File) -> Result<String, Diagnostic> {
    let mut bytes = Vec::new();
    handle
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Diagnostic::of_file(file, format!("cannot read the file: {}", describe(&error))))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("the file is larger than {MAX_FILE_BYTES} bytes");
        return Err(Diagnostic::of_file(file, message).help("split it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let mut fault =
            Diagnostic::of_file(file, format!("line {line} is not UTF-8")).help("save it as UTF-8");
        fault.line = u32::try_from(line).unwrap_or(u32::MAX);
        fault.column = 1;
        fault
    })
}

/// The error in words, without the number that the standard library adds.
fn describe(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn what_everyone_can_write_is_refused_with_the_remedy() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let directory = scratch.path().join("rules.d");
        fs::create_dir(&directory).expect("mkdir");
        let file = directory.join("site.yaml");
        fs::write(&file, "schema: 1\n").expect("write");
        set_mode(&directory, 0o755);
        set_mode(&file, 0o644);
        assert_eq!(read(&file).expect("it is fine"), "schema: 1\n");
        check_directory(&directory).expect("it is fine");

        set_mode(&file, 0o646);
        let fault = read(&file).expect_err("everyone can write the file");
        assert_eq!(fault.message, "the file is writable by everyone");
        assert!(fault.help.expect("a remedy").starts_with("run `chmod o-w "));
        set_mode(&file, 0o644);

        set_mode(&directory, 0o777);
        assert!(
            read(&file)
                .expect_err("everyone can replace the file")
                .message
                .ends_with("is writable by everyone")
        );
        set_mode(&directory, 0o1777);
        read(&file).expect("nobody else can replace the file");
        let fault = check_directory(&directory).expect_err("everyone can add a file");
        assert_eq!(fault.message, "the directory is writable by everyone");
    }

    #[test]
    fn a_link_does_not_lead_past_the_checks() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let open = scratch.path().join("open");
        fs::create_dir(&open).expect("mkdir");
        fs::write(open.join("a.yaml"), "schema: 1\n").expect("write");
        set_mode(&open, 0o777);
        let link = scratch.path().join("link.yaml");
        std::os::unix::fs::symlink(open.join("a.yaml"), &link).expect("symlink");
        assert!(read(&link).is_err());
    }

    #[test]
    fn what_is_no_text_file_is_refused() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let file = scratch.path().join("a.yaml");
        assert_eq!(
            read(&file).expect_err("absent").message,
            "cannot find the file: no such file or directory"
        );
        assert_eq!(read(scratch.path()).expect_err("a directory").message, "not a regular file");
        fs::write(&file, b"a: 1\nb: \xff\n").expect("write");
        let fault = read(&file).expect_err("not UTF-8");
        assert_eq!((fault.line, fault.message.as_str()), (2, "line 2 is not UTF-8"));
        fs::write(&file, vec![b'#'; 2 << 20]).expect("write");
        assert_eq!(read(&file).expect_err("too large").message, "the file is larger than 1048576 bytes");
    }
}

//! What lies in the state directory: names, sizes and modes, for what is in these files is the agent's. It must not open any of them.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use serde_json::{Value, json};

/// Files that are listed, and directories that are looked into. An agent has some dozens.
const MOST: usize = 10_000;
/// What is beyond is only counted, and no further than this.
const COUNTED: usize = 1_000_000;

/// One document.
///
/// # Errors
///
/// In words, when the directory cannot be listed.
pub(super) fn listed(state_dir: &Path) -> Result<String, String> {
    Ok(format!("{}\n", list(state_dir, MOST, COUNTED)?))
}

/// Of more than `most` entries the rest is counted as `left_out`, up to `counted`; what cannot be examined as `unreadable`.
fn list(state_dir: &Path, most: usize, counted: usize) -> Result<Value, String> {
    let (mut rows, mut left_out, mut unreadable) = (Vec::new(), 0_usize, 0_usize);
    let mut open = vec![state_dir.to_owned()];
    // Whether what is left out was counted whole.
    let (mut opened, mut is_all) = (0, true);
    while let Some(folder) = open.pop() {
        opened += 1;
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if opened == 1 => return Err(format!("{}: {error}", folder.display())),
            Err(_) => {
                unreadable += 1;
                continue;
            }
        };
        for entry in entries {
            if left_out >= counted {
                is_all = false;
                break;
            }
            let found = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)));
            let Ok((path, facts)) = found else {
                unreadable += 1;
                continue;
            };
            if facts.is_dir() {
                if opened + open.len() < most {
                    open.push(path.clone());
                } else {
                    is_all = false;
                }
            }
            if rows.len() >= most {
                left_out += 1;
                continue;
            }
            let name = path.strip_prefix(state_dir).unwrap_or(&path).display().to_string();
            rows.push(json!({"name": name, "bytes": facts.size(), "mode": format!("{:o}", facts.mode()), "uid": facts.uid()}));
        }
    }
    Ok(json!({
        "schema": 1, "state_dir": state_dir, "files": rows, "left_out": left_out, "left_out_is_all": is_all, "unreadable": unreadable,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_counted() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("spool")).unwrap();
        for name in ["a", "b", "c", "spool/d", "spool/e"] {
            fs::write(state.path().join(name), name).unwrap();
        }
        let counts = |most, counted| {
            let said = list(state.path(), most, counted).unwrap();
            let files = said["files"].as_array().unwrap().len();
            (files, said["left_out"].as_u64().unwrap(), said["left_out_is_all"].as_bool().unwrap())
        };
        assert_eq!(counts(10, 10), (6, 0, true));
        assert_eq!(counts(2, 10), (2, 4, true));
        assert_eq!(counts(1, 10), (1, 3, false), "a folder that is not looked into");
        assert_eq!(counts(2, 3), (2, 3, false));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let gone = Path::new("/nonexistent-weighbridge");
        assert!(listed(gone).unwrap_err().starts_with("/nonexistent-weighbridge: "));
    }
}

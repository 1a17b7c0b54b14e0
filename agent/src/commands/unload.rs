//! `weighbridge unload`: removes every pin, so that nothing weighs on.

use std::path::Path;

use serde_json::json;

use super::{OK, Output, fail, print};
use crate::{
    pipeline::{Failure, Unfit, bpffs},
    sensor::{PinError, Pins},
};

pub(super) fn unload(config: Option<&Path>, output: Output) -> u8 {
    match remove(config) {
        Ok(removed) => {
            print(&say(&removed, output));
            OK
        }
        Err(failure) => fail(&failure, output),
    }
}

/// The directories that were removed, with the names of what was pinned in each.
fn remove(config: Option<&Path>) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let unfit = |error: PinError| Failure::from(Unfit::Sensor(error.into()));
    let Some(bpffs) = bpffs()? else { return Ok(Vec::new()) };
    let state_dir = match config {
        Some(file) => {
            let config = crate::config::load(file)
                .map_err(|faults| Failure::Invalid { file: file.to_owned(), faults })?;
            Some(config.state_dir)
        }
        None => None,
    };
    Pins::left(&bpffs, state_dir.as_deref())
        .map_err(unfit)?
        .into_iter()
        .map(|pins| {
            let path = pins.path().display().to_string();
            pins.remove().map(|names| (path, names)).map_err(unfit)
        })
        .collect()
}

fn say(removed: &[(String, Vec<String>)], output: Output) -> String {
    if output == Output::Json {
        let removed: Vec<_> =
            removed.iter().map(|(directory, pins)| json!({"directory": directory, "pins": pins})).collect();
        return format!("{}\n", json!({"schema": 1, "removed": removed}));
    }
    if removed.is_empty() {
        return "nothing is pinned\n".to_owned();
    }
    let mut text = String::new();
    for (directory, pins) in removed {
        let links = pins.iter().filter(|name| name.starts_with("link_")).count();
        text.push_str(&format!(
            "removed {directory}: {links} links, {} maps; nothing is weighed until the agent starts again\n",
            pins.len() - links
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_removed() {
        let removed =
            [("/b/weighbridge/1f".to_owned(), ["link_a", "link_b", "FLOWS"].map(str::to_owned).to_vec())];
        insta::assert_snapshot!(say(&removed, Output::Text), @"removed /b/weighbridge/1f: 2 links, 1 maps; nothing is weighed until the agent starts again");
        insta::assert_snapshot!(say(&removed, Output::Json), @r#"{"removed":[{"directory":"/b/weighbridge/1f","pins":["link_a","link_b","FLOWS"]}],"schema":1}"#);
        insta::assert_snapshot!(say(&[], Output::Text), @"nothing is pinned");
    }
}

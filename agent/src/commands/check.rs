//! `weighbridge check`: everything that is wrong with a configuration, at once.

use std::path::Path;

use serde_json::json;

use super::{OK, Output, fail, print};
use crate::{host::inventory::size, pipeline::prepare};

pub(super) fn check(config: &Path, output: Output) -> u8 {
    let prepared = match prepare(config) {
        Ok(prepared) => prepared,
        Err(failure) => return fail(&failure, output),
    };
    let files = prepared.registry.files();
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    if output == Output::Json {
        let report = json!({
            "schema": 1,
            "config": prepared.config.file,
            "assets": prepared.config.assets.len(),
            "files": files.len(),
            "bytes": bytes,
            "rules": prepared.rules.rules().iter().map(|rule| &rule.facts.id).collect::<Vec<_>>(),
            "rules_digest": prepared.rules.digest(),
            "warnings": prepared.warnings,
        });
        print(&format!("{report}\n"));
        return OK;
    }
    for warning in &prepared.warnings {
        print(&format!("warning: {warning}\n"));
    }
    print(&format!(
        "{}: ok: {} assets, {} files, {}; {} rules\n",
        config.display(),
        prepared.config.assets.len(),
        files.len(),
        size(bytes),
        prepared.rules.rules().len()
    ));
    OK
}

//! `weighbridge inventory`: the registry of measure 12.3(a).

use std::path::Path;

use super::{INTERNAL, OK, Output, fail, print};
use crate::{host::inventory::Inventory, pipeline::prepare};

pub(super) fn inventory(config: &Path, output: Output) -> u8 {
    let prepared = match prepare(config) {
        Ok(prepared) => prepared,
        Err(failure) => return fail(&failure, output),
    };
    let inventory = Inventory::new(&prepared.config, &prepared.registry);
    match output {
        Output::Text => print(&inventory.text()),
        Output::Json => match inventory.json() {
            Ok(json) => print(&format!("{json}\n")),
            Err(_) => return INTERNAL,
        },
    }
    OK
}

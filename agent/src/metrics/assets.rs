//! Series of assets: a thousand assets are thirteen thousand series, which the client library takes too long to gather and to
//! write. So they are kept here as numbers and written as text when somebody asks. It must not know who counts what.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::event::Control;

const CONTROLS: usize = Control::ALL.len();

/// Of all assets, by name. All methods may be called from any thread.
#[derive(Debug, Default)]
pub(super) struct AssetSeries(Mutex<BTreeMap<String, Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    /// `None` until it is registered.
    bytes: Option<u64>,
    /// By control, in the order of [`Control::ALL`].
    flow: [u64; CONTROLS],
    egress: [u64; CONTROLS],
    /// Name and sum.
    windows: Vec<(&'static str, u64)>,
}

impl AssetSeries {
    /// An asset has this size. Returns how many are registered.
    pub(super) fn set_bytes(&self, asset: &str, bytes: u64) -> usize {
        let mut all = self.all();
        entry(&mut all, asset).bytes = Some(bytes);
        all.values().filter(|numbers| numbers.bytes.is_some()).count()
    }

    pub(super) fn add(&self, asset: &str, control: Control, bytes: u64, leaves: bool) {
        let Some(place) = Control::ALL.iter().position(|known| *known == control) else { return };
        let mut all = self.all();
        let numbers = entry(&mut all, asset);
        numbers.flow[place] = numbers.flow[place].saturating_add(bytes);
        if leaves {
            numbers.egress[place] = numbers.egress[place].saturating_add(bytes);
        }
    }

    pub(super) fn set_windows<'a>(&self, sums: impl IntoIterator<Item = (&'a str, &'static str, u64)>) {
        let mut all = self.all();
        for (asset, window, bytes) in sums {
            let windows = &mut entry(&mut all, asset).windows;
            match windows.iter_mut().find(|(known, _)| *known == window) {
                Some((_, sum)) => *sum = bytes,
                None => windows.push((window, bytes)),
            }
        }
    }

    /// Appends all of them in Prometheus' text format.
    pub(super) fn write(&self, text: &mut String) {
        let all = self.all();
        let names: Vec<(String, &Numbers)> =
            all.iter().map(|(name, numbers)| (escaped(name), numbers)).collect();
        head(text, "asset_bytes", "gauge", "Total size of an asset: what shares are shares of.");
        for (name, bytes) in names.iter().filter_map(|(name, numbers)| Some((name, numbers.bytes?))) {
            line(text, format_args!("asset_bytes{{asset=\"{name}\"}} {bytes}"));
        }
        head(
            text,
            "flow_bytes_total",
            "counter",
            "Growth of bounds: bytes of an asset that can have moved, by control of where to.",
        );
        by_control(text, "flow_bytes_total", names.iter().map(|(name, numbers)| (name, &numbers.flow)));
        head(
            text,
            "egress_bytes_total",
            "counter",
            "The part of flow_bytes_total that left the host: to a peer, a removable medium or an unmetered channel.",
        );
        by_control(text, "egress_bytes_total", names.iter().map(|(name, numbers)| (name, &numbers.egress)));
        head(
            text,
            "egress_window_bytes",
            "gauge",
            "Sum of what of an asset may have left the host to uncontrolled places and unmetered channels within a window; it \
             outlives the agent and the boot.",
        );
        for (name, numbers) in &names {
            for (window, bytes) in &numbers.windows {
                line(
                    text,
                    format_args!("egress_window_bytes{{asset=\"{name}\",window=\"{window}\"}} {bytes}"),
                );
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Numbers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(all: &'a mut BTreeMap<String, Numbers>, asset: &str) -> &'a mut Numbers {
    all.entry(asset.to_owned()).or_default()
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = write!(text, "# HELP weighbridge_{name} {help}\n# TYPE weighbridge_{name} {kind}\n");
}

/// One line for each control of each asset.
fn by_control<'a>(
    text: &mut String,
    series: &str,
    assets: impl Iterator<Item = (&'a String, &'a [u64; CONTROLS])>,
) {
    for (name, sums) in assets {
        for (control, bytes) in Control::ALL.iter().zip(sums) {
            let control = control.as_str();
            line(text, format_args!("{series}{{asset=\"{name}\",control=\"{control}\"}} {bytes}"));
        }
    }
}

fn line(text: &mut String, series: std::fmt::Arguments<'_>) {
    let _ = writeln!(text, "weighbridge_{series}");
}

/// The value of a label between its quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_label() {
        let series = AssetSeries::default();
        assert_eq!(series.set_bytes("a\"b\\\nc", 7), 1);
        let mut text = String::new();
        series.write(&mut text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines[0], r#"weighbridge_asset_bytes{asset="a\"b\\\nc"} 7"#);
        assert_eq!(lines.len(), 1 + 2 * CONTROLS);
    }

    #[test]
    fn a_window_is_set_and_a_flow_adds_up() {
        let series = AssetSeries::default();
        series.set_windows([("llm", "24h", 5), ("llm", "30d", 6)]);
        series.set_windows([("llm", "24h", 4)]);
        series.add("llm", Control::Uncontrolled, 3, true);
        series.add("llm", Control::Uncontrolled, u64::MAX, false);
        let mut text = String::new();
        series.write(&mut text);
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        has(r#"weighbridge_egress_window_bytes{asset="llm",window="24h"} 4"#);
        has(r#"weighbridge_egress_window_bytes{asset="llm",window="30d"} 6"#);
        has(r#"weighbridge_egress_bytes_total{asset="llm",control="uncontrolled"} 3"#);
        has(r#"weighbridge_flow_bytes_total{asset="llm",control="uncontrolled"} 18446744073709551615"#);
        assert!(!text.contains("asset_bytes{asset"), "it is not registered");
    }
}

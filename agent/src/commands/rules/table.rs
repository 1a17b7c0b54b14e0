//! Columns of text for a terminal. It must not know what is in them.

use crate::rules::{Mode, Severity};

/// Text in a colour, if there are any.
pub(in crate::commands) fn paint(colour: bool, code: &str, text: &str) -> String {
    if colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub(in crate::commands) const fn severity_code(severity: Severity) -> &'static str {
    match severity {
        Severity::Informational => "2",
        Severity::Low => "36",
        Severity::Medium => "33",
        Severity::High => "31",
        Severity::Critical => "1;31",
    }
}

pub(super) const fn mode_code(mode: Mode) -> &'static str {
    match mode {
        Mode::Alert => "32",
        Mode::Shadow => "33",
        Mode::Off => "2",
    }
}

/// A cell: its text, and the code of its colour.
pub(super) type Cell = (String, &'static str);

/// Rows below a header, each column as wide as its widest cell; the last is not filled up.
pub(super) fn render(header: &[&str], rows: &[Vec<Cell>], colour: bool) -> String {
    let mut widths: Vec<usize> = header.iter().map(|text| text.chars().count()).collect();
    for row in rows {
        for (width, (text, _)) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = (&str, &str)>| {
        let mut out = String::new();
        for (at, (text, code)) in cells.enumerate() {
            out += &paint(colour, code, text);
            if at + 1 < widths.len() {
                let fill = widths[at].saturating_sub(text.chars().count()) + 2;
                out.extend(std::iter::repeat_n(' ', fill));
            }
        }
        out.push('\n');
        out
    };
    let mut out = line(&mut header.iter().map(|text| (*text, "1")));
    for row in rows {
        out += &line(&mut row.iter().map(|(text, code)| (text.as_str(), *code)));
    }
    out
}

pub(super) fn plain(text: impl Into<String>) -> Cell {
    (text.into(), "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_is_coloured_off_a_terminal() {
        let rows = [vec![plain("WB-0001"), plain("ä")], vec![plain("X-1"), (String::from("high"), "31")]];
        assert_eq!(render(&["id", "what"], &rows, false), "id       what\nWB-0001  ä\nX-1      high\n");
        assert!(render(&["id", "what"], &rows, true).contains("\x1b[31mhigh\x1b[0m"));
    }
}

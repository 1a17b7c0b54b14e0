//! What is wrong with a file, where, and what to do about it. It must not know how the fault was found.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::{Serialize, Serializer};

use super::tree::{Source, Span};

/// Whether a file can be used in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It can, and somebody should look.
    Warning,
    /// It cannot.
    Error,
}

/// One fault. Serialises for `-o json` as `{weight, file, line, column, message, help}`.
#[derive(Clone, Serialize)]
pub struct Diagnostic {
    pub weight: Weight,
    /// As the caller named it.
    #[serde(serialize_with = "display_path")]
    pub file: PathBuf,
    /// From 1; 0 when the whole file is meant.
    pub line: u32,
    /// In characters, from 1; 0 when the whole file is meant.
    pub column: u32,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// The remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The text to underline.
    #[serde(skip)]
    excerpt: Option<(Arc<Source>, Range<usize>)>,
}

fn display_path<S: Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Most characters of a message; a file can hold a word of any length.
const MAX_MESSAGE: usize = 600;

/// Control characters could rewrite the terminal of whoever reads the report, and a long word could flood it.
fn clean(text: impl Into<String>) -> String {
    let mut text: String = text.into();
    if let Some((end, _)) = text.char_indices().nth(MAX_MESSAGE) {
        text.truncate(end);
        text.push('…');
    }
    if text.contains(char::is_control) { text.replace(char::is_control, "\u{fffd}") } else { text }
}

impl Diagnostic {
    /// A fault of a whole file (it cannot be read, it is writable by others).
    pub fn of_file(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self {
            weight: Weight::Error,
            file: file.into(),
            line: 0,
            column: 0,
            message: clean(message),
            help: None,
            excerpt: None,
        }
    }

    /// A fault at a place in a file.
    pub fn at(source: &Arc<Source>, span: Span, message: impl Into<String>) -> Self {
        Self {
            weight: Weight::Error,
            file: source.file.clone(),
            line: span.line,
            column: span.column,
            message: clean(message),
            help: None,
            excerpt: Some((source.clone(), span.start as usize..span.end as usize)),
        }
    }

    /// The same fault with a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(clean(help));
        self
    }

    /// The same fault as one that stops nothing.
    #[must_use]
    pub const fn warning(mut self) -> Self {
        self.weight = Weight::Warning;
        self
    }

    /// For people: the message, `file:line:column`, the line with the offending text underlined, the remedy.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let path = clean(self.file.display().to_string());
        let level = match self.weight {
            Weight::Error => Level::ERROR,
            Weight::Warning => Level::WARNING,
        };
        let mut group = match self.underlined_line() {
            Some((line, span)) => level.primary_title(&self.message).element(
                Snippet::source(line)
                    .path(path)
                    .line_start(self.line as usize)
                    .annotation(AnnotationKind::Primary.span(span)),
            ),
            None => level.primary_title(&self.message).element(Origin::path(path)),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group])
    }

    /// The line of the fault and the part of it that is to be underlined. Only the first line of the fault is shown,
    /// so that one report stays short and its cost does not depend on the size of the file.
    fn underlined_line(&self) -> Option<(&str, Range<usize>)> {
        let (source, span) = self.excerpt.as_ref()?;
        let text = &source.text;
        let before = text.get(..span.start)?;
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text[begin..].lines().next().unwrap_or("");
        let start = (span.start - begin).min(line.len());
        let end = span.end.saturating_sub(begin).clamp(start, line.len());
        line.get(start..end).map(|_| (line, start..end))
    }
}

impl fmt::Debug for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Display for Diagnostic {
    /// One line: `file:line:column: message: help`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean(self.file.display().to_string()))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, ": {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// All of them for people, with an empty line between.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], color: bool) -> String {
    let texts: Vec<String> = diagnostics.iter().map(|diagnostic| diagnostic.render(color)).collect();
    texts.join("\n\n")
}

/// The remedy for a word that is none of `known`: the nearest one, or all of them when none is near.
#[must_use]
pub fn suggest(word: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), *candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, candidate)) if likeness >= 0.6 => format!("did you mean `{candidate}`?"),
        Some((_, only)) if known.len() == 1 => format!("write `{only}`"),
        Some(_) => format!("write one of {}", known.join(", ")),
        None => "remove it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    #[test]
    fn a_fault_is_underlined_with_its_remedy() {
        let text = "schema: 1\nasets: []\n";
        let (source, root) = parse("agent.yaml".as_ref(), text).expect("it is YAML");
        let crate::yaml::Value::Map(entries) = &root.value else { panic!("a map") };
        let fault = Diagnostic::at(&source, entries[1].key_span, "unknown key `asets`")
            .help(suggest("asets", &["assets"]));
        insta::assert_snapshot!(fault.render(false), @r#"
        error: unknown key `asets`
         --> agent.yaml:2:1
          |
        2 | asets: []
          | ^^^^^
          |
          = help: did you mean `assets`?
        "#);
        insta::assert_snapshot!(fault.to_string(), @"agent.yaml:2:1: unknown key `asets`: did you mean `assets`?");
        let json = serde_json::to_value(&fault).expect("it serialises");
        assert_eq!(
            json,
            serde_json::json!({"weight": "error", "file": "agent.yaml", "line": 2, "column": 1, "message": "unknown key `asets`",
                "help": "did you mean `assets`?"})
        );
        assert!(fault.render(true).contains('\u{1b}'));
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        let fault = Diagnostic::of_file("a\u{1b}[2Jb", "unknown key `\u{1b}[31m`").help("\u{1b}[0m");
        assert!(!fault.render(false).contains('\u{1b}'));
    }

    #[test]
    fn a_long_word_does_not_flood_the_terminal() {
        let fault = Diagnostic::of_file("f", format!("unknown key `{}`", "ü".repeat(100_000)));
        assert_eq!(fault.message.chars().count(), MAX_MESSAGE + 1);
    }
}

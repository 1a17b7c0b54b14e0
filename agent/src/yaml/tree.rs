//! The tree of a YAML file: maps, lists and scalars, each with its place. It must not know what they mean.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use super::{MAX_DEPTH, MAX_DIAGNOSTICS, MAX_FILE_BYTES, MAX_NODES, diagnostic::Diagnostic};

/// A file and its text, shared by the diagnostics about it.
#[derive(Debug)]
pub struct Source {
    /// As the caller named it.
    pub file: PathBuf,
    pub text: String,
}

/// A place in a [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// Byte offset of its first byte.
    pub start: u32,
    /// Byte offset after its last byte.
    pub end: u32,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub value: Value,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// Always the text as written: whoever reads it knows what type it must be.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    /// In the order of the file; keys are unique.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

impl Node {
    /// Whether nothing was written (`key:`), or one of YAML's words for nothing.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, quoted: false } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// The scalar that starts at a line and a column.
    #[must_use]
    pub fn scalar_at(&self, line: u32, column: u32) -> Option<&Self> {
        match &self.value {
            Value::Scalar { .. } => (self.span.line == line && self.span.column == column).then_some(self),
            Value::List(items) => items.iter().find_map(|item| item.scalar_at(line, column)),
            Value::Map(entries) => entries.iter().find_map(|entry| entry.value.scalar_at(line, column)),
        }
    }
}

/// Parses the one document of `text`. `file` is only its name in diagnostics.
///
/// # Errors
/// The syntax error that ended the parse, or every duplicate key, alias and tag (none of which is part of the grammar:
/// a value that is written out cannot hide what it is).
pub fn parse(file: &Path, text: &str) -> Result<(Arc<Source>, Node), Vec<Diagnostic>> {
    if text.len() as u64 > MAX_FILE_BYTES {
        let fault = Diagnostic::of_file(file, format!("the file is larger than {MAX_FILE_BYTES} bytes"));
        return Err(vec![fault.help("split it")]);
    }
    // A byte order mark is removed from the text, not skipped by the parser, so that offsets agree.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
    let source = Arc::new(Source { file: file.to_owned(), text });
    let mut builder = Builder { source: &source, open: Vec::new(), root: None, nodes: 0, faults: Vec::new() };
    let end = builder.run();
    let Builder { root, mut faults, .. } = builder;
    if let Err(fault) = end {
        faults.push(fault);
    }
    match root {
        Some(root) if faults.is_empty() => Ok((source, root)),
        None if faults.is_empty() => {
            let start = Span { line: 1, column: 1, start: 0, end: 0 };
            Err(vec![Diagnostic::at(&source, start, "the file is empty").help("write at least `schema: 1`")])
        }
        _ => Err(faults),
    }
}

/// A list or map whose end was not seen yet.
struct Open {
    value: Value,
    span: Span,
    /// The key whose value comes next; `None` in a list.
    key: Option<(String, Span)>,
    is_flow: bool,
}

struct Builder<'s> {
    source: &'s Arc<Source>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
    faults: Vec<Diagnostic>,
}

impl Builder<'_> {
    fn run(&mut self) -> Result<(), Diagnostic> {
        let options = granit_parser::options! {
            disallow_directives: true,
            emit_comments: false,
            emit_unresolved_aliases: true,
            flow_nesting_limit: MAX_DEPTH + 1,
            block_nesting_limit: MAX_DEPTH + 1,
        };
        let mut documents = 0;
        let source = self.source;
        for event in Parser::new_from_str_with_options(&source.text, options) {
            let (event, span) = event.map_err(|error| {
                let mark = error.marker();
                let place = self.place(*mark, *mark);
                Diagnostic::at(source, place, format!("not YAML: {}", lower_first(&error.info())))
            })?;
            let span = self.place(span.start, span.end);
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(Diagnostic::at(
                    source,
                    span,
                    format!("the file has more than {MAX_NODES} values"),
                )
                .help("split it"));
            }
            if self.faults.len() >= MAX_DIAGNOSTICS {
                return Err(Diagnostic::at(source, span, "too many errors: the rest was not read"));
            }
            match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(Diagnostic::at(source, span, "a second document in one file")
                            .help("put it into a file of its own"));
                    }
                }
                Event::Alias(_) | Event::UnresolvedAlias(_) => {
                    self.faults.push(
                        Diagnostic::at(source, span, "aliases are not read").help("write the value out"),
                    );
                    self.put(Value::Scalar { text: String::new(), quoted: true }, span);
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_properties(anchor, tag.is_some(), span);
                    let quoted = style != ScalarStyle::Plain;
                    self.put(Value::Scalar { text: text.into_owned(), quoted }, span);
                }
                Event::SequenceStart(style, anchor, tag) => {
                    self.refuse_properties(anchor, tag.is_some(), span);
                    self.start(Value::List(Vec::new()), span, style == granit_parser::StructureStyle::Flow)?;
                }
                Event::MappingStart(style, anchor, tag) => {
                    self.refuse_properties(anchor, tag.is_some(), span);
                    self.start(Value::Map(Vec::new()), span, style == granit_parser::StructureStyle::Flow)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(span),
                _ => {}
            }
        }
        Ok(())
    }

    fn place(&self, start: granit_parser::Marker, end: granit_parser::Marker) -> Span {
        let length = self.source.text.len();
        let offset = |mark: granit_parser::Marker| mark.byte_offset().unwrap_or(length).min(length) as u32;
        Span {
            line: u32::try_from(start.line()).unwrap_or(u32::MAX),
            column: u32::try_from(start.col() + 1).unwrap_or(u32::MAX),
            start: offset(start),
            end: offset(end),
        }
    }

    fn refuse_properties(&mut self, anchor: usize, has_tag: bool, span: Span) {
        if anchor != 0 {
            self.faults.push(
                Diagnostic::at(self.source, span, "anchors are not read")
                    .help("remove it and write the value out where it is used"),
            );
        }
        if has_tag {
            self.faults.push(Diagnostic::at(self.source, span, "tags are not read").help("remove it"));
        }
    }

    fn start(&mut self, value: Value, span: Span, is_flow: bool) -> Result<(), Diagnostic> {
        if self.open.len() >= MAX_DEPTH {
            let message = format!("maps and lists are nested deeper than {MAX_DEPTH}");
            return Err(Diagnostic::at(self.source, span, message).help("flatten it"));
        }
        if let Some(Open { value: Value::Map(_), key: None, .. }) = self.open.last() {
            return Err(Diagnostic::at(self.source, span, "a key that is a map or a list")
                .help("write a plain word as key"));
        }
        self.open.push(Open { value, span, key: None, is_flow });
        Ok(())
    }

    fn end(&mut self, span: Span) {
        let Some(mut done) = self.open.pop() else { return };
        // A flow collection is underlined to its bracket, a block one at its first key or item.
        if done.is_flow {
            done.span.end = span.end;
        } else if let Value::Map(entries) = &done.value {
            if let Some(first) = entries.first() {
                done.span = first.key_span;
            }
        } else if let Value::List(items) = &done.value
            && let Some(first) = items.first()
        {
            done.span = first.span;
        }
        self.put(done.value, done.span);
    }

    fn put(&mut self, value: Value, span: Span) {
        let source = self.source;
        let Some(open) = self.open.last_mut() else {
            self.root = Some(Node { value, span });
            return;
        };
        match (&mut open.value, open.key.take()) {
            (Value::List(items), _) => items.push(Node { value, span }),
            (Value::Map(_), None) => {
                if let Value::Scalar { text, .. } = value {
                    open.key = Some((text, span));
                }
            }
            (Value::Map(entries), Some((key, key_span))) => {
                // Quadratic in the keys of one map; MAX_NODES and the diagnostics' limit bound it.
                match entries.iter().find(|entry| entry.key == key) {
                    Some(first) => self.faults.push(
                        Diagnostic::at(source, key_span, format!("duplicate key `{key}`")).help(format!(
                            "it is first written in line {}: keep one of the two",
                            first.key_span.line
                        )),
                    ),
                    None => entries.push(Entry { key, key_span, value: Node { value, span } }),
                }
            }
            (Value::Scalar { .. }, _) => {}
        }
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::yaml::render;

    fn fails(text: &str) -> String {
        render(&parse("f.yaml".as_ref(), text).expect_err("it is wrong"), false)
    }

    #[test]
    fn every_value_knows_its_place() {
        let (source, root) =
            parse("f.yaml".as_ref(), "a: [ü, {b: \"9e2\"}]\nc:\n  d: off\n").expect("it is YAML");
        let Value::Map(entries) = &root.value else { panic!("a map") };
        let b = root.scalar_at(1, 12).expect("the digest");
        assert!(matches!(&b.value, Value::Scalar { text, quoted: true } if text == "9e2"));
        assert_eq!(&source.text[b.span.start as usize..b.span.end as usize], "\"9e2\"");
        let list = &entries[0].value.span;
        assert_eq!(&source.text[list.start as usize..list.end as usize], "[ü, {b: \"9e2\"}]");
        assert_eq!((entries[1].value.span.line, entries[1].value.span.column), (3, 3));
    }

    #[test]
    fn duplicates_aliases_and_tags_are_all_reported() {
        insta::assert_snapshot!(fails("a: 1\nb: &x [1]\na: *x\nc: !!int 3\n"), @r#"
        error: anchors are not read
         --> f.yaml:2:7
          |
        2 | b: &x [1]
          |       ^
          |
          = help: remove it and write the value out where it is used

        error: aliases are not read
         --> f.yaml:3:4
          |
        3 | a: *x
          |    ^^
          |
          = help: write the value out

        error: duplicate key `a`
         --> f.yaml:3:1
          |
        3 | a: *x
          | ^
          |
          = help: it is first written in line 1: keep one of the two

        error: tags are not read
         --> f.yaml:4:10
          |
        4 | c: !!int 3
          |          ^
          |
          = help: remove it
        "#);
    }

    #[test]
    fn bombs_are_refused() {
        let deep = "[".repeat(200_000);
        assert_eq!(parse("f".as_ref(), &deep).expect_err("too deep").len(), 1);
        let wide = "- a\n".repeat(100_000);
        assert_eq!(parse("f".as_ref(), &wide).expect_err("too many").len(), 1);
        let large = "#".repeat(2 << 20);
        assert_eq!(parse("f".as_ref(), &large).expect_err("too large").len(), 1);
        let many: String = (0..40_000).map(|_| "a: 1\n").collect();
        assert!(parse("f".as_ref(), &many).expect_err("duplicates").len() <= MAX_DIAGNOSTICS + 1);
    }

    #[test]
    fn syntax_errors_have_a_place() {
        insta::assert_snapshot!(fails("a: [1, 2\nb: 3\n"), @r#"
        error: not YAML: illegal placement of ':' indicator
         --> f.yaml:2:2
          |
        2 | b: 3
          |  ^
        "#);
        insta::assert_snapshot!(fails("a: 1\n---\nb: 2\n"), @r#"
        error: a second document in one file
         --> f.yaml:2:1
          |
        2 | ---
          | ^^^
          |
          = help: put it into a file of its own
        "#);
        insta::assert_snapshot!(fails(""), @r"
        error: the file is empty
         --> f.yaml:1:1
          |
        1 |
          | ^
          |
          = help: write at least `schema: 1`
        ");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ \\[\\]{}:,&*!|>'\"\\-a-c\n#%ü\t]{0,80}") {
            if let Err(faults) = parse("f.yaml".as_ref(), &text) {
                let _ = render(&faults, false);
            }
        }
    }
}

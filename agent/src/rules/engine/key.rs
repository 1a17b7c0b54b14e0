//! The values that tell groups and findings apart, as one text: a hundred thousand windows have a hundred thousand keys. It
//! must not know what is kept under them.

use std::sync::Arc;

use crate::{
    event::Record,
    rules::{exception::Exception, field::Field},
};

/// Ends each value. Nothing that the kernel names has one in it; what comes from elsewhere and has loses it.
const END: char = '\0';

/// The id of an exception, or nothing, and then the values of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn of<'p>(parts: impl IntoIterator<Item = &'p str>) -> Self {
        let mut key = Self::default();
        for part in parts {
            key.push(|text| text.push_str(part));
        }
        key.0.shrink_to_fit();
        key
    }

    /// Writes the exception and the values of fields; an absent one is empty. Uses its memory again.
    pub(super) fn write(
        &mut self,
        exception: Option<&Arc<Exception>>,
        fields: &[&'static Field],
        record: &Record,
    ) {
        self.0.clear();
        self.push(|text| text.push_str(exception.map_or("", |exception| &exception.facts.id)));
        for field in fields {
            self.push(|text| {
                if let Some(value) = (field.get)(record) {
                    value.write_to(text);
                }
            });
        }
    }

    /// The exception's id, and then the values.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(END)
    }

    pub(super) fn exception(&self) -> Option<&str> {
        self.parts().next().filter(|id| !id.is_empty())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.parts().skip(1)
    }

    fn push(&mut self, write: impl FnOnce(&mut String)) {
        let start = self.0.len();
        write(&mut self.0);
        if self.0[start..].contains(END) {
            let value = self.0[start..].replace(END, "\u{fffd}");
            self.0.truncate(start);
            self.0.push_str(&value);
        }
        self.0.push(END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_are_not_run_together() {
        for parts in [vec![""], vec!["", "a", "", ""], vec!["EX-1", "a b", "ü"]] {
            assert_eq!(Key::of(parts.clone()).parts().collect::<Vec<_>>(), parts);
        }
        assert_ne!(Key::of(["", "ab", "c"]), Key::of(["", "a", "bc"]));
        assert_eq!(Key::of(["", "a\0b", "c"]).values().collect::<Vec<_>>(), ["a\u{fffd}b", "c"]);
        assert_eq!((Key::of(["EX", "a"]).exception(), Key::of(["", "a"]).exception()), (Some("EX"), None));
    }
}

//! Enums whose values people name: the values, their list and their words are written once, so that none can lack in another.
//! It must not know which there are.

/// Each value and its word. Beside the enum: `ALL` and `WORDS` in this order, `as_str` and `of_word`.
macro_rules! words {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident { $($(#[$doc:meta])* $value:ident = $word:literal,)+ }
    ) => {
        $(#[$attribute])*
        pub enum $name { $($(#[$doc])* $value,)+ }

        impl $name {
            /// Every value.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$value),+];
            /// Every word, in the same order.
            pub const WORDS: [&'static str; Self::ALL.len()] = [$($word),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)+
                }
            }

            /// The value of a word.
            #[must_use]
            pub fn of_word(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|value| value.as_str() == word)
            }
        }
    };
}

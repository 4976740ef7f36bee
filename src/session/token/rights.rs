//! Which groups a token lets its bearer join and write to, and which clients it lets it watch.
#![forbid(unsafe_code)]

use crate::limits::{NAME_BYTES_MAX, TOKEN_PATTERNS_MAX};
use crate::session::check_name;

/// Separates patterns; no name holds a control character.
const SEPARATOR: char = '\n';

/// Names of groups or clients, or beginnings of them with one `*` at the end: "room/7", "room/*", "*". The default allows none.
///
/// Every connection holds three of these, so that they are kept as one string: 16 bytes each when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRights {
    patterns: Box<str>,
}

impl NameRights {
    /// Nothing at all.
    pub fn none() -> NameRights {
        NameRights::default()
    }

    /// Everything.
    pub fn all() -> NameRights {
        NameRights { patterns: "*".into() }
    }

    /// The names that one of the patterns fits.
    ///
    /// # Errors
    /// What is wrong with the list, to follow the name of the claim.
    pub fn new(patterns: &[String]) -> Result<NameRights, &'static str> {
        const { assert!(NAME_BYTES_MAX == 64 && TOKEN_PATTERNS_MAX == 64) };
        if patterns.len() > TOKEN_PATTERNS_MAX {
            return Err("lists more than 64 names; a pattern such as \"room/*\" stands for many");
        }
        for pattern in patterns {
            let fixed = pattern.strip_suffix('*').unwrap_or(pattern);
            if fixed.contains('*') {
                return Err("holds a pattern with a `*` that is not its last character");
            }
            // "*" alone leaves nothing fixed, and is fine.
            if pattern != "*" && check_name(fixed).is_err() {
                return Err("holds something that is not a name of 1 to 64 bytes, or the beginning of one with a `*`");
            }
        }
        Ok(NameRights { patterns: patterns.join(&SEPARATOR.to_string()).into_boxed_str() })
    }

    /// Whether `name` is one of them.
    pub fn allows(&self, name: &str) -> bool {
        !self.patterns.is_empty()
            && self.patterns.split(SEPARATOR).any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == pattern,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(patterns: &[&str]) -> Result<NameRights, &'static str> {
        NameRights::new(&patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn patterns_allow_what_they_say() {
        let rights = rights(&["lobby", "room/*"]).unwrap();
        for group in ["lobby", "room/", "room/7", "room/7/a"] {
            assert!(rights.allows(group), "{group}");
        }
        for group in ["", "lobby2", "lobb", "room", "Room/7", "lobby\nroom/*", "*"] {
            assert!(!rights.allows(group), "{group:?}");
        }
    }

    #[test]
    fn everything_and_nothing() {
        assert!(NameRights::all().allows("any"));
        assert_eq!(rights(&["*"]).unwrap(), NameRights::all());
        assert_eq!(rights(&[]).unwrap(), NameRights::none());
        assert!(!NameRights::none().allows("any"));
        assert!(!NameRights::none().allows(""));
    }

    #[test]
    fn bad_patterns_are_refused() {
        let long = "g".repeat(NAME_BYTES_MAX + 1);
        for pattern in ["", "a*b", "**", "a**", "*a", "a\nb", "a\0*", &long, &format!("{long}*")] {
            assert!(rights(&[pattern]).is_err(), "{pattern:?}");
        }
        let longest = "g".repeat(NAME_BYTES_MAX);
        assert!(rights(&[&longest]).unwrap().allows(&longest));
        assert!(rights(&[&format!("{longest}*")]).unwrap().allows(&longest));
    }

    #[test]
    fn the_number_of_patterns_is_bounded() {
        assert!(rights(&["g"; TOKEN_PATTERNS_MAX]).is_ok());
        assert!(rights(&["g"; TOKEN_PATTERNS_MAX + 1]).is_err());
    }

    #[test]
    fn rights_are_small() {
        assert_eq!(size_of::<NameRights>(), 16);
    }
}

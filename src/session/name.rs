//! Names of clients, devices, classes and groups: checked once, here.
#![forbid(unsafe_code)]

use crate::limits::NAME_BYTES_MAX;

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    Empty,
    TooLong { bytes: usize },
    ControlCharacter,
}

impl std::fmt::Display for BadName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadName::Empty => write!(f, "is empty"),
            BadName::TooLong { bytes } => write!(f, "is {bytes} bytes long, over the limit of {NAME_BYTES_MAX}"),
            BadName::ControlCharacter => write!(f, "holds a control character"),
        }
    }
}

/// Checks a name that must be there.
///
/// # Errors
/// Empty, longer than 64 bytes, or with a control character (which would garble logs and terminals).
pub fn check_name(text: &str) -> Result<(), BadName> {
    if text.is_empty() {
        return Err(BadName::Empty);
    }
    check_optional_name(text)
}

/// Checks a name that may be empty.
///
/// # Errors
/// As [`check_name`], but for emptiness.
pub fn check_optional_name(text: &str) -> Result<(), BadName> {
    if text.len() > NAME_BYTES_MAX {
        return Err(BadName::TooLong { bytes: text.len() });
    }
    if holds_control(text) {
        return Err(BadName::ControlCharacter);
    }
    Ok(())
}

fn holds_control(text: &str) -> bool {
    // Most names are ASCII, and are read as bytes.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (0x20..0x7f).contains(&byte));
    !is_plain && text.chars().any(char::is_control)
}

/// A client id and a device id in one allocation. Most of what an idle session costs besides its table entries is this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The client's length as one ASCII character, the client, the device. Empty: nobody.
    text: Box<str>,
}

const _: () = assert!(NAME_BYTES_MAX < 0x80, "a length must fit into one ASCII character");

impl Names {
    /// Two names that were checked before.
    pub fn new(client: &str, device: &str) -> Names {
        debug_assert!(check_name(client).is_ok() && check_optional_name(device).is_ok());
        let length = char::from(client.len() as u8);
        let mut text = String::with_capacity(1 + client.len() + device.len());
        text.push(length);
        text.push_str(client);
        text.push_str(device);
        Names { text: text.into_boxed_str() }
    }

    /// The client id; empty for nobody.
    pub fn client(&self) -> &str {
        self.split().0
    }

    /// The device id; may be empty.
    pub fn device(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        match self.text.as_bytes().first() {
            Some(&length) => self.text[1..].split_at(usize::from(length)),
            None => ("", ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_apart() {
        for (client, device) in [("a", ""), ("alice", "phone"), (&*"x".repeat(64), &*"y".repeat(64)), ("ä", "ö")] {
            let names = Names::new(client, device);
            assert_eq!((names.client(), names.device()), (client, device));
        }
        assert_eq!((Names::default().client(), Names::default().device()), ("", ""));
        assert_eq!(size_of::<Names>(), 16);
    }

    #[test]
    fn bad_names_are_told_apart() {
        assert_eq!(check_name(""), Err(BadName::Empty));
        assert_eq!(check_optional_name(""), Ok(()));
        assert_eq!(check_name(&"x".repeat(65)), Err(BadName::TooLong { bytes: 65 }));
        assert_eq!(check_name("a\nb"), Err(BadName::ControlCharacter));
        assert_eq!(check_name("grüße/7"), Ok(()));
    }
}

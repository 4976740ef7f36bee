//! For the tests of parsers: what they make of bytes that come in pieces.
#![forbid(unsafe_code)]

use proptest::{collection::vec, prelude::*, sample::Index};

use super::Parsed;

/// What was heard, in words, and whether it ended with an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) events: Vec<String>,
    pub(super) is_garbled: bool,
}

/// Takes the pieces as a fleet does: what is not whole waits for more.
pub(super) fn hear<'a>(parse: fn(&[u8]) -> Parsed<'_>, pieces: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    let (mut heard, mut held) = (Heard { events: Vec::new(), is_garbled: false }, Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            match parse(&held) {
                Ok(Some((event, taken))) => {
                    assert!((1..=held.len()).contains(&taken), "{event:?} takes up {taken} of {} bytes", held.len());
                    heard.events.push(format!("{event:?}"));
                    held.drain(..taken);
                }
                Ok(None) => break,
                Err(_) => return Heard { is_garbled: true, ..heard },
            }
        }
    }
    heard
}

/// The same bytes whole, byte by byte, and cut in these places.
pub(super) fn check_pieces(parse: fn(&[u8]) -> Parsed<'_>, bytes: &[u8], cuts: &[Index]) -> Result<Heard, TestCaseError> {
    let whole = hear(parse, [bytes]);
    prop_assert_eq!(&hear(parse, bytes.chunks(1)), &whole);
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    prop_assert_eq!(&hear(parse, at.windows(2).map(|ends| &bytes[ends[0]..ends[1]])), &whole);
    Ok(whole)
}

/// Places to cut at.
pub(super) fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..8)
}

/// Changes to some bytes: at each place one is overwritten.
pub(super) fn changes() -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec((any::<Index>(), any::<u8>()), 1..4)
}

/// Makes the changes to bytes, of which there is at least one.
pub(super) fn change(bytes: &mut [u8], changes: &[(Index, u8)]) {
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
}

//! Which connections belong together: two that greet alike.
#![forbid(unsafe_code)]

use std::collections::HashMap;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has not greeted, or is none.
    Stranger,
    /// It has no other one, yet or any more.
    Alone,
    /// With this one.
    With(usize),
}

/// Connections by the numbers that their driver has for them, which are small.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    standings: Vec<Standing>,
    /// Who waits for its other one, by greeting.
    waiting: HashMap<Vec<u8>, usize>,
}

impl Pairs {
    /// Takes what a connection sent. Says who is to have it: its first bytes are a greeting, which is its own.
    pub(super) fn route(&mut self, from: usize, bytes: &[u8]) -> Option<usize> {
        if self.standings.len() <= from {
            self.standings.resize(from + 1, Standing::Stranger);
        }
        match self.standings[from] {
            Standing::With(other) => return Some(other),
            Standing::Alone => return None,
            Standing::Stranger => {}
        }
        self.standings[from] = match self.waiting.remove(bytes) {
            Some(other) => {
                self.standings[other] = Standing::With(from);
                Standing::With(other)
            }
            None => {
                self.waiting.insert(bytes.to_vec(), from);
                Standing::Alone
            }
        };
        Some(from)
    }

    /// The other one of a connection.
    pub(super) fn other(&self, of: usize) -> Option<usize> {
        match self.standings.get(of) {
            Some(Standing::With(other)) => Some(*other),
            Some(Standing::Stranger | Standing::Alone) | None => None,
        }
    }

    /// A connection is gone: its other one has none any more.
    pub(super) fn remove(&mut self, gone: usize) {
        if let Some(other) = self.other(gone) {
            self.standings[other] = Standing::Alone;
        } else {
            self.waiting.retain(|_, waiting| *waiting != gone);
        }
        if let Some(standing) = self.standings.get_mut(gone) {
            *standing = Standing::Stranger;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_greet_alike_have_each_other_until_one_goes() {
        let mut pairs = Pairs::default();
        for connection in [1, 2, 3] {
            assert_eq!(pairs.route(connection, if connection == 2 { b"b" } else { b"a" }), Some(connection));
        }
        assert_eq!([1, 2, 3].map(|from| pairs.route(from, b"a")), [Some(3), None, Some(1)]);
        pairs.remove(3);
        pairs.remove(2);
        assert_eq!((pairs.route(1, b"a"), pairs.other(1)), (None, None));
        // The numbers are used again, and nobody waits any more.
        assert_eq!((pairs.route(3, b"a"), pairs.route(2, b"b")), (Some(3), Some(2)));
        assert_eq!((pairs.other(2), pairs.other(3)), (None, None));
    }
}

//! What `--target` names: who is spoken to, in which dialect, and what makes no sense there.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, ToSocketAddrs};

use crate::{
    args::Common,
    fleet::dialect::Dialect,
    launch::{Failure, Wanted},
};

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) dialect: Dialect,
    pub(crate) address: SocketAddr,
}

impl Target {
    /// Reads `HOST:PORT` or `SCHEME://HOST:PORT`, and looks the host up.
    ///
    /// # Errors
    /// It names no server that can be spoken to.
    pub(crate) fn parse(text: &str) -> Result<Target, Failure> {
        let (dialect, address) = match text.split_once("://") {
            None => (Dialect::Weir, text),
            Some((scheme, address)) => {
                let known = Dialect::ALL.into_iter().find(|dialect| dialect.name() == scheme);
                let spoken = Dialect::ALL.map(Dialect::name).join(", ");
                let unknown = || Failure::Usage(format!("--target {text}: {scheme} is not spoken here, only {spoken}"));
                (known.ok_or_else(unknown)?, address)
            }
        };
        let wrong = |why: String| Failure::Usage(format!("--target {text}: {why}. Write HOST:PORT, for example 127.0.0.1:7700"));
        let mut addresses = address.to_socket_addrs().map_err(|cause| wrong(cause.to_string()))?;
        let address = addresses.next().ok_or_else(|| wrong("no address belongs to this name".into()))?;
        Ok(Target { dialect, address })
    }

    /// Refuses what cannot be had of a server of this dialect.
    ///
    /// # Errors
    /// Something was asked for that only Weir has, or clients would have names that stand for something else.
    pub(crate) fn check(self, common: &Common, wanted: &Wanted) -> Result<(), Failure> {
        let name = self.dialect.name();
        if let Some(reserved) = common.client_prefix.chars().find(|c| self.dialect.reserved().contains(c)) {
            return Err(Failure::Usage(format!(
                "--client-prefix {:?}: {reserved:?} has a meaning of its own in the names that {name}:// has for channels",
                common.client_prefix
            )));
        }
        if self.dialect == Dialect::Weir {
            return Ok(());
        }
        let only_weir = [
            (wanted.receiving.is_some(), "durable messages (--durable, --receive-window, the scenarios offline and storm)"),
            (common.batches, "--batches"),
            (common.compress, "--compress"),
            (common.token.is_some(), "--token (BENCH_TOKEN)"),
            (common.hs256_secret.is_some(), "--hs256-secret (BENCH_HS256_SECRET)"),
        ];
        match only_weir.into_iter().find(|(is_asked_for, _)| *is_asked_for) {
            None => Ok(()),
            Some((_, what)) => Err(Failure::Usage(format!(
                "{what}: only weir:// has that. With {name}:// there are connect, route and fanout, with transient messages and \
                 without tokens"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        match Target::parse(text) {
            Err(Failure::Usage(words)) => words,
            other => panic!("{text} gave {other:?}"),
        }
    }

    #[test]
    fn the_scheme_names_the_dialect() {
        let address: SocketAddr = "127.0.0.1:4222".parse().expect("an address");
        for (text, dialect) in [
            ("127.0.0.1:4222", Dialect::Weir),
            ("weir://127.0.0.1:4222", Dialect::Weir),
            ("nats://127.0.0.1:4222", Dialect::Nats),
            ("mqtt://127.0.0.1:4222", Dialect::Mqtt),
        ] {
            assert_eq!(Target::parse(text).expect("a target"), Target { dialect, address }, "{text}");
        }
    }

    #[test]
    fn wrong_targets_are_told_apart() {
        for (text, part) in [
            ("http://127.0.0.1:1", "http is not spoken here"),
            ("NATS://127.0.0.1:1", "NATS is not spoken here"),
            ("nats://127.0.0.1", "Write HOST:PORT"),
            ("nats://", "Write HOST:PORT"),
            ("127.0.0.1:x", "Write HOST:PORT"),
        ] {
            assert!(words(text).contains(part), "{text}: {}", words(text));
        }
    }
}

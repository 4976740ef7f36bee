//! The contract of the reactors: every case runs on every driver, with real sockets on loopback.
//!
//! A case drives its reactors from outside: each runs a [`probe::Probe`], a machine that reports every input to the case and
//! does what the case posts to it through the mesh.
#![forbid(unsafe_code)]

#[path = "reactor_contract/probe.rs"]
mod probe;
#[path = "reactor_contract/rig.rs"]
mod rig;
#[path = "reactor_contract/transfer.rs"]
mod transfer;

/// A module with one test for each case, on one driver.
macro_rules! contract {
    ($kind:ident as $module:ident) => {
        mod $module {
            contract! { @cases $kind
                transfer: echoes_whole, echoes_byte_by_byte;
            }
        }
    };
    (@cases $kind:ident $($file:ident: $($case:ident),+;)+) => {
        $($(
            #[test]
            fn $case() {
                crate::$file::$case(weir::reactor::Kind::$kind);
            }
        )+)+
    };
}

contract!(Epoll as epoll);
contract!(Uring as uring);

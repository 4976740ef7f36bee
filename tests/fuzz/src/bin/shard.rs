//! Any events that a reactor may hand in, in any order that its contract allows, on one or two shards: no panic, no output that
//! breaks the contract, and nothing left behind when everybody has gone.
#![no_main]
#![forbid(unsafe_code)]

#[path = "../gateway.rs"]
mod gateway;
#[path = "../said.rs"]
mod said;
#[path = "../store.rs"]
mod store;

use arbitrary::Arbitrary;
use gateway::{Gateway, Limited};
use libfuzzer_sys::fuzz_target;
use said::Said;

#[derive(Arbitrary, Debug)]
struct Case {
    two_shards: bool,
    ring: u8,
    limited: Limited,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Accept {
        shard: bool,
        address: u8,
    },
    /// A whole frame, or its beginning, which the next bytes then continue.
    Say {
        who: u8,
        said: Said,
        missing: u8,
    },
    Raw {
        who: u8,
        bytes: Vec<u8>,
    },
    Sent {
        who: u8,
    },
    Eof {
        who: u8,
    },
    Broken {
        who: u8,
    },
    Closed {
        who: u8,
    },
    Moved {
        who: u8,
        refused: bool,
        failed: bool,
    },
    Turn {
        shard: bool,
        elapsed_us: u32,
    },
    Drain {
        within_ms: u16,
    },
    /// The store works, or fails.
    Serve {
        most: u8,
        fails: bool,
    },
}

fuzz_target!(|case: Case| {
    let mut gateway = Gateway::new(1 + usize::from(case.two_shards), usize::from(case.ring % 4) + 1, &case.limited);
    for step in case.steps.iter().take(400) {
        match step {
            Step::Accept { shard, address } => gateway.accept(usize::from(*shard), *address),
            Step::Say { who, said, missing } => {
                let mut bytes = Vec::new();
                said.encode(&mut bytes);
                bytes.truncate(bytes.len() - usize::from(*missing).min(bytes.len()) / 16);
                gateway.receive(*who, &bytes);
            }
            Step::Raw { who, bytes } => gateway.receive(*who, bytes),
            Step::Sent { who } => gateway.sent(*who),
            Step::Eof { who } => gateway.eof(*who),
            Step::Broken { who } => gateway.broken(*who),
            Step::Closed { who } => gateway.closed(*who),
            Step::Moved { who, refused, failed } => gateway.moved(*who, *refused, *failed),
            Step::Turn { shard, elapsed_us } => gateway.turn(usize::from(*shard), u64::from(*elapsed_us)),
            Step::Drain { within_ms } => gateway.drain(u32::from(*within_ms)),
            Step::Serve { most, fails } => gateway.serve(most % 8, *fails),
        }
    }
    gateway.end();
});

//! The log on disk against the one in memory: the same operations at random, with restarts in between, and the same answers.

use std::path::Path;

use proptest::{collection::vec, prelude::*};
use weir::{
    store::{Bounds, Log, Memory, Outcome, PageLimit, Retention, Write},
    wire::PushRef,
};

use crate::common::{NOW_MS, Seen, append, await_ready, expire, folder, open, page, read_cursor, received};

const CHANNELS: [&str; 4] = ["user/a", "user/b", "group/a", "group/long-name-of-a-group"];
const CLIENTS: [&str; 2] = ["a", "bob"];

#[derive(Clone, Debug)]
enum Change {
    Append { channel: usize, client: usize, id: u64, payload: u8, length: usize },
    Advance { channel: usize, client: usize, device: Option<u8>, to: u64 },
    Forget { channel: usize, client: usize },
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>),
    Read { channel: usize, from: u64, messages: u32, bytes: u32 },
    Wait { ms: u64 },
    Expire,
    Reopen,
}

fn change() -> impl Strategy<Value = Change> {
    let channel = 0..CHANNELS.len();
    let client = 0..CLIENTS.len();
    prop_oneof![
        6 => (channel.clone(), client.clone(), 0u64..40, 0u8..3, 0usize..60)
            .prop_map(|(channel, client, id, payload, length)| Change::Append { channel, client, id, payload, length }),
        2 => (channel.clone(), client.clone(), proptest::option::of(0u8..2), 0u64..30)
            .prop_map(|(channel, client, device, to)| Change::Advance { channel, client, device, to }),
        1 => (channel, client).prop_map(|(channel, client)| Change::Forget { channel, client }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(change(), 0..12).prop_map(Step::Commit),
        3 => (0..CHANNELS.len(), 0u64..40, 0u32..20, 0u32..400)
            .prop_map(|(channel, from, messages, bytes)| Step::Read { channel, from, messages: messages + 1, bytes }),
        2 => (0u64..40_000).prop_map(|ms| Step::Wait { ms }),
        2 => Just(Step::Expire),
        1 => Just(Step::Reopen),
    ]
}

fn retention() -> impl Strategy<Value = Retention> {
    (1u64..12, 60u64..600, 1u32..8, 1u64..100_000, 1u32..30).prop_map(|(messages, bytes, channels, dedup_ms, dedup_messages)| {
        Retention { age_ms: 60_000, messages, bytes, channels, dedup_ms, dedup_messages }
    })
}

fn device(number: u8) -> &'static str {
    ["phone", "laptop"][usize::from(number)]
}

fn commit(log: &mut dyn Log, wall_ms: u64, changes: &[Change]) -> Vec<Outcome> {
    let payloads: Vec<Vec<u8>> = changes
        .iter()
        .map(|change| match change {
            Change::Append { payload, length, .. } => vec![*payload; *length],
            Change::Advance { .. } | Change::Forget { .. } => Vec::new(),
        })
        .collect();
    let mut writes: Vec<Write<'_>> = Vec::new();
    for (change, payload) in changes.iter().zip(&payloads) {
        writes.push(match change {
            Change::Append { channel, client, id, .. } => append(
                CHANNELS[*channel],
                PushRef {
                    from_client: CLIENTS[*client],
                    from_device: "phone",
                    client_msg_id: *id,
                    payload,
                    ..PushRef::default()
                },
            ),
            Change::Advance { channel, client, device: Some(number), to } => {
                Write::Advance { key: received(CHANNELS[*channel], CLIENTS[*client], device(*number)), to: *to }
            }
            Change::Advance { channel, client, device: None, to } => {
                Write::Advance { key: read_cursor(CHANNELS[*channel], CLIENTS[*client]), to: *to }
            }
            Change::Forget { channel, client } => Write::Forget { key: received(CHANNELS[*channel], CLIENTS[*client], "phone") },
        });
    }
    let mut outcomes = Vec::new();
    await_ready(log);
    log.commit(wall_ms, &writes, &mut outcomes).unwrap();
    outcomes
}

/// All that a log answers.
fn everything(log: &mut dyn Log) -> Vec<(Vec<Seen>, Bounds, Vec<Option<u64>>)> {
    let channel = |channel: &&str| {
        let (seen, bounds) = page(log, channel, 0, PageLimit { messages: 1_000, bytes: u32::MAX });
        let mut cursors = Vec::new();
        for client in CLIENTS {
            cursors.push(log.cursor(read_cursor(channel, client)).unwrap());
            cursors.extend([0, 1].map(|number| log.cursor(received(channel, client, device(number))).unwrap()));
        }
        assert_eq!(log.bounds(channel), Ok(bounds));
        (seen, bounds, cursors)
    };
    CHANNELS.iter().map(channel).collect()
}

fn run(dir: &Path, retention: Retention, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model = Memory::new(retention);
    let mut log = open(dir, retention);
    let mut wall_ms = NOW_MS;
    for step in steps {
        match step {
            Step::Commit(changes) => {
                let expected = commit(&mut model, wall_ms, &changes);
                prop_assert_eq!(commit(&mut log, wall_ms, &changes), expected, "{:?}", changes);
            }
            Step::Read { channel, from, messages, bytes } => {
                let limit = PageLimit { messages, bytes };
                prop_assert_eq!(page(&mut log, CHANNELS[channel], from, limit), page(&mut model, CHANNELS[channel], from, limit));
            }
            Step::Wait { ms } => wall_ms += ms,
            Step::Expire => {
                expire(&mut model, wall_ms);
                expire(&mut log, wall_ms);
            }
            Step::Reopen => {
                drop(log);
                log = open(dir, retention);
                // What grew too old since the last look back at the channels is found anew.
                expire(&mut model, wall_ms);
                expire(&mut log, wall_ms);
            }
        }
        prop_assert_eq!(everything(&mut log), everything(&mut model));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_disk_answers_as_memory_does(retention in retention(), steps in vec(step(), 1..40)) {
        let folder = folder();
        run(folder.path(), retention, steps)?;
    }
}

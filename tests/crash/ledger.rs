//! What was promised against what is there.
#![forbid(unsafe_code)]

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use weir::{
    client::{Client, ClientError, Event},
    wire::{Frame, body},
};

use crate::{
    device::Device,
    sender::{Place, Sent},
    world::{Message, World, client_name, sender_name},
};

const TIMEOUT: Duration = Duration::from_secs(20);
const PAGE: u32 = 200;

/// All channels, as the gateway's history shows them: the message with sequence 1 first.
pub type History = Vec<Vec<Message>>;

/// Reads the whole history.
pub fn read_history(world: &World, address: &str) -> Result<History, ClientError> {
    let mut history = Vec::new();
    for (index, channel) in world.channels.iter().enumerate() {
        let mut reader = Client::connect(address, TIMEOUT)?;
        // Anybody may read a group here, but only its client a channel of its own.
        let client_id = client_name(index.min(world.plan.clients - 1));
        reader.login(body::Login { client_id, device_id: "historian".to_owned(), ..body::Login::default() })?;
        history.push(read_channel(world, &mut reader, channel)?);
    }
    Ok(history)
}

fn read_channel(world: &World, reader: &mut Client, channel: &str) -> Result<Vec<Message>, ClientError> {
    let mut messages: Vec<Message> = Vec::new();
    loop {
        let from = messages.len() as u64 + 1;
        reader.write_frame(&Frame::Sync(body::Sync { channel: channel.to_owned(), from, limit: PAGE }))?;
        let page = match reader.next_event(TIMEOUT)? {
            Some(Event::Page(page)) => page,
            other => {
                world.found("unexpected", format!("SYNC of {channel} from {from} was answered by {other:?}"));
                return Ok(messages);
            }
        };
        for push in page.messages {
            let next = messages.len() as u64 + 1;
            if push.seq != next {
                world.found("gap", format!("the history of {channel} has {} where {next} should be", push.seq));
                return Ok(messages);
            }
            let Some(message) = Message::of(&push.from_client, push.client_msg_id, &push.payload, push.timestamp) else {
                world.found("corrupted", format!("{channel} {next} in the history is nothing that was sent"));
                return Ok(messages);
            };
            messages.push(message);
        }
        if messages.len() as u64 >= page.last {
            return Ok(messages);
        }
    }
}

/// Holds everything against everything.
pub fn check(world: &World, sent: &[Vec<Sent>], devices: &[Device<'_>], history: &History) {
    check_history(world, sent, history);
    check_accepted(world, sent, history);
    for device in devices {
        check_device(world, device, history);
    }
}

/// Nothing that was not sent, nothing twice, and each sender's messages in their order.
fn check_history(world: &World, sent: &[Vec<Sent>], history: &History) {
    let mut places: HashMap<(u16, u64), (usize, usize)> = HashMap::new();
    let mut timestamps = HashSet::new();
    for (index, messages) in history.iter().enumerate() {
        let channel = &world.channels[index];
        let mut newest: HashMap<u16, u64> = HashMap::new();
        let mut clock = 0;
        for (at, message) in messages.iter().enumerate() {
            let what = format!("{channel} {} ({message})", at + 1);
            if let Some((other, seq)) = places.insert((message.sender, message.id), (index, at)) {
                world.found("stored twice", format!("{what} is {} {} as well", world.channels[other], seq + 1));
            }
            let origin = sent.get(usize::from(message.sender)).and_then(|sent| sent.get(message.id as usize - 1));
            match origin {
                Some(origin) if origin.channel == index && origin.payload_crc == message.payload_crc => {
                    let newest = newest.entry(message.sender).or_default();
                    if message.id < *newest && !origin.was_refused {
                        let sender = sender_name(message.sender);
                        world.found("out of order", format!("{what} comes behind {newest} of {sender}"));
                    }
                    *newest = message.id.max(*newest);
                }
                other => world.found("corrupted", format!("{what} was sent as {other:?}")),
            }
            if message.timestamp <= clock || !timestamps.insert(message.timestamp) {
                world.found("out of order", format!("the timestamp of {what}; the one before has {clock}"));
            }
            clock = message.timestamp;
        }
    }
}

/// Everything that was accepted is where ACCEPTED said.
fn check_accepted(world: &World, sent: &[Vec<Sent>], history: &History) {
    for (sender, sent) in sent.iter().enumerate() {
        for (id, sent) in (1..).zip(sent) {
            let Some(Place { seq, timestamp }) = sent.accepted else { continue };
            let there = history[sent.channel].get(seq as usize - 1);
            let expected = Message { sender: sender as u16, id, payload_crc: sent.payload_crc, timestamp };
            if there != Some(&expected) {
                let channel = &world.channels[sent.channel];
                let there = there.map_or("nothing".to_owned(), Message::to_string);
                world.found("gone", format!("{channel} {seq} was accepted as {expected}, and is now {there}"));
            }
        }
    }
}

/// The device has everything from its first message on, and nothing else.
fn check_device(world: &World, device: &Device<'_>, history: &History) {
    for follow in &device.follows {
        let channel = &world.channels[follow.channel];
        let who = device.who();
        let Some(base) = follow.base else {
            world.found("lost", format!("{who} was never told where it stands in {channel}"));
            continue;
        };
        let due = history[follow.channel].get(base as usize..).unwrap_or_default();
        let differs = due.iter().zip(&follow.seen).position(|(due, seen)| due != seen);
        if let Some(at) = differs {
            let (due, seen) = (due[at], follow.seen[at]);
            world.found("changed", format!("{who} got {seen} as {channel} {}, which is {due}", base as usize + at + 1));
        } else if due.len() > follow.seen.len() {
            let seq = base as usize + follow.seen.len() + 1;
            let missing = due.len() - follow.seen.len();
            let first = due[follow.seen.len()];
            world.found("lost", format!("{who} never got {missing} messages of {channel}, the first of them {seq}, {first}"));
        } else if due.len() < follow.seen.len() {
            let (seq, first) = (base as usize + due.len() + 1, follow.seen[due.len()]);
            world.found("lost", format!("{who} got {channel} {seq}, {first}, which is not there"));
        }
    }
}

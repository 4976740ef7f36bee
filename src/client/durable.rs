//! Durable messages: sending them, and saying what arrived.
#![forbid(unsafe_code)]

use super::{Client, ClientError, Event};
use crate::wire::{Frame, FrameType, SendRef, body};

impl Client {
    /// A number for a message, larger than those before it: of this connection and, as long as the clock is right, of earlier
    /// ones of the device.
    pub fn new_id(&mut self) -> u64 {
        let id = self.next_msg_id;
        self.next_msg_id += 1;
        id
    }

    /// A durable SEND under a number from [`Client::new_id`], and waits until the message is kept. If no answer comes, or the
    /// connection ends before, the same call on a new connection of the same device finds out: the message is stored once.
    ///
    /// # Errors
    /// Refused with the gateway's reason, closed, broken or timed out.
    pub fn send_durable(&mut self, channel: &str, id: u64, payload: &[u8]) -> Result<body::Accepted, ClientError> {
        let class = body::DeliveryClass::Durable.into();
        self.write_frame(&Frame::Send(SendRef { channel, client_msg_id: id, class, payload, ..SendRef::default() }))?;
        self.answer("ACCEPTED", FrameType::Send, |event| match event {
            Event::Accepted(accepted) if accepted.client_msg_id == id => Ok(accepted),
            other => Err(other),
        })
    }

    /// JOIN with the highest sequence of the group that the device has, and waits until the group's messages come here; what lies
    /// above the cursor comes first. Returns the number of members, as last counted.
    ///
    /// # Errors
    /// Refused with the gateway's reason, closed, broken or timed out.
    pub fn join_from(&mut self, group: &str, cursor: Option<u64>) -> Result<u32, ClientError> {
        self.write_frame(&Frame::Join(body::Join { cursor, group: group.to_owned() }))?;
        self.answer("JOIN_OK", FrameType::Join, |event| match event {
            Event::JoinOk(ok) if ok.group == group => Ok(ok.members),
            other => Err(other),
        })
    }

    /// RECEIVED: the device has all messages of the channel up to this one.
    ///
    /// # Errors
    /// The connection broke.
    pub fn received(&mut self, channel: &str, seq: u64) -> Result<(), ClientError> {
        self.write_frame(&Frame::Received(body::Received { channel: channel.to_owned(), seq }))
    }
}

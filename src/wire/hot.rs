//! SEND, PUSH and ACCEPTED, encoded and decoded in place: no allocation, no copy. prost is the oracle in the tests.
#![forbid(unsafe_code)]

use super::{
    body::{Accepted, DeliveryClass},
    fields::{Fields, Refusal, put_bytes, put_number},
};

/// The body of SEND, borrowed. Field meanings: `proto/weir.proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendRef<'a> {
    pub channel: &'a str,
    pub client_msg_id: u64,
    /// A number of [`DeliveryClass`], or one that this version does not know.
    pub class: i32,
    pub payload: &'a [u8],
    pub receipt: bool,
    pub include_sender: bool,
    pub key: &'a str,
}

/// The body of PUSH, borrowed. Field meanings: `proto/weir.proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushRef<'a> {
    pub channel: &'a str,
    pub from_client: &'a str,
    pub from_device: &'a str,
    pub client_msg_id: u64,
    pub payload: &'a [u8],
    /// 0: not durable.
    pub seq: u64,
    pub timestamp: u64,
    pub key: &'a str,
}

impl<'a> SendRef<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<SendRef<'a>, Refusal> {
        let mut send = SendRef::default();
        let mut fields = Fields::new(body);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => send.channel = value.text()?,
                2 => send.client_msg_id = value.number()?,
                3 => send.class = value.number()? as i32,
                4 => send.payload = value.bytes()?,
                5 => send.receipt = value.number()? != 0,
                6 => send.include_sender = value.number()? != 0,
                7 => send.key = value.text()?,
                _ => {}
            }
        }
        Ok(send)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(1, self.channel.as_bytes(), out);
        put_number(2, self.client_msg_id, out);
        put_number(3, self.class as i64 as u64, out);
        put_bytes(4, self.payload, out);
        put_number(5, u64::from(self.receipt), out);
        put_number(6, u64::from(self.include_sender), out);
        put_bytes(7, self.key.as_bytes(), out);
    }

    /// Whether the class is one that this version knows.
    pub fn known_class(&self) -> Option<DeliveryClass> {
        DeliveryClass::try_from(self.class).ok()
    }
}

impl<'a> PushRef<'a> {
    /// Reads a body that stands alone, without a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode_body(body: &'a [u8]) -> Result<PushRef<'a>, &'static str> {
        PushRef::decode(body)
    }

    /// Appends the body alone, without a header.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }

    pub(super) fn decode(body: &'a [u8]) -> Result<PushRef<'a>, Refusal> {
        let mut push = PushRef::default();
        let mut fields = Fields::new(body);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => push.channel = value.text()?,
                2 => push.from_client = value.text()?,
                3 => push.from_device = value.text()?,
                4 => push.client_msg_id = value.number()?,
                5 => push.payload = value.bytes()?,
                6 => push.seq = value.number()?,
                7 => push.timestamp = value.number()?,
                8 => push.key = value.text()?,
                _ => {}
            }
        }
        Ok(push)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(1, self.channel.as_bytes(), out);
        put_bytes(2, self.from_client.as_bytes(), out);
        put_bytes(3, self.from_device.as_bytes(), out);
        put_number(4, self.client_msg_id, out);
        put_bytes(5, self.payload, out);
        put_number(6, self.seq, out);
        put_number(7, self.timestamp, out);
        put_bytes(8, self.key.as_bytes(), out);
    }
}

/// The body of ACCEPTED, borrowed. Field meanings: `proto/weir.proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptedRef<'a> {
    pub client_msg_id: u64,
    pub channel: &'a str,
    pub seq: u64,
    pub timestamp: u64,
    /// A number of `Durability`, or one that this version does not know.
    pub durability: i32,
    pub duplicate: bool,
}

impl<'a> AcceptedRef<'a> {
    /// As a body that owns its channel.
    pub fn to_owned(&self) -> Accepted {
        let AcceptedRef { client_msg_id, channel, seq, timestamp, durability, duplicate } = *self;
        Accepted { client_msg_id, channel: channel.to_owned(), seq, timestamp, durability, duplicate }
    }

    pub(super) fn decode(body: &'a [u8]) -> Result<AcceptedRef<'a>, Refusal> {
        let mut accepted = AcceptedRef::default();
        let mut fields = Fields::new(body);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => accepted.client_msg_id = value.number()?,
                2 => accepted.channel = value.text()?,
                3 => accepted.seq = value.number()?,
                4 => accepted.timestamp = value.number()?,
                5 => accepted.durability = value.number()? as i32,
                6 => accepted.duplicate = value.number()? != 0,
                _ => {}
            }
        }
        Ok(accepted)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_number(1, self.client_msg_id, out);
        put_bytes(2, self.channel.as_bytes(), out);
        put_number(3, self.seq, out);
        put_number(4, self.timestamp, out);
        put_number(5, self.durability as i64 as u64, out);
        put_number(6, u64::from(self.duplicate), out);
    }
}

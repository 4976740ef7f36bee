//! SEND and PUSH, encoded and decoded in place: no allocation, no copy. prost is the oracle in the tests.
#![forbid(unsafe_code)]

use super::body::DeliveryClass;

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
}

/// The body of PUSH, borrowed. Field meanings: `proto/weir.proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushRef<'a> {
    pub channel: &'a str,
    pub from_client: &'a str,
    pub from_device: &'a str,
    pub client_msg_id: u64,
    pub payload: &'a [u8],
}

impl<'a> SendRef<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<SendRef<'a>, &'static str> {
        let mut send = SendRef::default();
        let mut fields = Fields { rest: body };
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => send.channel = value.text()?,
                2 => send.client_msg_id = value.number()?,
                3 => send.class = value.number()? as i32,
                4 => send.payload = value.bytes()?,
                5 => send.receipt = value.number()? != 0,
                6 => send.include_sender = value.number()? != 0,
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
    }

    /// Whether the class is one that this version knows.
    pub fn known_class(&self) -> Option<DeliveryClass> {
        DeliveryClass::try_from(self.class).ok()
    }
}

impl<'a> PushRef<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<PushRef<'a>, &'static str> {
        let mut push = PushRef::default();
        let mut fields = Fields { rest: body };
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => push.channel = value.text()?,
                2 => push.from_client = value.text()?,
                3 => push.from_device = value.text()?,
                4 => push.client_msg_id = value.number()?,
                5 => push.payload = value.bytes()?,
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
    }
}

/// One field's value, by wire type (<https://protobuf.dev/programming-guides/encoding/>).
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// I64 or I32: no field of ours uses them.
    Fixed,
}

impl<'a> Value<'a> {
    fn number(&self) -> Result<u64, &'static str> {
        match self {
            Value::Varint(number) => Ok(*number),
            Value::Bytes(_) | Value::Fixed => Err("a number field has another wire type"),
        }
    }

    fn bytes(&self) -> Result<&'a [u8], &'static str> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed => Err("a bytes field has another wire type"),
        }
    }

    fn text(&self) -> Result<&'a str, &'static str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text field is not UTF-8")
    }
}

/// Walks over the fields of a message.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| "a field key is over 32 bits")?;
        let number = key >> 3;
        if number == 0 {
            return Err("field number 0");
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| "a field is longer than the body")?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err("a wire type that proto3 does not have"),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("a field is longer than the body")?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut number = 0u64;
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            if index == 9 && byte > 1 {
                return Err("a varint over 64 bits");
            }
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(number);
            }
        }
        Err("a varint without an end")
    }
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Defaults are left out, as proto3 does.
fn put_number(field: u32, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        out.push((field << 3) as u8);
        put_varint(number, out);
    }
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push((field << 3 | 2) as u8);
        put_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

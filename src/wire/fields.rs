//! Protobuf fields in place (<https://protobuf.dev/programming-guides/encoding/>): a walk over a body without allocation.
//!
//! It takes what prost takes, with two exceptions that `proto/frame.md` states for every frame: groups are refused, because
//! Weir's bodies never had any and skipping them needs a stack, and so is a body of more than [`BODY_FIELDS_MAX`] fields,
//! because a two-byte field can cost a receiver ten times as much memory.
//!
//! `#[inline(always)]` is measured: left to the compiler, a routed message takes a tenth more instructions of the gateway's own.
#![forbid(unsafe_code)]

use crate::limits::BODY_FIELDS_MAX;

/// Why a body was refused.
pub(super) type Refusal = &'static str;

/// One field's value, by wire type.
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// I64 or I32: no field of ours uses them.
    Fixed,
}

impl<'a> Value<'a> {
    #[inline(always)]
    pub(super) fn number(&self) -> Result<u64, Refusal> {
        match self {
            Value::Varint(number) => Ok(*number),
            Value::Bytes(_) | Value::Fixed => Err("a number field has another wire type"),
        }
    }

    #[inline(always)]
    pub(super) fn bytes(&self) -> Result<&'a [u8], Refusal> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed => Err("a bytes field has another wire type"),
        }
    }

    #[inline(always)]
    pub(super) fn text(&self) -> Result<&'a str, Refusal> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text field is not UTF-8")
    }
}

/// Walks over the fields of a body.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    seen: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(body: &'a [u8]) -> Fields<'a> {
        Fields { rest: body, seen: 0 }
    }

    /// The next field's number and value; `None` at the end of the body.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Refusal> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.seen += 1;
        if self.seen > BODY_FIELDS_MAX {
            return Err("more fields than a body may have");
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
            3 | 4 => return Err("a group, which Weir does not use"),
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err("a wire type that Protobuf does not have"),
        };
        Ok(Some((number, value)))
    }

    #[inline(always)]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("a field is longer than the body")?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Refusal> {
        // Nearly all keys, lengths and flags.
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(byte));
        }
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

/// Checks the form of a body whose fields another parser will read.
pub(super) fn check(body: &[u8]) -> Result<(), Refusal> {
    let mut fields = Fields::new(body);
    while fields.next()?.is_some() {}
    Ok(())
}

#[inline]
fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a key, and behind it a number or a length: nearly all of them take one byte.
#[inline(always)]
fn put_pair(key: u8, number: u64, out: &mut Vec<u8>) {
    if number < 0x80 {
        out.extend_from_slice(&[key, number as u8]);
    } else {
        out.push(key);
        put_varint(number, out);
    }
}

/// Appends a number field with a number below 16. Defaults are left out, as proto3 does.
#[inline(always)]
pub(super) fn put_number(field: u8, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        put_pair(field << 3, number, out);
    }
}

/// Appends a string or bytes field with a number below 16. Defaults are left out, as proto3 does.
#[inline(always)]
pub(super) fn put_bytes(field: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        put_pair((field << 3) | 2, bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &[u8]) -> Refusal {
        check(body).expect_err("the body is not valid")
    }

    #[test]
    fn varints_end_within_64_bits() {
        for number in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(number, &mut bytes);
            let mut fields = Fields::new(&bytes);
            assert_eq!(fields.varint(), Ok(number));
            assert!(fields.rest.is_empty());
        }
        // Longer than needed is allowed, longer than ten bytes is not.
        assert_eq!(Fields::new(&[0x81, 0x80, 0x00]).varint(), Ok(1));
        assert_eq!(
            Fields::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint(),
            Err("a varint over 64 bits")
        );
        assert_eq!(Fields::new(&[0x80; 11]).varint(), Err("a varint over 64 bits"));
        assert_eq!(Fields::new(&[]).varint(), Err("a varint without an end"));
    }

    #[test]
    fn every_way_to_be_no_body_is_refused() {
        assert_eq!(refusal(&[0x00, 0x00]), "field number 0");
        assert_eq!(refusal(&[0xf8, 0xff, 0xff, 0xff, 0x1f, 0x00]), "a field key is over 32 bits");
        assert_eq!(refusal(&[0x0a, 0x02, 0x00]), "a field is longer than the body");
        assert_eq!(refusal(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "a field is longer than the body");
        assert_eq!(refusal(&[0x09, 0, 0, 0, 0, 0, 0, 0]), "a field is longer than the body");
        assert_eq!(refusal(&[0x0d, 0, 0, 0]), "a field is longer than the body");
        assert_eq!(refusal(&[0x0b, 0x0c]), "a group, which Weir does not use");
        assert_eq!(refusal(&[0x0c]), "a group, which Weir does not use");
        assert_eq!(refusal(&[0x0e]), "a wire type that Protobuf does not have");
        assert_eq!(refusal(&[0x0f]), "a wire type that Protobuf does not have");
        assert_eq!(refusal(&[0x08]), "a varint without an end");
    }

    #[test]
    fn the_number_of_fields_is_bounded() {
        let most = [0x2a, 0x00].repeat(BODY_FIELDS_MAX);
        assert_eq!(check(&most), Ok(()));
        assert_eq!(refusal(&[most, vec![0x2a, 0x00]].concat()), "more fields than a body may have");
    }
}

//! Bytes that a gateway must refuse, and the code that it must give.
#![forbid(unsafe_code)]

use weir::wire::{ErrorCode, Frame, body, encode};

use crate::rng::Rng;

pub const CODES: [ErrorCode; 8] = [
    ErrorCode::BadMagic,
    ErrorCode::UnsupportedVersion,
    ErrorCode::UnsupportedFlags,
    ErrorCode::FrameTooLong,
    ErrorCode::BadChecksum,
    ErrorCode::BadBody,
    ErrorCode::UnexpectedFrame,
    ErrorCode::UnknownDeviceClass,
];

/// Whether it takes the place of LOGIN.
pub fn comes_first(code: ErrorCode, rng: &mut Rng) -> bool {
    code == ErrorCode::UnknownDeviceClass || rng.chance(50)
}

pub fn bytes(code: ErrorCode) -> Vec<u8> {
    let mut bytes = Vec::new();
    let frame = match code {
        ErrorCode::UnknownDeviceClass => {
            Frame::Login(body::Login { client_id: "who".to_owned(), device_class: "none".to_owned(), ..body::Login::default() })
        }
        _ => Frame::JoinOk(body::JoinOk { group: "group-1".to_owned(), members: 0 }),
    };
    encode(&frame, &mut bytes);
    match code {
        ErrorCode::BadMagic => bytes = b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ErrorCode::UnsupportedVersion => bytes[2] = 9,
        ErrorCode::UnsupportedFlags => bytes[4] = 0x02,
        ErrorCode::FrameTooLong => bytes[8] = 0x7f,
        ErrorCode::BadChecksum => bytes[20] ^= 0x10,
        ErrorCode::BadBody => {
            bytes.clear();
            // JOIN with field 1 as a number: type, length and checksum are right.
            bytes.extend_from_slice(&[0x57, 0x52, 1, 0x20, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0x08, 0x01]);
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
            bytes[12..16].copy_from_slice(&crc.to_be_bytes());
        }
        _ => {}
    }
    bytes
}

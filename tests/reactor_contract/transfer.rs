//! Bytes in, bytes out.

use std::io::Write;

use weir::reactor::Kind;

use crate::{
    probe::Behaviour,
    rig::{Rig, pattern, read},
};

const ECHO: Behaviour = Behaviour { stays: true, echoes: true, closes: true, congested: false };

pub(crate) fn echoes_whole(kind: Kind) {
    let mut rig = Rig::single(kind, ECHO);
    let (mut client, _) = rig.client(0);
    for round in 1..50 {
        let message = pattern(round * 37);
        client.write_all(&message).expect("sends");
        assert_eq!(read(&mut client, message.len()), message);
    }
}

pub(crate) fn echoes_byte_by_byte(kind: Kind) {
    let mut rig = Rig::single(kind, ECHO);
    let (mut client, _) = rig.client(0);
    for byte in pattern(300) {
        client.write_all(&[byte]).expect("sends");
        assert_eq!(read(&mut client, 1), [byte]);
    }
}

//! A load simulator for long-connection gateways.
#![forbid(unsafe_code)]

fn main() {}

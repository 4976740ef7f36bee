//! The `weir` binary.
#![forbid(unsafe_code)]

fn main() {}

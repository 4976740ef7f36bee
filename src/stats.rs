//! Counters: written by one shard each, read by anyone.
#![forbid(unsafe_code)]

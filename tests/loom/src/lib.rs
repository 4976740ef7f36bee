//! The mesh and what it needs, from the gateway's own files.
#![deny(unsafe_code)]

#[path = "../../../src/ids.rs"]
pub mod ids;
#[path = "../../../src/limits.rs"]
pub mod limits;
#[path = "../../../src/mesh/mod.rs"]
pub mod mesh;

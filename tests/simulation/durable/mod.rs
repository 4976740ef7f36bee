//! Durable messages: devices that come and go, a gateway that crashes, and a disk that fails, held against plain lists.
#![forbid(unsafe_code)]

mod acts;
mod conn;
mod device;
pub mod faults;
mod hears;
mod judge;
pub mod ledger;
mod model;
mod plan;
mod process;
mod shelf;
mod world;

pub use world::World;

//! The contract of the reactors: every case runs on every driver, with real sockets on loopback.
//!
//! A case drives its reactors from outside: each runs a [`probe::Probe`], a machine that reports every input to the case and
//! does what the case posts to it through the mesh.
#![forbid(unsafe_code)]

#[path = "reactor_contract/accepting.rs"]
mod accepting;
#[path = "reactor_contract/checker.rs"]
mod checker;
#[path = "reactor_contract/connecting.rs"]
mod connecting;
#[path = "reactor_contract/ending.rs"]
mod ending;
#[path = "reactor_contract/moving.rs"]
mod moving;
#[path = "reactor_contract/probe.rs"]
mod probe;
#[path = "reactor_contract/rig.rs"]
mod rig;
#[path = "reactor_contract/time_and_mesh.rs"]
mod time_and_mesh;
#[path = "reactor_contract/transfer.rs"]
mod transfer;

/// A module with one test for each case, on one driver of `rig`.
macro_rules! contract {
    ($driver:ident as $module:ident) => {
        mod $module {
            contract! { @cases $driver
                transfer: echoes_whole, echoes_byte_by_byte, echoes_many_small_writes_in_order,
                    sends_a_large_chunk_to_a_slow_reader, sends_one_shared_chunk_to_many, receives_and_sends_behind_a_half_close,
                    holds_bytes_back_while_congested, delivers_held_bytes_when_a_tick_ends_the_congestion,
                    serves_others_beside_a_flood;
                ending: reports_a_reset_once_behind_the_last_bytes, reports_a_reset_that_a_send_finds,
                    closes_with_a_send_in_flight, finishes_and_still_receives, finishes_once_however_often_it_is_told, gives_a_reused_slot_a_new_generation,
                    has_as_many_slots_as_connections_at_once, survives_churn;
                accepting: receives_step_by_step_until_stay, pauses_at_a_full_table_and_goes_on,
                    pauses_without_descriptors_and_goes_on, stops_accepting_and_keeps_connections;
                moving: moves_with_the_bytes_that_came_behind, moves_among_connections_that_come_and_go, moves_a_connection_whose_peer_has_finished,
                    refuses_a_move_to_a_full_table;
                connecting: connects, connects_from_a_given_address, reports_a_refused_connect, reports_an_address_that_is_not_ours,
                    reports_a_connect_without_room;
                time_and_mesh: wakes_a_sleeping_reactor, passes_messages_between_reactors, refuses_a_post_into_a_full_ring,
                    keeps_deadlines, keeps_deadlines_under_load;
            }
        }
    };
    (@cases $driver:ident $($file:ident: $($case:ident),+;)+) => {
        $($(
            #[test]
            fn $case() {
                crate::$file::$case(crate::rig::$driver);
            }
        )+)+
    };
}

contract!(EPOLL as epoll);
#[cfg(feature = "glommio")]
contract!(GLOMMIO as glommio);
contract!(URING as uring);
contract!(URING_SOON_IDLE as uring_soon_idle);
contract!(URING_NEVER_IDLE as uring_never_idle);

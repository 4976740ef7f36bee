//! STATE, WATCH and UNWATCH: whether they are right, and whether this session may.
#![forbid(unsafe_code)]

use super::{Action, Rate, Refusal, Rights, check_name};
use crate::wire::{ErrorCode, Frame, FrameType, body};

pub(super) fn check_state(state: body::State) -> Result<Action<'static>, Refusal> {
    match body::Presence::try_from(state.presence) {
        Ok(body::Presence::Foreground) => Ok(Action::State { background: false }),
        Ok(body::Presence::Background) => Ok(Action::State { background: true }),
        Ok(body::Presence::Offline) | Err(_) => {
            let message = format!("STATE says FOREGROUND (1) or BACKGROUND (2), not {}", state.presence);
            Err(Refusal::answer(ErrorCode::BadState, FrameType::State, message))
        }
    }
}

pub(super) fn check_watch(watch: body::Watch, rights: Option<&Rights>) -> Result<Action<'static>, Refusal> {
    check_clients(&watch.clients, FrameType::Watch)?;
    let forbidden = |client: &&String| rights.is_some_and(|rights| !rights.watch.allows(client));
    if let Some(client) = watch.clients.iter().find(forbidden) {
        let message = format!("the token's claim `watch` does not cover client {client:?}; nobody of this WATCH is watched");
        return Err(Refusal::answer(ErrorCode::ReadForbidden, FrameType::Watch, message));
    }
    Ok(Action::Watch(watch))
}

pub(super) fn check_unwatch(unwatch: body::Unwatch) -> Result<Action<'static>, Refusal> {
    check_clients(&unwatch.clients, FrameType::Unwatch)?;
    Ok(Action::Unwatch(unwatch))
}

fn check_clients(clients: &[String], frame: FrameType) -> Result<(), Refusal> {
    let bad = clients.iter().find_map(|client| check_name(client).err());
    bad.map_or(Ok(()), |bad| Err(Refusal::answer(ErrorCode::BadName, frame, format!("a client's name {bad}"))))
}

/// How much of the rate of frames a frame takes: each client that is watched is as much work as a frame of its own. Never more than
/// a second's worth, so that every frame can pass at some time.
pub(super) fn cost(frame: &Frame<'_>, rate: Rate) -> u32 {
    let names = if let Frame::Watch(watch) = frame {
        watch.clients.len()
    } else if let Frame::Unwatch(unwatch) = frame {
        unwatch.clients.len()
    } else {
        1
    };
    u32::try_from(names).unwrap_or(u32::MAX).min(rate.per_second).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::token::NameRights;

    fn watch(clients: &[&str]) -> body::Watch {
        body::Watch { clients: clients.iter().map(|client| (*client).to_owned()).collect() }
    }

    fn code(result: Result<Action<'_>, Refusal>) -> ErrorCode {
        let refusal = result.expect_err("it is to be refused");
        assert!(!refusal.closing);
        refusal.code
    }

    #[test]
    fn a_client_says_foreground_or_background_and_nothing_else() {
        let state = |presence| check_state(body::State { presence });
        assert_eq!(state(1), Ok(Action::State { background: false }));
        assert_eq!(state(2), Ok(Action::State { background: true }));
        for presence in [0, 3, -1, i32::MAX] {
            assert_eq!(code(state(presence)), ErrorCode::BadState, "{presence}");
        }
    }

    #[test]
    fn a_token_says_who_may_be_watched() {
        let patterns = NameRights::new(&["bob".to_owned(), "team-*".to_owned()]).unwrap();
        let rights = Rights { join: NameRights::all(), write: NameRights::all(), watch: patterns };
        let fine = watch(&["bob", "team-1"]);
        assert_eq!(check_watch(fine.clone(), Some(&rights)), Ok(Action::Watch(fine)));
        assert_eq!(code(check_watch(watch(&["bob", "carol"]), Some(&rights))), ErrorCode::ReadForbidden);
        // In developer mode there are no tokens, and everybody may everything.
        assert!(check_watch(watch(&["carol"]), None).is_ok());
    }

    #[test]
    fn names_are_checked() {
        let long = "n".repeat(65);
        for name in ["", "a\nb", &long] {
            assert_eq!(code(check_watch(watch(&["bob", name]), None)), ErrorCode::BadName);
            let clients = vec![name.to_owned()];
            assert_eq!(code(check_unwatch(body::Unwatch { clients })), ErrorCode::BadName);
        }
        assert!(check_unwatch(body::Unwatch::default()).is_ok(), "nobody named: nobody watched any more");
    }

    #[test]
    fn each_name_counts_as_a_frame() {
        let names: Vec<String> = (0..200).map(|number| format!("c{number}")).collect();
        let many = Frame::Watch(body::Watch { clients: names.clone() });
        let none = Frame::Unwatch(body::Unwatch::default());
        let rate = Rate { per_second: 1_000 };
        assert_eq!((cost(&many, rate), cost(&none, rate)), (200, 1));
        assert_eq!(cost(&Frame::Unwatch(body::Unwatch { clients: names }), rate), 200);
        assert_eq!(cost(&many, Rate { per_second: 50 }), 50, "it can pass at some time");
        assert_eq!(cost(&many, Rate { per_second: 0 }), 1, "no limit");
    }
}

//! Watching other clients.
#![forbid(unsafe_code)]

use super::{Client, ClientError, Event};
use crate::wire::{Frame, FrameType, body};

impl Client {
    /// WATCH, and waits until something was said of each of the clients. What was said, and what follows, comes as
    /// [`Event::Presence`].
    ///
    /// # Errors
    /// Refused with the gateway's reason, closed, broken or timed out.
    pub fn watch(&mut self, clients: &[String]) -> Result<(), ClientError> {
        if clients.is_empty() {
            return Ok(());
        }
        self.write_frame(&Frame::Watch(body::Watch { clients: clients.to_vec() }))?;
        let mut due = clients.to_vec();
        let last = self.answer("PRESENCE", FrameType::Watch, |event| match event {
            Event::Presence(presence) => {
                due.retain(|client| *client != presence.client);
                if due.is_empty() { Ok(presence) } else { Err(Event::Presence(presence)) }
            }
            other => Err(other),
        })?;
        self.events.push_back(Event::Presence(last));
        Ok(())
    }

    /// UNWATCH; of everybody, if nobody is named. Events that are on their way still come.
    ///
    /// # Errors
    /// The connection broke.
    pub fn unwatch(&mut self, clients: &[String]) -> Result<(), ClientError> {
        self.write_frame(&Frame::Unwatch(body::Unwatch { clients: clients.to_vec() }))
    }

    /// STATE: foreground or background, for who watches this client.
    ///
    /// # Errors
    /// The connection broke.
    pub fn state(&mut self, background: bool) -> Result<(), ClientError> {
        let presence = if background { body::Presence::Background } else { body::Presence::Foreground };
        self.write_frame(&Frame::State(body::State { presence: presence.into() }))
    }
}

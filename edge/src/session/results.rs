//! What became of the actions that take time.

use proto::Room;
use tokio::time::Instant;

use super::{
    Action, Forward, JoinOutcome, Joining, OpId, Receipt, Session, Stored, error,
    rooms::{Membership, Step},
};
use crate::{
    authorize::{Admission, Decision},
    interest::LinkId,
    protocol::{ErrorCode, ServerMessage, server::Ack},
};

impl Session {
    /// The answer to [`Action::Authorize`].
    pub fn authorized(&mut self, op: OpId, room: &Room, admission: Admission, actions: &mut Vec<Action>) {
        let Some(Step::Authorizing { id, since }) = self.take_step(op, room) else { return };
        let Admission { decision, grant } = admission;
        let (code, text) = match decision {
            Decision::Allowed { publish } => {
                self.start_joining(room.clone(), Joining { id, publish, grant, since }, actions);
                return;
            }
            Decision::Denied => (ErrorCode::NotAuthorized, format!("you may not join {room}")),
            Decision::Unavailable => {
                (ErrorCode::AuthorizationUnavailable, "the backend did not answer whether you may join".to_owned())
            }
        };
        actions.push(error(id.as_deref(), code, &text, Some(room)));
        // A *no* ends a membership; no answer does not.
        if decision == Decision::Denied && self.rooms.membership(room).is_some() {
            self.start_leaving(room, None, Some(ErrorCode::NotAuthorized.as_str()), actions);
        } else {
            self.resume(room, actions);
        }
    }

    /// The answer to [`Action::Join`].
    pub fn joined(&mut self, op: OpId, room: &Room, outcome: JoinOutcome, actions: &mut Vec<Action>) {
        let Some(Step::Joining { id, publish }) = self.take_step(op, room) else { return };
        match outcome {
            JoinOutcome::Joined | JoinOutcome::CatchingUp => {
                self.rooms.state(room).membership = Some(Membership { publish });
            }
            JoinOutcome::Unavailable => {
                actions.push(error(id.as_deref(), ErrorCode::Unavailable, "no fanout node answers", Some(room)));
            }
        }
        self.resume(room, actions);
    }

    /// The answer to [`Action::Leave`].
    pub fn left(&mut self, op: OpId, room: &Room, actions: &mut Vec<Action>) {
        let Some(Step::Leaving) = self.take_step(op, room) else { return };
        self.resume(room, actions);
    }

    /// What [`Action::Publish`] is to forward, as it has to go now: of several at once the first chose the link meanwhile.
    pub fn forward(&mut self, room: &Room, forward: Forward) -> Forward {
        let chosen = self.rooms.broadcasts(room).and_then(|broadcasts| broadcasts.via());
        Forward { via: forward.via.or(chosen.filter(|_| !forward.alone)), ..forward }
    }

    /// What [`Action::Publish`] forwarded went over this link; its receipt is to come.
    pub fn sent(&mut self, room: &Room, via: LinkId) {
        if let Some(broadcasts) = self.rooms.broadcasts(room) {
            broadcasts.sent(via);
        }
    }

    /// The answer to [`Action::Publish`].
    pub fn receipt(&mut self, op: OpId, room: &Room, receipt: Receipt, now: Instant, actions: &mut Vec<Action>) {
        let Some(broadcasts) = self.rooms.broadcasts(room) else { return };
        let (answers, next) = broadcasts.receipt(op, receipt, now);
        self.waiting -= answers.len();
        for (id, receipt) in answers {
            match (receipt, id.as_deref()) {
                (Ok(Stored { position, duplicate }), Some(id)) => {
                    let ack = Ack { room, epoch: &position.epoch, seq: position.seq, duplicate };
                    actions.push(Action::Send(ServerMessage::Ack { id, payload: ack }.frame()));
                }
                (Ok(_), None) => {}
                (Err(failure), id) => actions.push(error(id, failure.code, &failure.text, Some(room))),
            }
        }
        actions.extend(next.map(|forward| Action::Publish { room: room.clone(), forward }));
        self.rooms.forget_if_idle(room);
    }
}

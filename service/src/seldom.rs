//! For log lines that one event could bring by the thousand: one in a while, which tells how many were left out.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// From one line to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// Of one line of the code, shared by all who may write it.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// How many were left out before this one; `None`: leave this one out, too.
    pub fn is_due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.next.is_some_and(|next| now < next) {
            state.left_out += 1;
            return None;
        }
        state.next = Some(now + PERIOD);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_in_a_while_tells_of_the_others() {
        let seldom = Seldom::default();
        assert_eq!(seldom.is_due(), Some(0));
        assert_eq!((seldom.is_due(), seldom.is_due()), (None, None));
        tokio::time::advance(PERIOD).await;
        assert_eq!(seldom.is_due(), Some(2));
        assert_eq!(seldom.is_due(), None);
    }
}

use std::time::Duration;

use tokio::time::Instant;

/// When a connection is pinged, when it counts as dead, and when its token ends. Pure: told of what happens, asked
/// what is due.
#[derive(Debug)]
pub(super) struct Heartbeat {
    period: Duration,
    wait: Duration,
    received: Instant,
    next_ping: Instant,
    expires: Instant,
    /// When the connection is too old, and then when it is to go.
    retires: Option<Instant>,
    told: bool,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// Nothing at all was received for too long.
    Dead,
    TokenExpired,
    /// It is old: to be told that it will have to go, by [`Heartbeat::goes_at`].
    Aged,
    /// Its moment to go has come.
    Gone,
}

impl Heartbeat {
    /// The first ping comes after `first` of the period, a fraction that spreads the pings of connections that came
    /// together.
    pub(super) fn new(period: Duration, wait: Duration, first: f64, now: Instant, expires: Instant) -> Self {
        let next_ping = now + period.mul_f64(first.clamp(0.0, 1.0));
        Self { period, wait, received: now, next_ping, expires, retires: None, told: false }
    }

    /// The connection is too old then.
    pub(super) fn ages_at(&mut self, at: Instant) {
        self.retires = Some(at);
    }

    /// It was told to go then.
    pub(super) fn goes_at(&mut self, at: Instant) {
        (self.retires, self.told) = (Some(at), true);
    }

    /// Something arrived, whatever it was.
    pub(super) fn received(&mut self, now: Instant) {
        self.received = now;
    }

    pub(super) fn token_expires(&mut self, at: Instant) {
        self.expires = at;
    }

    /// When to ask again. Not put off by what arrives, so that a busy connection moves no timer.
    pub(super) fn deadline(&self) -> Instant {
        let first = self.next_ping.min(self.received + self.wait).min(self.expires);
        self.retires.map_or(first, |retires| first.min(retires))
    }

    pub(super) fn due(&mut self, now: Instant) -> Due {
        if now >= self.expires {
            Due::TokenExpired
        } else if now >= self.received + self.wait {
            Due::Dead
        } else if self.retires.is_some_and(|retires| now >= retires) {
            if self.told { Due::Gone } else { Due::Aged }
        } else if now >= self.next_ping {
            self.next_ping = now + self.period;
            Due::Ping
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn heartbeat(now: Instant) -> Heartbeat {
        Heartbeat::new(secs(54), secs(60), 1.0, now, now + secs(1000))
    }

    #[tokio::test(start_paused = true)]
    async fn pings_come_every_period_and_silence_ends_it() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        assert_eq!(beat.deadline(), start + secs(54));
        assert_eq!(beat.due(start + secs(53)), Due::Nothing);
        assert_eq!(beat.due(start + secs(54)), Due::Ping);
        assert_eq!(beat.deadline(), start + secs(60));
        assert_eq!(beat.due(start + secs(60)), Due::Dead);
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_arrives_keeps_it_alive() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        assert_eq!(beat.due(start + secs(54)), Due::Ping);
        beat.received(start + secs(59));
        assert_eq!(beat.due(start + secs(60)), Due::Nothing);
        assert_eq!(beat.deadline(), start + secs(108));
        assert_eq!(beat.due(start + secs(119)), Due::Dead);
    }

    #[tokio::test(start_paused = true)]
    async fn the_token_ends_it_unless_a_newer_one_came() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.token_expires(start + secs(10));
        assert_eq!(beat.deadline(), start + secs(10));
        assert_eq!(beat.due(start + secs(10)), Due::TokenExpired);
        beat.token_expires(start + secs(2000));
        assert_eq!(beat.due(start + secs(10)), Due::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_is_told_and_then_goes() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.ages_at(start + secs(30));
        assert_eq!(beat.deadline(), start + secs(30));
        assert_eq!(beat.due(start + secs(30)), Due::Aged);
        beat.goes_at(start + secs(35));
        assert_eq!(beat.due(start + secs(34)), Due::Nothing);
        assert_eq!(beat.due(start + secs(35)), Due::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_ping_is_spread() {
        let start = Instant::now();
        let beat = Heartbeat::new(secs(54), secs(60), 0.5, start, start + secs(1000));
        assert_eq!(beat.deadline(), start + secs(27));
    }
}

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use service::RandomState;
use tokio::time::Instant;

/// Addresses remembered: only those that asked within the last second need be, and no edge answers so many in one.
const MAX_ADDRESSES: usize = 65_536;

/// Below so many, those that need not be remembered any more are not looked for.
const FEW: usize = 1024;

/// A second's worth of sockets for each address, in a bucket that fills at the rate. Pure: the time is passed in.
#[derive(Debug)]
pub(super) struct Rates {
    /// The time that one socket takes.
    each: Duration,
    /// When the bucket of an address is full again; no entry: it is.
    full_at: HashMap<IpAddr, Instant, RandomState>,
    /// With so many entries, those of full buckets are dropped.
    sweep_at: usize,
}

impl Rates {
    pub(super) fn new(per_second: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second.max(1), full_at: HashMap::default(), sweep_at: FEW }
    }

    /// Whether the address may have one more. One that is refused costs it nothing.
    pub(super) fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = holder(address);
        if !self.full_at.contains_key(&address) && self.full_at.len() >= self.sweep_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = (self.full_at.len() * 2).clamp(FEW, MAX_ADDRESSES);
            if self.full_at.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let full_at = self.full_at.get(&address).copied().unwrap_or(now).max(now) + self.each;
        if full_at > now + Duration::from_secs(1) {
            return false;
        }
        self.full_at.insert(address, full_at);
        true
    }
}

/// Who has an address has the other half of it as well, with IPv6.
fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_second_s_worth_at_once_and_then_the_rate() {
        let mut rates = Rates::new(10);
        let start = Instant::now();
        let admitted = |rates: &mut Rates, ms: u64| {
            let now = start + Duration::from_millis(ms);
            (0..100).filter(|_| rates.admit(address("192.0.2.1"), now)).count()
        };
        assert_eq!(admitted(&mut rates, 0), 10);
        assert_eq!(admitted(&mut rates, 99), 0);
        assert_eq!(admitted(&mut rates, 100), 1);
        assert_eq!(admitted(&mut rates, 600), 5);
        assert_eq!(admitted(&mut rates, 60_000), 10, "no more for having waited longer");
    }

    #[test]
    fn each_address_has_its_own_and_all_of_a_network_of_ipv6_share_one() {
        let mut rates = Rates::new(1);
        let now = Instant::now();
        for (text, admitted) in [
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("::ffff:192.0.2.2", false),
            ("2001:db8::1", true),
            ("2001:db8::ffff:1", false),
            ("2001:db8:0:1::1", true),
        ] {
            assert_eq!(rates.admit(address(text), now), admitted, "{text}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_in_time() {
        let mut rates = Rates::new(1);
        let now = Instant::now();
        let numbered = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        for number in 0..MAX_ADDRESSES {
            assert!(rates.admit(numbered(number), now));
        }
        assert!(!rates.admit(numbered(MAX_ADDRESSES), now), "full");
        assert!(!rates.admit(numbered(0), now), "and those known are known still");
        assert!(rates.admit(numbered(MAX_ADDRESSES), now + Duration::from_secs(1)));
        assert_eq!(rates.full_at.len(), 1);
    }
}

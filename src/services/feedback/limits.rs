//! How often one sender may send: a token bucket for each network address and each person, in its one-number form, the
//! time at which it is full again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use parking_lot::Mutex;

use crate::scan::{Pseudonym, UnixMillis};

/// Senders that are told apart; those beyond share a bucket.
const SENDERS_MAX: usize = 65_536;

/// How often full buckets are looked for while the table is full.
const LOOK_MS: i64 = 10_000;

const HOUR_MS: i64 = 3_600_000;

/// Whose bucket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// Whoever sends from this address; of IPv6, from this network of 64 bits, which is one household's.
    Address(IpAddr),
    /// Who signed.
    Person([u8; 16]),
    /// All who found no room in the table.
    Rest,
}

impl Sender {
    /// The sender behind a signature, or else behind an address.
    pub fn of(person: Option<Pseudonym>, address: IpAddr) -> Self {
        match (person, address.to_canonical()) {
            (Some(person), _) => Self::Person(person.0),
            (None, IpAddr::V6(address)) => {
                Self::Address(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into())
            }
            (None, address) => Self::Address(address),
        }
    }
}

/// The buckets of all senders.
pub struct Limits {
    address_per_h: u32,
    person_per_h: u32,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    full_at: HashMap<Sender, i64>,
    looked: i64,
}

impl Limits {
    /// With rates an hour, which are also what a rest saves up; 0 for none.
    pub fn new(address_per_h: u32, person_per_h: u32) -> Self {
        Self { address_per_h, person_per_h, table: Mutex::default() }
    }

    /// Takes one from a sender's bucket.
    ///
    /// # Errors
    /// It is empty: the rate, its name in the configuration, and after how many seconds there is one again.
    pub fn take(&self, sender: Sender, now: UnixMillis) -> Result<(), (u32, &'static str, u32)> {
        let (rate, name) = match sender {
            Sender::Person(_) => (self.person_per_h, "feedback.person_per_h"),
            Sender::Address(_) | Sender::Rest => (self.address_per_h, "feedback.address_per_h"),
        };
        if rate == 0 {
            return Ok(());
        }
        let one_ms = HOUR_MS / i64::from(rate);
        let mut table = self.table.lock();
        let sender = table.place(sender, now.0);
        let full_at = table.full_at.get(&sender).copied().unwrap_or(now.0).max(now.0) + one_ms;
        let wait_ms = full_at - now.0 - one_ms * i64::from(rate);
        if wait_ms > 0 {
            let wait_s = u32::try_from((wait_ms + 999) / 1_000).unwrap_or(u32::MAX);
            return Err((rate, name, wait_s));
        }
        table.full_at.insert(sender, full_at);
        Ok(())
    }
}

impl Table {
    fn place(&mut self, sender: Sender, now: i64) -> Sender {
        if self.full_at.len() < SENDERS_MAX || self.full_at.contains_key(&sender) {
            return sender;
        }
        if now - self.looked >= LOOK_MS {
            self.looked = now;
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() < SENDERS_MAX { sender } else { Sender::Rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Sender {
        Sender::of(None, text.parse().expect("an address"))
    }

    #[test]
    fn a_bucket_empties_and_fills_for_its_sender_only() {
        let limits = Limits::new(6, 2);
        let sent = |sender, at_s: i64| limits.take(sender, UnixMillis(1_000_000 + at_s * 1_000));
        for _ in 0..6 {
            assert_eq!(sent(address("192.0.2.1"), 0), Ok(()));
        }
        assert_eq!(sent(address("192.0.2.1"), 0), Err((6, "feedback.address_per_h", 600)));
        assert_eq!(sent(address("::ffff:192.0.2.1"), 599), Err((6, "feedback.address_per_h", 1)));
        assert_eq!(sent(address("192.0.2.1"), 600), Ok(()));
        assert_eq!(sent(address("192.0.2.2"), 0), Ok(()));
        let person = Sender::of(Some(Pseudonym([1; 16])), [192, 0, 2, 1].into());
        assert_eq!((sent(person, 0), sent(person, 0)), (Ok(()), Ok(())));
        assert_eq!(sent(person, 0), Err((2, "feedback.person_per_h", 1_800)));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
    }

    #[test]
    fn senders_are_bounded_and_the_rest_shares_one() {
        let limits = Limits::new(2, 1);
        let network = |number: u32| Sender::of(None, Ipv6Addr::from_bits(u128::from(number) << 64).into());
        let now = UnixMillis(1_000_000);
        for number in 0..70_000 {
            let _ = limits.take(network(number), now);
        }
        assert_eq!(limits.table.lock().full_at.len(), SENDERS_MAX + 1);
        assert!(limits.take(network(80_000), now).is_err());
        assert!(limits.take(network(80_000), UnixMillis(now.0 + HOUR_MS)).is_ok());
        assert_eq!(limits.table.lock().full_at.len(), 1);
    }

    #[test]
    fn no_rate_is_no_limit() {
        let limits = Limits::new(0, 0);
        assert!((0..1_000).all(|_| limits.take(address("192.0.2.1"), UnixMillis(0)).is_ok()));
        assert!(limits.table.lock().full_at.is_empty());
    }
}

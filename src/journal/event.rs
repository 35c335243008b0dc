//! A record of the services' log: what it means is for the capability that wrote it.

use super::record::{FRAME_BYTES, KIND_EVENT, RECORD_BYTES_MAX, frame, take};
use super::{Record, Unreadable};
use crate::scan::UnixMillis;

const EVENT_VERSION: u8 = 1;

/// Kind and version, id, time and capability.
const HEAD_BYTES: usize = 2 + 16 + 8 + 1;

/// Longest body of an event.
pub const EVENT_BODY_BYTES_MAX: usize = RECORD_BYTES_MAX as usize - HEAD_BYTES;

/// Something that a service was told and has to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Names it, once and for all.
    pub id: [u8; 16],
    /// When it arrived.
    pub at: UnixMillis,
    /// Whose it is.
    pub capability: u8,
    /// What it says, in its capability's own form; up to [`EVENT_BODY_BYTES_MAX`].
    pub body: Vec<u8>,
}

impl Record for Event {
    fn bytes(&self) -> usize {
        FRAME_BYTES + HEAD_BYTES + self.body.len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let parts: [&[u8]; 4] = [&self.id, &self.at.0.to_le_bytes(), &[self.capability], &self.body];
        frame(KIND_EVENT, EVENT_VERSION, &parts, out);
    }

    fn decode(kind: u8, version: u8, mut body: &[u8]) -> Result<Self, Unreadable> {
        match (kind, version) {
            (KIND_EVENT, EVENT_VERSION) => {}
            (KIND_EVENT, found) => return Err(Unreadable::Unsupported { what: "event version", found }),
            (found, _) => return Err(Unreadable::Unsupported { what: "record kind", found }),
        }
        let rest = &mut body;
        let mut read = || {
            let id = take(rest)?;
            let at = UnixMillis(i64::from_le_bytes(take(rest)?));
            let [capability] = take(rest)?;
            Some(Self { id, at, capability, body: rest.to_vec() })
        };
        read().ok_or(Unreadable::Value)
    }

    fn received(&self) -> UnixMillis {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Item, item};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_member_survives_and_no_flipped_bit_is_read(
            (id, at, capability) in (any::<[u8; 16]>(), any::<i64>(), any::<u8>()),
            body in proptest::collection::vec(any::<u8>(), 0..=300),
            (byte, bit) in (any::<prop::sample::Index>(), 0..8_u8),
        ) {
            let event = Event { id, at: UnixMillis(at), capability, body };
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), event.bytes());
            let read = item::<Event>(&bytes, 1, 32);
            prop_assert!(matches!(&read, Item::Record(read, length) if *read == event && *length == bytes.len() as u64));
            let byte = byte.index(bytes.len());
            bytes[byte] ^= 1_u8 << bit;
            prop_assert!(!matches!(item::<Event>(&bytes, 1, 32), Item::Record(..) | Item::Batch(_)));
        }
    }

    #[test]
    fn the_longest_body_fits_and_a_checkin_is_none() {
        let event =
            Event { id: [1; 16], at: UnixMillis(5), capability: 3, body: vec![7; EVENT_BODY_BYTES_MAX] };
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert!(matches!(item::<Event>(&bytes, 1, 32), Item::Record(..)));
        let other = item::<crate::scan::Checkin>(&bytes, 1, 32);
        assert!(matches!(other, Item::Unsupported { what: "record kind", found: 2 }));
    }
}

//! Bytes of the three things a segment holds: its header, batch headers, and records.
//! The layout is documented in [the module](super).

use super::Record;
use crate::scan::{
    App, Checkin, CheckinId, ClientKey, DeviceKey, Direction, DirectionRequest, Form, PlaceKey, Pseudonym,
    Scan, Subject, Trust, UnixMillis,
};

/// Version of the file format, in every segment header.
pub const FORMAT_VERSION: u32 = 1;

/// Size of a segment's header.
pub const SEGMENT_HEADER_BYTES: u64 = SEGMENT_HEADER_LEN as u64;
pub(super) const SEGMENT_HEADER_LEN: usize = 32;

/// Size of a batch header.
pub const BATCH_HEADER_BYTES: u64 = BATCH_HEADER_LEN as u64;
pub(super) const BATCH_HEADER_LEN: usize = 40;

/// Longest payload of a record. A check-in needs 94 bytes; the rest is room for other kinds. Checked
/// before anything is read or allocated by a length that came from disk.
pub const RECORD_BYTES_MAX: u32 = 4096;

/// Length and checksum before each payload.
pub(super) const FRAME_BYTES: usize = 8;

/// Payload of a check-in record.
const CHECKIN_BYTES: usize = 94;

/// A whole check-in record on disk.
pub const CHECKIN_RECORD_BYTES: usize = FRAME_BYTES + CHECKIN_BYTES;

const SEGMENT_MAGIC: [u8; 8] = *b"scgJrnl\x1a";
pub(super) const BATCH_MAGIC: [u8; 8] = [0xb7, 0xd1, 0x5c, 0xf3, 0x9e, 0x42, 0xa8, 0x6b];

/// The first byte of each kind of record.
pub(super) const KIND_CHECKIN: u8 = 1;
pub(super) const KIND_EVENT: u8 = 2;
const CHECKIN_VERSION: u8 = 1;

// The first four bytes of a batch header read as a record length must be out of bounds, so that a
// reader that starts between two records can tell a header from a record.
const _: () = assert!(u32::from_le_bytes([0xb7, 0xd1, 0x5c, 0xf3]) > RECORD_BYTES_MAX);
const _: () = assert!(CHECKIN_RECORD_BYTES <= 110, "a check-in's journal cost is part of the sizing guide");
const _: () = assert!(CHECKIN_BYTES <= RECORD_BYTES_MAX as usize);

/// What a batch header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchKind {
    /// Records follow.
    Records,
    /// Nothing follows in this segment: it is complete.
    Seal,
    /// Nothing follows: only proves that everything before it is durable (written on a clean stop).
    Mark,
}

impl BatchKind {
    const fn code(self) -> u8 {
        match self {
            Self::Records => 0,
            Self::Seal => 1,
            Self::Mark => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Records),
            1 => Some(Self::Seal),
            2 => Some(Self::Mark),
            _ => None,
        }
    }
}

/// A batch header, with the place in the journal that it vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) sequence: u64,
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) kind: BatchKind,
}

impl BatchHeader {
    pub(super) fn encode(self) -> [u8; BATCH_HEADER_LEN] {
        let mut bytes = [0; BATCH_HEADER_LEN];
        let mut put = Put(&mut bytes);
        put.put(BATCH_MAGIC);
        put.put(self.sequence.to_le_bytes());
        put.put(self.segment.to_le_bytes());
        put.put(self.offset.to_le_bytes());
        put.put([self.kind.code(), 0, 0, 0]);
        seal_with_checksum(&mut bytes);
        bytes
    }

    /// The header at `offset` of `segment`, if these bytes are one and were written there.
    pub(super) fn decode(bytes: &[u8], segment: u64, offset: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_LEN>()?;
        let mut rest = checked(bytes)?;
        let magic: [u8; 8] = take(&mut rest)?;
        let header = Self {
            sequence: u64::from_le_bytes(take(&mut rest)?),
            segment: u64::from_le_bytes(take(&mut rest)?),
            offset: u64::from_le_bytes(take(&mut rest)?),
            kind: BatchKind::from_code(take::<4>(&mut rest)?[0])?,
        };
        let here = magic == BATCH_MAGIC && header.segment == segment && header.offset == offset;
        here.then_some(header)
    }
}

/// Why a segment header can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadSegmentHeader {
    Damaged,
    Version(u32),
    OtherSegment(u64),
}

pub(super) fn encode_segment_header(segment: u64) -> [u8; SEGMENT_HEADER_LEN] {
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    let mut put = Put(&mut bytes);
    put.put(SEGMENT_MAGIC);
    put.put(FORMAT_VERSION.to_le_bytes());
    put.put([0; 4]);
    put.put(segment.to_le_bytes());
    seal_with_checksum(&mut bytes);
    bytes
}

pub(super) fn check_segment_header(bytes: &[u8], segment: u64) -> Result<(), BadSegmentHeader> {
    let (version, found) = decode_segment_header(bytes).ok_or(BadSegmentHeader::Damaged)?;
    if version != FORMAT_VERSION {
        return Err(BadSegmentHeader::Version(version));
    }
    if found == segment { Ok(()) } else { Err(BadSegmentHeader::OtherSegment(found)) }
}

fn decode_segment_header(bytes: &[u8]) -> Option<(u32, u64)> {
    let bytes = bytes.first_chunk::<SEGMENT_HEADER_LEN>()?;
    let mut rest = checked(bytes)?;
    let magic: [u8; 8] = take(&mut rest)?;
    let version = u32::from_le_bytes(take(&mut rest)?);
    let _reserved: [u8; 4] = take(&mut rest)?;
    let segment = u64::from_le_bytes(take(&mut rest)?);
    (magic == SEGMENT_MAGIC).then_some((version, segment))
}

impl Record for Checkin {
    fn bytes(&self) -> usize {
        CHECKIN_RECORD_BYTES
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut frame = [0; CHECKIN_RECORD_BYTES];
        let (length, rest) = frame.split_at_mut(4);
        let (checksum, payload) = rest.split_at_mut(4);
        encode_payload(self, payload);
        length.copy_from_slice(&CHECKIN_LENGTH.to_le_bytes());
        checksum.copy_from_slice(&record_checksum(CHECKIN_LENGTH, payload).to_le_bytes());
        out.extend_from_slice(&frame);
    }

    fn decode(kind: u8, version: u8, body: &[u8]) -> Result<Self, Unreadable> {
        match (kind, version) {
            (KIND_CHECKIN, CHECKIN_VERSION) => decode_checkin(body).ok_or(Unreadable::Value),
            (KIND_CHECKIN, found) => Err(Unreadable::Unsupported { what: "check-in version", found }),
            (found, _) => Err(Unreadable::Unsupported { what: "record kind", found }),
        }
    }

    fn received(&self) -> UnixMillis {
        self.scan.received
    }
}

/// Why an intact record is not one of those that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// A kind or version that this code, or this journal, does not have.
    Unsupported {
        /// Which of the two.
        what: &'static str,
        /// What stands there.
        found: u8,
    },
    /// A value out of its range.
    Value,
}

/// Appends a frame around a payload: its kind, its version and the rest. Payloads are no longer than
/// [`RECORD_BYTES_MAX`].
pub(super) fn frame(kind: u8, version: u8, body: &[&[u8]], out: &mut Vec<u8>) {
    let length = body.iter().map(|part| part.len()).sum::<usize>() + 2;
    debug_assert!(length <= RECORD_BYTES_MAX as usize);
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let head = [kind, version];
    let checksum =
        body.iter().fold(record_checksum(length, &head), |sum, part| crc32c::crc32c_append(sum, part));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&head);
    for part in body {
        out.extend_from_slice(part);
    }
}

#[allow(clippy::cast_possible_truncation)] // 94, asserted above to be far below the bound.
const CHECKIN_LENGTH: u32 = CHECKIN_BYTES as u32;

/// What stands at one place of a segment's data.
#[derive(Debug)]
pub(super) enum Item<R> {
    /// A batch header, checked.
    Batch(BatchHeader),
    /// A record, checked, and the bytes it takes.
    Record(R, u64),
    /// No more data: end of file, or zeroed preallocated space.
    End,
    /// Neither: torn or damaged, the caller decides which.
    Bad(&'static str),
    /// An intact record that this version can't read.
    Unsupported { what: &'static str, found: u8 },
}

/// Reads what stands at `offset` of `segment`; `bytes` begins there and is as long as the longest
/// record unless the file ends sooner.
pub(super) fn item<R: Record>(bytes: &[u8], segment: u64, offset: u64) -> Item<R> {
    let Some(length) = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length)) else {
        return if bytes.iter().all(|byte| *byte == 0) { Item::End } else { Item::Bad("data cut short") };
    };
    if length == 0 {
        return Item::End;
    }
    if bytes.starts_with(&BATCH_MAGIC) {
        return BatchHeader::decode(bytes, segment, offset)
            .map_or(Item::Bad("batch header fails its checksum"), Item::Batch);
    }
    if length > RECORD_BYTES_MAX {
        return Item::Bad("record length out of bounds");
    }
    record(bytes, length).unwrap_or(Item::Bad("record cut short"))
}

fn record<R: Record>(mut rest: &[u8], length: u32) -> Option<Item<R>> {
    let _length: [u8; 4] = take(&mut rest)?;
    let checksum = u32::from_le_bytes(take(&mut rest)?);
    let payload = rest.get(..length as usize)?;
    if record_checksum(length, payload) != checksum {
        return Some(Item::Bad("record fails its checksum"));
    }
    let mut rest = payload;
    let Some([kind, version]) = take(&mut rest) else { return Some(Item::Bad("record without a kind")) };
    Some(match R::decode(kind, version, rest) {
        Ok(record) => Item::Record(record, FRAME_BYTES as u64 + u64::from(length)),
        Err(Unreadable::Unsupported { what, found }) => Item::Unsupported { what, found },
        Err(Unreadable::Value) => Item::Bad("record holds a value out of range"),
    })
}

fn encode_payload(checkin: &Checkin, payload: &mut [u8]) {
    let Checkin { id, direction, scan } = checkin;
    let mut put = Put(payload);
    put.put([KIND_CHECKIN, CHECKIN_VERSION]);
    put.put(id.0);
    put.put(scan.person.0);
    put.put(scan.place.0);
    put.put(scan.at.0.to_le_bytes());
    put.put(scan.received.0.to_le_bytes());
    put.put(scan.client.0);
    put.put(scan.device.0);
    put.put(scan.window_s.to_le_bytes());
    put.put([
        direction.code(),
        scan.direction.code(),
        scan.app.code(),
        scan.subject.code(),
        scan.trust.code(),
        scan.form.code(),
    ]);
    debug_assert!(put.0.is_empty());
}

fn decode_checkin(mut rest: &[u8]) -> Option<Checkin> {
    let rest = &mut rest;
    let id = CheckinId(take(rest)?);
    let person = Pseudonym(take(rest)?);
    let place = PlaceKey(take(rest)?);
    let at = UnixMillis(i64::from_le_bytes(take(rest)?));
    let received = UnixMillis(i64::from_le_bytes(take(rest)?));
    let client = ClientKey(take(rest)?);
    let device = DeviceKey(take(rest)?);
    let window_s = u16::from_le_bytes(take(rest)?);
    let [direction, requested, app, subject, trust, form] = take(rest)?;
    let scan = Scan {
        person,
        place,
        direction: DirectionRequest::from_code(requested)?,
        at,
        received,
        client,
        device,
        app: App::from_code(app)?,
        subject: Subject::from_code(subject)?,
        trust: Trust::from_code(trust)?,
        form: Form::from_code(form)?,
        window_s,
    };
    rest.is_empty().then_some(Checkin { id, direction: Direction::from_code(direction)?, scan })
}

/// CRC32C of the payload, begun from the length so that the length is covered too.
fn record_checksum(length: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(length, payload)
}

/// Writes the CRC32C of everything before the last four bytes into them.
fn seal_with_checksum(bytes: &mut [u8]) {
    if let Some((body, checksum)) = bytes.split_last_chunk_mut::<4>() {
        *checksum = crc32c::crc32c(body).to_le_bytes();
    }
}

/// The bytes before the trailing checksum, if it is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    (crc32c::crc32c(body) == u32::from_le_bytes(*checksum)).then_some(body)
}

pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Fills a fixed buffer front to back. Writing past its end does nothing; the layouts above are
/// checked by the round-trip tests.
struct Put<'a>(&'a mut [u8]);

impl Put<'_> {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        if let Some((head, tail)) = std::mem::take(&mut self.0).split_first_chunk_mut::<N>() {
            *head = bytes;
            self.0 = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_checkin() -> impl Strategy<Value = Checkin> {
        let keys =
            (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 12]>(), any::<[u8; 8]>());
        let codes = (0..2_u8, 0..3_u8, 0..3_u8, 0..2_u8, 0..2_u8, 0..4_u8);
        (keys, any::<i64>(), any::<i64>(), any::<u16>(), codes).prop_filter_map(
            "code",
            |((id, person, place, client, device), at, received, window_s, codes)| {
                let (direction, requested, app, subject, trust, form) = codes;
                Some(Checkin {
                    id: CheckinId(id),
                    direction: Direction::from_code(direction)?,
                    scan: Scan {
                        person: Pseudonym(person),
                        place: PlaceKey(place),
                        direction: DirectionRequest::from_code(requested)?,
                        at: UnixMillis(at),
                        received: UnixMillis(received),
                        client: ClientKey(client),
                        device: DeviceKey(device),
                        app: App::from_code(app)?,
                        subject: Subject::from_code(subject)?,
                        trust: Trust::from_code(trust)?,
                        form: Form::from_code(form)?,
                        window_s,
                    },
                })
            },
        )
    }

    proptest! {
        #[test]
        fn every_field_survives(checkin in any_checkin()) {
            let mut bytes = Vec::new();
            checkin.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), CHECKIN_RECORD_BYTES);
            match item::<Checkin>(&bytes, 1, 32) {
                Item::Record(read, length) => {
                    prop_assert_eq!(read, checkin);
                    prop_assert_eq!(length, CHECKIN_RECORD_BYTES as u64);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn no_flipped_bit_is_read_as_a_record(
            checkin in any_checkin(),
            byte in 0..CHECKIN_RECORD_BYTES,
            bit in 0..8_u8,
        ) {
            let mut bytes = Vec::new();
            checkin.encode(&mut bytes);
            bytes[byte] ^= 1_u8 << bit;
            prop_assert!(!matches!(item::<Checkin>(&bytes, 1, 32), Item::Record(..) | Item::Batch(_)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = item::<Checkin>(&bytes, 1, 32);
            let _ = item::<super::super::Event>(&bytes, 1, 32);
            let _ = check_segment_header(&bytes, 1);
        }
    }

    #[test]
    fn batch_header_is_bound_to_its_place() {
        let header = BatchHeader { sequence: 7, segment: 3, offset: 4096, kind: BatchKind::Seal };
        let bytes = header.encode();
        assert_eq!(BatchHeader::decode(&bytes, 3, 4096), Some(header));
        assert_eq!(BatchHeader::decode(&bytes, 2, 4096), None);
        assert_eq!(BatchHeader::decode(&bytes, 3, 4097), None);
        for byte in 0..bytes.len() {
            let mut flipped = bytes;
            flipped[byte] ^= 0x10;
            assert_eq!(BatchHeader::decode(&flipped, 3, 4096), None, "byte {byte}");
        }
    }

    #[test]
    fn segment_header_names_version_and_number() {
        let bytes = encode_segment_header(9);
        assert_eq!(check_segment_header(&bytes, 9), Ok(()));
        assert_eq!(check_segment_header(&bytes, 8), Err(BadSegmentHeader::OtherSegment(9)));
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(check_segment_header(&newer, 9), Err(BadSegmentHeader::Damaged));
        seal_with_checksum(&mut newer);
        assert_eq!(check_segment_header(&newer, 9), Err(BadSegmentHeader::Version(2)));
    }
}

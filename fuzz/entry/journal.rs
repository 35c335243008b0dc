//! A journal's segment with bytes of the fuzzer's choice under right checksums, which it could not make.

use scangate::journal::{self, BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES};

/// Commands, one after the other: a byte that says what, a byte that says how long, and as many bytes.
/// The segment they make is read without a panic; cut where its intact data ends, it is whole.
pub fn segment(data: &[u8]) {
    let mut file =
        sealed(&[&b"scgJrnl\x1a"[..], &1_u32.to_le_bytes(), &[0; 4], &1_u64.to_le_bytes(), &[0; 4]].concat());
    assert_eq!(file.len() as u64, SEGMENT_HEADER_BYTES);
    let (mut rest, mut sequence, mut most) = (data, 7_u64, 0);
    while let [command, length, after @ ..] = rest {
        let (content, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        match command % 4 {
            0 => {
                let kind = content.first().copied().unwrap_or_default();
                file.extend(batch_header(sequence, file.len() as u64, kind));
                sequence += 1;
            }
            1 => {
                most += 1;
                let length = u32::try_from(content.len()).unwrap_or_default();
                file.extend(length.to_le_bytes());
                file.extend(crc32c::crc32c_append(length, content).to_le_bytes());
                file.extend(content);
            }
            2 => file.extend(vec![0; usize::from(*length)]),
            _ => file.extend(content),
        }
    }
    let found = inspect(&file);
    let report = found.segments.first().expect("one segment");
    assert!(found.records <= most && report.end <= file.len() as u64);
    assert_eq!(found.bytes, file.len() as u64);
    if found.damage.is_none() {
        file.truncate(usize::try_from(report.end).expect("a file's length"));
        let cut = inspect(&file);
        let again = cut.segments.first().expect("one segment");
        assert_eq!((cut.records, again.end, again.torn_bytes), (found.records, report.end, 0));
        assert!(cut.damage.is_none());
    }
}

fn inspect(file: &[u8]) -> journal::Inspection {
    let dir = std::env::temp_dir().join(format!("scangate-fuzz-{}-journal", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("00000000000000000001.journal"), file).expect("a segment");
    let found = journal::inspect(&dir).expect("readable files");
    assert_eq!(journal::verify(&dir).is_err(), found.damage.is_some());
    std::fs::remove_dir_all(&dir).expect("the folder is there");
    found
}

fn batch_header(sequence: u64, offset: u64, kind: u8) -> Vec<u8> {
    let magic = [0xb7, 0xd1, 0x5c, 0xf3, 0x9e, 0x42, 0xa8, 0x6b];
    let place = [sequence.to_le_bytes(), 1_u64.to_le_bytes(), offset.to_le_bytes()].concat();
    let header = sealed(&[&magic[..], &place, &[kind % 4, 0, 0, 0]].concat());
    assert_eq!(header.len() as u64, BATCH_HEADER_BYTES);
    header
}

/// With its checksum behind it.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &crc32c::crc32c(bytes).to_le_bytes()].concat()
}

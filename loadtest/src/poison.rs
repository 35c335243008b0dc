//! What a hostile peer sends: payloads that look almost right, documents that almost parse, requests that
//! almost are HTTP. None of it may be recorded, and none may be answered with a 5xx.

use std::io::Write as _;

use serde_json::json;

use crate::codes::Random;

/// A body for `POST /v1/checkins`.
pub struct Body {
    /// What it is.
    pub name: &'static str,
    /// NDJSON.
    pub batch: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Payloads in otherwise good requests, and documents that are not good.
pub fn bodies(round: u64) -> Vec<Body> {
    let mut random = Random::new(round);
    let mut all = Vec::new();
    for (index, (name, payload)) in payloads(&mut random).into_iter().enumerate() {
        let scan = json!({"id": format!("poison-{round}-{index}"), "qr": payload});
        all.push(Body { name, batch: false, bytes: scan.to_string().into_bytes() });
    }
    let deep = |open: &str, times: usize| open.repeat(times).into_bytes();
    for (name, bytes) in [
        ("deep arrays", deep("[", 100_000)),
        ("deep objects", deep("{\"a\":", 100_000)),
        ("deep inside a field", [b"{\"id\":\"a\",\"qr\":".to_vec(), deep("[", 50_000)].concat()),
        ("one megabyte of nothing", vec![b' '; 1 << 20]),
        ("one long string", format!("{{\"id\":\"a\",\"qr\":\"{}\"}}", "A".repeat(900_000)).into_bytes()),
        ("a lone surrogate", br#"{"id":"a","qr":"\ud800"}"#.to_vec()),
        ("broken UTF-8", b"{\"id\":\"a\",\"qr\":\"\xf0\x28\x8c\x28\"}".to_vec()),
        ("a NUL", br#"{"id":"a\u0000b","qr":"x"}"#.to_vec()),
        ("a huge number", br#"{"id":1e400,"qr":"x"}"#.to_vec()),
        ("the same field often", format!("{{{}\"id\":\"a\"}}", "\"qr\":\"x\",".repeat(20_000)).into_bytes()),
    ] {
        all.push(Body { name, batch: false, bytes: bytes.clone() });
        all.push(Body { name, batch: true, bytes });
    }
    all.push(Body {
        name: "a thousand bad lines",
        batch: true,
        bytes: b"{\"id\":\"a\",\"qr\":\"|||||||\"}\n".repeat(1000),
    });
    all.push(Body { name: "line feeds", batch: true, bytes: vec![b'\n'; 1 << 19] });
    all
}

fn payloads(random: &mut Random) -> Vec<(&'static str, String)> {
    let alphabet = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:";
    let mut noise = |length: usize| -> String {
        (0..length)
            .filter_map(|_| alphabet.get(usize::try_from(random.below(alphabet.len() as u64)).ok()?))
            .map(|byte| char::from(*byte))
            .collect()
    };
    let mut all = vec![
        ("SG1 and nothing", "SG1:".to_owned()),
        ("SG1 outside base45", "SG1:äöü~~~".to_owned()),
        ("SG1 overflow", "SG1::::::::::".to_owned()),
        ("shc chunk", "shc:/1/2/5676290952432060".to_owned()),
        ("HC1 and nothing", "HC1:".to_owned()),
        ("poster without a slug", "https://qr.pccovid.gov.vn/".to_owned()),
        ("poster of another host", "https://qr.pccovid.gov.vn.example.org/a".to_owned()),
        ("poster with a user", "https://a@qr.pccovid.gov.vn:99999/../%00".to_owned()),
        ("EMV without a checksum", "00020101021138570010A0000007270127".to_owned()),
        ("EMV with lengths that run over", "0002999999999963049999".to_owned()),
        ("card with a birthday that never was", "001090123456||A|31021990|Nam|B|15042021".to_owned()),
        ("card of another century", "001990123456||A|01011990|Nam|B|15042021".to_owned()),
        ("card of fields", format!("001090123456{}", "|".repeat(4000))),
        ("bars", "|".repeat(4096)),
        ("QRQG with letters for a QID", "1|A|1990-01-01|0|ABCDEFGHIJKLMNOPQR|".to_owned()),
        ("format string", "%s%n%x{}{0}${jndi:ldap://localhost/a}".to_owned()),
        ("statement", "'; drop table checkins; --".to_owned()),
        ("right to left", "\u{202e}\u{2066}\u{200f}".repeat(100)),
        ("over the limit", "1".repeat(4097)),
    ];
    for length in [16, 200, 2000, 4000] {
        all.push(("SG1 of noise", format!("SG1:{}", noise(length))));
        all.push(("noise", noise(length)));
    }
    all
}

/// Requests that are wrong as HTTP. All of them close their connection, or are closed on.
pub fn requests(token: &str) -> Vec<Vec<u8>> {
    let head = |rest: &str| {
        format!("POST /v1/checkins HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{rest}")
            .into_bytes()
    };
    let bomb = {
        let mut encoder = Vec::new();
        // 512 KiB of stored zeros behind a header that promises gzip.
        let _ = encoder.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
        encoder.extend_from_slice(&[0xff; 4096]);
        encoder
    };
    let gzip = [
        head(&format!(
            "Content-Type: application/x-ndjson\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            bomb.len()
        )),
        bomb,
    ]
    .concat();
    vec![
        head("Content-Type: application/json\r\nContent-Length: -1\r\n\r\n"),
        head("Content-Type: application/json\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        head("Content-Type: application/json\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
        head(
            "Content-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        head("Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
        head("Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        head(&format!("X: {}\r\n\r\n", "a".repeat(100_000))),
        head(&"a:b\r\n".repeat(5000)),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(60_000)).into_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x07\0\0\0\0\0".to_vec(),
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        gzip,
    ]
}

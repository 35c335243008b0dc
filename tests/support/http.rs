//! A blocking HTTP/1.1 client over a raw socket: sends exactly the bytes it is told to, and reads one answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No answer may take longer; the gateway's own request timeout is 15 s.
const TIMEOUT_S: u64 = 30;

/// One keep-alive connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

/// One answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Self {
        Self::try_connect(to, Duration::from_secs(TIMEOUT_S)).expect("the gateway accepts connections")
    }

    pub fn try_connect(to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request with the right Content-Length and reads its answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_request(method, path, headers, body).expect("an answer")
    }

    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        // A gateway that refuses early may close before it has read everything: its answer counts.
        let sent = self.send(&request_bytes(method, path, headers, body));
        self.receive().or_else(|error| sent.and(Err(error)))
    }

    /// Posts one scan.
    pub fn scan(&mut self, token: &str, scan: &Value) -> Response {
        self.try_scan(token, scan).expect("an answer")
    }

    pub fn try_scan(&mut self, token: &str, scan: &Value) -> io::Result<Response> {
        self.send(&scan_bytes(token, scan))?;
        self.receive()
    }

    /// Posts lines as one batch.
    pub fn batch(&mut self, token: &str, scans: &[Value]) -> Vec<Value> {
        let answer = self.try_batch(token, scans).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.lines()
    }

    pub fn try_batch(&mut self, token: &str, scans: &[Value]) -> io::Result<Response> {
        let body = ndjson(scans);
        let authorization = bearer(token);
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/x-ndjson")];
        self.try_request("POST", "/v1/checkins", &headers, body.as_bytes())
    }

    /// Writes bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one answer: Content-Length, chunked, or neither for statuses without a body.
    pub fn receive(&mut self) -> io::Result<Response> {
        let status_line = self.line()?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| io::Error::other(format!("not a status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("not a header"))?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().map_err(io::Error::other)?;
            response.body.resize(length, 0);
            self.stream.read_exact(&mut response.body)?;
        } else if response.header("transfer-encoding").is_some() {
            self.chunks(&mut response.body)?;
        }
        Ok(response)
    }

    /// True when the peer closes within the time.
    pub fn closes_within(&mut self, time: Duration) -> bool {
        self.stream.get_ref().set_read_timeout(Some(time)).expect("a timeout");
        matches!(self.stream.read(&mut [0; 1]), Ok(0))
            || self.stream.get_ref().peek(&mut [0; 1]).is_err_and(|error| {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            })
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16).map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..])?;
            self.line()?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(line)
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {} {:?}", self.status, self.text()))
    }

    /// The body as NDJSON.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

pub fn ndjson(scans: &[Value]) -> String {
    let mut body = String::new();
    for scan in scans {
        body.push_str(&scan.to_string());
        body.push('\n');
    }
    body
}

/// The bytes of a request that posts one scan.
pub fn scan_bytes(token: &str, scan: &Value) -> Vec<u8> {
    let authorization = bearer(token);
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    request_bytes("POST", "/v1/checkins", &headers, scan.to_string().as_bytes())
}

/// The bytes of a request.
pub fn request_bytes(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: scangate\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if method != "GET" {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Posts a body of this type and encoding.
pub fn post(client: &mut Client, token: &str, kind: &str, encoding: Option<&str>, body: &[u8]) -> Response {
    let authorization = bearer(token);
    let mut headers = vec![("Authorization", authorization.as_str()), ("Content-Type", kind)];
    headers.extend(encoding.map(|encoding| ("Content-Encoding", encoding)));
    client.request("POST", "/v1/checkins", &headers, body)
}

/// Checks that an answer is problem+json of this status and outcome, and returns it.
pub fn problem(answer: &Response, status: u16, outcome: &str) -> Value {
    assert_eq!(answer.status, status, "expected {outcome}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body = answer.json();
    assert_eq!(body["status"], status);
    assert_eq!(body["outcome"], outcome, "{body}");
    assert!(body["type"].is_string() && body["title"].is_string() && body["detail"].is_string(), "{body}");
    body
}

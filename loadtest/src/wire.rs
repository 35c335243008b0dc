//! One connection of the open-loop client: HTTP/1.1 or HTTP/2, over TCP or TLS.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::closed::parse;

/// A connection must be made, and a request answered, within this time; the gateway's own limit is 15 s.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What to connect to, and how.
#[derive(Clone)]
pub struct Target {
    /// The public listener.
    pub to: SocketAddr,
    /// HTTP/2 instead of HTTP/1.1.
    pub http2: bool,
    /// TLS with these roots.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// A request body and its type.
pub struct Post {
    /// Bearer token.
    pub token: String,
    /// NDJSON rather than one document.
    pub batch: bool,
    /// The body.
    pub body: Vec<u8>,
}

/// Status, head and body.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Status line and header lines as they came; empty over HTTP/2.
    pub head: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = std::str::from_utf8(&self.head).ok()?.lines().skip(1);
        let fields = lines.filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An HTTP/1.1 connection, one request at a time.
pub struct Http1 {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Target {
    /// Opens an HTTP/1.1 connection.
    pub async fn http1(&self) -> Result<Http1> {
        Ok(Http1 { stream: self.connect(b"http/1.1").await?, buffer: Vec::with_capacity(4096) })
    }

    /// Opens an HTTP/2 connection, which a task of its own drives.
    pub async fn http2(&self) -> Result<SendRequest<Bytes>> {
        let stream = self.connect(b"h2").await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(async move {
            // How it ends is seen by the requests on it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn connect(&self, protocol: &[u8]) -> Result<Box<dyn Stream>> {
        let stream = timeout(PATIENCE, TcpStream::connect(self.to)).await??;
        stream.set_nodelay(true)?;
        let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
        let mut config = rustls::ClientConfig::clone(config);
        config.alpn_protocols = vec![protocol.to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost")?;
        Ok(Box::new(timeout(PATIENCE, connector.connect(name, stream)).await??))
    }
}

impl Http1 {
    /// Posts and reads the answer.
    pub async fn post(&mut self, post: &Post) -> Result<Answer> {
        let kind = content_type(post.batch);
        let mut request = format!(
            "POST /v1/checkins HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            post.token,
            post.body.len()
        )
        .into_bytes();
        request.extend_from_slice(&post.body);
        timeout(PATIENCE, self.exchange(&request)).await?
    }

    /// Writes bytes as they are and reads one answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        // A gateway that refuses early may close before it has read everything: its answer counts.
        let sent = self.stream.write_all(request).await;
        self.buffer.clear();
        loop {
            if let Some((status, body_at)) = parse(&self.buffer)? {
                let body = self.buffer.split_off(body_at);
                return Ok(Answer { status, head: self.buffer.clone(), body });
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                sent?;
                bail!("closed instead of answered");
            }
        }
    }

    /// Writes bytes and nothing else.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(())
    }

    /// True once the peer has closed; waits at most this long for it.
    pub async fn closed_within(&mut self, time: Duration) -> bool {
        let mut rest = Vec::new();
        timeout(time, self.stream.read_to_end(&mut rest)).await.is_ok()
    }
}

/// Posts on one stream of an HTTP/2 connection.
pub async fn post_http2(sender: SendRequest<Bytes>, post: Post) -> Result<Answer> {
    timeout(PATIENCE, async {
        let mut sender = sender.ready().await?;
        let request = http::Request::post("http://localhost/v1/checkins")
            .header("authorization", format!("Bearer {}", post.token))
            .header("content-type", content_type(post.batch))
            .body(())?;
        let (response, mut body) = sender.send_request(request, false)?;
        let mut rest = Bytes::from(post.body);
        while !rest.is_empty() {
            body.reserve_capacity(rest.len());
            let granted = poll_fn(|context| body.poll_capacity(context)).await.context("stream closed")??;
            body.send_data(rest.split_to(granted.min(rest.len())), false)?;
        }
        body.send_data(Bytes::new(), true)?;
        let (head, mut stream) = response.await?.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status: head.status.as_u16(), head: Vec::new(), body })
    })
    .await?
}

fn content_type(batch: bool) -> &'static str {
    if batch { "application/x-ndjson" } else { "application/json" }
}

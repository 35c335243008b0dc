//! A request to the running gateway's admin listener, and its answer copied to standard output.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use zeroize::Zeroizing;

use crate::gateway::Holder;
use crate::verify::admin_token;

/// Longest line of a response head or of a chunk's length.
const LINE_BYTES_MAX: u64 = 8 * 1024;

/// The token for a running gateway.
#[derive(Debug, Clone, Args)]
pub struct AdminToken {
    /// File with a token for the running gateway; otherwise SCANGATE_ADMIN_TOKEN_FILE, otherwise the one that the
    /// gateway left in its data directory for who may read that.
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

impl AdminToken {
    fn read(&self, data_dir: &Path) -> anyhow::Result<Option<Zeroizing<String>>> {
        let from_environment = || std::env::var_os("SCANGATE_ADMIN_TOKEN_FILE").map(PathBuf::from);
        if let Some(path) = self.admin_token_file.clone().or_else(from_environment) {
            return Ok(Some(admin_token::read_token(&path)?));
        }
        // Without it the gateway says what is missing.
        Ok(admin_token::read_token(&admin_token::local_path(data_dir)).ok())
    }
}

/// What is asked of the gateway.
pub(super) struct Ask<'a> {
    pub(super) method: &'static str,
    pub(super) target: &'a str,
    /// JSON; empty for none.
    pub(super) body: &'a str,
}

/// A text as it may stand in a query.
pub(super) fn encoded(text: &str) -> String {
    // A query's + is itself, not a form's space.
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Asks the holder of a data directory, over TLS where it speaks that, and copies the body through.
pub(super) fn ask(holder: &Holder, data_dir: &Path, token: &AdminToken, ask: &Ask<'_>) -> anyhow::Result<()> {
    let Some(admin) = holder.admin else { bail!("process {} is still starting", holder.pid) };
    let mut head = Zeroizing::new(format!("{} {} HTTP/1.1\r\nHost: {admin}\r\n", ask.method, ask.target));
    // Writing to a String can't fail.
    if let Some(token) = token.read(data_dir)? {
        let _ = write!(head, "Authorization: Bearer {}\r\n", token.as_str());
    }
    if !ask.body.is_empty() {
        let _ = write!(head, "Content-Type: application/json\r\nContent-Length: {}\r\n", ask.body.len());
    }
    head.push_str("Connection: close\r\n\r\n");
    let address = reachable(admin);
    let unreachable = || format!("cannot reach the gateway at {address}");
    let stream = TcpStream::connect(address).with_context(unreachable)?;
    let send = |mut stream: Box<dyn Stream>| -> io::Result<Box<dyn Stream>> {
        stream.write_all(head.as_bytes())?;
        stream.write_all(ask.body.as_bytes())?;
        stream.flush()?;
        Ok(stream)
    };
    let stream: Box<dyn Stream> = match &holder.certificate {
        None => Box::new(stream),
        Some(certificate) => {
            let name = ServerName::IpAddress(address.ip().into());
            let connection = ClientConnection::new(Arc::new(pinned(certificate)?), name)?;
            Box::new(StreamOwned::new(connection, stream))
        }
    };
    copy(BufReader::new(send(stream).with_context(unreachable)?))
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Where a listener on every address is met.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

fn copy(mut reader: impl BufRead) -> anyhow::Result<()> {
    let status = line(&mut reader)?;
    let mut chunked = false;
    loop {
        let header = line(&mut reader)?;
        if header.is_empty() {
            break;
        }
        chunked |= header.eq_ignore_ascii_case("transfer-encoding: chunked");
    }
    if !status.contains(" 200 ") {
        let mut problem = String::new();
        reader.take(64 * 1024).read_to_string(&mut problem)?;
        bail!("the gateway refused: {status}: {}", problem.trim());
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    if !chunked {
        io::copy(&mut reader, &mut out)?;
    }
    while chunked {
        let length = u64::from_str_radix(line(&mut reader)?.trim(), 16).context("the answer broke off")?;
        if io::copy(&mut reader.by_ref().take(length), &mut out)? < length {
            bail!("the answer broke off");
        }
        line(&mut reader)?;
        chunked = length > 0;
    }
    out.flush()?;
    Ok(())
}

fn line(reader: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    if !line.ends_with('\n') {
        bail!("the gateway's answer broke off");
    }
    Ok(line.trim_end().to_owned())
}

/// Trusts the one certificate that the gateway said is its own, whoever signed it and whatever names are in it.
fn pinned(certificate: &Path) -> anyhow::Result<ClientConfig> {
    let cannot = || format!("cannot load the gateway's certificate {}", certificate.display());
    let certificate = CertificateDer::from_pem_file(certificate).with_context(cannot)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Pinned { certificate, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! `export`: check-ins as NDJSON, from the running gateway if there is one, and else from the store itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::Export;
use crate::config::{self, Config, Overrides};
use crate::gateway::{DataLock, GatewayError, migration, open_store};
use crate::identity::links::LinkReader;
use crate::store::export::{ExportRange, export};

/// Longest line of a response head or of a chunk's length.
const LINE_BYTES_MAX: u64 = 8 * 1024;

pub(super) fn run(command: &Export) -> anyhow::Result<ExitCode> {
    let overrides = Overrides { data_dir: Some(command.data_dir.path()), ..Overrides::default() };
    let config = config::load(command.config.as_deref(), std::env::vars_os(), &overrides)?.config;
    let data_dir = &config.gateway.data_dir;
    match DataLock::holder(data_dir) {
        Some(holder) => {
            let Some(admin) = holder.admin else { bail!("process {} is still starting", holder.pid) };
            from_gateway(admin, command)?;
        }
        None => from_store(&config, command)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn from_store(config: &Config, command: &Export) -> anyhow::Result<()> {
    let _lock = DataLock::acquire(&config.gateway.data_dir)?;
    if migration::is_under_way(&config.gateway.data_dir)? {
        return Err(GatewayError::RotationUnderWay.into());
    }
    let widest_s = config.deduplicate.windows_s_by_class.values().copied().max().unwrap_or(0);
    let range = ExportRange::over(command.from, command.to, widest_s.max(config.deduplicate.window_s));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    runtime.block_on(async {
        let store = open_store(config)?;
        let links = LinkReader::open(&config.gateway.data_dir.join("identity"))?;
        let person = |own| links.citizen_of(own).map_err(io::Error::other);
        export(&store, range, &person, &mut out).await?;
        store.close().await?;
        anyhow::Ok(())
    })?;
    out.flush()?;
    Ok(())
}

/// Asks the admin listener over plain HTTP/1.1, and copies the body through.
fn from_gateway(admin: SocketAddr, command: &Export) -> anyhow::Result<()> {
    let mut stream =
        TcpStream::connect(admin).with_context(|| format!("cannot reach the gateway at {admin}"))?;
    write!(
        stream,
        "GET /v1/export?from={}&to={} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n",
        command.from, command.to
    )?;
    let mut reader = BufReader::new(stream);
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
        let length = u64::from_str_radix(line(&mut reader)?.trim(), 16).context("the export broke off")?;
        if io::copy(&mut reader.by_ref().take(length), &mut out)? < length {
            bail!("the export broke off");
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

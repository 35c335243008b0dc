//! The measurements, each of all servers in turns.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use scangate::scan::UnixMillis;

use super::Options;
use super::figure::{self, Figure, Rounds, figures, keep, scale, stretch};
use super::verify::{VerifyOnly, verify_only};
use super::{Open, peers_wanted};
use crate::closed::Closed;
use crate::issue::Issuer;
use crate::peers::{Benthos, Nginx, Peer};
use crate::requests::{Line, time_text};
use crate::server::{Server, Site, request};
use crate::sources::{Cached, NeverSeen};
use crate::{idle, record};

/// scangate-peer, by its parts and where it writes.
pub const PEER: &str = "axum+fjall";

/// Everything that is made before the first measurement.
pub struct Bench<'a> {
    options: &'a Options,
    pub sites: Vec<(String, Site)>,
    tokens: BTreeMap<String, Vec<String>>,
    codes: BTreeMap<String, Vec<String>>,
    fresh_persons: usize,
}

/// A server that takes single POSTs.
struct Contender {
    name: String,
    /// Whose keys its devices and codes are signed with.
    keys_of: String,
    expected_status: u16,
    running: Running,
}

/// Kept for its own way of ending.
enum Running {
    Plain(Server),
    Nginx(Nginx),
    Benthos(Benthos),
}

impl Contender {
    fn server(&self) -> &Server {
        match &self.running {
            Running::Plain(server) => server,
            Running::Nginx(nginx) => &nginx.server,
            Running::Benthos(benthos) => &benthos.server,
        }
    }
}

impl<'a> Bench<'a> {
    /// Makes keys, device tokens and codes.
    pub fn prepare(options: &'a Options) -> Result<Self> {
        let mut bench = Self {
            options,
            sites: Vec::new(),
            tokens: BTreeMap::new(),
            codes: BTreeMap::new(),
            fresh_persons: 0,
        };
        for runtime in &options.runtimes {
            let site = Site::new(&options.scangate, &options.work_dir)?
                .set("listen.runtime", runtime)
                .set("log.level", "warn")
                .pinned(options.server_core);
            // The first start makes the keys.
            site.start()?.terminate(Duration::from_mins(1))?;
            let issuer = Issuer::new(&site);
            let devices = options.connections + options.batch_connections;
            let places: Vec<String> = (0..devices).map(|place| format!("gate-{place}")).collect();
            bench.tokens.insert(runtime.clone(), issuer.place_devices(&places)?);
            let persons: Vec<String> = (0..options.tokens).map(|person| format!("person-{person}")).collect();
            bench.codes.insert(runtime.clone(), issuer.persons(&persons)?);
            bench.sites.push((runtime.clone(), site));
        }
        Ok(bench)
    }

    /// Single POSTs of cached tokens: each server in turn, so that a change in the machine's mood meets all. First as
    /// fast as they go, then all at one rate, for their latency.
    pub fn single(&mut self) -> Result<(Vec<Figure>, Vec<Open>)> {
        let mut rounds = Rounds::new();
        let mut order = Vec::new();
        let peer = self.peer()?;
        let contenders = self.contenders(peer.as_ref())?;
        let mut sources = Vec::new();
        for contender in &contenders {
            let tokens = self.tokens(&contender.keys_of)?.get(..self.options.connections);
            let codes = self.codes(&contender.keys_of)?;
            sources.push(Cached::new(tokens.context("too few tokens")?, codes, 0, contender.expected_status));
        }
        for round in 0..=self.options.rounds {
            // The first round fills caches and is thrown away.
            let time = Duration::from_secs(if round == 0 { 1 } else { self.options.seconds });
            for (contender, source) in contenders.iter().zip(&mut sources) {
                let measured = stretch(contender.server(), self.options.connections, time, source)?;
                keep(&mut rounds, &mut order, &contender.name, round, measured);
            }
        }
        let mut open = Vec::new();
        for (contender, source) in contenders.iter().zip(&mut sources) {
            open.push(self.open(contender, source)?);
        }
        drop(contenders);
        if let Some(peer) = &peer {
            self.check_durable(peer)?;
        }
        Ok((figures(&rounds, &order, "request")?, open))
    }

    /// One rate for all, due whether or not the server keeps up.
    #[allow(clippy::cast_precision_loss)] // Answers of a stretch.
    fn open(&self, contender: &Contender, source: &mut Cached) -> Result<Open> {
        let server = contender.server();
        let mut client = Closed::connect(server.listen, self.options.connections)?;
        let time = Duration::from_secs(self.options.seconds);
        let stretch = client.run_open(self.options.open_rate, time, source)?;
        Ok(Open {
            server: contender.name.clone(),
            offered_per_s: self.options.open_rate,
            answered_per_s: stretch.answers() as f64 / stretch.elapsed.as_secs_f64(),
            latency: record::latency(&stretch.latency_us),
        })
    }

    /// The peer was just killed with SIGKILL, and must know the first scan that it ever answered: else it is no peer.
    fn check_durable(&self, peer: &Peer) -> Result<()> {
        let server = peer.start()?;
        let (token, code) = self.first_token_and_code()?;
        let line = Line::new(code, "in");
        let mut body = Vec::new();
        line.write(0, &time_text(UnixMillis::now().0), &mut body);
        let body = String::from_utf8(body)?;
        let (status, answer) = request(
            server.listen,
            &format!(
                "POST /v1/checkins HTTP/1.1\r\nHost: peer\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        )?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(status == 200, "after a kill, {PEER} doesn't know what it acknowledged: {status} {answer}");
        Ok(())
    }

    /// Batches of cached tokens.
    pub fn batch(&mut self) -> Result<Vec<Figure>> {
        let mut rounds = Rounds::new();
        let mut order = Vec::new();
        let peer = self.peer()?;
        let (lines, connections) = (self.options.batch_lines, self.options.batch_connections);
        let mut contenders = Vec::new();
        for (name, _) in &self.sites {
            contenders.push((name.clone(), name.clone()));
        }
        if peer.is_some() {
            contenders.push((PEER.to_owned(), self.first()?.0.clone()));
        }
        for (name, keys_of) in contenders {
            let site = self.sites.iter().find(|(known, _)| *known == name);
            let server = match (site, &peer) {
                (Some((_, site)), _) => site.start()?,
                (None, Some(peer)) => peer.start()?,
                (None, None) => continue,
            };
            // Devices of their own, so that no scan repeats one of the singles'.
            let tokens = self.tokens(&keys_of)?.get(self.options.connections..).context("too few tokens")?;
            let mut source = Cached::new(tokens, self.codes(&keys_of)?, lines, 201);
            for round in 0..=self.options.rounds {
                let time = Duration::from_secs(if round == 0 { 1 } else { self.options.seconds });
                let before = source.lines_recorded;
                let (stretch, mut cost, answers) = stretch(&server, connections, time, &mut source)?;
                let recorded = source.lines_recorded - before;
                scale(&mut cost, answers, recorded);
                keep(&mut rounds, &mut order, &name, round, (stretch, cost, recorded));
            }
        }
        figures(&rounds, &order, "line")
    }

    /// Tokens that were never seen. One round a runtime, since a token is new only once.
    pub fn never_seen(&mut self, lines: usize) -> Result<Vec<Figure>> {
        let count = self.options.never_seen;
        let first = self.fresh_persons;
        self.fresh_persons += count;
        let persons: Vec<String> = (first..first + count).map(|person| format!("new-{person}")).collect();
        let mut all = Vec::new();
        for (name, site) in &self.sites {
            let codes = Issuer::new(site).persons(&persons)?;
            let server = site.start()?;
            let connections =
                if lines == 0 { self.options.connections } else { self.options.batch_connections };
            let tokens = self.tokens(name)?.get(..connections).context("too few tokens")?;
            // Client ids far above those of the cached scans.
            let mut source = NeverSeen::new(tokens, &codes, lines, (1 << 40) + first as u64);
            let (stretch, mut cost, answers) =
                stretch(&server, connections, Duration::from_mins(10), &mut source)?;
            scale(&mut cost, answers, source.lines_recorded);
            let mut figure = figure::figure(name, "token", &[(stretch, cost, source.lines_recorded)])?;
            figure.shed = source.shed;
            all.push(figure);
        }
        Ok(all)
    }

    /// The signature alone, and the whole token, on the core that the server had.
    pub fn verify_only(&self) -> Result<VerifyOnly> {
        let (name, site) = self.first()?;
        verify_only(self.options.server_core, &site.data, self.codes(name)?)
    }

    /// Memory of idle keep-alive connections.
    pub fn idle(&self) -> Result<Vec<idle::Idle>> {
        let peer = self.peer()?;
        let mut all = Vec::new();
        for contender in self.contenders(peer.as_ref())? {
            let (token, code) =
                (self.tokens(&contender.keys_of)?.first(), self.codes(&contender.keys_of)?.first());
            let (token, code) = (token.context("no token")?, code.context("no code")?);
            all.push(idle::measure(&contender.name, contender.server(), token, code, self.options.idle)?);
        }
        Ok(all)
    }

    /// Every server, running.
    fn contenders(&self, peer: Option<&Peer>) -> Result<Vec<Contender>> {
        let (options, keys_of) = (self.options, &self.first()?.0);
        let mut all = Vec::new();
        let mut add = |name: &str, keys_of: &String, expected_status, running| {
            all.push(Contender { name: name.to_owned(), keys_of: keys_of.clone(), expected_status, running });
        };
        if options.nginx != "none" {
            let nginx = Nginx::start(&options.nginx, options.server_core, &options.work_dir)?;
            add("nginx", keys_of, 202, Running::Nginx(nginx));
        }
        for (name, site) in &self.sites {
            add(name, name, 201, Running::Plain(site.start()?));
        }
        if let Some(peer) = peer {
            add(PEER, keys_of, 201, Running::Plain(peer.start()?));
        }
        if peers_wanted(&options.benthos) {
            let benthos = Benthos::start(&options.benthos, options.server_core, &options.work_dir)?;
            add("benthos", keys_of, 200, Running::Benthos(benthos));
        }
        Ok(all)
    }

    fn peer(&self) -> Result<Option<Peer>> {
        if !peers_wanted(&self.options.peer) {
            return Ok(None);
        }
        let options = self.options;
        let (_, site) = self.first()?;
        Peer::new(&options.peer, &site.data, options.server_core, None, &options.work_dir).map(Some)
    }

    /// The first gateway, whose keys the others use.
    pub fn first(&self) -> Result<&(String, Site)> {
        self.sites.first().context("no runtime")
    }

    fn first_token_and_code(&self) -> Result<(&String, &String)> {
        let name = &self.first()?.0;
        let (token, code) = (self.tokens(name)?.first(), self.codes(name)?.first());
        Ok((token.context("no token")?, code.context("no code")?))
    }

    /// Bearer tokens signed with a gateway's keys: of the singles' connections, then of the batches'.
    pub fn tokens(&self, runtime: &str) -> Result<&[String]> {
        Ok(self.tokens.get(runtime).context("no tokens")?)
    }

    /// Codes signed with a gateway's keys.
    pub fn codes(&self, runtime: &str) -> Result<&[String]> {
        Ok(self.codes.get(runtime).context("no codes")?)
    }
}

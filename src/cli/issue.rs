//! `issue`: device tokens, signed codes and their pictures, one or many, and their end.

use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;

use super::audit::{audited, caller};
use super::{DataDir, parse_app, print, ttl};
use crate::audit::{Action, Entry};
use crate::issue::bulk::{self, Event, PDF_MODULE_PT, PNG_MODULE_PX, Plan, Progress};
use crate::issue::{self, Drawing, Issuer, Level, Paper, RoleRef, Style};
use crate::listen::ClientCertificate;
use crate::scan::{App, UnixMillis};
use crate::verify::issued::{self, Signed, What};
use crate::verify::manage::{self, KeyUse};
use crate::verify::{Keys, Revocation, TokenKind};

/// `issue`
#[derive(Debug, Subcommand)]
pub enum Issue {
    /// Print a bearer token for a device.
    #[command(after_help = "Example:\n  scangate issue device --place hn-0001 --app pc-covid --ttl 30d")]
    Device {
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
        /// What the device stands for.
        #[command(flatten)]
        holder: Holder,
        /// The app that vouches for it.
        #[arg(long, default_value = "pc-covid", value_parser = parse_app, value_name = "pc-covid|vneid|sskdt")]
        app: App,
        /// Place class, which chooses the window of deduplicate.windows_s_by_class.
        #[arg(long, conflicts_with = "person")]
        class: Option<String>,
        /// The device's TLS certificate, PEM: the token is then good over its connections only.
        #[arg(long, value_name = "FILE")]
        client_certificate: Option<PathBuf>,
        /// How long it is valid: 90s, 45m, 12h, 30d, 4w.
        #[arg(long, default_value = "30d", value_parser = ttl::parse)]
        ttl: Duration,
    },
    /// Print a place's signed code, and draw it.
    #[command(
        after_help = "Example:\n  scangate issue place hn-0001 --ttl 365d --pdf poster.pdf --paper a4 --name 'Chợ Đồng Xuân'"
    )]
    Place(Code),
    /// Print a person's signed code, and draw it.
    #[command(
        after_help = "Examples:\n  scangate issue person 001093029317 --svg code.svg\n  scangate issue person 001093029317 --ttl 90s    a phone's code, issued anew every minute"
    )]
    Person(Code),
    /// Issue and draw a code for every row of a CSV with the columns reference and, if wanted, name.
    #[command(
        after_help = "Started again after an interruption, it makes what is missing. Pictures are named by their code's\ncti, and index.csv says until when each is valid.\n\nExample:\n  scangate issue bulk places.csv --out posters --pdf --paper a4 --level q --ttl 365d"
    )]
    Bulk(Bulk),
    /// Revoke codes, or the codes of a person or a place; those issued later are good.
    #[command(after_help = "Example:\n  scangate issue revoke --person 001093029317")]
    Revoke {
        /// What to revoke.
        #[command(flatten)]
        target: Target,
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
    /// Tell how much each key has signed here and until when it is valid. Nothing else is kept.
    List {
        /// Where the keys are.
        #[command(flatten)]
        data_dir: DataDir,
    },
}

/// What a device stands for: exactly one of the two.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Holder {
    /// A place, whose device scans people's codes.
    #[arg(long, value_name = "REF")]
    place: Option<String>,
    /// A person, whose device scans places' codes.
    #[arg(long, value_name = "REF")]
    person: Option<String>,
}

/// Which codes to revoke: exactly one of these.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// One of the codes, as it is scanned.
    #[arg(value_name = "PAYLOAD")]
    payload: Option<String>,
    /// Their cti, 32 hexadecimal digits, as `verify` shows it.
    #[arg(long)]
    cti: Option<String>,
    /// The place that they stand for.
    #[arg(long, value_name = "REF")]
    place: Option<String>,
    /// The person whom they stand for.
    #[arg(long, value_name = "REF")]
    person: Option<String>,
}

/// `issue place` and `issue person`
#[derive(Debug, Clone, Args)]
pub struct Code {
    /// A place's reference, or a person's 12-digit citizen number.
    #[arg(value_name = "REF")]
    reference: String,
    /// Where the keys are.
    #[command(flatten)]
    data_dir: DataDir,
    /// How long it is valid: 90s, 45m, 12h, 30d, 4w.
    #[arg(long, default_value = "30d", value_parser = ttl::parse)]
    ttl: Duration,
    /// Also draw it as PNG: the code alone.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Also draw it as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Also draw it as PDF.
    #[arg(long, value_name = "FILE")]
    pdf: Option<PathBuf>,
    /// What the picture is like.
    #[command(flatten)]
    look: Look,
    /// Text above the code on the page. It is drawn and kept nowhere.
    #[arg(long, value_name = "TEXT", requires = "paper")]
    name: Option<String>,
}

/// What pictures are like.
#[derive(Debug, Clone, Copy, Args)]
pub struct Look {
    /// A page for SVG and PDF to be printed on.
    #[arg(long, value_enum)]
    paper: Option<PaperName>,
    /// Error correction: m for screens and indoors, q where print wears down.
    #[arg(long, value_enum, ignore_case = true, default_value_t = LevelName::M)]
    level: LevelName,
}

/// Paper, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PaperName {
    /// 210 × 297 mm.
    A4,
    /// 105 × 148 mm.
    A6,
}

/// Error correction, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LevelName {
    /// 15 % may be lost.
    M,
    /// 25 % may be lost.
    Q,
}

impl Look {
    fn paper(self) -> Option<Paper> {
        self.paper.map(|paper| match paper {
            PaperName::A4 => Paper::A4,
            PaperName::A6 => Paper::A6,
        })
    }

    const fn level(self) -> Level {
        match self.level {
            LevelName::M => Level::M,
            LevelName::Q => Level::Q,
        }
    }
}

/// `issue bulk`
#[derive(Debug, Clone, Args)]
#[group(id = "pictures", required = true, multiple = true, args = ["png", "svg", "pdf"])]
pub struct Bulk {
    /// The list; its first row is `reference` or `reference,name`.
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
    /// Where pictures and index.csv go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the references stand for.
    #[arg(long, value_enum, default_value_t = KindName::Place)]
    kind: KindName,
    /// Where the keys are.
    #[command(flatten)]
    data_dir: DataDir,
    /// How long the codes are valid: 90s, 45m, 12h, 30d, 4w.
    #[arg(long, default_value = "30d", value_parser = ttl::parse)]
    ttl: Duration,
    /// Draw PNG pictures: the code alone.
    #[arg(long)]
    png: bool,
    /// Draw SVG pictures.
    #[arg(long)]
    svg: bool,
    /// Draw PDF pictures.
    #[arg(long)]
    pdf: bool,
    /// What the pictures are like.
    #[command(flatten)]
    look: Look,
}

/// What codes of a list stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    /// Places.
    Place,
    /// Persons.
    Person,
}

/// The SHA-256 of a file's first certificate.
fn thumbprint(file: &Path) -> anyhow::Result<[u8; 32]> {
    let certificate =
        CertificateDer::from_pem_file(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(ClientCertificate::of(&certificate).sha256().to_owned())
}

/// A line of `issue list`.
#[derive(Serialize)]
struct SignedBy<'a> {
    kid: &'a str,
    #[serde(flatten)]
    signed: &'a Signed,
}

pub(super) fn run(issue: Issue) -> anyhow::Result<ExitCode> {
    let now = UnixMillis::now();
    match issue {
        Issue::Device { data_dir, holder, app, class, client_certificate, ttl } => {
            let data_dir = data_dir.path();
            let role = match &holder {
                Holder { place: Some(place), .. } => RoleRef::Place(place),
                Holder { person, .. } => RoleRef::Person(person.as_deref().unwrap_or_default()),
            };
            let class = class.as_deref();
            let token = match client_certificate.as_deref().map(thumbprint).transpose()? {
                Some(bound) => issue::issue_device_bound(&data_dir, app, role, class, &bound, ttl, now)?,
                None => issue::issue_device(&data_dir, app, role, class, ttl, now)?,
            };
            let kid = manage::signing_kid(&data_dir, KeyUse::Device(app), now)?;
            let expires_at_s = now.seconds().saturating_add_unsigned(ttl.as_secs());
            issued::record(&data_dir, &kid, What::Device, expires_at_s, now)?;
            print(&token)?;
        }
        Issue::Place(code) => one(&code, TokenKind::Place, now)?,
        Issue::Person(code) => one(&code, TokenKind::Person, now)?,
        Issue::Bulk(command) => return many(&command, now),
        Issue::Revoke { target, data_dir } => {
            let data_dir = data_dir.path();
            let revocation = revocation(&data_dir, target, now)?;
            let entry = Entry::new(caller(), Action::Keys).named("revoke a code");
            audited(&data_dir, entry, || Ok(manage::keys_revoke(&data_dir, &revocation, now)?))?;
            print("{\"revoked\":true}")?;
        }
        Issue::List { data_dir } => {
            for (kid, signed) in issued::load(&data_dir.path())?.0 {
                print(&serde_json::to_string(&SignedBy { kid: &kid, signed: &signed })?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws first: a picture that can't be drawn leaves nothing issued.
fn one(command: &Code, kind: TokenKind, now: UnixMillis) -> anyhow::Result<()> {
    let data_dir = command.data_dir.path();
    let issuer = Issuer::open(&data_dir, now)?;
    let code = issuer.issue(kind, &command.reference, command.ttl, now)?;
    let (paper, level) = (command.look.paper(), command.look.level());
    let drawing = Drawing::new(&code.payload, Style { level, paper, name: command.name.as_deref() })?;
    issued::record(&data_dir, issuer.kid(), What::Codes(1), code.expires_at_s, now)?;
    let write = |path: &Option<PathBuf>, bytes: &dyn Fn() -> anyhow::Result<Vec<u8>>| match path {
        Some(path) => fs::write(path, bytes()?).with_context(|| format!("cannot write {}", path.display())),
        None => Ok(()),
    };
    write(&command.svg, &|| Ok(drawing.svg().into_bytes()))?;
    write(&command.png, &|| Ok(drawing.png(PNG_MODULE_PX)?))?;
    write(&command.pdf, &|| Ok(drawing.pdf(PDF_MODULE_PT)))?;
    print(&code.payload)?;
    Ok(())
}

fn many(command: &Bulk, now: UnixMillis) -> anyhow::Result<ExitCode> {
    let data_dir = command.data_dir.path();
    let issuer = Issuer::open(&data_dir, now)?;
    let opened = || format!("cannot read {}", command.file.display());
    let list = File::open(&command.file).with_context(opened)?;
    let list_bytes = list.metadata().with_context(opened)?.len();
    let kind = match command.kind {
        KindName::Place => TokenKind::Place,
        KindName::Person => TokenKind::Person,
    };
    let plan = Plan {
        kind,
        ttl: command.ttl,
        level: command.look.level(),
        paper: command.look.paper(),
        png: command.png,
        svg: command.svg,
        pdf: command.pdf,
    };
    // Before the first code is out: whoever interrupts this must not leave codes that nobody counted.
    let expires_at_s = now.seconds().saturating_add_unsigned(plan.ttl.as_secs());
    issued::record(&data_dir, issuer.kid(), What::Codes(0), expires_at_s, now)?;
    let mut shown = Shown::new(list_bytes);
    let ended = bulk::issue_all(&issuer, list, &command.out, &plan, now, |event| shown.show(event));
    let progress = shown.last;
    shown.end();
    issued::record(&data_dir, issuer.kid(), What::Codes(progress.issued), expires_at_s, now)?;
    ended.with_context(|| format!("{} codes were issued; start it again to go on", progress.issued))?;
    print(&format!(
        "{{\"issued\":{},\"skipped\":{},\"refused\":{}}}",
        progress.issued, progress.skipped, progress.refused
    ))?;
    Ok(if progress.refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Codes between two lines of progress.
const LINE_EVERY_CODES: u64 = 10_000;

/// A bar where somebody looks on, and else a line now and then.
struct Shown {
    bar: Option<ProgressBar>,
    lines_after: u64,
    last: Progress,
}

impl Shown {
    fn new(list_bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {percent}%  {msg}  {eta} left");
            ProgressBar::new(list_bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, lines_after: LINE_EVERY_CODES, last: Progress::default() }
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::Refused { line, error } => self.say(&format!("line {line}: {error}")),
            Event::Progress(progress) => {
                self.last = progress;
                let done = progress.issued + progress.skipped;
                let message = told(progress);
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(progress.read_bytes);
                        bar.set_message(message);
                    }
                    None if done >= self.lines_after => {
                        eprintln!("{message}");
                        self.lines_after = done + LINE_EVERY_CODES;
                    }
                    None => {}
                }
            }
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn end(self) {
        match self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => eprintln!("{}", told(self.last)),
        }
    }
}

fn told(progress: Progress) -> String {
    format!("{} issued, {} there already", progress.issued, progress.skipped)
}

fn revocation(data_dir: &Path, target: Target, now: UnixMillis) -> anyhow::Result<Revocation> {
    let wrong = "--cti must be 32 hexadecimal digits, as `scangate verify` shows them";
    Ok(match target {
        Target { cti: Some(cti), .. } => Revocation::parse("cti", &cti).context(wrong)?,
        Target { place: Some(place), .. } => {
            Revocation::Cti(issue::cti_of(data_dir, TokenKind::Place, &place)?)
        }
        Target { person: Some(person), .. } => {
            Revocation::Cti(issue::cti_of(data_dir, TokenKind::Person, &person)?)
        }
        Target { payload, .. } => {
            let payload = payload.unwrap_or_default();
            let explanation = issue::explain(&payload, now, &Keys::load(data_dir)?);
            match explanation.cti.as_deref().and_then(|cti| Revocation::parse("cti", cti)) {
                Some(revocation) => revocation,
                None => bail!("this code can't be revoked by itself: {}", explanation.detail),
            }
        }
    })
}

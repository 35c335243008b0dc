//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod admin_client;
mod audit;
mod check_config;
mod decode;
mod demo;
mod export;
mod health;
mod migrate;
mod issue;
mod journal;
mod keys;
mod keys_admin;
mod serve;
mod ttl;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

pub use self::admin_client::AdminToken;
pub use self::health::Health;
pub use self::issue::Issue;
pub use self::keys::Keys;
pub use self::keys_admin::AdminTokens;
pub use self::verify::Verify;

use crate::config::{self, Config, ConfigErrors, Loaded, Overrides};
use crate::scan::{App, UnixMillis};

/// Exit code of wrong usage (clap's own) and of a wrong configuration.
pub const USAGE: u8 = 2;

/// QR check-in gateway: durable, deduplicated scans.
#[derive(Debug, Parser)]
#[command(name = "scangate", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  scangate serve
      a gateway on 127.0.0.1:8080 with development keys under ./data
  scangate issue device --place hn-0001 --ttl 30d
      a bearer token for the scanner at that place
  scangate issue person 001093029317 --svg code.svg
      a signed personal code, as text and as a picture
  scangate check-config /etc/scangate.toml
      every mistake with line and column

Every setting can come from the environment: SCANGATE_LIMITS__DEVICE_SCANS_PER_S=0 scangate serve";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve check-ins until SIGTERM.
    Serve(Serve),
    /// Ask a running gateway whether scans should be sent to it.
    Health(Health),
    /// Report every mistake of a configuration file with its line and column.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Issue a device token, or a signed code for a place or a person.
    #[command(subcommand)]
    Issue(Issue),
    /// Manage the signing keys of a data directory, beside a running server if there is one.
    #[command(subcommand)]
    Keys(Keys),
    /// Read the codes of JPEG and PNG files: one JSON line a code.
    #[command(
        after_help = "Exit code 1 if no file held a code that could be read.\n\nExample:\n  scangate decode photo.jpg"
    )]
    Decode {
        /// The images.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Say what a payload is, whether it is proven or only asserted, and why not.
    Verify(Verify),
    /// Look into a journal, or drain one whose gateway won't start again.
    #[command(subcommand)]
    Journal(Journal),
    /// Write check-ins as NDJSON, under pseudonyms, by event time.
    Export(Export),
    /// Write one person's check-ins as NDJSON, under whichever of the person's codes they were made.
    Trace(Trace),
    /// Look into the audit log: who read check-ins, or changed keys.
    #[command(subcommand)]
    Audit(Audit),
    /// Bring the database's schema up to date, or change what a stopped gateway keeps.
    #[command(subcommand)]
    Migrate(Migrate),
    /// Print the API's description (OpenAPI 3.1).
    Openapi,
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  scangate completions bash > /etc/bash_completion.d/scangate")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `serve`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Without arguments: loopback, an embedded store under ./data, and development keys.")]
pub struct Serve {
    /// Configuration file; the defaults apply without one.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Instead of gateway.data_dir.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Instead of listen.addr.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Instead of listen.admin.
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<SocketAddr>,
    /// Instead of services.listen: card, declarations, tracing, map and feedback, which are off otherwise.
    #[arg(long, value_name = "ADDR:PORT")]
    pub services: Option<SocketAddr>,
    /// With the services, on 127.0.0.1:8070 unless told otherwise, simulated national registers, and a token for everybody
    /// who has a part in README's journey.
    #[arg(long)]
    pub demo: bool,
}

impl Serve {
    /// File, environment and flags, checked.
    ///
    /// # Errors
    /// Every mistake found.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
            listen: self.listen,
            admin: self.admin,
            services: self.services,
        };
        config::load(self.config.as_deref(), std::env::vars_os(), &overrides)
    }
}

/// The data directory that a command works on.
#[derive(Debug, Clone, Args)]
pub struct DataDir {
    /// Data directory; otherwise SCANGATE_GATEWAY__DATA_DIR, otherwise ./data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl DataDir {
    /// The directory.
    pub fn path(&self) -> PathBuf {
        let from_environment = || std::env::var_os("SCANGATE_GATEWAY__DATA_DIR").map(PathBuf::from);
        let given = self.data_dir.clone().or_else(from_environment);
        given.unwrap_or_else(|| Config::default().gateway.data_dir)
    }
}

/// `journal`
#[derive(Debug, Subcommand)]
pub enum Journal {
    /// List segments and records.
    Inspect {
        /// The journal's directory, DATA/journal.
        dir: PathBuf,
    },
    /// Check every record; exit code 1 with the first bad offset.
    Verify {
        /// The journal's directory, DATA/journal.
        dir: PathBuf,
    },
    /// Bring into the store what a stopped gateway's journal still holds; exit code 1 if not all of it.
    #[command(
        after_help = "For a volume whose gateway won't start again. Run it again until it exits with 0.\n\nExample:\n  scangate journal drain --data-dir data --timeout 10m"
    )]
    Drain {
        /// Instead of gateway.data_dir.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Configuration file, for a store of kind "cql".
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// How long to try: 90s, 45m, 12h.
        #[arg(long, value_parser = ttl::parse, value_name = "TIME", default_value = "10m")]
        timeout: Duration,
    },
}

/// `migrate`
#[derive(Debug, Subcommand)]
pub enum Migrate {
    /// Create what is missing of the database's keyspace and tables, a line for each migration.
    #[command(
        after_help = "Run it once, before gateways with cql.create_schema = false start.\n\nExample:\n  scangate migrate schema --config scangate.toml"
    )]
    Schema {
        /// Configuration file, with a store of kind "cql".
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Change nothing; exit code 1 if a migration is missing.
        #[arg(long)]
        check: bool,
    },
    /// Make a new pepper and bring journal, store and links under it. Interrupted, run it again.
    #[command(
        after_help = "Refused while the gateway runs.\n\nExample:\n  scangate migrate pepper --data-dir data"
    )]
    Pepper {
        /// Where the keys, the journal and the store are.
        #[command(flatten)]
        data_dir: DataDir,
        /// Configuration file, for a store of kind "cql".
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// `export`
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  scangate export --from 2021-11-24T00:00:00+07:00 --to 2021-11-25T00:00:00+07:00 > day.ndjson"
)]
pub struct Export {
    /// Where the store is; a running server on it is asked instead.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Configuration file, for a store of kind "cql".
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// First event time, RFC 3339.
    #[arg(long, value_parser = UnixMillis::parse, value_name = "TIME")]
    pub from: UnixMillis,
    /// First event time that is left out, RFC 3339.
    #[arg(long, value_parser = UnixMillis::parse, value_name = "TIME")]
    pub to: UnixMillis,
    /// What for, as the audit log will say: a case, never a person's number or name.
    #[arg(long, value_name = "TEXT")]
    pub purpose: Option<String>,
    /// Lets in, where a gateway runs that asks for a token.
    #[command(flatten)]
    pub token: AdminToken,
}

/// `trace`
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example, with the number kept out of the shell's history:\n  scangate trace - --from 2021-11-01T00:00:00+07:00 --to 2021-11-25T00:00:00+07:00 --purpose 'case 17' < number.txt"
)]
pub struct Trace {
    /// Whose: a reference as `issue person` takes it (a citizen number, a QID, another name), or a pseudonym of 32
    /// hexadecimal digits; - reads it from standard input.
    pub person: String,
    /// Where from, from when to when, and what for.
    #[command(flatten)]
    pub range: Export,
}

/// `audit`
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Hold the log to its chain; exit code 1 with the first broken link.
    #[command(
        after_help = "Example:\n  scangate audit verify data/audit --head 17:5f6e…   a number and hash from /v1/stats or the log"
    )]
    Verify {
        /// The log's directory, DATA/audit.
        dir: PathBuf,
        /// Also that it holds this record, as it was published: NUMBER:HASH.
        #[arg(long, value_parser = audit::parse_head, value_name = "NUMBER:HASH")]
        head: Option<crate::audit::Head>,
    },
    /// Write the records as NDJSON.
    Show {
        /// The log's directory, DATA/audit.
        dir: PathBuf,
        /// Only so many, the newest.
        #[arg(long, value_name = "N")]
        last: Option<usize>,
    },
}

/// Does what was asked.
///
/// # Errors
/// The command failed; [`report`] says so and gives the exit code.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(serve) => serve::run(serve),
        Command::CheckConfig { file } => {
            print(&check_config::report(&file, std::env::vars_os())?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Openapi => {
            print(crate::openapi::document())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "scangate", &mut script);
            io::stdout().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Issue(issue) => issue::run(issue),
        Command::Keys(keys) => keys::run(keys),
        Command::Decode { files } => decode::run(&files),
        Command::Verify(verify) => verify::run(&verify),
        Command::Journal(journal) => journal::run(&journal),
        Command::Health(health) => health::run(&health),
        Command::Export(range) => export::run(&range),
        Command::Trace(command) => export::run_trace(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Migrate(migrate) => migrate::run(&migrate),
    }
}

/// Tells a failure on standard error and gives its exit code. A reader that went away (`| head`) is none.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let is_closed_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(is_closed_pipe)) {
        return ExitCode::SUCCESS;
    }
    if error.is::<ConfigErrors>() {
        // One mistake a line and nothing before it, so that editors can jump to each.
        eprintln!("{error}");
        return ExitCode::from(USAGE);
    }
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

/// Writes text and a line end to standard output.
///
/// # Errors
/// The output is closed or full.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.trim_end().as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

fn parse_app(name: &str) -> Result<App, String> {
    let names: Vec<&str> = App::ALL.iter().map(|app| app.name()).collect();
    App::from_name(name).ok_or_else(|| format!("must be one of {}", names.join(", ")))
}

/// Parses the command line of a test or of an embedding program.
///
/// # Errors
/// Wrong usage, as clap words it.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        parse(line.split(' ').map(OsString::from)).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_parses() {
        for line in [
            "scangate serve",
            "scangate serve --config f --data-dir d --listen 127.0.0.1:1 --admin [::1]:2",
            "scangate check-config f",
            "scangate issue device --data-dir d --place p",
            "scangate issue device --data-dir d --person 001093029317 --app vneid --ttl 12h",
            "scangate issue place hn-0001 --data-dir d --png a --svg b --pdf c",
            "scangate issue person 001093029317 --data-dir d",
            "scangate keys generate --data-dir d",
            "scangate keys list --data-dir d",
            "scangate keys rotate --data-dir d --set pc-covid",
            "scangate issue place hn-0001 --data-dir d --pdf c --paper a4 --name Chợ --level q",
            "scangate issue person 001093029317 --ttl 90s",
            "scangate issue bulk list.csv --out d --kind person --pdf --paper a6 --ttl 365d",
            "scangate issue revoke SG1:X",
            "scangate issue revoke --cti 00",
            "scangate issue revoke --place hn-0001",
            "scangate issue list",
            "scangate keys revoke --data-dir d --kid k",
            "scangate keys revoke --data-dir d --file list.ndjson",
            "scangate keys revoked --export --full",
            "scangate keys compact",
            "scangate keys rotate --stage 7d",
            "scangate keys retire 0011223344556677 --set sg1 --force",
            "scangate keys import hc1 a.pem b.pem",
            "scangate keys import shc https://example.org/issuer a.json",
            "scangate keys import nhs k1 a.pem --data-dir d",
            "scangate keys import device vneid a.pem --kid k",
            "scangate decode a.jpg b.png",
            "scangate verify",
            "scangate verify -",
            "scangate verify SG1:X --data-dir d",
            "scangate journal inspect d",
            "scangate journal verify d",
            "scangate journal drain --data-dir d --config f --timeout 10m",
            "scangate health",
            "scangate health --config f --timeout-ms 500",
            "scangate health --address [::1]:8080",
            "scangate migrate schema --config f --check",
            "scangate export --data-dir d --from 2021-11-24T00:00:00Z --to 2021-11-25T00:00:00Z",
            "scangate export --from 2021-11-24T00:00:00Z --to 2021-11-25T00:00:00Z --purpose p --admin-token-file f",
            "scangate trace 001093029317 --from 2021-11-24T00:00:00Z --to 2021-11-25T00:00:00Z --data-dir d",
            "scangate audit verify d",
            "scangate audit show d --last 10",
            "scangate keys admin grafana --scope read,links --ttl 30d --data-dir d",
            "scangate keys admin --list",
            "scangate keys admin --revoke grafana",
            "scangate migrate pepper --data-dir d --config f",
            "scangate openapi",
            "scangate completions zsh",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {:?}", parsed(line).err());
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "scangate",
            "scangate serve --listen localhost",
            "scangate issue device",
            "scangate issue device --place p --person q",
            "scangate issue device --place p --app zalo",
            "scangate issue device --place p --ttl forever",
            "scangate issue device --person p --class bus",
            "scangate keys revoke",
            "scangate keys revoke --kid k --file f",
            "scangate keys import",
            "scangate issue revoke",
            "scangate issue place p --name n",
            "scangate issue bulk list.csv",
            "scangate issue bulk list.csv --out d",
            "scangate verify --json --plain x",
            "scangate decode",
            "scangate health --timeout-ms 0",
            "scangate journal drain --timeout soon",
            "scangate export --from yesterday --to today",
            "scangate keys admin",
            "scangate keys admin grafana",
            "scangate keys admin Grafana --scope read",
            "scangate keys admin grafana --scope all",
            "scangate keys admin grafana --scope read --list",
            "scangate audit verify d --head 1",
        ] {
            assert_eq!(parsed(line).err().map(|error| error.exit_code()), Some(i32::from(USAGE)), "{line}");
        }
    }
}

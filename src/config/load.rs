//! Reads file, environment and command line into one [`Config`], collecting every mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::{self, Config, SECTIONS};
use super::relations;
use super::value::{Mismatch, shown};

/// What every variable of the gateway begins with.
const PREFIX: &str = "SCANGATE_";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The file, at a one-based line and column (in characters).
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// The file as a whole.
    WholeFile(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// Nowhere: the default applies.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::WholeFile(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong: `section.key: must be …; got …`.
    pub problem: String,
}

/// Every mistake found, one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Values from the command line, which win over everything.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--admin`
    pub admin: Option<SocketAddr>,
    /// `--services`
    pub services: Option<SocketAddr>,
}

/// A checked configuration, and where each key that isn't at its default came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Origins by section and key, of keys that were set.
    pub origins: BTreeMap<(String, String), Origin>,
}

/// Loads the file (if any), then variables from `environment`, then `overrides`.
///
/// # Errors
/// Every mistake in all three, in the order file, environment, relations between keys.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    overrides: &Overrides,
) -> Result<Loaded, ConfigErrors> {
    let mut loader = Loader::default();
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => loader.file(path, &text),
            Err(error) => {
                loader.fail(Origin::WholeFile(path.to_owned()), format!("can't be read: {error}"));
            }
        }
    }
    let mut variables: Vec<(OsString, OsString)> = environment.into_iter().collect();
    variables.sort();
    for (name, value) in variables {
        if let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) {
            loader.variable(name, value.to_str());
        }
    }
    loader.overrides(overrides);
    loader.relations();
    let Loader { config, origins, errors, .. } = loader;
    if errors.is_empty() { Ok(Loaded { config, origins }) } else { Err(ConfigErrors(errors)) }
}

#[derive(Default)]
struct Loader {
    config: Config,
    origins: BTreeMap<(String, String), Origin>,
    errors: Vec<ConfigError>,
    /// Keys whose value couldn't be taken: a relation to the default in its place would mislead.
    unread: BTreeSet<(String, String)>,
}

impl Loader {
    fn fail(&mut self, origin: Origin, problem: String) {
        self.errors.push(ConfigError { origin, problem });
    }

    fn file(&mut self, path: &Path, text: &str) {
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        for error in syntax_errors {
            let origin = position(path, text, &error.span().unwrap_or_default());
            self.fail(origin, format!("not TOML: {}", error.message()));
        }
        // The recovering parser drops what it couldn't read, so the rest can still be checked.
        for (name, section) in document.get_ref() {
            self.section(path, text, name, section);
        }
        // The parser sorts keys by name; a reader goes from top to bottom.
        self.errors.sort_by(|left, right| left.origin.cmp(&right.origin));
    }

    fn section(
        &mut self,
        path: &Path,
        text: &str,
        name: &Spanned<DeString<'_>>,
        section: &Spanned<DeValue<'_>>,
    ) {
        let known = SECTIONS.iter().any(|info| info.name == name.get_ref());
        let here = position(path, text, &name.span());
        match section.get_ref() {
            _ if !known => {
                let names = SECTIONS.iter().map(|info| info.name);
                let kind = if section.get_ref().is_table() { "section" } else { "key outside a section" };
                self.fail(here, unknown(kind, name.get_ref(), names));
            }
            DeValue::Table(table) => {
                for (key, value) in table {
                    self.entry(path, text, name.get_ref(), key, value);
                }
            }
            other => self.fail(here, format!("{}: must be a section; got {}", name.get_ref(), shown(other))),
        }
    }

    fn entry(
        &mut self,
        path: &Path,
        text: &str,
        section: &str,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let Some(info) = keys::find(section, key.get_ref()) else {
            let problem = unknown_key(section, key.get_ref());
            return self.fail(position(path, text, &key.span()), problem);
        };
        // A value that the recovering parser gave up on: its syntax error is told already.
        if value.span().is_empty() && !value.get_ref().is_table() {
            self.unread.insert((section.to_owned(), info.name.to_owned()));
            return;
        }
        match self.config.set(section, info.name, value.get_ref()) {
            Ok(()) => {
                let origin = position(path, text, &key.span());
                self.origins.insert((section.to_owned(), info.name.to_owned()), origin);
            }
            Err(Mismatch { span, got }) => {
                self.unread.insert((section.to_owned(), info.name.to_owned()));
                let origin = position(path, text, &span.unwrap_or_else(|| value.span()));
                self.fail(
                    origin,
                    format!("{section}.{}: must be {}; got {got}", info.name, (info.expected)()),
                );
            }
        }
    }

    fn variable(&mut self, name: &str, value: Option<&str>) {
        let rest = name.strip_prefix(PREFIX).unwrap_or(name);
        let origin = Origin::Variable(name.to_owned());
        let Some((section, key)) = rest.split_once("__") else {
            // Other SCANGATE_ names belong to others (orchestrators make some up from a service's name),
            // but a key with one underscore too few is a slip that must not pass in silence.
            if let Some((section, key)) = missing_underscore(rest) {
                let right = format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase());
                self.fail(origin, format!("{section}.{key}: must be spelled {right}"));
            }
            return;
        };
        let (section, key) = (section.to_lowercase(), key.to_lowercase());
        let Some(info) = keys::find(&section, &key) else {
            let problem = if SECTIONS.iter().any(|info| info.name == section) {
                unknown_key(&section, &key)
            } else {
                unknown("section", &section, SECTIONS.iter().map(|info| info.name))
            };
            return self.fail(origin, problem);
        };
        let Some(text) = value else {
            return self.fail(origin, format!("{section}.{key}: must be UTF-8"));
        };
        match self.set_text(&section, &key, text) {
            Ok(()) => {
                self.origins.insert((section, key), origin);
            }
            Err(Mismatch { got, .. }) => {
                self.fail(origin, format!("{section}.{key}: must be {}; got {got}", (info.expected)()));
                self.unread.insert((section, key));
            }
        }
    }

    /// Sets a key from a variable's text: as TOML if it is that, or else, or if the key wants a string
    /// that looks like something else (`user=12345`), as a plain string.
    fn set_text(&mut self, section: &str, key: &str, text: &str) -> Result<(), Mismatch> {
        let plain = DeValue::String(DeString::Borrowed(text));
        match DeValue::parse(text) {
            Ok(value) => self
                .config
                .set(section, key, value.get_ref())
                .or_else(|mismatch| self.config.set(section, key, &plain).map_err(|_| mismatch)),
            Err(_) => self.config.set(section, key, &plain),
        }
    }

    fn overrides(&mut self, overrides: &Overrides) {
        let mut note = |section: &str, key: &str, flag| {
            self.origins.insert((section.to_owned(), key.to_owned()), Origin::Flag(flag));
        };
        if let Some(data_dir) = &overrides.data_dir {
            self.config.gateway.data_dir.clone_from(data_dir);
            note("gateway", "data_dir", "--data-dir");
        }
        if let Some(listen) = overrides.listen {
            self.config.listen.addr = listen;
            note("listen", "addr", "--listen");
        }
        if let Some(admin) = overrides.admin {
            self.config.listen.admin = admin;
            note("listen", "admin", "--admin");
        }
        if let Some(services) = overrides.services {
            self.config.services.listen = Some(services);
            note("services", "listen", "--services");
        }
    }

    /// A broken relation is told where the blamed key was set, or else where its partner was.
    fn relations(&mut self) {
        for broken in relations::check(&self.config) {
            let parties =
                broken.parties.iter().map(|(section, key)| ((*section).to_owned(), (*key).to_owned()));
            let parties: Vec<(String, String)> = parties.collect();
            if parties.iter().any(|party| self.unread.contains(party)) {
                continue;
            }
            let set = parties.iter().find_map(|party| self.origins.get(party));
            let origin = set.cloned().unwrap_or(Origin::Default);
            let relations::Broken { section, key, expected, got, .. } = broken;
            self.fail(origin, format!("{section}.{key}: must be {expected}; got {got}"));
        }
    }
}

fn position(path: &Path, text: &str, span: &Range<usize>) -> Origin {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Origin::File { path: path.to_owned(), line, column }
}

fn unknown_key(section: &str, key: &str) -> String {
    let names = SECTIONS.iter().filter(|info| info.name == section).flat_map(|info| info.keys);
    format!("{section}.{}", unknown("key", key, names.map(|info| info.name)))
}

fn unknown(kind: &str, name: &str, known: impl Iterator<Item = &'static str>) -> String {
    // A third of the name mistyped is still a slip; more is another word.
    let nearest = known.map(|candidate| (distance(name, candidate), candidate)).min();
    match nearest {
        Some((edits, candidate)) if edits <= candidate.len().div_ceil(3) || candidate.starts_with(name) => {
            format!("{name}: unknown {kind}; did you mean {candidate}?")
        }
        _ => format!("{name}: unknown {kind}"),
    }
}

/// Levenshtein distance.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = index;
        let mut previous = index + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(right.chars()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            previous = replaced.min(diagonal + 1).min(previous + 1);
            *cell = previous;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

fn missing_underscore(rest: &str) -> Option<(&'static str, &'static str)> {
    let lower = rest.to_lowercase();
    SECTIONS.iter().find_map(|section| {
        let key = lower.strip_prefix(section.name)?.strip_prefix('_')?;
        let info = section.keys.iter().find(|info| info.name == key)?;
        Some((section.name, info.name))
    })
}

//! How one value is read from TOML, checked, and written back: the types a key can have.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::DeValue;

/// Longest piece of an offending value that an error repeats: enough to recognise it, too short to fill
/// a log with whatever was pasted into the wrong file.
const SHOWN_CHARS_MAX: usize = 64;

/// What a key accepts beyond its type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// Everything of the type.
    Any,
    /// A whole number within inclusive bounds; for a table of numbers, each of them.
    Within(u64, u64),
    /// A CQL identifier that needs no quoting.
    Identifier,
}

/// A value that a key can't take.
#[derive(Debug)]
pub(super) struct Mismatch {
    /// Where inside the value, when it is only a part of it.
    pub(super) span: Option<Range<usize>>,
    /// The offending value, shortened.
    pub(super) got: String,
}

impl Mismatch {
    fn of(value: &DeValue<'_>) -> Self {
        Self { span: None, got: shown(value) }
    }
}

/// A type that a key can have.
pub(super) trait Setting: Sized {
    /// What the key accepts, to follow "must be".
    fn expected(rule: &Rule) -> String;
    /// Reads and checks.
    fn read(value: &DeValue<'_>, rule: &Rule) -> Result<Self, Mismatch>;
    /// The value as TOML.
    fn written(&self) -> String;
}

/// The value as an error names it.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(&shortened(text)),
        DeValue::Integer(number) => shortened(&number.to_string()),
        DeValue::Float(number) => shortened(&number.to_string()),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The text as a TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

macro_rules! whole_numbers {
    ($($Type:ty),+) => {$(
        impl Setting for $Type {
            fn expected(rule: &Rule) -> String {
                let (min, max) = bounds(rule, u64::try_from(<$Type>::MAX).unwrap_or(u64::MAX));
                format!("a whole number in {min}..={max}")
            }

            fn read(value: &DeValue<'_>, rule: &Rule) -> Result<Self, Mismatch> {
                let (min, max) = bounds(rule, u64::try_from(<$Type>::MAX).unwrap_or(u64::MAX));
                value
                    .as_integer()
                    .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
                    .filter(|number| (min..=max).contains(number))
                    .and_then(|number| <$Type>::try_from(number).ok())
                    .ok_or_else(|| Mismatch::of(value))
            }

            fn written(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

whole_numbers!(u16, u32, u64, usize);

fn bounds(rule: &Rule, type_max: u64) -> (u64, u64) {
    match *rule {
        Rule::Within(min, max) => (min, max),
        Rule::Any | Rule::Identifier => (0, type_max),
    }
}

impl Setting for bool {
    fn expected(_: &Rule) -> String {
        "true or false".to_owned()
    }

    fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
        value.as_bool().ok_or_else(|| Mismatch::of(value))
    }

    fn written(&self) -> String {
        self.to_string()
    }
}

impl Setting for SocketAddr {
    fn expected(_: &Rule) -> String {
        "an IP address and port such as \"127.0.0.1:8080\" or \"[::]:8080\"".to_owned()
    }

    fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
        value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| Mismatch::of(value))
    }

    fn written(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Option<SocketAddr> {
    fn expected(_: &Rule) -> String {
        "an IP address and port such as \"127.0.0.1:8090\", or \"\" for none".to_owned()
    }

    fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
        let text = value.as_str().ok_or_else(|| Mismatch::of(value))?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| Mismatch::of(value)) }
    }

    fn written(&self) -> String {
        quoted(&self.map(|address| address.to_string()).unwrap_or_default())
    }
}

impl Setting for PathBuf {
    fn expected(_: &Rule) -> String {
        "a path that is not empty".to_owned()
    }

    fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
        value.as_str().filter(|text| !text.is_empty()).map(Self::from).ok_or_else(|| Mismatch::of(value))
    }

    fn written(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for Option<PathBuf> {
    fn expected(_: &Rule) -> String {
        "a path, or \"\" for none".to_owned()
    }

    fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
        let text = value.as_str().ok_or_else(|| Mismatch::of(value))?;
        Ok(if text.is_empty() { None } else { Some(PathBuf::from(text)) })
    }

    fn written(&self) -> String {
        quoted(&self.as_deref().unwrap_or(std::path::Path::new("")).to_string_lossy())
    }
}

impl Setting for String {
    fn expected(rule: &Rule) -> String {
        match rule {
            Rule::Identifier => "1 to 48 lowercase letters, digits and underscores, a letter first",
            Rule::Any | Rule::Within(..) => "a string that is not empty",
        }
        .to_owned()
    }

    fn read(value: &DeValue<'_>, rule: &Rule) -> Result<Self, Mismatch> {
        let fits = |text: &&str| match rule {
            Rule::Identifier => is_identifier(text),
            Rule::Any | Rule::Within(..) => !text.is_empty(),
        };
        value.as_str().filter(fits).map(Self::from).ok_or_else(|| Mismatch::of(value))
    }

    fn written(&self) -> String {
        quoted(self)
    }
}

/// 48 characters is Cassandra's and ScyllaDB's limit on keyspace names.
fn is_identifier(text: &str) -> bool {
    text.len() <= 48
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

impl Setting for Option<String> {
    fn expected(_: &Rule) -> String {
        "a string, or \"\" for none".to_owned()
    }

    fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
        let text = value.as_str().ok_or_else(|| Mismatch::of(value))?;
        Ok(if text.is_empty() { None } else { Some(text.to_owned()) })
    }

    fn written(&self) -> String {
        quoted(self.as_deref().unwrap_or(""))
    }
}

impl Setting for Vec<String> {
    fn expected(_: &Rule) -> String {
        "a list of one or more strings such as [\"127.0.0.1:9042\"]".to_owned()
    }

    fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
        let items = value.as_array().ok_or_else(|| Mismatch::of(value))?;
        if items.is_empty() {
            return Err(Mismatch { span: None, got: "[]".to_owned() });
        }
        items
            .iter()
            .map(|item| match item.get_ref().as_str() {
                Some(text) if !text.is_empty() => Ok(text.to_owned()),
                _ => Err(Mismatch { span: Some(item.span()), got: shown(item.get_ref()) }),
            })
            .collect()
    }

    fn written(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

impl Setting for BTreeMap<String, u16> {
    fn expected(rule: &Rule) -> String {
        let (min, max) = bounds(rule, u64::from(u16::MAX));
        format!("a table of class names, each with a whole number in {min}..={max}")
    }

    fn read(value: &DeValue<'_>, rule: &Rule) -> Result<Self, Mismatch> {
        let table = value.as_table().ok_or_else(|| Mismatch::of(value))?;
        table
            .iter()
            .map(|(name, number)| match u16::read(number.get_ref(), rule) {
                Ok(seconds) => Ok((name.get_ref().to_string(), seconds)),
                Err(Mismatch { got, .. }) => Err(Mismatch {
                    span: Some(number.span()),
                    got: format!("{} = {got}", shortened(name.get_ref())),
                }),
            })
            .collect()
    }

    fn written(&self) -> String {
        if self.is_empty() {
            return "{}".to_owned();
        }
        let items: Vec<String> =
            self.iter().map(|(name, seconds)| format!("{} = {seconds}", quoted(name))).collect();
        format!("{{ {} }}", items.join(", "))
    }
}

/// An enum whose TOML form is one of a few words.
macro_rules! words {
    ($(#[$doc:meta])* $Name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $Name { $($(#[$variant_doc])* $variant,)+ }

        impl $Name {
            /// The word in the configuration file.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Every word, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
        }

        impl Setting for $Name {
            fn expected(_: &Rule) -> String {
                let words = [$($word),+].map(quoted);
                format!("one of {}", words.join(", "))
            }

            fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
                match value.as_str() {
                    $(Some($word) => Ok(Self::$variant),)+
                    _ => Err(Mismatch::of(value)),
                }
            }

            fn written(&self) -> String {
                quoted(self.name())
            }
        }
    };
}

words!(
    /// What drives sockets on each core.
    Runtime {
        /// io_uring where the kernel allows it, epoll otherwise.
        Auto = "auto",
        /// io_uring, or refuse to start.
        Uring = "uring",
        /// epoll.
        Epoll = "epoll",
    }
);

words!(
    /// Whom the admin listener asks for a token.
    AdminAuth {
        /// Nobody on a loopback address, everybody on another.
        Auto = "auto",
        /// Everybody.
        Required = "required",
    }
);

words!(
    /// What becomes of a client without a certificate, where clients are asked for one.
    ClientCertificates {
        /// Its handshake fails.
        Required = "required",
        /// It is served.
        Optional = "optional",
    }
);

words!(
    /// Where check-ins end up.
    StoreKind {
        /// An embedded database under the data directory.
        Embedded = "embedded",
        /// ScyllaDB or Cassandra.
        Cql = "cql",
    }
);

words!(
    /// CQL consistency level of writes and reads.
    Consistency {
        /// One replica.
        One = "one",
        /// One replica of the local datacenter.
        LocalOne = "local_one",
        /// A majority of the local datacenter's replicas.
        LocalQuorum = "local_quorum",
        /// A majority of all replicas.
        Quorum = "quorum",
        /// A majority in every datacenter.
        EachQuorum = "each_quorum",
        /// All replicas.
        All = "all",
    }
);

words!(
    /// The least severe event that is logged.
    Level {
        /// Something is broken.
        Error = "error",
        /// Something needs attention soon.
        Warn = "warn",
        /// Starts, stops, and changes of state.
        Info = "info",
        /// For tracing one problem.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
);

words!(
    /// How log lines look.
    LogFormat {
        /// One JSON object a line.
        Json = "json",
        /// For reading at a terminal.
        Text = "text",
    }
);

words!(
    /// Where frames are read.
    FrameIsolation {
        /// In confined processes of their own.
        Process = "process",
        /// In threads of the gateway, by decoders in Rust only.
        Thread = "thread",
    }
);

words!(
    /// What a reader of frames gets of a processor that others want.
    FramePriority {
        /// Nothing.
        Idle = "idle",
        /// A tenth of an ordinary share.
        Low = "low",
    }
);

words!(
    /// A decoder of QR codes.
    FrameDecoder {
        /// zxing-cpp, where the build has it.
        Zxing = "zxing",
        /// quircs.
        Quircs = "quircs",
        /// rqrr.
        Rqrr = "rqrr",
    }
);

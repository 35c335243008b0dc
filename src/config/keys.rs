//! Every key of the configuration: its name, type, default, bounds, and why that default.
//!
//! This table is the only place where they are written. The structs, their defaults, the checks, the
//! error texts and `config/scangate.toml` are all made from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use toml::de::DeValue;

pub use super::stages::FrameStage;
pub use super::value::{
    AdminAuth, ClientCertificates, Consistency, FrameDecoder, FrameIsolation, FramePriority, Level,
    LogFormat, Runtime, StoreKind,
};
use super::value::{Mismatch, Rule, Setting};

/// A section as the table describes it.
#[derive(Debug)]
pub struct SectionInfo {
    /// Its name in the file.
    pub name: &'static str,
    /// Its description, a line each.
    pub doc: &'static [&'static str],
    /// Its keys.
    pub keys: &'static [KeyInfo],
}

/// A key as the table describes it.
#[derive(Debug)]
pub struct KeyInfo {
    /// Its name in the file.
    pub name: &'static str,
    /// Its description, a line each.
    pub doc: &'static [&'static str],
    /// What it accepts, to follow "must be".
    pub expected: fn() -> String,
}

/// Looks a key up.
pub(super) fn find(section: &str, key: &str) -> Option<&'static KeyInfo> {
    SECTIONS.iter().find(|info| info.name == section)?.keys.iter().find(|info| info.name == key)
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const DAY_S: u64 = 86_400;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

macro_rules! sections {
    ($(
        $(#[doc = $section_doc:literal])+
        $Section:ident $section:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $Type:ty = $default:expr, $rule:expr; )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $Section { $( $(#[doc = $doc])+ pub $key: $Type, )+ }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $key: $default, )+ }
                }
            }
        )+

        /// The whole configuration, checked.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Config { $( $(#[doc = $section_doc])+ pub $section: $Section, )+ }

        /// Every section, in the order of the file.
        pub const SECTIONS: &[SectionInfo] = &[ $( SectionInfo {
            name: stringify!($section),
            doc: &[$($section_doc),+],
            keys: &[ $( KeyInfo {
                name: stringify!($key),
                doc: &[$($doc),+],
                expected: || <$Type as Setting>::expected(&$rule),
            }, )+ ],
        }, )+ ];

        impl Config {
            /// Sets one key from a TOML value. A key that doesn't exist is the caller's to refuse.
            pub(super) fn set(
                &mut self,
                section: &str,
                key: &str,
                value: &DeValue<'_>,
            ) -> Result<(), Mismatch> {
                match (section, key) {
                    $( $( (stringify!($section), stringify!($key)) => {
                        self.$section.$key = Setting::read(value, &$rule)?;
                    } )+ )+
                    _ => {}
                }
                Ok(())
            }

            /// One key's value as TOML.
            pub fn written(&self, section: &str, key: &str) -> Option<String> {
                match (section, key) {
                    $( $( (stringify!($section), stringify!($key)) => Some(self.$section.$key.written()), )+ )+
                    _ => None,
                }
            }
        }
    };
}

sections! {
    /// The process as a whole.
    Gateway gateway {
        /// Holds keys, journal, embedded store and watermark; the only directory written to.
        /// A relative path starts at the working directory.
        data_dir: PathBuf = PathBuf::from("./data"), Rule::Any;
        /// After SIGTERM, how long requests under way may take before connections are closed, and
        /// then again how long the store may take to catch up. Grant a stop twice this and 10 s.
        drain_timeout_ms: u64 = 25_000, Rule::Within(0, 3_600_000);
    }

    /// Sockets, and how long and how much a peer may send.
    Listen listen {
        /// Public listener. Loopback, because development keys must not meet a network.
        addr: SocketAddr = loopback(8080), Rule::Any;
        /// Listener for metrics, statistics, drain, reload, export and trace. On another address than
        /// loopback it asks for a token (section admin) and must have TLS.
        admin: SocketAddr = loopback(9090), Rule::Any;
        /// What drives the sockets. "auto" takes io_uring where the kernel and seccomp allow it.
        runtime: Runtime = Runtime::Auto, Rule::Any;
        /// Threads that serve connections, each with its own ring and listening socket; 0 takes one
        /// for every core this process may run on.
        cores: usize = 0, Rule::Within(0, 1024);
        /// Open connections over all cores; one more is closed at once. At 22 KB for a connection in
        /// mid-request, 20,000 stay under 450 MB.
        connections_max: usize = 20_000, Rule::Within(1, 1_000_000);
        /// From a connection's first byte to the end of a request's headers. A slow mobile link sends
        /// 1 KB within 5 s; a socket that is held open on purpose does not.
        header_timeout_ms: u64 = 5_000, Rule::Within(10, 600_000);
        /// From the end of the headers to the end of the body: 1 MiB at 100 KB a second.
        body_timeout_ms: u64 = 10_000, Rule::Within(10, 600_000);
        /// From the end of the headers to the end of the answer, waiting for the disk included; the
        /// client gets 503 after it. Above body_timeout_ms and workers.deadline_ms together.
        request_timeout_ms: u64 = 15_000, Rule::Within(10, 600_000);
        /// How long a keep-alive connection may rest between requests. Longer than the 60 s of common
        /// load balancers, so that the balancer and not the gateway closes first.
        idle_timeout_ms: u64 = 75_000, Rule::Within(10, 86_400_000);
        /// Size of a request's line and headers. A device token is under 1 KB; 16 KiB leaves room for
        /// what proxies add.
        headers_bytes_max: usize = 16_384, Rule::Within(8_192, MIB);
        /// Concurrent streams of one HTTP/2 connection. A load balancer's pooled connection uses about
        /// a hundred.
        h2_streams_max: u32 = 128, Rule::Within(1, 10_000);
    }

    /// TLS on the public listener; off while its files are "". They are read again on SIGHUP.
    Tls tls {
        /// Certificate chain, PEM, the server's own certificate first.
        certificate_file: Option<PathBuf> = None, Rule::Any;
        /// Private key, PEM, mode 0600 or 0640.
        key_file: Option<PathBuf> = None, Rule::Any;
        /// Certificates, PEM, of those who issue the clients' certificates; "" asks clients for none. A
        /// client's certificate admits a connection. Who scans is still told by the device token, which may
        /// be bound to it (`cnf`).
        client_ca_file: Option<PathBuf> = None, Rule::Any;
        /// With client_ca_file: "required" ends a handshake without a certificate, "optional" lets it pass. One
        /// that doesn't hold never passes.
        client_certificates: ClientCertificates = ClientCertificates::Required, Rule::Any;
        /// Revocation lists, PEM, of the authorities in client_ca_file; "" for none. Once there is one, a
        /// certificate of an authority without a list, or whose list has run out, doesn't pass.
        client_crl_file: Option<PathBuf> = None, Rule::Any;
        /// From accept to the end of the handshake: two round trips and an Ed25519 or P-256 signature,
        /// with room for a bad mobile link.
        handshake_timeout_ms: u64 = 5_000, Rule::Within(10, 600_000);
    }

    /// Whom the admin listener lets in: `scangate keys admin NAME --scope read` makes a token.
    Admin admin {
        /// "auto" asks nobody on a loopback address and everybody on another for a token; "required" asks
        /// everybody. /healthz and /readyz are open, and /v1/links always asks.
        auth: AdminAuth = AdminAuth::Auto, Rule::Any;
        /// Certificate chain of the admin listener, PEM; with admin.tls_key_file it speaks TLS. Read
        /// again on SIGHUP.
        tls_cert_file: Option<PathBuf> = None, Rule::Any;
        /// Its private key, PEM.
        tls_key_file: Option<PathBuf> = None, Rule::Any;
        /// Certificates, PEM, of those who may sign clients' certificates; with it a client without one
        /// is turned away before it can ask, whatever its token.
        tls_client_ca_file: Option<PathBuf> = None, Rule::Any;
        /// Lets listen.admin be another address than loopback without TLS. Tokens and check-ins then cross
        /// the network in the clear: only where something else encrypts it.
        allow_plain: bool = false, Rule::Any;
        /// Whether exports and traces must say what for, in the audit log's words.
        purpose_required: bool = false, Rule::Any;
    }

    /// The log of who read check-ins or changed keys, under DATA/audit. Nothing is read that isn't in it.
    Audit audit {
        /// Size at which a file of the log is followed by the next. 16 MiB hold about 40,000 records.
        segment_bytes: u64 = 16_777_216, Rule::Within(16 * KIB, GIB);
        /// How long records are kept at least; they go a file at a time, at most 31 days later. Two years
        /// are longer than the twelve months that Decree 53/2022 asks of system logs.
        retention_days: u32 = 730, Rule::Within(1, 36_500);
    }

    /// What one device may send.
    Limits limits {
        /// Scans a second that one device may send in the long run; 0 for no limit. A fast turnstile
        /// makes 2, so 50 also serves a hall behind one device.
        device_scans_per_s: u32 = 50, Rule::Within(0, 1_000_000);
        /// Scans that one device may send at once after a rest: three full batches, as a device that
        /// was offline sends on its return. At least batch_lines_max, or no full batch would pass.
        device_scans_burst: u32 = 3_000, Rule::Within(1, 10_000_000);
        /// Lines of one batch. 1,000 lines cost about 2 ms of CPU, so that one batch doesn't hold up
        /// the other connections of its core.
        batch_lines_max: usize = 1_000, Rule::Within(1, 100_000);
        /// Body as it arrives, before inflation.
        body_bytes_max: usize = 1_048_576, Rule::Within(1_024, 64 * MIB);
        /// Body after gzip or zstd: 1,000 lines of about 1,000 bytes. Inflation stops there, whatever
        /// the compressed body promised.
        batch_inflated_bytes_max: usize = 1_048_576, Rule::Within(1_024, 64 * MIB);
        /// One decoded payload. The largest QR code holds 2,953 bytes in binary mode and 4,296
        /// characters in alphanumeric mode; no accepted format comes near 4,096.
        payload_bytes_max: usize = 4_096, Rule::Within(64, 4_096);
        /// How old an event time may be: two days, for a device that was offline over a weekend day.
        clock_skew_past_s: u64 = 172_800, Rule::Within(0, 30 * DAY_S);
        /// How far ahead of the gateway's clock an event time may be: unsynchronised phone clocks are
        /// seldom off by more than minutes.
        clock_skew_future_s: u64 = 300, Rule::Within(0, DAY_S);
    }

    /// The bounded pool for work that would hold up a core: never-seen signatures.
    Workers workers {
        /// Threads; 0 takes one for every core this process may run on.
        threads: usize = 0, Rule::Within(0, 1024);
        /// Jobs waiting; one more is answered 503. At about 60 µs a signature, 1,024 jobs are 60 ms of
        /// one core: a longer queue would only make the answers late.
        queue_jobs_max: usize = 1_024, Rule::Within(1, 1_000_000);
        /// From queueing to the start of the job; it is answered 503 after that, since its client has
        /// likely given up.
        deadline_ms: u64 = 2_000, Rule::Within(1, 60_000);
    }

    /// Camera frames, read in processes of their own. They have their own queue and budgets, so that
    /// frames are turned away before check-ins by payload feel anything.
    Frames frames {
        /// Whether POST /v1/frames is there; without it the path answers 404.
        enabled: bool = true, Rule::Any;
        /// Where frames are read. "process" confines each reader: no file, no network, bounded memory,
        /// killed when it hangs. "thread" is for systems that refuse the confinement, and reads less.
        isolation: FrameIsolation = FrameIsolation::Process, Rule::Any;
        /// Frames read at once; 0 takes one for every two cores this process may run on, so that
        /// payloads keep the rest.
        workers: usize = 0, Rule::Within(0, 256);
        /// Frames waiting; one more is answered 503. At about 2 ms a frame, 32 wait 64 ms for one
        /// reader, and hold 52 MB when all of them are raw luma.
        queue_frames_max: usize = 32, Rule::Within(1, 100_000);
        /// What a reader gets of a processor that others want: "idle" nothing, so that check-ins by payload
        /// never wait for a frame; "low" a tenth of an ordinary process's share, for machines that are
        /// never idle.
        priority: FramePriority = FramePriority::Idle, Rule::Any;
        /// How long a frame may wait for its turn; it is answered 503 after that.
        wait_ms_max: u64 = 300, Rule::Within(1, 60_000);
        /// By when a frame is answered, its wait included, by the clock on the wall: its process is killed
        /// then. Ordinary frames take 1 to 5 ms, and the worst crafted one is answered within 600.
        deadline_ms: u64 = 550, Rule::Within(10, 60_000);
        /// Bytes of a JPEG or PNG frame. 640x480 takes 30 to 90 KB as JPEG.
        frame_bytes_max: usize = 262_144, Rule::Within(1_024, 32 * MIB);
        /// Pixels that a JPEG or PNG may announce: 16 megapixels, the largest that a phone's camera
        /// makes unless asked. The image is held whole while it is scaled down.
        pixels_max: u64 = 16_777_216, Rule::Within(4_096, 100_000_000);
        /// Long side, in pixels, of raw luma and of what decoders look at; larger images are scaled
        /// down to it. Above it decoders read no more and take longer.
        side_px_max: u32 = 1_280, Rule::Within(64, 8_192);
        /// Memory of one reading process. A progressive JPEG of 16 megapixels takes about 150 MB, the
        /// program itself about 100 of address space.
        memory_bytes_max: u64 = 536_870_912, Rule::Within(256 * MIB, 64 * GIB);
        /// Codes of one frame that are answered, in reading order. The ids of all but the first end in
        /// #2, #3 and so on, for which the id of a frame leaves room.
        codes_max: usize = 16, Rule::Within(1, 16);
        /// Decoders in the order in which they try; the first that finds a code ends the reading. A
        /// number is the processor time in milliseconds that earlier stages may have taken, since what
        /// was slow for one decoder is slow for the next. [] takes the best that the build has.
        stages: Vec<FrameStage> = Vec::new(), Rule::Any;
        /// Time for reading that one device may use, in milliseconds a second in the long run; 0 for no
        /// limit. A frame sets deadline_ms aside and pays what it took; four deadlines are the most
        /// that a rest saves up. So ordinary frames pass at 50 a second, and crafted ones every 2 s.
        device_ms_per_s: u32 = 250, Rule::Within(0, 1_000_000);
    }

    /// Caches of signatures that were already checked. A hit costs 0.3 µs instead of 38 µs or more.
    Verify verify {
        /// Verified SG1 tokens. About 100 bytes each: 262,144 take some 26 MB, the people who pass one
        /// gateway in a busy hour.
        token_cache_entries_max: usize = 262_144, Rule::Within(1_024, 100_000_000);
        /// Verified device tokens. About 200 bytes each: 131,072 take some 26 MB, more devices than one
        /// gateway has places.
        device_cache_entries_max: usize = 131_072, Rule::Within(1_024, 100_000_000);
        /// How long a phone's code, which lives two minutes at most and is replaced all the time, is still
        /// good after its end: the clocks of phone and scanner are seldom further apart.
        rotating_skew_s: u32 = 30, Rule::Within(0, 300);
    }

    /// Which identifiers belong to one citizen, as a feed tells it by POST /v1/links on the admin listener.
    Identity identity {
        /// File with the bearer token that the feed must bring, 32 to 128 visible characters, mode 0600. ""
        /// takes DATA/keys/feed-token, which is made beside development keys and by `keys generate`.
        feed_token_file: Option<PathBuf> = None, Rule::Any;
        /// Lines of one batch. They are on disk before they are answered, with one fsync for all.
        feed_lines_max: usize = 10_000, Rule::Within(1, 100_000);
        /// One batch, before and after inflation: 10,000 lines with every alias take 2.3 MB.
        feed_bytes_max: usize = 4_194_304, Rule::Within(1_024, 64 * MIB);
        /// Sources that may feed links; each leaves its cursor and counts on disk.
        feed_sources_max: usize = 4_096, Rule::Within(1, 65_536);
        /// Links held, 55 bytes each: 100 million, every citizen's QID, take 5.5 GB. Past it a batch is
        /// answered 503.
        links_max: u64 = 100_000_000, Rule::Within(1_000, 10_000_000_000);
        /// Links younger than deduplicate.remember_s, about 90 bytes each: scans of their aliases may still
        /// be remembered under pseudonyms of their own. Past it a batch is answered 503.
        recent_links_max: u64 = 20_000_000, Rule::Within(1_000, 10_000_000_000);
    }

    /// When a scan counts as a repetition of an earlier one.
    Deduplicate deduplicate {
        /// Scans of one person at one place in one direction within this many seconds of event time are
        /// one check-in; 0 leaves only client ids and replays to count as duplicates. A person who
        /// shows a code twice does so within a minute.
        window_s: u16 = 60, Rule::Within(0, 65_535);
        /// Other windows by the place class that a device's token names, such as
        /// { bus = 20, school = 300 }.
        windows_s_by_class: BTreeMap<String, u16> = BTreeMap::new(), Rule::Within(0, 65_535);
        /// With direction "auto", a scan this long after the person's last one at the place is an entry
        /// again, whatever that one was. 16 h is longer than a shift and shorter than a day.
        auto_reset_s: u64 = 57_600, Rule::Within(60, 7 * DAY_S);
        /// How long client ids and windows are remembered, by event time. Not less than
        /// limits.clock_skew_past_s, or a late resend would be recorded twice: its two days and an hour.
        remember_s: u64 = 176_400, Rule::Within(60, 5 * DAY_S);
        /// Live entries, about 39 bytes each and two a check-in; past it scans are refused with 503. 200 M
        /// are the check-ins of two days at 2,000 a second in some 8 GB; set it to what memory allows.
        entries_max: u64 = 200_000_000, Rule::Within(1_000, 100_000_000_000);
    }

    /// The append-only log that a check-in is safe in once it is answered.
    Journal journal {
        /// Size that a segment is preallocated at. 64 MiB hold about 400,000 check-ins, minutes of a
        /// busy gateway, and are quick to delete.
        segment_bytes: u64 = 67_108_864, Rule::Within(64 * KIB, 4 * GIB);
        /// All segments together; past it scans are answered 503. 32 GiB hold about 200 million
        /// check-ins: two days of them for deduplication, or as long an outage of the store.
        bytes_max: u64 = 34_359_738_368, Rule::Within(MIB, 64 * 1024 * GIB);
        /// One group commit. fdatasync takes 0.25 ms for 64 KiB and 1 ms for 1 MiB: beyond that only
        /// the wait of the first scan in the batch grows.
        batch_bytes_max: usize = 1_048_576, Rule::Within(4 * KIB, 64 * MIB);
        /// What one core may have waiting for the disk; past it scans are answered 503. Four commits,
        /// so about 4 ms behind a healthy disk.
        lane_bytes_max: usize = 4_194_304, Rule::Within(4 * KIB, GIB);
        /// How long a segment is kept after the store has it. Deduplication is rebuilt from it at start,
        /// so not less than deduplicate.remember_s.
        retain_s: u64 = 176_400, Rule::Within(0, 365 * DAY_S);
    }

    /// Where check-ins go behind the journal.
    Store store {
        /// "embedded" keeps them under gateway.data_dir; "cql" in the cluster of section cql.
        kind: StoreKind = StoreKind::Embedded, Rule::Any;
        /// Check-ins read from the journal and written before the watermark moves. Larger batches only
        /// lengthen what is written again after a crash.
        batch_rows_max: usize = 1_000, Rule::Within(1, 100_000);
        /// After this, check-ins are deleted: the upper end of the 21 to 30 days that contact tracing
        /// asks for.
        retention_days: u32 = 30, Rule::Within(1, 3_650);
        /// Block cache of the embedded database. Reads are rare (export and audit), so 64 MiB will do.
        cache_bytes_max: u64 = 67_108_864, Rule::Within(MIB, 64 * GIB);
    }

    /// ScyllaDB or Cassandra, used while store.kind is "cql".
    Cql cql {
        /// Contact points; the driver finds the other nodes by itself.
        nodes: Vec<String> = vec!["127.0.0.1:9042".to_owned()], Rule::Any;
        /// Keyspace of the tables.
        keyspace: String = "scangate".to_owned(), Rule::Identifier;
        /// Copies of each row when create_schema makes the keyspace. 1 suits one node; a cluster wants 3.
        replication_factor: u32 = 1, Rule::Within(1, 16);
        /// Datacenter to prefer and to replicate in; "" for any.
        datacenter: Option<String> = None, Rule::Any;
        /// User name; "" to connect without.
        user: Option<String> = None, Rule::Any;
        /// File that holds the password, read once at start; a trailing line end is dropped.
        password_file: Option<PathBuf> = None, Rule::Any;
        /// Replicas that must acknowledge before the journal lets go of a check-in: a majority survives
        /// the loss of a node.
        consistency: Consistency = Consistency::LocalQuorum, Rule::Any;
        /// Requests under way at once. On one node more than 64 to 128 only add latency.
        concurrency_max: usize = 64, Rule::Within(1, 4_096);
        /// One request, before it is tried again. Above the server's own write timeout of 2 s, so that
        /// the server's verdict arrives first.
        request_timeout_ms: u64 = 3_000, Rule::Within(10, 600_000);
        /// Create keyspace and tables where they are missing. Turn off where the user may not.
        create_schema: bool = true, Rule::Any;
    }

    /// What the check-ins are for: the card, declarations, tracing, the map and feedback, on a listener of their own
    /// and with a log of their own. One gateway of a deployment has them; the others do without.
    Services services {
        /// Where they listen; "" for a gateway that has none. TLS as on the public listener.
        listen: Option<SocketAddr> = None, Rule::Any;
        /// Threads that answer. Reads that take long have threads besides.
        cores: usize = 1, Rule::Within(1, 64);
        /// A request's body, where nothing else is said of it: forms are a few KB.
        body_bytes_max: usize = 65_536, Rule::Within(1_024, 16 * MIB);
        /// How long an event is kept in the log after it is in the services' tables.
        log_retain_s: u64 = 604_800, Rule::Within(0, 365 * DAY_S);
    }

    /// The COVID-19 card.
    Card card {
        /// A directory of rule sets (*.json), instead of those that come with the gateway; "" for those.
        rules_dir: Option<PathBuf> = None, Rule::Any;
    }

    /// Feedback, among the services.
    Feedback feedback {
        /// A photo as it is sent. A phone's camera makes 2 to 5 MB, and pages scale it down before.
        photo_bytes_max: usize = 2_097_152, Rule::Within(1_024, 16 * MIB);
        /// All photos together, as they are kept: some 5,000 of 200 KB. Past it a photo is answered 503.
        photos_bytes_max: u64 = 1_073_741_824, Rule::Within(MIB, 1024 * GIB);
        /// Feedback and photos an hour from one network address, where nobody signs them, and at once after a rest;
        /// 0 for no limit. Many share an address behind a carrier's or a proxy's.
        address_per_h: u32 = 60, Rule::Within(0, 1_000_000);
        /// The same of one person who signs.
        person_per_h: u32 = 20, Rule::Within(0, 1_000_000);
        /// Feedback that nobody signed and nobody has answered or rejected; past it more is answered 503, but not
        /// what is signed.
        anonymous_open_max: u64 = 10_000, Rule::Within(1, 100_000_000);
        /// Feedback and its photo go so long after it last changed, answered or not.
        retention_days: u32 = 365, Rule::Within(1, 3_650);
    }

    /// The directory of places.
    Places places {
        /// Places in it, all of them in memory: some 360 bytes each, the tables' cache included.
        max: usize = 1_000_000, Rule::Within(1, 10_000_000);
    }

    /// Health and movement declarations.
    Declarations declarations {
        /// How long a declaration is kept after it was made, or after its journey ended: as check-ins are
        /// (store.retention_days), since tracers read them together.
        retention_days: u32 = 30, Rule::Within(1, 3_650);
        /// Declarations that one person may make within 24 hours: a family's of a few journeys.
        per_day_max: usize = 100, Rule::Within(1, 10_000);
    }

    /// The national registers that the services follow: where they are, and how long and how often they are asked.
    Registers registers {
        /// Population register: which PC-COVID codes and tokens are whose. "" for one that isn't followed; http for
        /// loopback addresses only.
        population_url: Option<String> = None, Rule::Any;
        /// Insurance register: which insurance codes are whose.
        insurance_url: Option<String> = None, Rule::Any;
        /// Vaccination register.
        vaccination_url: Option<String> = None, Rule::Any;
        /// Testing register.
        testing_url: Option<String> = None, Rule::Any;
        /// Certificates, PEM, of those who issue the registers' certificates. Nobody else is trusted.
        ca_file: Option<PathBuf> = None, Rule::Any;
        /// The certificate that the gateway shows to registers, PEM, with its chain; goes with key_file.
        certificate_file: Option<PathBuf> = None, Rule::Any;
        /// Its key, PEM.
        key_file: Option<PathBuf> = None, Rule::Any;
        /// Holds the secrets by which registers sign what they push, in NAME.secret; a register without one can't push.
        secrets_dir: Option<PathBuf> = None, Rule::Any;
        /// From one question for changes to the next, where there were none. A half to the whole of it, at random.
        poll_ms: u64 = 10_000, Rule::Within(10, 86_400_000);
        /// Until a connection is there.
        connect_timeout_ms: u64 = 2_000, Rule::Within(10, 600_000);
        /// One request, from its start to the end of its answer.
        request_timeout_ms: u64 = 10_000, Rule::Within(10, 600_000);
        /// Bytes of a page of changes; 1,000 changes have 250 KB.
        page_bytes_max: usize = 1_048_576, Rule::Within(1_024, 16 * MIB);
        /// Requests to one register at once, so that a slow one holds nothing but its own.
        in_flight_max: usize = 4, Rule::Within(1, 64);
        /// How often a request that failed is sent again.
        retries_max: u32 = 3, Rule::Within(0, 16);
        /// Longest pause before the first of them; each after it may take twice as long.
        backoff_ms: u64 = 200, Rule::Within(1, 30_000);
        /// Failures in a row, retries included, after which a register is left alone.
        breaker_failures: u32 = 5, Rule::Within(1, 1_000);
        /// How long.
        breaker_pause_ms: u64 = 30_000, Rule::Within(10, 3_600_000);
    }

    /// The risk map: how many people were where, by day, so that nobody can be found in it.
    RiskMap risk_map {
        /// The smallest group of persons that is told of, and what figures are rounded down to.
        k: u16 = 10, Rule::Within(10, 1_000);
        /// How long after a day's end its figures are made. They never change, so what arrives later isn't in them.
        delay_s: u64 = 21_600, Rule::Within(0, 30 * DAY_S);
        /// Days that are told, and that are counted at a first start.
        days: u16 = 30, Rule::Within(1, 366);
        /// How often levels change: all together, so that whoever looks again and again sees no case by itself. As
        /// figures do, once a day, delay_s after midnight in Vietnam.
        levels_every_s: u64 = 86_400, Rule::Within(1, 7 * DAY_S);
    }

    /// Contact tracing: what is assumed of entries and exits that are missing, and what officers may ask for.
    Tracing tracing {
        /// How long a stay lasts whose exit, or entry, nobody scanned: a meal, a class or a clinic's morning.
        missing_exit_max_s: u64 = 7_200, Rule::Within(60, DAY_S);
        /// The longest stay that an entry and an exit are taken for; past it both count as one whose other end is
        /// missing. A long shift. Rows of that long before and after a stay are read for each place.
        stay_max_s: u64 = 43_200, Rule::Within(120, 2 * DAY_S);
        /// How long two must have been at a place together to be contacts.
        overlap_min_s: u64 = 1, Rule::Within(1, DAY_S);
        /// Contacts of one case; past it those who were there longest are told, and that it is so.
        contacts_max: usize = 10_000, Rule::Within(1, 1_000_000);
        /// Rows read for one case; past it the list ends, and says so. Rows of one place are in memory together, some
        /// 130 bytes each.
        rows_max: u64 = 1_000_000, Rule::Within(1_000, 100_000_000);
        /// Cases that one officer may ask for within an hour.
        cases_per_h: u32 = 20, Rule::Within(1, 100_000);
        /// How long a case can be read after another officer has approved it.
        approval_s: u64 = 259_200, Rule::Within(60, 31 * DAY_S);
        /// How long cases and notifications are kept.
        retain_s: u64 = 2_592_000, Rule::Within(3_600, 365 * DAY_S);
        /// The population register's X25519 public key, PEM, to which lists of contacts are sealed.
        population_key_file: Option<PathBuf> = None, Rule::Any;
    }

    /// Log lines on standard error. They never hold a payload, a name or a number.
    Log log {
        /// The least severe event that is logged. "info" tells of starts, stops and changes of state,
        /// never of single scans.
        level: Level = Level::Info, Rule::Any;
        /// "json" for collectors, "text" for a terminal.
        format: LogFormat = LogFormat::Json, Rule::Any;
    }
}

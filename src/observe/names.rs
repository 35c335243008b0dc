//! Every metric's name, written once: `scangate_<name>[_<unit>][_total]`.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Read at the scrape.
    Gauge,
    /// A distribution.
    Histogram,
    /// A fact, told in labels.
    Info,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// Without unit and suffix.
    pub stem: &'static str,
    /// The unit, last part of the name.
    pub unit: Option<&'static str>,
    /// How it behaves.
    pub kind: Kind,
    /// What it counts, for the reader of a dashboard.
    pub help: &'static str,
}

impl Name {
    /// The name as a sample bears it: with unit, and with `_total` for a counter or `_info`.
    pub fn full(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{suffix}", self.stem)
    }
}

macro_rules! names {
    ($($CONSTANT:ident: $Kind:ident $stem:literal $($unit:literal)?, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $CONSTANT: Name = Name {
                stem: concat!("scangate_", $stem),
                unit: names!(@unit $($unit)?),
                kind: Kind::$Kind,
                help: $help,
            };
        )+

        /// All of them.
        pub const ALL: &[&Name] = &[$(&$CONSTANT),+];
    };
    (@unit $unit:literal) => { Some($unit) };
    (@unit) => { None };
}

names! {
    BUILD: Info "build", "Version of the running program";
    RUNTIME: Info "runtime", "What drives the sockets";
    READY: Gauge "ready", "1 while the gateway takes scans";
    UPTIME: Gauge "uptime" "seconds", "Time since start";

    SCANS: Counter "scans", "Scans by how they ended";
    FORMS: Counter "payloads", "Payloads by the form they were read as";
    REQUESTS: Counter "requests", "Requests by endpoint and class of status";
    REQUEST_DURATION: Histogram "request_duration" "seconds", "From the end of a request's headers to its answer";
    BATCH_LINES: Histogram "batch" "lines", "Lines of a batch";
    BODY: Counter "body" "bytes", "Request bodies as they arrived";
    RATE_LIMITED: Counter "rate_limited_scans", "Scans refused because their device was over its rate";
    AUTH_FAILURES: Counter "authentication_failures", "Requests without a valid device token, by reason";
    ADMIN_FAILURES: Counter "admin_authentication_failures", "Requests to the admin listener without a valid token or its scope, by reason";
    CACHE_LOOKUPS: Counter "cache_lookups", "Look-ups of verified signatures, by cache and result";
    CACHE_ENTRIES: Gauge "cache" "entries", "Verified signatures held, by cache";

    CONNECTIONS_OPEN: Gauge "open" "connections", "Connections open now";
    CONNECTIONS_ACCEPTED: Counter "accepted" "connections", "Connections accepted";
    CONNECTIONS_REFUSED: Counter "refused" "connections", "Connections closed at once because the limit was reached";
    ACCEPT_ERRORS: Counter "accept_errors", "Times that accepting a connection failed";
    HANDSHAKE_ERRORS: Counter "handshake_errors", "TLS handshakes that failed for another reason than time";
    PROTOCOL_ERRORS: Counter "protocol_errors", "Connections ended by an error in HTTP itself";
    CONNECTION_TIMEOUTS: Counter "connection_timeouts", "Connections closed by a time limit, by which";

    WORKERS_QUEUE: Gauge "workers_queue" "jobs", "Jobs waiting for a worker";
    WORKERS_DONE: Counter "workers_done" "jobs", "Jobs that workers finished";
    WORKERS_SHED: Counter "workers_shed" "jobs", "Jobs refused because the queue was full";
    WORKERS_LATE: Counter "workers_late" "jobs", "Jobs dropped because their deadline had passed";
    WORKERS_PANICKED: Counter "workers_panicked" "jobs", "Jobs that panicked and were contained";

    FRAMES: Counter "frames", "Frames by how their reading ended";
    FRAMES_QUEUE: Gauge "frames_queue" "frames", "Frames waiting to be read";
    FRAMES_AVAILABLE: Gauge "frames_available", "1 while frames can be read";
    FRAMES_CODES: Counter "frame_codes", "Codes found in frames";
    FRAMES_RESTARTS: Counter "frames_restarts", "Processes that read frames, started in place of another";
    FRAMES_BUSY: Counter "frames_busy" "seconds", "Wall time spent reading frames, over all processes";
    FRAME_STAGES: Counter "frame_stages", "Frames by stage of the decoders and what it found";
    FRAME_STAGE_TIME: Counter "frame_stage_cpu" "seconds", "CPU time of each stage of the decoders";

    CERTIFICATE_EXPIRY: Gauge "certificate_expiry_timestamp" "seconds", "When the listener's certificate ends, since 1970; without TLS there is no sample";
    RELOAD_FAILED: Gauge "reload_failed", "1 while the last reload of limits, keys or certificate has failed";

    DEDUPLICATE_ENTRIES: Gauge "deduplicate" "entries", "Scans remembered for deduplication";
    DEDUPLICATE_MAX: Gauge "deduplicate_max" "entries", "Scans remembered at which more are refused";

    LINKS: Gauge "links", "Identifiers linked to a citizen";
    LINKS_RECENT: Gauge "links_recent", "Links so new that deduplication asks under both pseudonyms";
    FEED_LINES: Counter "feed" "lines", "Lines of feeds of links by how they ended";
    FEED_LAST: Gauge "feed_last_timestamp" "seconds", "When the last batch of a feed was taken, since 1970; 0 if never";

    SERVICES_REQUESTS: Counter "services_requests", "Requests to the services by capability and class of status";
    SERVICES_EVENTS: Counter "services_events", "Events of the services' log that were applied since the start, by capability";
    SERVICES_LOG_SIZE: Gauge "services_log" "bytes", "Size of the services' log on disk";
    SERVICES_WORK: Gauge "services_work", "1 while the services' log can be written and applied; 0 as well where there are no services";
    REGISTER_AGE: Gauge "register_facts_age" "seconds", "Age of what each register has told last; without a sample until it has";

    AUDIT_RECORDS: Gauge "audit" "records", "Number of the audit log's newest record; it never falls";
    AUDIT_WORKS: Gauge "audit_works", "1 while the audit log can be written; without it nothing is exported";

    JOURNAL_COMMIT_DURATION: Histogram "journal_commit_duration" "seconds", "One group commit, fsync included";
    JOURNAL_COMMIT_RECORDS: Histogram "journal_commit" "records", "Records of one group commit";
    JOURNAL_WRITTEN: Counter "journal_written" "bytes", "Bytes committed to the journal";
    JOURNAL_SIZE: Gauge "journal_size" "bytes", "Size of all segments";
    JOURNAL_SIZE_MAX: Gauge "journal_size_max" "bytes", "Size at which scans are refused";
    JOURNAL_SEGMENTS: Gauge "journal" "segments", "Segments on disk";
    JOURNAL_POISONED: Gauge "journal_poisoned", "1 once an fsync failed; only a restart mends it";
    JOURNAL_FULL: Gauge "journal_full", "1 while the disk or the journal is full";
    JOURNAL_DISK_FREE: Gauge "journal_disk_free" "bytes", "Free space of the file system that holds the journal";
    JOURNAL_DISK_SIZE: Gauge "journal_disk_size" "bytes", "Size of the file system that holds the journal";

    STORE_LAG_RECORDS: Gauge "store_lag" "records", "Durable check-ins that the store doesn't have yet";
    STORE_LAG_BYTES: Gauge "store_lag" "bytes", "Journal that they take, which can't be deleted before the store has it";
    STORE_LAG_SECONDS: Gauge "store_lag" "seconds", "Age of the oldest of them";
    STORE_WRITTEN: Counter "store_written" "rows", "Rows that the store acknowledged";
    STORE_FAILING: Gauge "store_failing", "1 while the last write to the store has failed";
    STORE_RETRIES: Counter "store_retries", "Writes that were tried again";

    PROCESS_RESIDENT: Gauge "process_resident_memory" "bytes", "Resident memory";
    PROCESS_DESCRIPTORS: Gauge "process_open" "descriptors", "Open file descriptors";
    PROCESS_CPU: Counter "process_cpu" "seconds", "CPU time used, user and system";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names: Vec<String> = ALL.iter().map(|name| name.full()).collect();
        for name in &names {
            assert!(name.starts_with("scangate_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

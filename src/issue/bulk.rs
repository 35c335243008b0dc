//! Many codes at once: a CSV of references to pictures and an index of what was issued.
//!
//! Pictures are named by their code's cti, and so are the rows of `index.csv` (`file,cti,expires`): neither
//! reference nor name is written anywhere, except a name on its poster. A row is added after its pictures
//! are on disk, so whoever is interrupted starts the same command again: what is in the index, has all of its
//! pictures and hasn't expired is left alone.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::draw::{Drawing, Level, Paper, Style};
use super::{IssueError, Issuer};
use crate::scan::UnixMillis;
use crate::verify::{TokenKind, hex};

/// The most codes of one directory: their index is kept in memory, some 50 bytes each.
pub const CODES_MAX: usize = 1_000_000;

/// The longest row, in bytes.
const ROW_BYTES_MAX: usize = 8 << 10;

/// What is read for one row at most: the reader reads ahead.
const READ_BYTES_MAX: usize = 8 * ROW_BYTES_MAX;

/// Rows that are issued together, by all threads, before the index is written.
const CHUNK_ROWS: usize = 256;

/// Pixels a module in PNG pictures: a version 9 code becomes 488 pixels wide, sharp on phone and printer.
pub const PNG_MODULE_PX: usize = 8;

/// Points a module in PDF pictures without paper: a version 9 code becomes 10.7 cm wide, readable from a
/// step away.
pub const PDF_MODULE_PT: u8 = 5;

/// What to make of each row.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Persons or places.
    pub kind: TokenKind,
    /// How long the codes are valid.
    pub ttl: Duration,
    /// Error correction of the pictures.
    pub level: Level,
    /// Paper of SVG and PDF; the names of rows are drawn on it.
    pub paper: Option<Paper>,
    /// Which pictures.
    pub png: bool,
    /// Which pictures.
    pub svg: bool,
    /// Which pictures.
    pub pdf: bool,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the CSV that are behind.
    pub read_bytes: u64,
    /// Codes issued.
    pub issued: u64,
    /// Codes that were there.
    pub skipped: u64,
    /// Rows that were refused.
    pub refused: u64,
    /// When the last of the codes issued ends, in seconds since 1970.
    pub last_expires_at_s: i64,
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// Nothing can be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The CSV can't be read.
    #[error("the list can't be read")]
    Csv(#[from] csv::Error),
    /// Its first row isn't the one that names columns.
    #[error("the list's first row must be `reference` or `reference,name`")]
    Columns,
    /// A row is longer than any can be.
    #[error("line {line}: a row must be at most {limit} bytes")]
    Row {
        /// Line, from 1.
        line: u64,
        /// The limit.
        limit: usize,
    },
    /// A file can't be written or read.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The index isn't one that was written here.
    #[error("{path}:{line}: must be `file,cti,expires`; choose another directory")]
    Index {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// There are more codes than one directory takes.
    #[error("a directory must hold at most {limit} codes; split the list")]
    TooMany {
        /// The limit.
        limit: usize,
    },
}

/// What a caller is told meanwhile.
pub enum Event {
    /// Some rows are done.
    Progress(Progress),
    /// A row was refused; the others go on.
    Refused {
        /// Its line, from 1.
        line: u64,
        /// Why.
        error: IssueError,
    },
}

/// Issues a code for every row of a CSV with the columns `reference` and, if wanted, `name`.
pub fn issue_all(
    issuer: &Issuer,
    csv: impl Read,
    out: &Path,
    plan: &Plan,
    now: UnixMillis,
    mut tell: impl FnMut(Event),
) -> Result<Progress, BulkError> {
    let csv = Bounded { csv, left_bytes: READ_BYTES_MAX };
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(csv);
    let columns = reader.headers()?;
    let named = match columns.iter().collect::<Vec<_>>().as_slice() {
        ["reference"] => false,
        ["reference", "name"] => true,
        _ => return Err(BulkError::Columns),
    };
    fs::create_dir_all(out).map_err(|source| BulkError::io("create", out, source))?;
    let mut index = Index::open(out)?;
    let mut progress = Progress::default();
    let mut rows = Vec::with_capacity(CHUNK_ROWS);
    let mut record = csv::StringRecord::new();
    loop {
        reader.get_mut().left_bytes = READ_BYTES_MAX;
        let more = reader.read_record(&mut record)?;
        if more {
            let line = record.position().map_or(0, csv::Position::line);
            if record.as_slice().len() > ROW_BYTES_MAX {
                return Err(BulkError::Row { line, limit: ROW_BYTES_MAX });
            }
            let name = record.get(1).filter(|name| named && !name.is_empty()).map(str::to_owned);
            let reference = record.get(0).unwrap_or_default().to_owned();
            rows.push(Row { line, reference, name });
        }
        if rows.len() == CHUNK_ROWS || !more {
            let chunk = std::mem::replace(&mut rows, Vec::with_capacity(CHUNK_ROWS));
            issue_chunk(issuer, chunk, out, plan, now, &mut index, &mut progress, &mut tell)?;
            progress.read_bytes = reader.position().byte();
            tell(Event::Progress(progress));
        }
        if !more {
            return Ok(progress);
        }
    }
}

/// A CSV of which no row may be endless, as one is whose quotation mark is never closed.
struct Bounded<R> {
    csv: R,
    left_bytes: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left_bytes == 0 {
            let error = format!("a row must be at most {ROW_BYTES_MAX} bytes; is a quotation mark open?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let length = buffer.len().min(self.left_bytes);
        let read = self.csv.read(buffer.get_mut(..length).unwrap_or_default())?;
        self.left_bytes -= read;
        Ok(read)
    }
}

struct Row {
    line: u64,
    reference: String,
    name: Option<String>,
}

/// A code and its pictures, on disk.
struct Issued {
    cti: [u8; 16],
    expires_at_s: i64,
}

#[allow(clippy::too_many_arguments)] // The loop's state, lent for one chunk.
fn issue_chunk(
    issuer: &Issuer,
    chunk: Vec<Row>,
    out: &Path,
    plan: &Plan,
    now: UnixMillis,
    index: &mut Index,
    progress: &mut Progress,
    tell: &mut impl FnMut(Event),
) -> Result<(), BulkError> {
    let mut todo = Vec::new();
    for row in chunk {
        match issuer.cti(plan.kind, &row.reference) {
            Ok(cti) if index.holds(&cti, out, plan, now) => progress.skipped += 1,
            Ok(cti) if index.begin(cti)? => todo.push(row),
            Ok(_) => progress.skipped += 1,
            Err(error) => {
                progress.refused += 1;
                tell(Event::Refused { line: row.line, error });
            }
        }
    }
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = todo.len().div_ceil(threads).max(1);
    let results: Vec<_> = thread::scope(|scope| {
        let work: Vec<_> = todo
            .chunks(share)
            .map(|rows| {
                scope.spawn(move || {
                    rows.iter()
                        .map(|row| (row.line, issue_row(issuer, row, out, plan, now)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        work.into_iter().flat_map(|work| work.join().unwrap_or_default()).collect()
    });
    let mut done = Vec::with_capacity(results.len());
    for (line, result) in results {
        match result {
            Ok(issued) => {
                progress.issued += 1;
                progress.last_expires_at_s = progress.last_expires_at_s.max(issued.expires_at_s);
                done.push(issued);
            }
            Err(BulkError::Issue(error)) => {
                progress.refused += 1;
                tell(Event::Refused { line, error });
            }
            Err(error) => return Err(error),
        }
    }
    index.append(&done, plan)
}

fn issue_row(
    issuer: &Issuer,
    row: &Row,
    out: &Path,
    plan: &Plan,
    now: UnixMillis,
) -> Result<Issued, BulkError> {
    let code = issuer.issue(plan.kind, &row.reference, plan.ttl, now)?;
    let name = row.name.as_deref().filter(|_| plan.paper.is_some());
    let style = Style { level: plan.level, paper: plan.paper, name };
    let drawing = Drawing::new(&code.payload, style)?;
    for extension in plan.extensions() {
        let bytes = match extension {
            "png" => drawing.png(PNG_MODULE_PX)?,
            "svg" => drawing.svg().into_bytes(),
            _ => drawing.pdf(PDF_MODULE_PT),
        };
        write_whole(&picture(out, &code.cti, extension), &bytes)?;
    }
    Ok(Issued { cti: code.cti, expires_at_s: code.expires_at_s })
}

impl Plan {
    fn extensions(&self) -> impl Iterator<Item = &'static str> {
        let wanted = [("png", self.png), ("svg", self.svg), ("pdf", self.pdf)];
        wanted.into_iter().filter_map(|(extension, wanted)| wanted.then_some(extension))
    }
}

fn picture(out: &Path, cti: &[u8; 16], extension: &str) -> PathBuf {
    out.join(format!("{}.{extension}", hex(cti)))
}

/// A picture is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BulkError> {
    let temporary = path.with_extension("new");
    let io = |source| BulkError::io("write", path, source);
    let mut file = File::create(&temporary).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    fs::rename(&temporary, path).map_err(io)
}

/// What has been issued into a directory.
struct Index {
    path: PathBuf,
    file: File,
    /// By cti, when it ends, in seconds; `i64::MIN` while it is being issued.
    expires_at_s: HashMap<[u8; 16], i64>,
}

const HEAD: &str = "file,cti,expires\n";

impl Index {
    fn open(out: &Path) -> Result<Self, BulkError> {
        let path = out.join("index.csv");
        let io = |source| BulkError::io("read", &path, source);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        // A second run waits for the first, and then finds its codes.
        file.lock().map_err(io)?;
        let mut text = String::new();
        (&mut file).take(CODES_MAX as u64 * 128).read_to_string(&mut text).map_err(io)?;
        // A row without its end was never finished.
        text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
        if text.is_empty() {
            text.push_str(HEAD);
            file.seek(SeekFrom::Start(0)).map_err(io)?;
            file.write_all(HEAD.as_bytes()).map_err(io)?;
        }
        file.set_len(text.len() as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let mut expires_at_s = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let read = || {
                let (_, row) = line.split_once(',')?;
                let (cti, expires) = row.split_once(',')?;
                Some((crate::verify::unhex(cti)?, UnixMillis::parse(expires).ok()?.seconds()))
            };
            match read() {
                Some((cti, expires)) => {
                    expires_at_s.insert(cti, expires);
                }
                None if number == 0 && line == HEAD.trim_end() => {}
                None => return Err(BulkError::Index { path, line: number + 1 }),
            }
        }
        Ok(Self { path, file, expires_at_s })
    }

    /// Whether a code is good as it is: in the index, with its pictures, not expired.
    fn holds(&self, cti: &[u8; 16], out: &Path, plan: &Plan, now: UnixMillis) -> bool {
        self.expires_at_s.get(cti).is_some_and(|expires| *expires > now.seconds())
            && plan.extensions().all(|extension| picture(out, cti, extension).exists())
    }

    /// Whether a code is to be issued: not if another row of this run has it.
    fn begin(&mut self, cti: [u8; 16]) -> Result<bool, BulkError> {
        if self.expires_at_s.len() >= CODES_MAX && !self.expires_at_s.contains_key(&cti) {
            return Err(BulkError::TooMany { limit: CODES_MAX });
        }
        Ok(self.expires_at_s.insert(cti, i64::MIN) != Some(i64::MIN))
    }

    /// Adds rows, durable when this returns.
    fn append(&mut self, issued: &[Issued], plan: &Plan) -> Result<(), BulkError> {
        if issued.is_empty() {
            return Ok(());
        }
        let mut rows = String::with_capacity(issued.len() * 128);
        let extension = plan.extensions().next().map_or_else(String::new, |first| format!(".{first}"));
        for Issued { cti, expires_at_s } in issued {
            let (cti_hex, expires) = (hex(cti), UnixMillis(expires_at_s.saturating_mul(1000)));
            // Writing to a String cannot fail.
            let _ = writeln!(rows, "{cti_hex}{extension},{cti_hex},{expires}");
            self.expires_at_s.insert(*cti, *expires_at_s);
        }
        let written = self.file.write_all(rows.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|source| BulkError::io("write", &self.path, source))
    }
}

impl BulkError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::ensure_development;
    use crate::verify::{Keys, sg1};

    const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

    const PLAN: Plan = Plan {
        kind: TokenKind::Place,
        ttl: Duration::from_hours(1),
        level: Level::M,
        paper: None,
        png: true,
        svg: true,
        pdf: false,
    };

    struct Site {
        dir: tempfile::TempDir,
        out: PathBuf,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            ensure_development(dir.path(), NOW).unwrap();
            let out = dir.path().join("out");
            Self { dir, out }
        }

        fn run(&self, csv: &str, plan: &Plan, now: UnixMillis) -> Result<(Progress, Vec<u64>), BulkError> {
            let issuer = Issuer::open(self.dir.path(), now)?;
            let mut refused = Vec::new();
            let progress = issue_all(&issuer, csv.as_bytes(), &self.out, plan, now, |event| {
                if let Event::Refused { line, .. } = event {
                    refused.push(line);
                }
            })?;
            Ok((progress, refused))
        }

        fn index(&self) -> String {
            fs::read_to_string(self.out.join("index.csv")).unwrap()
        }
    }

    fn counts(progress: Progress) -> (u64, u64, u64) {
        (progress.issued, progress.skipped, progress.refused)
    }

    #[test]
    fn rows_become_pictures_and_an_index_that_names_nobody() {
        let site = Site::new();
        let csv =
            "reference,name\nhn-0001,Chợ Đồng Xuân\nhn-0002,\n001090123456,NGUYEN VAN A\nhn-0001,again\n";
        let (progress, refused) = site.run(csv, &PLAN, NOW).unwrap();
        assert_eq!((counts(progress), refused), ((3, 1, 0), vec![]));
        let index = site.index();
        assert_eq!(index.lines().count(), 4);
        for line in index.lines().skip(1) {
            let [file, cti, expires] = line.split(',').collect::<Vec<_>>().try_into().unwrap();
            assert!(site.out.join(file).exists() && site.out.join(format!("{cti}.svg")).exists());
            assert_eq!(expires, "2021-11-24T07:49:29.000Z");
        }
        for entry in fs::read_dir(&site.out).unwrap() {
            let path = entry.unwrap().path();
            assert_ne!(path.extension().unwrap(), "new");
            let text = path.display().to_string() + &String::from_utf8_lossy(&fs::read(path).unwrap());
            assert!(!text.contains("hn-000") && !text.contains("001090123456") && !text.contains("NGUYEN"));
        }
        let keys = Keys::load(site.dir.path()).unwrap();
        let issuer = Issuer::open(site.dir.path(), NOW).unwrap();
        let code = issuer.issue(TokenKind::Place, "hn-0001", PLAN.ttl, NOW).unwrap();
        assert_eq!(sg1(&code.payload, NOW, &keys).unwrap().cti, code.cti);
    }

    #[test]
    fn a_second_run_makes_what_is_missing() {
        let site = Site::new();
        let csv = (0..270).fold("reference\n".to_owned(), |csv, number| csv + &format!("hn-{number}\n"));
        let plan = Plan { svg: false, ..PLAN };
        assert_eq!(counts(site.run(&csv, &plan, NOW).unwrap().0), (270, 0, 0));
        assert_eq!(counts(site.run(&csv, &plan, NOW).unwrap().0), (0, 270, 0));
        // Cut in the middle of a row, and a picture lost.
        let index = site.index();
        fs::write(site.out.join("index.csv"), &index[..index.len() - 10]).unwrap();
        let first = index.lines().nth(1).unwrap().split(',').next().unwrap();
        fs::remove_file(site.out.join(first)).unwrap();
        assert_eq!(counts(site.run(&csv, &plan, NOW).unwrap().0), (2, 268, 0));
        // Other pictures of the same codes, and codes that have ended.
        assert_eq!(counts(site.run(&csv, &PLAN, NOW).unwrap().0), (270, 0, 0));
        let later = UnixMillis(NOW.0 + 3_600_000);
        assert_eq!(counts(site.run(&csv, &plan, later).unwrap().0), (270, 0, 0));
    }

    #[test]
    fn a_bad_row_is_named_by_its_line_and_the_rest_goes_on() {
        let site = Site::new();
        let long = "x".repeat(300);
        let csv = format!("reference,name\nhn-1,北京\n{long}\n\"\",a\nhn-2\n");
        let plan = Plan { paper: Some(Paper::A6), ..PLAN };
        let (progress, mut refused) = site.run(&csv, &plan, NOW).unwrap();
        refused.sort_unstable();
        assert_eq!((counts(progress), refused), ((1, 0, 3), vec![2, 3, 4]));
        assert_eq!(site.index().lines().count(), 2);
    }

    #[test]
    fn a_list_or_an_index_that_is_none_is_refused() {
        let site = Site::new();
        assert!(matches!(site.run("hn-1\nhn-2\n", &PLAN, NOW), Err(BulkError::Columns)));
        let endless = format!("reference\n{}\n", "x".repeat(ROW_BYTES_MAX + 1));
        assert!(matches!(site.run(&endless, &PLAN, NOW), Err(BulkError::Row { line: 2, .. })));
        let open = format!("reference\n\"{}\n", "x\n".repeat(READ_BYTES_MAX));
        assert!(matches!(site.run(&open, &PLAN, NOW), Err(BulkError::Csv(_))));
        fs::write(site.out.join("index.csv"), "something,else\n").unwrap();
        assert!(matches!(site.run("reference\nhn-1\n", &PLAN, NOW), Err(BulkError::Index { line: 1, .. })));
    }
}

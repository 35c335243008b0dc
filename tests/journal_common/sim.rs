//! A disk in memory that loses what a real one may lose: until a sync succeeds, each 512-byte sector of
//! each write survives a crash or not, file lengths and directory entries likewise; a failed sync drops
//! its writes for good although they still read back. Faults strike at chosen operation numbers, and at
//! one of them the machine may stop: nothing after it happens.
#![allow(dead_code, missing_docs)] // Each test binary uses its own part.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // Test helpers: a panic is the failure.

use scangate::journal::file::{JournalFile, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write takes only part.
    Short,
    /// The operation fails; a write leaves a part behind, a sync loses what it should have kept.
    Eio,
    /// The same, with "no space".
    Enospc,
}

/// What the disk only pretends to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lies {
    /// Syncs of files.
    pub sync: bool,
    /// Syncs of directories.
    pub sync_dir: bool,
}

/// A small seeded generator (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `of` times.
    pub fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Extend(usize),
}

impl Op {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::SetLen(length) => bytes.resize(*length, 0),
            Self::Extend(length) => bytes.resize(bytes.len().max(*length), 0),
        }
    }

    /// What a crash, or a failed sync, leaves of it.
    fn apply_partly(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        let Self::Write(offset, data) = self else {
            if random.below(2) == 0 {
                self.apply(bytes);
            }
            return;
        };
        let mut at = 0;
        while at < data.len() {
            let step = (SECTOR - (offset + at) % SECTOR).min(data.len() - at);
            if random.below(2) == 0 {
                Self::Write(offset + at, data[at..at + step].to_vec()).apply(bytes);
            }
            at += step;
        }
    }
}

#[derive(Debug, Clone, Default)]
struct SimFile {
    view: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Op>,
}

#[derive(Debug)]
struct State {
    files: Vec<SimFile>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    faults: BTreeMap<u64, Fault>,
    ops: u64,
    /// The operation at which the machine stops.
    stop_at: Option<u64>,
    stopped: bool,
    reads_to_fault: Option<u64>,
    lies: Lies,
    /// What was in the files that were removed, where someone asks for it.
    removed: Option<Vec<(PathBuf, Vec<u8>)>>,
    syncs: u64,
    sync_fault: Option<(u64, Fault)>,
    capacity: usize,
    random: Random,
    sync_takes: Duration,
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub fn new(seed: u64, capacity: usize) -> Self {
        Self::of(State {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            faults: BTreeMap::new(),
            ops: 0,
            stop_at: None,
            stopped: false,
            reads_to_fault: None,
            lies: Lies::default(),
            removed: None,
            syncs: 0,
            sync_fault: None,
            capacity,
            random: Random(seed),
            sync_takes: Duration::ZERO,
        })
    }

    fn of(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Strikes at operation numbers counted from now.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = (u64, Fault)>) {
        let mut state = self.state();
        let now = state.ops;
        state.faults = faults.into_iter().map(|(after, fault)| (now + after, fault)).collect();
    }

    /// The `nth` file sync from now (0: the next) fails.
    pub fn fail_sync(&self, nth: u64, fault: Fault) {
        let mut state = self.state();
        state.sync_fault = Some((state.syncs + nth, fault));
    }

    /// The machine stops at this operation, counted from now (0: the next), before it is done. Everything
    /// that would change anything fails from then on.
    pub fn stop_at(&self, after: u64) {
        let mut state = self.state();
        state.stop_at = Some(state.ops + after);
    }

    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// The `nth` read from now (0: the next) fails.
    pub fn fail_read(&self, nth: u64) {
        self.state().reads_to_fault = Some(nth);
    }

    /// No faults any more.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.sync_fault = None;
        state.reads_to_fault = None;
        state.stop_at = None;
    }

    pub fn set_lies(&self, lies: Lies) {
        self.state().lies = lies;
    }

    /// The files removed since the last call, with what was in them. The first call begins the list.
    pub fn take_removed(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.state().removed.replace(Vec::new()).unwrap_or_default()
    }

    /// Every sync takes this long from now on.
    pub fn set_sync_takes(&self, time: Duration) {
        self.state().sync_takes = time;
    }

    pub fn set_capacity(&self, capacity: usize) {
        self.state().capacity = capacity;
    }

    /// Operations so far that change anything.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// The disk as it would be found after the power failed now.
    pub fn crashed(&self, seed: u64) -> Self {
        let state = self.state();
        let mut random = Random(seed);
        let mut names = BTreeMap::new();
        let known: BTreeSet<&PathBuf> = state.names.keys().chain(state.durable_names.keys()).collect();
        for name in known {
            let (new, old) = (state.names.get(name), state.durable_names.get(name));
            // Either is what the directory says of the name, so a rename is seen whole or not at all.
            if let Some(id) = if new == old || random.below(2) == 0 { new } else { old } {
                names.insert(name.clone(), *id);
            }
        }
        let mut files = state.files.clone();
        for file in &mut files {
            for op in std::mem::take(&mut file.pending) {
                op.apply_partly(&mut file.durable, &mut random);
            }
            file.view.clone_from(&file.durable);
        }
        Self::of(State { durable_names: names.clone(), names, files, random, ..state.anew() })
    }

    /// The disk as a new process would find it: everything written can be read.
    pub fn restarted(&self) -> Self {
        let state = self.state();
        let (names, durable_names) = (state.names.clone(), state.durable_names.clone());
        Self::of(State { files: state.files.clone(), names, durable_names, ..state.anew() })
    }
}

impl State {
    /// The next machine with this disk, without its files.
    fn anew(&self) -> Self {
        Self {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            faults: BTreeMap::new(),
            ops: 0,
            stop_at: None,
            stopped: false,
            reads_to_fault: None,
            lies: self.lies,
            removed: self.removed.as_ref().map(|_| Vec::new()),
            syncs: 0,
            sync_fault: None,
            capacity: self.capacity,
            random: self.random.clone(),
            sync_takes: Duration::ZERO,
        }
    }

    fn step(&mut self) -> io::Result<Option<Fault>> {
        self.stopped |= self.stop_at.is_some_and(|stop_at| stop_at <= self.ops);
        if self.stopped {
            return Fault::Eio.error();
        }
        let fault = self.faults.remove(&self.ops);
        self.ops += 1;
        Ok(fault)
    }

    fn plain_step(&mut self) -> io::Result<()> {
        self.step()?.filter(|fault| *fault != Fault::Short).map_or(Ok(()), Fault::error)
    }

    /// Takes a name off the directory.
    fn unlink(&mut self, path: &Path) -> io::Result<usize> {
        let id = self.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        if let Some(removed) = &mut self.removed {
            removed.push((path.to_owned(), self.files[id].view.clone()));
        }
        Ok(id)
    }

    fn used(&self) -> usize {
        self.names.values().map(|id| self.files[*id].view.len()).sum()
    }

    fn do_op(&mut self, id: usize, op: Op) {
        op.apply(&mut self.files[id].view);
        self.files[id].pending.push(op);
    }
}

impl Fault {
    fn error<T>(self) -> io::Result<T> {
        match self {
            Self::Short => Err(io::ErrorKind::Interrupted.into()),
            Self::Eio => Err(io::Error::from_raw_os_error(libc::EIO)),
            Self::Enospc => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }
}

impl Storage for SimDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let here = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn JournalFile>> {
        let mut state = self.state();
        state.plain_step()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.files.len();
        state.files.push(SimFile::default());
        state.names.insert(path.to_owned(), id);
        Ok(Arc::new(Handle { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn JournalFile>> {
        let id = *self.state().names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Handle { disk: self.clone(), id }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.plain_step()?;
        state.unlink(path).map(|_| ())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.plain_step()?;
        let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.plain_step()?;
        if !state.lies.sync_dir {
            state.durable_names.retain(|path, _| path.parent() != Some(dir));
            let here = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
            state.durable_names.extend(here.map(|(path, id)| (path.clone(), *id)));
        }
        Ok(())
    }
}

struct Handle {
    disk: SimDisk,
    id: usize,
}

impl JournalFile for Handle {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        match &mut state.reads_to_fault {
            Some(0) => {
                state.reads_to_fault = None;
                return Fault::Eio.error();
            }
            Some(reads) => *reads -= 1,
            None => {}
        }
        let view = &state.files[self.id].view;
        let from = view.len().min(usize::try_from(offset).unwrap());
        let read = bytes.len().min(view.len() - from);
        bytes[..read].copy_from_slice(&view[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let offset = usize::try_from(offset).unwrap();
        let fault = state.step()?;
        let mut take = bytes.len();
        if fault.is_some() && take > 1 {
            take = usize::try_from(state.random.below(take as u64 - 1)).unwrap() + 1;
        }
        let growth = (offset + take).saturating_sub(state.files[self.id].view.len());
        if growth > 0 && state.used() + growth > state.capacity {
            return Fault::Enospc.error();
        }
        state.do_op(self.id, Op::Write(offset, bytes[..take].to_vec()));
        match fault {
            Some(fault @ (Fault::Eio | Fault::Enospc)) => fault.error(),
            _ => Ok(take),
        }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.plain_step()?;
        let bytes = usize::try_from(bytes).unwrap();
        let growth = bytes.saturating_sub(state.files[self.id].view.len());
        if state.used() + growth > state.capacity {
            return Fault::Enospc.error();
        }
        state.do_op(self.id, Op::Extend(bytes));
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.plain_step()?;
        state.do_op(self.id, Op::SetLen(usize::try_from(bytes).unwrap()));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        let takes = self.disk.state().sync_takes;
        if !takes.is_zero() {
            std::thread::sleep(takes);
        }
        let mut guard = self.disk.state();
        let state = &mut *guard;
        let mut fault = state.step()?.filter(|fault| *fault != Fault::Short);
        if let Some((_, chosen)) = state.sync_fault.take_if(|(nth, _)| *nth == state.syncs) {
            fault = Some(chosen);
        }
        state.syncs += 1;
        if state.lies.sync && fault.is_none() {
            return Ok(());
        }
        let file = &mut state.files[self.id];
        for op in std::mem::take(&mut file.pending) {
            match fault {
                None => op.apply(&mut file.durable),
                Some(_) => op.apply_partly(&mut file.durable, &mut state.random),
            }
        }
        fault.map_or(Ok(()), Fault::error)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.id].view.len() as u64)
    }
}

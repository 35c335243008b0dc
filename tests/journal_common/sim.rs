//! A disk in memory that loses what a real one may lose: until a sync succeeds, each 512-byte sector of
//! each write survives a crash or not, file lengths and directory entries likewise; a failed sync drops
//! its writes for good although they still read back. Faults strike at chosen operation numbers.
#![allow(dead_code, missing_docs)] // Each test binary uses its own part.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // Test helpers: a panic is the failure.

use scangate::journal::file::{JournalFile, Storage};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
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
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    faults: BTreeMap<u64, Fault>,
    ops: u64,
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
        Self(Arc::new(Mutex::new(State {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            faults: BTreeMap::new(),
            ops: 0,
            syncs: 0,
            sync_fault: None,
            capacity,
            random: Random(seed),
            sync_takes: Duration::ZERO,
        })))
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
        for (name, id) in state.names.iter().chain(&state.durable_names) {
            let settled = state.names.get(name) == state.durable_names.get(name);
            if settled || random.below(2) == 0 {
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
        let durable_names = names.clone();
        let (capacity, faults) = (state.capacity, BTreeMap::new());
        Self(Arc::new(Mutex::new(State {
            files,
            names,
            durable_names,
            faults,
            ops: 0,
            syncs: 0,
            sync_fault: None,
            capacity,
            random,
            sync_takes: Duration::ZERO,
        })))
    }

    /// The disk as a new process would find it: everything written can be read.
    pub fn restarted(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            faults: BTreeMap::new(),
            ops: 0,
            syncs: 0,
            sync_fault: None,
            capacity: state.capacity,
            random: state.random.clone(),
            sync_takes: Duration::ZERO,
        })))
    }
}

impl State {
    fn step(&mut self) -> Option<Fault> {
        let fault = self.faults.remove(&self.ops);
        self.ops += 1;
        fault
    }

    fn plain_step(&mut self) -> io::Result<()> {
        self.step().filter(|fault| *fault != Fault::Short).map_or(Ok(()), Fault::error)
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

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl Storage for SimDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn JournalFile>> {
        let mut state = self.state();
        if let Some(fault @ (Fault::Eio | Fault::Enospc)) = state.step() {
            return fault.error();
        }
        if state.names.contains_key(&name(path)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.files.len();
        state.files.push(SimFile::default());
        state.names.insert(name(path), id);
        Ok(Arc::new(Handle { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn JournalFile>> {
        let id = *self.state().names.get(&name(path)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Handle { disk: self.clone(), id }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault @ (Fault::Eio | Fault::Enospc)) = state.step() {
            return fault.error();
        }
        state.names.remove(&name(path)).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.plain_step()?;
        state.durable_names = state.names.clone();
        Ok(())
    }
}

struct Handle {
    disk: SimDisk,
    id: usize,
}

impl JournalFile for Handle {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let view = &state.files[self.id].view;
        let from = view.len().min(usize::try_from(offset).unwrap());
        let read = bytes.len().min(view.len() - from);
        bytes[..read].copy_from_slice(&view[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let offset = usize::try_from(offset).unwrap();
        let fault = state.step();
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
        if let Some(fault @ (Fault::Eio | Fault::Enospc)) = state.step() {
            return fault.error();
        }
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
        if let Some(fault @ (Fault::Eio | Fault::Enospc)) = state.step() {
            return fault.error();
        }
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
        let mut fault = state.step().filter(|fault| *fault != Fault::Short);
        if let Some((_, chosen)) = state.sync_fault.take_if(|(nth, _)| *nth == state.syncs) {
            fault = Some(chosen);
        }
        state.syncs += 1;
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

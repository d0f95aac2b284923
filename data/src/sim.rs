//! Files that forget what was not synced: the second implementation of [`Files`].
//!
//! It keeps two worlds. The *current* one is what a running process sees. The *durable* one
//! is what the medium holds: a file's bytes as of its last sync, a folder's names as of
//! theirs. A power cut makes the next current world out of the durable one and an arbitrary
//! part of what was on its way: each unsynced name, and each unsynced sector, may or may not
//! have made it, in any order. A killed process loses nothing.
//!
//! Everything arbitrary comes from a seed and from what is decided on (the path, the number
//! of the crash), never from the order of questions, so that a seed means the same again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::files::{Entry, Files, OpenFile};

/// What a medium writes at once: a crash keeps or loses so many bytes together.
const SECTOR_BYTES: usize = 512;

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes; what was not synced may be lost. `done`: after the operation.
    PowerCut { done: bool },
    /// The process goes; what it wrote stays. `done`: after the operation.
    Kill { done: bool },
    /// The operation fails: a write after some of its bytes, a sync with its bytes lost.
    Fail,
    /// No space from here on, until [`SimFiles::free_space`].
    Full,
}

/// What an operation does, for the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    CreateFolder,
    Create,
    Append,
    Sync,
    Truncate,
    Link,
    Rename,
    SyncFolder,
    Overwrite,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What the process reads.
    current: Vec<u8>,
    /// What a sync brings to the medium: `current`, with holes where a sync failed before.
    clean: Vec<u8>,
    /// What the medium holds.
    durable: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(u64),
}

/// A change of a folder's names that is not synced yet.
#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Move(PathBuf, PathBuf, Node),
}

#[derive(Debug, Default)]
struct State {
    current: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    /// In order, each with the folder whose sync settles it.
    pending: Vec<(PathBuf, Change)>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: u64,
    crashes: u64,
    armed: Option<(u64, Fault)>,
    is_full: bool,
    /// Whatever has this text in its path fails.
    broken: Option<String>,
    /// The process that uses these files is gone; it gets errors until the restart.
    is_down: bool,
    lost_power: bool,
    operations: u64,
    digest: u64,
    fired: Vec<String>,
    /// By a text in the names that are published through it.
    gates: BTreeMap<String, Gate>,
}

/// A place where one thread waits while others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// Closes behind the next thread that comes.
    Armed,
    /// A thread waits in it.
    Closed,
}

/// The simulated files of one data root.
#[derive(Debug)]
pub struct SimFiles {
    seed: u64,
    state: Mutex<State>,
    moved: Condvar,
}

/// A number that depends on nothing but its ingredients (SplitMix64).
fn mixed(ingredients: &[u64]) -> u64 {
    ingredients.iter().fold(0, |hash, ingredient| {
        let mut z = hash ^ ingredient.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

fn text_hash(path: &Path) -> u64 {
    u64::from(crc32c::crc32c(path.as_os_str().as_encoded_bytes()))
}

fn is_down() -> io::Error {
    io::Error::other("the process is gone")
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_path_buf()
}

impl SimFiles {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            seed,
            state: Mutex::default(),
            moved: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `fault` happen at the operation after so many more.
    pub fn arm(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.operations + after;
        state.armed = Some((at, fault));
    }

    pub fn disarm(&self) {
        self.state().armed = None;
    }

    pub fn free_space(&self) {
        self.state().is_full = false;
    }

    /// Lets every change of a path with this text fail, until [`Self::mend`].
    pub fn break_paths(&self, text: &str) {
        self.state().broken = Some(text.to_owned());
    }

    pub fn mend(&self) {
        self.state().broken = None;
    }

    pub fn is_full(&self) -> bool {
        self.state().is_full
    }

    /// True once a fault took the process away: nothing it does has an effect any more.
    pub fn is_down(&self) -> bool {
        self.state().is_down
    }

    /// Takes the process away now.
    pub fn kill(&self, loses_power: bool) {
        let mut state = self.state();
        state.is_down = true;
        state.lost_power |= loses_power;
        self.moved.notify_all();
    }

    /// The next process begins, with what the last one left.
    pub fn restart(&self) {
        let mut state = self.state();
        state.crashes += 1;
        if std::mem::take(&mut state.lost_power) {
            self.lose(&mut state);
        }
        state.is_down = false;
        state.is_full = false;
        state.armed = None;
        state.gates.clear();
    }

    /// Operations that changed something so far, and a digest of all of them.
    pub fn trace(&self) -> (u64, u64) {
        let state = self.state();
        (state.operations, state.digest)
    }

    /// The faults that happened, in order.
    pub fn fired(&self) -> Vec<String> {
        self.state().fired.clone()
    }

    /// Makes the next thread that publishes a name with this text wait, until
    /// [`Self::open_gate`].
    pub fn arm_gate(&self, text: &str) {
        self.state().gates.insert(text.to_owned(), Gate::Armed);
    }

    /// True while a thread waits at the gate.
    pub fn at_gate(&self, text: &str) -> bool {
        self.state().gates.get(text) == Some(&Gate::Closed)
    }

    pub fn open_gate(&self, text: &str) {
        self.state().gates.remove(text);
        self.moved.notify_all();
    }

    fn pass_gate(&self, to: &Path) {
        let mut state = self.state();
        let to = to.to_string_lossy();
        let is_here = |(text, gate): &(&String, &Gate)| **gate == Gate::Armed && to.contains(*text);
        let Some(text) = state
            .gates
            .iter()
            .find(is_here)
            .map(|(text, _)| text.clone())
        else {
            return;
        };
        state.gates.insert(text.clone(), Gate::Closed);
        while state.gates.get(&text) == Some(&Gate::Closed) && !state.is_down {
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Counts an operation and lets the fault happen whose turn it is. `Some` is how the
    /// operation ends; with `true` it takes place all the same.
    fn begin(&self, state: &mut State, op: Op, path: &Path) -> Outcome {
        if state.is_down {
            return Outcome::Not(is_down());
        }
        let number = state.operations;
        state.operations += 1;
        state.digest = mixed(&[state.digest, op as u64, text_hash(path)]);
        let is_broken = |text: &String| path.to_string_lossy().contains(text.as_str());
        if state.broken.as_ref().is_some_and(is_broken) {
            return Outcome::Partly(io::Error::other("simulated fault"), number);
        }
        let fault = match state.armed {
            Some((at, fault)) if at <= number => {
                state.armed = None;
                state.fired.push(format!(
                    "{fault:?} at operation {number}: {op:?} {}",
                    path.display()
                ));
                Some(fault)
            }
            _ => None,
        };
        match fault {
            Some(Fault::PowerCut { done } | Fault::Kill { done }) => {
                state.is_down = true;
                state.lost_power |= matches!(fault, Some(Fault::PowerCut { .. }));
                self.moved.notify_all();
                if done {
                    Outcome::Done(is_down())
                } else {
                    Outcome::Not(is_down())
                }
            }
            Some(Fault::Fail) => Outcome::Partly(io::Error::other("simulated fault"), number),
            Some(Fault::Full) => {
                state.is_full = true;
                self.full(op, number)
            }
            None if state.is_full => self.full(op, number),
            None => Outcome::Well,
        }
    }

    fn full(&self, op: Op, number: u64) -> Outcome {
        let needs_space = matches!(
            op,
            Op::CreateFolder | Op::Create | Op::Append | Op::Link | Op::Rename
        );
        if needs_space {
            Outcome::Partly(io::ErrorKind::StorageFull.into(), number)
        } else {
            Outcome::Well
        }
    }

    /// Makes the current world from the durable one and a part of what was on its way.
    fn lose(&self, state: &mut State) {
        let decide =
            |what: u64, path: &Path| mixed(&[self.seed, state.crashes, what, text_hash(path)]);
        let mut names = state.durable.clone();
        // By name: changes of different names may come in any order from several threads.
        let mut changes: BTreeMap<&Path, u64> = BTreeMap::new();
        for (_, change) in &state.pending {
            let path = match change {
                Change::Add(path, _) | Change::Remove(path) | Change::Move(path, ..) => path,
            };
            let nth = changes.entry(path).or_default();
            if decide(*nth, path).is_multiple_of(2) {
                apply(&mut names, change);
            }
            *nth += 1;
        }
        // A name whose folder did not make it is unreachable.
        let reachable: BTreeSet<PathBuf> = names
            .keys()
            .filter(|path| {
                let mut above = path.ancestors().skip(1);
                above.all(|p| p.as_os_str().is_empty() || names.get(p) == Some(&Node::Folder))
            })
            .cloned()
            .collect();
        names.retain(|path, _| reachable.contains(path));
        for (path, node) in &names {
            if let Node::File(id) = node
                && let Some(inode) = state.inodes.get_mut(id)
            {
                let left = after_power_cut(inode, |sector| decide(1_000_000 + sector, path));
                *inode = Inode {
                    current: left.clone(),
                    clean: left.clone(),
                    durable: left,
                };
            }
        }
        state.pending.clear();
        state.current = names.clone();
        state.durable = names;
        let used: BTreeSet<u64> = state.current.values().filter_map(file_of).collect();
        state.inodes.retain(|id, _| used.contains(id));
    }
}

/// How an operation ends.
enum Outcome {
    Well,
    /// It takes place, and its caller learns of an error.
    Done(io::Error),
    /// Some of it takes place; the number tells how much.
    Partly(io::Error, u64),
    Not(io::Error),
}

impl Outcome {
    /// For operations that take place entirely or not at all.
    fn whole(self, change: impl FnOnce()) -> io::Result<()> {
        match self {
            Self::Well => {
                change();
                Ok(())
            }
            Self::Done(error) => {
                change();
                Err(error)
            }
            Self::Partly(error, _) | Self::Not(error) => Err(error),
        }
    }
}

fn file_of(node: &Node) -> Option<u64> {
    match node {
        Node::File(id) => Some(*id),
        Node::Folder => None,
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &Change) {
    match change {
        Change::Add(path, node) => {
            names.insert(path.clone(), *node);
        }
        Change::Remove(path) => {
            names.remove(path);
        }
        Change::Move(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

/// What a power cut leaves of a file: its synced bytes, and some of the sectors after them.
fn after_power_cut(inode: &Inode, decide: impl Fn(u64) -> u64) -> Vec<u8> {
    let (durable, clean) = (&inode.durable, &inode.clean);
    if clean.len() < durable.len() {
        return if decide(0).is_multiple_of(2) {
            clean.clone()
        } else {
            durable.clone()
        };
    }
    let mut left = durable.clone();
    // The length may be ahead of the bytes, which are zeros then.
    let added = clean.len() - durable.len();
    let reaches = match decide(0) % 4 {
        0 => 0,
        1 => added,
        _ => (decide(1) % (added as u64 + 1)) as usize,
    };
    left.resize(durable.len() + reaches, 0);
    let mut at = durable.len();
    while at < left.len() {
        let end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(left.len());
        if !decide(2 + at as u64).is_multiple_of(3) {
            left[at..end].copy_from_slice(&clean[at..end]);
        }
        at = end;
    }
    left
}

impl State {
    fn up(&self) -> io::Result<()> {
        if self.is_down { Err(is_down()) } else { Ok(()) }
    }

    fn change(&mut self, folder: PathBuf, change: Change) {
        apply(&mut self.current, &change);
        self.pending.push((folder, change));
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.current.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn has_folder(&self, path: &Path) -> io::Result<()> {
        match self.current.get(path) {
            _ if path.as_os_str().is_empty() => Ok(()),
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn add_file(&mut self, path: &Path) -> u64 {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode::default());
        let add = Change::Add(path.to_path_buf(), Node::File(id));
        self.change(parent(path), add);
        id
    }
}

struct SimFile {
    files: Arc<SimFiles>,
    path: PathBuf,
    id: u64,
}

impl OpenFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.files.state();
        let outcome = self.files.begin(&mut state, Op::Append, &self.path);
        let (taken, result) = match outcome {
            Outcome::Well => (bytes.len(), Ok(())),
            Outcome::Done(error) => (bytes.len(), Err(error)),
            Outcome::Partly(error, n) => {
                let short = mixed(&[self.files.seed, n]) % (bytes.len() as u64 + 1);
                (short as usize, Err(error))
            }
            Outcome::Not(error) => (0, Err(error)),
        };
        if let Some(inode) = state.inodes.get_mut(&self.id) {
            inode.current.extend_from_slice(&bytes[..taken]);
            inode.clean.extend_from_slice(&bytes[..taken]);
        }
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.files.state();
        let outcome = self.files.begin(&mut state, Op::Sync, &self.path);
        let Some(inode) = state.inodes.get_mut(&self.id) else {
            return outcome.whole(|| {});
        };
        if let Outcome::Partly(error, _) = outcome {
            // As Linux does: the pages count as written and are never written again.
            let synced = inode.durable.len().min(inode.clean.len());
            inode.clean[synced..].fill(0);
            return Err(error);
        }
        outcome.whole(|| inode.durable = inode.clean.clone())
    }
}

impl Files for Arc<SimFiles> {
    fn shown(&self, path: &Path) -> PathBuf {
        path.to_path_buf()
    }

    fn fresh_name(&self) -> String {
        let mut state = self.state();
        state.names += 1;
        format!("{:08}", state.names)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.up()?;
        state.has_folder(&parent(path))?;
        if state.current.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let outcome = self.begin(&mut state, Op::CreateFolder, path);
        outcome.whole(|| {
            let add = Change::Add(path.to_path_buf(), Node::Folder);
            state.change(parent(path), add);
        })
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.state();
        state.up()?;
        state.has_folder(&parent(path))?;
        let id = match state.file(path) {
            Ok(id) => id,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut id = 0;
                let outcome = self.begin(&mut state, Op::Create, path);
                outcome.whole(|| id = state.add_file(path))?;
                id
            }
            Err(error) => return Err(error),
        };
        Ok(Box::new(SimFile {
            files: Arc::clone(self),
            path: path.to_path_buf(),
            id,
        }))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.state();
        state.up()?;
        state.has_folder(&parent(path))?;
        if state.current.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut id = 0;
        let outcome = self.begin(&mut state, Op::Create, path);
        outcome.whole(|| id = state.add_file(path))?;
        Ok(Box::new(SimFile {
            files: Arc::clone(self),
            path: path.to_path_buf(),
            id,
        }))
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.up()?;
        let id = state.file(path)?;
        let outcome = self.begin(&mut state, Op::Truncate, path);
        outcome.whole(|| {
            if let Some(inode) = state.inodes.get_mut(&id) {
                inode.current.resize(bytes as usize, 0);
                inode.clean.resize(bytes as usize, 0);
                inode.durable = inode.clean.clone();
            }
        })
    }

    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.up()?;
        let id = state.file(path)?;
        let outcome = self.begin(&mut state, Op::Overwrite, path);
        outcome.whole(|| {
            if let Some(inode) = state.inodes.get_mut(&id) {
                inode.current = bytes.to_vec();
                inode.clean = bytes.to_vec();
                inode.durable = bytes.to_vec();
            }
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass_gate(to);
        let mut state = self.state();
        state.up()?;
        let id = state.file(from)?;
        state.has_folder(&parent(to))?;
        if state.current.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let outcome = self.begin(&mut state, Op::Link, to);
        outcome.whole(|| {
            let add = Change::Add(to.to_path_buf(), Node::File(id));
            state.change(parent(to), add);
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.up()?;
        let id = state.file(from)?;
        let outcome = self.begin(&mut state, Op::Rename, to);
        outcome.whole(|| {
            let moved = Change::Move(from.to_path_buf(), to.to_path_buf(), Node::File(id));
            state.change(parent(to), moved);
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.up()?;
        state.file(path)?;
        state.change(parent(path), Change::Remove(path.to_path_buf()));
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.up()?;
        if !state.current.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = state.current.keys().filter(|p| p.starts_with(path));
        let mut doomed: Vec<PathBuf> = below.cloned().collect();
        doomed.reverse();
        for path in doomed {
            state.change(parent(&path), Change::Remove(path));
        }
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.up()?;
        state.has_folder(path)?;
        let outcome = self.begin(&mut state, Op::SyncFolder, path);
        if let Outcome::Partly(error, _) = outcome {
            // As with the bytes of a file: no later sync brings these names to the medium.
            state.pending.retain(|(folder, change)| {
                folder != path || matches!(change, Change::Add(_, Node::Folder))
            });
            return Err(error);
        }
        outcome.whole(|| {
            let pending = std::mem::take(&mut state.pending);
            for (folder, change) in pending {
                if folder == path {
                    apply(&mut state.durable, &change);
                } else {
                    state.pending.push((folder, change));
                }
            }
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        state.up()?;
        let id = state.file(path)?;
        Ok(state
            .inodes
            .get(&id)
            .map(|inode| inode.current.clone())
            .unwrap_or_default())
    }

    fn read_at(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
        let state = self.state();
        state.up()?;
        let id = state.file(path)?;
        let bytes = state.inodes.get(&id).map(|inode| &inode.current[..]);
        let part = bytes.and_then(|bytes| bytes.get(range.start as usize..range.end as usize));
        part.map(<[u8]>::to_vec)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        let state = self.state();
        state.up()?;
        match state.current.get(path) {
            Some(node) => Ok(state.entry_of(node)),
            None if path.as_os_str().is_empty() => Ok(state.entry_of(&Node::Folder)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list_some(
        &self,
        path: &Path,
        is_wanted: &dyn Fn(&Path) -> bool,
    ) -> io::Result<Vec<(PathBuf, Entry)>> {
        let state = self.state();
        state.up()?;
        state.has_folder(path)?;
        let inside = state
            .current
            .iter()
            .filter(|(p, _)| p.parent() == Some(path) && is_wanted(p));
        Ok(inside
            .map(|(p, node)| (p.clone(), state.entry_of(node)))
            .collect())
    }
}

impl State {
    fn entry_of(&self, node: &Node) -> Entry {
        let bytes = file_of(node).and_then(|id| self.inodes.get(&id));
        Entry {
            is_folder: *node == Node::Folder,
            bytes: bytes.map_or(0, |inode| inode.current.len() as u64),
            modified_micros: 0,
        }
    }
}

//! The disk: every byte the engine keeps goes through [`Disk`], over injected [`Files`].
//!
//! Two kinds of file exist. *Shared files* (Parquet, publications, Delta commits) are
//! immutable: they are written under a staging name, synced, linked to their final name if
//! that is absent, and then the folder is synced. A reader sees a whole file or none, and
//! a power cut cannot leave an empty one. *Log segments* are the only files appended to,
//! and the log syncs them itself.
//!
//! Paths are relative to the data root, with `/` between parts.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::checked::{KnownFiles, Summing};
use crate::error::{DataError, Result};
use crate::files::{Entry, Files, OpenFile, RealFiles};
use crate::read_only::ReadOnlyFiles;

/// Folder of half-written shared files; emptied at start.
pub const STAGING: &str = "staging";

/// What `head` tells of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    pub path: String,
    pub bytes: u64,
    pub modified_micros: i64,
}

impl FileInfo {
    fn new(path: &Path, entry: Entry) -> Self {
        Self {
            path: path.to_string_lossy().into_owned(),
            bytes: entry.bytes,
            modified_micros: entry.modified_micros,
        }
    }
}

/// The files below one root, which this process has for itself.
#[derive(Debug)]
pub struct Disk {
    files: Arc<dyn Files>,
    /// Folders whose own entry this process has synced. One that is merely there may have
    /// been made by a process that was killed before it could.
    durable_folders: Mutex<HashSet<PathBuf>>,
    /// Parquet files and what they must be; see [`crate::checked`].
    pub(crate) known: KnownFiles,
    /// Held while the disk is open; simulated files need none.
    _lock: Option<File>,
}

impl Disk {
    /// Opens (and creates) a folder of the machine, takes its lock, and clears half-written
    /// files.
    pub fn open(root: &Path) -> Result<Arc<Self>> {
        std::fs::create_dir_all(root).map_err(|e| DataError::io("create folder", root, e))?;
        let root = root
            .canonicalize()
            .map_err(|e| DataError::io("resolve", root, e))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| DataError::io("open", &path, e))?;
        take(&lock, &root)?;
        Self::open_on(Arc::new(RealFiles::new(root)), Some(lock))
    }

    /// Opens a folder that is there to look at it: nothing in it is made, cleared or changed.
    /// Takes its lock all the same, so that nobody else changes it meanwhile.
    pub fn open_read_only(root: &Path) -> Result<Arc<Self>> {
        let root = root
            .canonicalize()
            .map_err(|e| DataError::io("open", root, e))?;
        let path = root.join("lock");
        let lock = match File::open(&path) {
            Ok(lock) => Some(lock),
            // No server has been here, as in a copy that left it out.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(DataError::io("open", &path, e)),
        };
        if let Some(lock) = &lock {
            take(lock, &root)?;
        }
        Ok(Arc::new(Self {
            files: Arc::new(ReadOnlyFiles(RealFiles::new(root))),
            durable_folders: Mutex::default(),
            known: KnownFiles::default(),
            _lock: lock,
        }))
    }

    /// The same over any files; `lock` is kept as long as the disk.
    pub fn open_on(files: Arc<dyn Files>, lock: Option<File>) -> Result<Arc<Self>> {
        let disk = Self {
            files,
            durable_folders: Mutex::default(),
            known: KnownFiles::default(),
            _lock: lock,
        };
        disk.remove_folder(STAGING)?;
        disk.make_folder(Path::new(STAGING))?;
        Ok(Arc::new(disk))
    }

    /// The whole path of a file, for messages and for what needs a real one.
    pub fn shown(&self, path: &str) -> PathBuf {
        self.files.shown(Path::new(path))
    }

    /// Part of a name that no file had before.
    pub fn fresh_name(&self) -> String {
        self.files.fresh_name()
    }

    fn failed(&self, operation: &'static str, path: &Path, error: io::Error) -> DataError {
        DataError::io(operation, &self.files.shown(path), error)
    }

    fn absent_is_none<T>(
        &self,
        result: io::Result<T>,
        operation: &'static str,
        path: &Path,
    ) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(operation, path, e)),
        }
    }

    fn durable_folders(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.durable_folders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the folder and its parents and makes their entries durable.
    fn make_folder(&self, folder: &Path) -> Result<()> {
        let is_there = || self.files.entry(folder).is_ok_and(|entry| entry.is_folder);
        if folder.as_os_str().is_empty() || self.durable_folders().contains(folder) && is_there() {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(Path::new(""));
        self.make_folder(parent)?;
        match self.files.create_folder(folder) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(self.failed("create folder", folder, e)),
        }
        self.sync(parent)?;
        self.durable_folders().insert(folder.to_path_buf());
        Ok(())
    }

    fn make_parent(&self, path: &str) -> Result<()> {
        self.make_folder(parent_of(path))
    }

    fn sync(&self, folder: &Path) -> Result<()> {
        self.files
            .sync_folder(folder)
            .map_err(|e| self.failed("sync folder", folder, e))
    }

    /// Opens a log segment for appending; an absent one is made, durably.
    pub fn append_file(&self, path: &str) -> Result<AppendFile> {
        self.make_parent(path)?;
        let file = self
            .files
            .open_append(Path::new(path))
            .map_err(|e| self.failed("open", Path::new(path), e))?;
        // Also when the file is there: a killed process may have made it.
        self.sync(parent_of(path))?;
        let shown = self.shown(path);
        Ok(AppendFile { file, shown })
    }

    /// Begins a shared file, invisible until it is published.
    pub fn stage(&self, path: &str) -> Result<StagedFile> {
        self.make_parent(path)?;
        let staging = Path::new(STAGING).join(self.fresh_name());
        let file = self
            .files
            .create_new(&staging)
            .map_err(|e| self.failed("create", &staging, e))?;
        Ok(StagedFile {
            file,
            files: Arc::clone(&self.files),
            staging,
            target: PathBuf::from(path),
            summing: self.known.summing(path),
        })
    }

    /// Writes a whole shared file.
    pub fn put_if_absent(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut staged = self.stage(path)?;
        staged.write(bytes)?;
        staged.publish()
    }

    /// Writes the bytes of a shared file anew, in its place: for what a process that died or a
    /// failed sync may have left not durable, whatever a later sync says. Without space for a
    /// second file, over the first.
    pub fn write_again(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let again = || {
            let mut again = self.stage(path)?;
            again.write(bytes)?;
            again.publish_over()
        };
        match again() {
            Err(error) if error.is_disk_full() => {
                let path = Path::new(path);
                self.files
                    .overwrite(path, bytes)
                    .map_err(|e| self.failed("overwrite", path, e))?;
                let folder = path.parent().unwrap_or(Path::new(""));
                self.files
                    .sync_folder(folder)
                    .map_err(|e| self.failed("sync folder", folder, e))
            }
            written => written,
        }
    }

    /// Cuts off the end of a log segment after `bytes`, durably.
    pub fn truncate(&self, path: &str, bytes: u64) -> Result<()> {
        self.files
            .truncate(Path::new(path), bytes)
            .map_err(|e| self.failed("truncate", Path::new(path), e))
    }

    pub(crate) fn read_unchecked(&self, path: &str) -> Result<Option<Bytes>> {
        let path = Path::new(path);
        let read = self.absent_is_none(self.files.read(path), "read", path)?;
        Ok(read.map(Bytes::from))
    }

    pub(crate) fn read_range_unchecked(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>> {
        let path = Path::new(path);
        let read = self.absent_is_none(self.files.read_at(path, range), "read", path)?;
        Ok(read.map(Bytes::from))
    }

    pub(crate) fn head_unchecked(&self, path: &str) -> Result<Option<FileInfo>> {
        let path = Path::new(path);
        let found = self.absent_is_none(self.files.entry(path), "look at", path)?;
        let file = found.filter(|entry| !entry.is_folder);
        Ok(file.map(|entry| FileInfo::new(path, entry)))
    }

    /// All files below the folder, at any depth, ordered by path. Empty if it is absent.
    pub fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from(folder)];
        while let Some(folder) = folders.pop() {
            let entries = self.absent_is_none(self.files.list(&folder), "list", &folder)?;
            for (path, entry) in entries.unwrap_or_default() {
                if entry.is_folder {
                    folders.push(path);
                } else {
                    found.push(FileInfo::new(&path, entry));
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// The files in `folder` itself whose paths come after `after`, by path. Looks at no others:
    /// a log of many files is asked for its end.
    pub fn list_after(&self, folder: &str, after: &str) -> Result<Vec<FileInfo>> {
        let folder = Path::new(folder);
        let is_after = |path: &Path| path.to_string_lossy().as_ref() > after;
        let entries = self.files.list_some(folder, &is_after);
        let entries = self.absent_is_none(entries, "list", folder)?;
        let files = entries.unwrap_or_default().into_iter();
        let files = files.filter(|(_, entry)| !entry.is_folder);
        let mut found: Vec<_> = files.map(|(path, it)| FileInfo::new(&path, it)).collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    pub fn remove(&self, path: &str) -> Result<()> {
        self.known.forget(|known| known == path);
        let path = Path::new(path);
        self.absent_is_none(self.files.remove_file(path), "remove", path)?;
        Ok(())
    }

    /// Makes the folder's entries durable; a folder that is absent has none.
    pub fn sync_folder(&self, folder: &str) -> Result<()> {
        let folder = Path::new(folder);
        self.absent_is_none(self.files.sync_folder(folder), "sync folder", folder)?;
        Ok(())
    }

    pub fn remove_folder(&self, folder: &str) -> Result<()> {
        let inside = format!("{folder}/");
        self.known.forget(|known| known.starts_with(&inside));
        let path = Path::new(folder);
        self.absent_is_none(self.files.remove_folder(path), "remove folder", path)?;
        self.durable_folders()
            .retain(|known| !known.starts_with(folder));
        Ok(())
    }
}

fn take(lock: &File, root: &Path) -> Result<()> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(DataError::Locked {
            path: root.to_path_buf(),
        }),
        Err(std::fs::TryLockError::Error(e)) => Err(DataError::io("lock", root, e)),
    }
}

fn parent_of(path: &str) -> &Path {
    Path::new(path).parent().unwrap_or(Path::new(""))
}

/// A file being appended to.
pub struct AppendFile {
    file: Box<dyn OpenFile>,
    shown: PathBuf,
}

impl AppendFile {
    /// Appends all of `bytes`. After an error the file's end is unknown: stop using it.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .append(bytes)
            .map_err(|e| DataError::io("append to", &self.shown, e))
    }

    /// Returns once everything appended is on the medium. An error is final for this file.
    pub fn sync(&mut self) -> Result<()> {
        self.file
            .sync()
            .map_err(|e| DataError::io("sync", &self.shown, e))
    }
}

/// A shared file under its staging name; invisible until [`StagedFile::publish`].
pub struct StagedFile {
    file: Box<dyn OpenFile>,
    files: Arc<dyn Files>,
    staging: PathBuf,
    target: PathBuf,
    summing: Option<Summing>,
}

impl StagedFile {
    fn failed(&self, operation: &'static str, path: &Path, error: io::Error) -> DataError {
        DataError::io(operation, &self.files.shown(path), error)
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(summing) = &mut self.summing {
            summing.add(bytes);
        }
        self.file
            .append(bytes)
            .map_err(|e| self.failed("write", &self.staging, e))
    }

    /// Syncs, links to the final name and syncs the folder. `Exists` if the name is taken.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        match self.files.link(&self.staging, &self.target) {
            Ok(()) => {
                if let Some(summing) = self.summing.take() {
                    summing.published();
                }
                self.sync_target_folder()
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(DataError::Exists {
                path: self.files.shown(&self.target),
            }),
            Err(e) => Err(self.failed("link", &self.target, e)),
        }
    }

    /// As `publish`, but takes the name over. Only for Delta's `_last_checkpoint` hint, and for
    /// the same bytes again.
    pub fn publish_over(mut self) -> Result<()> {
        self.sync()?;
        self.files
            .rename(&self.staging, &self.target)
            .map_err(|e| self.failed("rename", &self.target, e))?;
        self.sync_target_folder()
    }

    fn sync(&mut self) -> Result<()> {
        self.file
            .sync()
            .map_err(|e| self.failed("sync", &self.staging, e))
    }

    fn sync_target_folder(&self) -> Result<()> {
        let folder = self.target.parent().unwrap_or(Path::new(""));
        self.files
            .sync_folder(folder)
            .map_err(|e| self.failed("sync folder", folder, e))
    }
}

impl Drop for StagedFile {
    /// The staging name goes in every case; a leftover is cleared at the next start.
    fn drop(&mut self) {
        let removed = self.files.remove_file(&self.staging);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.staging.display(), %error, "staging file was not removed");
        }
    }
}

/// CRC-32C of a whole file, read in pieces. `None` if the file is absent.
pub fn checksum(disk: &Disk, path: &str) -> Result<Option<u32>> {
    const PIECE_BYTES: u64 = 1 << 20;
    let Some(info) = disk.head(path)? else {
        return Ok(None);
    };
    let mut crc = 0;
    let mut start = 0;
    while start < info.bytes {
        let end = (start + PIECE_BYTES).min(info.bytes);
        let Some(piece) = disk.read_range(path, start..end)? else {
            return Ok(None);
        };
        crc = crc32c::crc32c_append(crc, &piece);
        start = end;
    }
    Ok(Some(crc))
}

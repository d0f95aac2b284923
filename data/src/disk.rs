//! The disk, injected: every byte the engine keeps goes through [`Disk`].
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
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::error::{DataError, Result};

/// Folder of half-written shared files; emptied at start.
pub const STAGING: &str = "staging";

/// A file being appended to.
pub trait AppendFile: Send {
    /// Appends all of `bytes`. After an error the file's end is unknown: stop using it.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Returns once everything appended is on the medium. An error is final for this file.
    fn sync(&mut self) -> Result<()>;
}

/// A shared file under its staging name; invisible until [`StagedFile::publish`].
pub trait StagedFile: Send {
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Syncs, links to the final name and syncs the folder. `Exists` if the name is taken.
    fn publish(self: Box<Self>) -> Result<()>;
    /// As `publish`, but takes the name over. Only for Delta's `_last_checkpoint` hint.
    fn publish_over(self: Box<Self>) -> Result<()>;
}

/// What `head` tells of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    pub path: String,
    pub bytes: u64,
    pub modified_micros: i64,
}

pub trait Disk: Send + Sync + std::fmt::Debug {
    fn append_file(&self, path: &str) -> Result<Box<dyn AppendFile>>;
    fn stage(&self, path: &str) -> Result<Box<dyn StagedFile>>;
    /// Replaces the tail of a log segment after `bytes`, synced. Only replay uses it.
    fn truncate(&self, path: &str, bytes: u64) -> Result<()>;
    fn read(&self, path: &str) -> Result<Option<Bytes>>;
    fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>>;
    fn head(&self, path: &str) -> Result<Option<FileInfo>>;
    /// All files below the folder, at any depth, ordered by path. Empty if it is absent.
    fn list(&self, folder: &str) -> Result<Vec<FileInfo>>;
    fn remove(&self, path: &str) -> Result<()>;
    /// Makes the folder's entries durable; a folder that is absent has none.
    fn sync_folder(&self, folder: &str) -> Result<()>;
    fn remove_folder(&self, folder: &str) -> Result<()>;

    /// Writes a whole shared file.
    fn put_if_absent(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut staged = self.stage(path)?;
        staged.write(bytes)?;
        staged.publish()
    }
}

/// The machine's file system below one folder, which this process holds locked.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// Folders whose own entry this process has synced. One that is merely there may have
    /// been made by a process that was killed before it could.
    durable_folders: Mutex<HashSet<PathBuf>>,
    _lock: File,
}

impl RealDisk {
    /// Opens (and creates) the folder, takes its lock, and clears half-written files.
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
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(DataError::Locked { path: root }),
            Err(std::fs::TryLockError::Error(e)) => return Err(DataError::io("lock", &path, e)),
        }
        let disk = Self {
            root,
            durable_folders: Mutex::default(),
            _lock: lock,
        };
        disk.remove_folder(STAGING)?;
        disk.make_folder(Path::new(STAGING))?;
        Ok(Arc::new(disk))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Creates the folder and its parents and makes their entries durable.
    fn make_folder(&self, folder: &Path) -> Result<()> {
        let full = self.root.join(folder);
        let is_durable = |folders: &HashSet<PathBuf>| folders.contains(folder);
        if is_durable(
            &self
                .durable_folders
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        ) && full.is_dir()
        {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make_folder(parent)?;
        }
        match std::fs::create_dir(&full) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(DataError::io("create folder", &full, e)),
        }
        sync_folder(full.parent().unwrap_or(&self.root))?;
        let mut durable = self
            .durable_folders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        durable.insert(folder.to_path_buf());
        Ok(())
    }

    fn make_parent(&self, path: &str) -> Result<()> {
        match Path::new(path).parent() {
            Some(parent) => self.make_folder(parent),
            None => Ok(()),
        }
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(|e| DataError::io("sync folder", folder, e))
}

fn absent_is_none<T>(
    result: io::Result<T>,
    operation: &'static str,
    path: &Path,
) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(DataError::io(operation, path, e)),
    }
}

fn modified_micros(meta: &std::fs::Metadata) -> i64 {
    meta.modified()
        .ok()
        .and_then(|time| time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_micros() as i64)
}

impl Disk for RealDisk {
    fn append_file(&self, path: &str) -> Result<Box<dyn AppendFile>> {
        self.make_parent(path)?;
        let full = self.at(path);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&full)
            .map_err(|e| DataError::io("open", &full, e))?;
        // Also when the file is there: a killed process may have made it.
        sync_folder(full.parent().unwrap_or(&self.root))?;
        Ok(Box::new(RealAppend { file, path: full }))
    }

    fn stage(&self, path: &str) -> Result<Box<dyn StagedFile>> {
        self.make_parent(path)?;
        let staging = self.at(STAGING).join(uuid::Uuid::new_v4().to_string());
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&staging)
            .map_err(|e| DataError::io("create", &staging, e))?;
        Ok(Box::new(RealStaged {
            file,
            staging,
            target: self.at(path),
        }))
    }

    fn truncate(&self, path: &str, bytes: u64) -> Result<()> {
        let full = self.at(path);
        OpenOptions::new()
            .write(true)
            .open(&full)
            .and_then(|file| file.set_len(bytes).and_then(|()| file.sync_all()))
            .map_err(|e| DataError::io("truncate", &full, e))
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>> {
        let full = self.at(path);
        Ok(absent_is_none(std::fs::read(&full), "read", &full)?.map(Bytes::from))
    }

    fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let full = self.at(path);
        let Some(file) = absent_is_none(File::open(&full), "open", &full)? else {
            return Ok(None);
        };
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)
            .map_err(|e| DataError::io("read", &full, e))?;
        Ok(Some(Bytes::from(bytes)))
    }

    fn head(&self, path: &str) -> Result<Option<FileInfo>> {
        let full = self.at(path);
        let Some(meta) = absent_is_none(std::fs::metadata(&full), "look at", &full)? else {
            return Ok(None);
        };
        Ok(meta.is_file().then(|| FileInfo {
            path: path.to_owned(),
            bytes: meta.len(),
            modified_micros: modified_micros(&meta),
        }))
    }

    fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from(folder)];
        while let Some(folder) = folders.pop() {
            let full = self.root.join(&folder);
            let Some(entries) = absent_is_none(std::fs::read_dir(&full), "list", &full)? else {
                continue;
            };
            for entry in entries {
                let entry = entry.map_err(|e| DataError::io("list", &full, e))?;
                let path = folder.join(entry.file_name());
                let Some(meta) = absent_is_none(entry.metadata(), "look at", &full)? else {
                    continue;
                };
                if meta.is_dir() {
                    folders.push(path);
                } else {
                    found.push(FileInfo {
                        path: path.to_string_lossy().into_owned(),
                        bytes: meta.len(),
                        modified_micros: modified_micros(&meta),
                    });
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn remove(&self, path: &str) -> Result<()> {
        let full = self.at(path);
        absent_is_none(std::fs::remove_file(&full), "remove", &full)?;
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> Result<()> {
        let full = self.at(folder);
        if full.is_dir() {
            sync_folder(&full)
        } else {
            Ok(())
        }
    }

    fn remove_folder(&self, folder: &str) -> Result<()> {
        let full = self.at(folder);
        absent_is_none(std::fs::remove_dir_all(&full), "remove folder", &full)?;
        let mut durable = self
            .durable_folders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        durable.retain(|known| !known.starts_with(folder));
        Ok(())
    }
}

struct RealAppend {
    file: File,
    path: PathBuf,
}

impl AppendFile for RealAppend {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| DataError::io("append to", &self.path, e))
    }

    fn sync(&mut self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| DataError::io("sync", &self.path, e))
    }
}

struct RealStaged {
    file: File,
    staging: PathBuf,
    target: PathBuf,
}

impl StagedFile for RealStaged {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| DataError::io("write", &self.staging, e))
    }

    fn publish(self: Box<Self>) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| DataError::io("sync", &self.staging, e))?;
        match std::fs::hard_link(&self.staging, &self.target) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(DataError::Exists {
                    path: self.target.clone(),
                });
            }
            Err(e) => return Err(DataError::io("link", &self.target, e)),
        }
        sync_folder(self.target.parent().unwrap_or(Path::new("/")))
    }

    fn publish_over(self: Box<Self>) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| DataError::io("sync", &self.staging, e))?;
        std::fs::rename(&self.staging, &self.target)
            .map_err(|e| DataError::io("rename", &self.target, e))?;
        sync_folder(self.target.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for RealStaged {
    /// The staging name goes in every case; a leftover is cleared at the next start.
    fn drop(&mut self) {
        let removed = std::fs::remove_file(&self.staging);
        if let Err(error) = removed.or_else(ignore_absent) {
            tracing::debug!(path = %self.staging.display(), %error, "staging file was not removed");
        }
    }
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

/// Adapts a staged file to `std::io::Write`, for the Parquet writer.
pub struct StagedWriter {
    staged: Box<dyn StagedFile>,
    bytes: u64,
    crc: u32,
}

impl StagedWriter {
    pub fn new(staged: Box<dyn StagedFile>) -> Self {
        Self {
            staged,
            bytes: 0,
            crc: 0,
        }
    }

    /// Publishes the file; returns its length in bytes and its CRC-32C.
    pub fn publish(self) -> Result<(u64, u32)> {
        self.staged.publish()?;
        Ok((self.bytes, self.crc))
    }
}

impl Write for StagedWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.staged.write(buffer).map_err(|error| match error {
            DataError::DiskFull { .. } => io::Error::new(io::ErrorKind::StorageFull, error),
            other => io::Error::other(other),
        })?;
        self.bytes += buffer.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// CRC-32C of a whole file, read in pieces. `None` if the file is absent.
pub fn checksum(disk: &dyn Disk, path: &str) -> Result<Option<u32>> {
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

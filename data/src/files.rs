//! What the engine asks of an operating system's files, and the machine's own.
//!
//! Deliberately as low as POSIX: a written byte, a name in a folder and both being on the
//! medium are four different things, and [`crate::disk`] is where they are put in order. The
//! other implementation, [`crate::sim`], forgets what was not synced.
//!
//! Paths are relative to the data root.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

/// A file open for appending.
pub trait OpenFile: Send {
    /// Appends all of `bytes`; after an error, any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once all bytes are on the medium. After an error no later success means
    /// anything for the bytes before it.
    fn sync(&mut self) -> io::Result<()>;
}

/// What a folder's entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub is_folder: bool,
    pub bytes: u64,
    pub modified_micros: i64,
}

/// Files below one root. Names made, moved or removed last once their folder is synced.
pub trait Files: Send + Sync + std::fmt::Debug {
    /// The whole path, for messages.
    fn shown(&self, path: &Path) -> PathBuf;
    /// Part of a name that no file had before, in this process or another.
    fn fresh_name(&self) -> String;
    /// `AlreadyExists` if it does.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Opens for appending; an absent file is made.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Makes an empty file; `AlreadyExists` if there is one.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Cuts the file's end off and syncs it.
    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Writes these bytes over a file from its beginning, cuts off what is behind them, and syncs
    /// it. Needs no space if the file was as long.
    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// A second name for a file; `AlreadyExists` if it is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Another name, taken over if need be.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    fn read_at(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>>;
    fn entry(&self, path: &Path) -> io::Result<Entry>;
    /// The entries of a folder, in any order. One that vanishes meanwhile may be missing.
    fn list(&self, path: &Path) -> io::Result<Vec<(PathBuf, Entry)>> {
        self.list_some(path, &|_| true)
    }
    /// Those of them whose paths are wanted.
    fn list_some(
        &self,
        path: &Path,
        is_wanted: &dyn Fn(&Path) -> bool,
    ) -> io::Result<Vec<(PathBuf, Entry)>>;
}

/// The machine's file system below one folder.
#[derive(Debug)]
pub struct RealFiles {
    root: PathBuf,
}

impl RealFiles {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

impl Files for RealFiles {
    fn shown(&self, path: &Path) -> PathBuf {
        self.at(path)
    }

    fn fresh_name(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(self.at(path))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.at(path))?;
        Ok(Box::new(RealFile(file)))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(self.at(path))?;
        Ok(Box::new(RealFile(file)))
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.at(path))?;
        file.set_len(bytes)?;
        file.sync_all()
    }

    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.at(path))?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(self.at(from), self.at(to))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(self.at(path))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(self.at(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(self.at(path))?.sync_all()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(self.at(path))
    }

    fn read_at(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
        let file = File::open(self.at(path))?;
        let wanted = (range.end - range.start) as usize;
        // Into memory that is not cleared first, which would cost as much as the read.
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            let at = range.start + bytes.len() as u64;
            match pread(&file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(wanted);
        Ok(bytes)
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        std::fs::metadata(self.at(path)).map(|meta| entry_of(&meta))
    }

    fn list_some(
        &self,
        path: &Path,
        is_wanted: &dyn Fn(&Path) -> bool,
    ) -> io::Result<Vec<(PathBuf, Entry)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.at(path))? {
            let entry = entry?;
            let name = path.join(entry.file_name());
            if !is_wanted(&name) {
                continue;
            }
            match entry.metadata() {
                Ok(meta) => found.push((name, entry_of(&meta))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

fn entry_of(meta: &std::fs::Metadata) -> Entry {
    let modified = meta.modified().ok();
    let since = modified.and_then(|m| m.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
    Entry {
        is_folder: meta.is_dir(),
        bytes: meta.len(),
        modified_micros: since.map_or(0, |since| since.as_micros() as i64),
    }
}

struct RealFile(File);

impl OpenFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        // The data and all that is needed to read it back, its length included.
        self.0.sync_data()
    }
}

//! The machine's files, without a way to change them: for looking at a folder as it is.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::files::{Entry, Files, OpenFile, RealFiles};

#[derive(Debug)]
pub(crate) struct ReadOnlyFiles(pub(crate) RealFiles);

fn refused<T>() -> io::Result<T> {
    let reason = "the folder is only looked at";
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, reason))
}

impl Files for ReadOnlyFiles {
    fn shown(&self, path: &Path) -> PathBuf {
        self.0.shown(path)
    }

    fn fresh_name(&self) -> String {
        self.0.fresh_name()
    }

    fn create_folder(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn open_append(&self, _: &Path) -> io::Result<Box<dyn OpenFile>> {
        refused()
    }

    fn create_new(&self, _: &Path) -> io::Result<Box<dyn OpenFile>> {
        refused()
    }

    fn truncate(&self, _: &Path, _: u64) -> io::Result<()> {
        refused()
    }

    fn overwrite(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn remove_folder(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }

    fn read_at(&self, path: &Path, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.0.read_at(path, range)
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        self.0.entry(path)
    }

    fn list_some(
        &self,
        path: &Path,
        is_wanted: &dyn Fn(&Path) -> bool,
    ) -> io::Result<Vec<(PathBuf, Entry)>> {
        self.0.list_some(path, is_wanted)
    }
}

//! Parquet files are checked as they are read.
//!
//! A Parquet file that the engine wrote is known by its length and CRC-32C, which the publication
//! names. The page checksums of Parquet are not used: the writer has none to offer. Instead
//!
//! ```text
//!   first read of a file   the whole file against its CRC; on the way a CRC of each block
//!   every read             the blocks it touches against these
//! ```
//!
//! so no byte reaches a reader that was not checked just before, and a file whose bytes change
//! while the process runs is found, too. A file that this process wrote needs no first read: its
//! blocks were summed up on the way to the disk.
//!
//! The price is one sequential read of each file after a start, up to one block more at each end
//! of a read, and 4 bytes of memory for each block.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::disk::{Disk, FileInfo};
use crate::error::{DataError, Result};

/// Bytes under one checksum: the least that is read, and 4 bytes of memory each.
const BLOCK_BYTES: u64 = 64 << 10;

/// Blocks that a first read holds at a time: 4 MiB.
const BLOCKS_AT_ONCE: u64 = 64;

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    bytes: u64,
    crc32c: u32,
}

/// A file whose content is known.
#[derive(Debug)]
pub(crate) struct Known {
    expected: Expected,
    /// A checksum for each block, once the whole file was found right. Locked while it is read:
    /// who comes meanwhile waits and does not read it again.
    blocks: Mutex<Option<Arc<[u32]>>>,
}

/// The files that are known, by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownFiles(Arc<Mutex<HashMap<String, Arc<Known>>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Parquet files are immutable and have names of their own; Delta's checkpoints are Delta's.
fn is_checked(path: &str) -> bool {
    path.ends_with(".parquet") && !path.contains("/_delta_log/")
}

fn damaged(path: &str, reason: String) -> DataError {
    DataError::Damaged {
        path: path.into(),
        reason,
    }
}

impl KnownFiles {
    fn get(&self, path: &str) -> Option<Arc<Known>> {
        lock(&self.0).get(path).cloned()
    }

    fn insert(&self, path: String, expected: Expected, blocks: Option<Arc<[u32]>>) {
        let known = Known {
            expected,
            blocks: Mutex::new(blocks),
        };
        lock(&self.0).insert(path, Arc::new(known));
    }

    pub(crate) fn forget(&self, is_gone: impl Fn(&str) -> bool) {
        lock(&self.0).retain(|path, _| !is_gone(path));
    }

    /// What sums up a file while it is written; `None` for files that are not checked.
    pub(crate) fn summing(&self, path: &str) -> Option<Summing> {
        is_checked(path).then(|| Summing {
            files: self.clone(),
            path: path.to_owned(),
            sums: BlockSums::default(),
        })
    }
}

/// A file that is being written.
pub(crate) struct Summing {
    files: KnownFiles,
    path: String,
    sums: BlockSums,
}

impl Summing {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.sums.add(bytes);
    }

    /// The file has its name now.
    pub(crate) fn published(self) {
        let (expected, blocks) = self.sums.finish();
        self.files.insert(self.path, expected, Some(blocks));
    }
}

impl Disk {
    /// Makes known what a Parquet file of an earlier process must be. Reads nothing yet.
    pub fn expect(&self, path: &str, bytes: u64, crc32c: u32) {
        let expected = Expected { bytes, crc32c };
        self.known.insert(path.to_owned(), expected, None);
    }

    pub fn read(&self, path: &str) -> Result<Option<Bytes>> {
        match self.known.get(path) {
            Some(known) => self.read_range(path, 0..known.expected.bytes),
            None => self.read_unchecked(path),
        }
    }

    /// Errors: `Damaged` if it is a Parquet file that is not what was written.
    pub fn read_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let Some(known) = self.known.get(path).filter(|_| !range.is_empty()) else {
            return self.read_range_unchecked(path, range);
        };
        let blocks = self.blocks(path, &known)?;
        let first = range.start / BLOCK_BYTES;
        let start = first * BLOCK_BYTES;
        let end = range.end.next_multiple_of(BLOCK_BYTES);
        let bytes = self.read_exactly(path, start..end.min(known.expected.bytes))?;
        check_blocks(path, first, &bytes, &blocks)?;
        let wanted = (range.start - start) as usize..(range.end - start) as usize;
        if wanted.end > bytes.len() {
            let reason = format!("byte {} is beyond its end", range.end);
            return Err(damaged(path, reason));
        }
        Ok(Some(bytes.slice(wanted)))
    }

    /// Errors: `Damaged` if a known Parquet file is missing or has another length.
    pub fn head(&self, path: &str) -> Result<Option<FileInfo>> {
        let found = self.head_unchecked(path)?;
        let Some(known) = self.known.get(path) else {
            return Ok(found);
        };
        let published = known.expected.bytes;
        match found {
            Some(info) if info.bytes == published => Ok(Some(info)),
            Some(info) => {
                let found = info.bytes;
                let reason = format!("it is {found} bytes long where {published} were published");
                Err(damaged(path, reason))
            }
            None => Err(damaged(path, "it is missing".to_owned())),
        }
    }

    /// The file's blocks, each as it was when the whole file was right.
    fn blocks(&self, path: &str, known: &Known) -> Result<Arc<[u32]>> {
        let mut blocks = lock(&known.blocks);
        if let Some(blocks) = blocks.as_ref() {
            return Ok(Arc::clone(blocks));
        }
        let mut sums = BlockSums::default();
        let mut start = 0;
        while start < known.expected.bytes {
            let end = (start + BLOCKS_AT_ONCE * BLOCK_BYTES).min(known.expected.bytes);
            sums.add(&self.read_exactly(path, start..end)?);
            start = end;
        }
        let (found, summed) = sums.finish();
        if found != known.expected {
            let reason = "its checksum does not match the published one".to_owned();
            return Err(damaged(path, reason));
        }
        Ok(Arc::clone(blocks.insert(summed)))
    }

    fn read_exactly(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        match self.read_range_unchecked(path, range) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(damaged(path, "it is missing".to_owned())),
            Err(error) => {
                // A file that has become shorter is damage; a disk that fails to read is not.
                self.head(path)?;
                Err(error)
            }
        }
    }
}

/// A read of whole blocks, compared with what they must be.
fn check_blocks(path: &str, first: u64, bytes: &[u8], blocks: &[u32]) -> Result<()> {
    let of_block = bytes.chunks(BLOCK_BYTES as usize);
    for (at, block) in of_block.enumerate() {
        let number = first as usize + at;
        if blocks.get(number) != Some(&crc32c::crc32c(block)) {
            let start = number as u64 * BLOCK_BYTES;
            let end = start + block.len() as u64;
            let reason = format!("bytes {start} to {end} are not what was written");
            return Err(damaged(path, reason));
        }
    }
    Ok(())
}

/// Checksums of a file that comes in pieces of any size.
#[derive(Default)]
struct BlockSums {
    bytes: u64,
    whole: u32,
    blocks: Vec<u32>,
    /// Of the block that is not full yet.
    open: u32,
}

impl BlockSums {
    fn add(&mut self, mut piece: &[u8]) {
        self.whole = crc32c::crc32c_append(self.whole, piece);
        while !piece.is_empty() {
            let room = BLOCK_BYTES - self.bytes % BLOCK_BYTES;
            let (now, later) = piece.split_at(piece.len().min(room as usize));
            self.open = crc32c::crc32c_append(self.open, now);
            self.bytes += now.len() as u64;
            if self.bytes.is_multiple_of(BLOCK_BYTES) {
                self.blocks.push(std::mem::take(&mut self.open));
            }
            piece = later;
        }
    }

    fn finish(mut self) -> (Expected, Arc<[u32]>) {
        if !self.bytes.is_multiple_of(BLOCK_BYTES) {
            self.blocks.push(self.open);
        }
        let expected = Expected {
            bytes: self.bytes,
            crc32c: self.whole,
        };
        (expected, Arc::from(self.blocks))
    }
}

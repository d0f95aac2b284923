//! What is remembered of requests that came with an idempotency key.
//!
//! A key names a *body*, which is stored in one or more blocks. Each block's frame in the log
//! says whose it is ([`BlockMark`]). Before a flush lets the log forget frames, their bodies
//! go into a *keys file*, and the publication entry that moves the cut names it:
//!
//! ```text
//! keys file = head(JSON) newline { body(JSON) newline }      checksum in the publication
//! ```
//!
//! A file holds whole bodies, as far as they had got: of a body that is in two files the
//! newer one has everything, so a file whose bodies are all too old to be remembered can go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cut::CutRange;
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{DataError, Result};

const FORMAT_VERSION: u32 = 1;

/// What the frame of a block says of the body it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMark {
    /// Its place in the body, from 0.
    pub number: u64,
    /// When the first block of the body was stored: tells it from an older body of the key.
    pub began_micros: i64,
    pub digest: Digest,
    /// Rows that were turned away.
    pub rejected: u64,
    /// The body ends with this block.
    pub is_last: bool,
    /// The size of blocks that the body was cut with, and is to be cut with again.
    pub block_bytes: u64,
}

/// The offsets that a block's rows got in one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u64)", into = "(u32, u64, u64)")]
pub struct ShardOffsets {
    pub shard: u32,
    pub from: u64,
    pub to: u64,
}

impl From<(u32, u64, u64)> for ShardOffsets {
    fn from((shard, from, to): (u32, u64, u64)) -> Self {
        Self { shard, from, to }
    }
}

impl From<ShardOffsets> for (u32, u64, u64) {
    fn from(offsets: ShardOffsets) -> Self {
        (offsets.shard, offsets.from, offsets.to)
    }
}

/// The shards in which a range has events, with their offsets.
pub fn offsets_of(range: &CutRange) -> Vec<ShardOffsets> {
    let of_shard = |shard: usize| ShardOffsets {
        shard: shard as u32,
        from: range.from.offset(shard),
        to: range.to.offset(shard),
    };
    let all = (0..range.to.shards()).map(of_shard);
    all.filter(|offsets| offsets.from < offsets.to).collect()
}

/// What became of a block: enough to give the same answer again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBlock {
    /// `None` in what older versions wrote: then every block counts as the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    #[serde(default)]
    pub rejected: u64,
    pub offsets: Vec<ShardOffsets>,
}

/// A body that is stored, entirely or as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    pub key: String,
    pub began_micros: i64,
    /// When its newest block was stored.
    pub last_micros: i64,
    /// 0 if it is not known.
    pub block_bytes: u64,
    /// The number of the last block, if the body has come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_block: Option<u64>,
    pub blocks: BTreeMap<u64, StoredBlock>,
}

/// A file of bodies, as a publication entry names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysFile {
    /// Relative to the data root.
    pub path: String,
    pub keys: u64,
    pub bytes: u64,
    pub crc32c: u32,
    /// The newest `last_micros` in it.
    pub last_micros: i64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format_version: u32,
}

/// Writes a keys file, synced and under a name that was free.
pub fn write_keys(disk: &Disk, path: String, bodies: &[Body]) -> Result<KeysFile> {
    let head = Head {
        format_version: FORMAT_VERSION,
    };
    let mut bytes = serde_json::to_vec(&head)?;
    bytes.push(b'\n');
    for body in bodies {
        serde_json::to_writer(&mut bytes, body)?;
        bytes.push(b'\n');
    }
    disk.put_if_absent(&path, &bytes)?;
    Ok(KeysFile {
        path,
        keys: bodies.len() as u64,
        bytes: bytes.len() as u64,
        crc32c: crc32c::crc32c(&bytes),
        last_micros: bodies.iter().map(|b| b.last_micros).max().unwrap_or(0),
    })
}

/// Reads a keys file that a publication names. `Damaged` if it is not as it was written:
/// without it requests would be stored a second time, so nothing goes on without it.
pub fn read_keys(disk: &Disk, file: &KeysFile) -> Result<Vec<Body>> {
    let damaged = |reason: String| DataError::Damaged {
        path: file.path.clone().into(),
        reason: format!("{reason}; it holds idempotency keys, restore it from a backup"),
    };
    let bytes = disk
        .read(&file.path)?
        .ok_or_else(|| damaged("it is missing".to_owned()))?;
    if crc32c::crc32c(&bytes) != file.crc32c {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    let mut lines = bytes.split(|&byte| byte == b'\n').filter(|l| !l.is_empty());
    let head: Head = serde_json::from_slice(lines.next().unwrap_or_default())
        .map_err(|error| damaged(error.to_string()))?;
    if head.format_version > FORMAT_VERSION {
        return Err(DataError::UnknownVersion {
            path: file.path.clone().into(),
            found: head.format_version,
            known: FORMAT_VERSION,
        });
    }
    lines
        .map(|line| serde_json::from_slice(line).map_err(|error| damaged(error.to_string())))
        .collect()
}

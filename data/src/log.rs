//! The log: what makes an acknowledgement true.
//!
//! One log per stream, in segments. A *frame* is one request with all its shards, so a
//! request is in entirely or not at all:
//!
//! ```text
//! segment  = magic(8) frame*
//! frame    = length(u32) crc32c(u32) payload            little-endian, crc of the payload
//! payload  = header_length(u32) header(JSON) events(Arrow IPC stream, hidden columns too)
//! ```
//!
//! Frames written together and synced once (group commit) carry one group number. That
//! number tells a torn tail from damage: a broken frame followed by frames of a *later*
//! group was acknowledged once, so it is reported; a broken frame with nothing later
//! behind it is taken for one that never was, so it is cut off ([`segment`]).
//!
//! The log knows no views and no Parquet. It is opened, replayed once, appended to, and
//! told up to which cut it may forget.

mod segment;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};

use crate::cut::{Cut, CutRange};
use crate::disk::{AppendFile, Disk};
use crate::error::{DataError, Result};
use crate::keys::BlockMark;
use crate::schema::Column;
use segment::{Ending, Reader};

const MAGIC: &[u8; 8] = b"LLLOG\x00\x00\x01";
const FRAME_HEAD_BYTES: usize = 8;

/// About what a frame takes beside its header and the buffers of its events.
const FRAME_ROOM_BYTES: usize = 8 * 1024;

/// No frame is longer: a request body is limited far below this. A greater length is noise.
const MAX_FRAME_BYTES: usize = 1 << 31;

/// What a frame says of itself, beside its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameHeader {
    /// Frames of one group commit share a group; groups count up by one.
    pub group: u64,
    /// True for the first frame of its group.
    pub is_first: bool,
    pub request_id: String,
    pub ingested_at_micros: i64,
    pub schema_id: u32,
    /// The stream's columns from this frame on, when it brought new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_columns: Option<Vec<Column>>,
    pub range: CutRange,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Which block of the key's body this is; absent in frames of older versions, whose keys
    /// end with a mark and the number instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockMark>,
}

/// One request in the log.
#[derive(Clone, Debug)]
pub struct Frame {
    pub header: FrameHeader,
    /// The events with their hidden columns.
    pub events: RecordBatch,
}

impl Frame {
    /// The bytes that [`Log::append`] takes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let header = serde_json::to_vec(&self.header)?;
        // Growing would copy, and touch new memory, several times over.
        let expected = self.events.get_array_memory_size() + header.len() + FRAME_ROOM_BYTES;
        let mut bytes = Vec::with_capacity(expected);
        bytes.resize(FRAME_HEAD_BYTES, 0);
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&header);
        let mut writer = StreamWriter::try_new(&mut bytes, &self.events.schema())?;
        writer.write(&self.events)?;
        writer.finish()?;
        drop(writer);
        let payload = &bytes[FRAME_HEAD_BYTES..];
        let (length, crc) = (payload.len() as u32, crc32c::crc32c(payload));
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }
}

/// Takes replayed frames: the header, and the events unless they are covered already.
pub type Replay<'a> = dyn FnMut(FrameHeader, Option<RecordBatch>) -> Result<()> + 'a;

fn decode_events(payload: &[u8]) -> Result<RecordBatch> {
    let start = 4 + header_length(payload).unwrap_or(0);
    let mut reader = StreamReader::try_new(&payload[start..], None)?;
    let batch = reader.next().transpose()?;
    Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(reader.schema())))
}

fn header_length(payload: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    (4 + length <= payload.len()).then_some(length)
}

fn read_header(payload: &[u8]) -> Result<FrameHeader> {
    let length = header_length(payload).ok_or_else(|| {
        DataError::Arrow(arrow::error::ArrowError::IpcError(
            "frame header is cut off".to_owned(),
        ))
    })?;
    Ok(serde_json::from_slice(&payload[4..4 + length])?)
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: String,
    /// End of the last frame in it; the segment may go once a publication covers this.
    end: Option<Cut>,
    /// Group of the last frame in it.
    group: u64,
}

/// One stream's log, open for appending.
pub struct Log {
    disk: Arc<Disk>,
    folder: String,
    segment_bytes: u64,
    segments: Vec<Segment>,
    file: Option<AppendFile>,
    written: u64,
    group: u64,
    is_marked: bool,
    redundant_damage: usize,
    /// Set by the first failed write or sync; the log takes nothing after it.
    failed: bool,
}

impl Log {
    /// Opens the log and hands every frame to `replay`, in order: its header, and its events if
    /// `covered`, the flush cut, does not cover them. A torn tail is cut off.
    ///
    /// Errors: `Damaged`, naming the segment, if acknowledged events are lost. Then nothing on
    /// disk was changed.
    pub fn open(
        disk: Arc<Disk>,
        folder: &str,
        segment_bytes: u64,
        covered: &Cut,
        replay: &mut Replay<'_>,
    ) -> Result<Self> {
        let (read, _) = inspect(&disk, folder, covered, replay)?;
        let mut log = Self {
            disk,
            folder: folder.to_owned(),
            segment_bytes,
            segments: read.segments,
            file: None,
            written: 0,
            group: read.group,
            is_marked: read.is_marked,
            redundant_damage: read.redundant.len(),
            failed: false,
        };
        for place in &read.redundant {
            tracing::error!(
                place,
                "the log is damaged; its events are in the master dataset, so none is lost; a key of \
                 a request without events may be forgotten"
            );
        }
        log.settle(read.ending, covered)?;
        Ok(log)
    }

    /// Removes what was never acknowledged, and makes durable what counts from now on.
    ///
    /// What is replayed is visible from now on, so it must be durable: a killed process may have
    /// written it and not lived to sync. And its sync may have failed, after which the system
    /// says of the same bytes that they are synced when they are not: so they are written again.
    fn settle(&mut self, ending: Ending, covered: &Cut) -> Result<()> {
        let Some(last) = self.segments.last() else {
            return Ok(());
        };
        let path = &last.path;
        let is_needed = last.end.as_ref().is_some_and(|end| !covered.covers(end));
        let bytes = self.disk.read(path)?.unwrap_or_default();
        let kept_bytes = match ending {
            Ending::NotBegun => {
                self.disk.remove(path)?;
                self.segments.pop();
                return Ok(());
            }
            Ending::Torn { at } => {
                tracing::warn!(path, at, "cutting a torn tail off the log");
                if !is_needed {
                    return self.disk.truncate(path, at as u64);
                }
                at
            }
            Ending::Whole if is_needed => bytes.len(),
            Ending::Whole => return Ok(()),
        };
        self.disk.write_again(path, &bytes[..kept_bytes])
    }

    /// Broken places that were found at the start and whose events the master dataset has.
    pub fn redundant_damage(&self) -> usize {
        self.redundant_damage
    }

    /// True if the last group is a mark, or there is none: see [`segment`].
    pub fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// Appends the mark, a frame without events.
    pub fn mark(&mut self, mark: &Frame) -> Result<()> {
        self.append(&[mark.encode()?], &mark.header.range.to)?;
        self.is_marked = true;
        Ok(())
    }

    /// The newest group in the log; 0 if it has none.
    pub fn last_group(&self) -> u64 {
        self.group
    }

    /// The group number for the next group commit.
    pub fn next_group(&self) -> u64 {
        self.group + 1
    }

    /// Appends encoded frames of one group and returns once they are on the medium.
    ///
    /// On an error nothing of the group may be acknowledged. A full disk leaves the log
    /// usable: the half-written group is cut off and the caller may try again later. Any
    /// other error is final.
    pub fn append(&mut self, frames: &[Vec<u8>], end: &Cut) -> Result<()> {
        if self.failed {
            return Err(DataError::Io {
                operation: "append to",
                path: self.folder.clone().into(),
                source: std::io::Error::other("an earlier write failed; restart the engine"),
            });
        }
        match self.try_append(frames, end) {
            Ok(()) => {
                self.group += 1;
                self.is_marked = false;
                Ok(())
            }
            Err(error @ DataError::DiskFull { .. }) => {
                self.failed = true;
                self.drop_half_written_group()?;
                self.failed = false;
                Err(error)
            }
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    fn try_append(&mut self, frames: &[Vec<u8>], end: &Cut) -> Result<()> {
        if self.file.is_none() || self.written >= self.segment_bytes {
            self.file = None;
            self.roll()?;
        }
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.last_mut()) else {
            return Err(damaged(&self.folder, "no open segment".to_owned()));
        };
        let mut bytes = 0;
        for frame in frames {
            file.append(frame)?;
            bytes += frame.len() as u64;
        }
        file.sync()?;
        self.written += bytes;
        segment.end = Some(end.clone());
        segment.group = self.group + 1;
        Ok(())
    }

    fn drop_half_written_group(&mut self) -> Result<()> {
        // Without an open file nothing of this group reached a segment.
        if self.file.take().is_none() {
            return Ok(());
        }
        let Some(segment) = self.segments.last() else {
            return Ok(());
        };
        if self
            .disk
            .head(&segment.path)?
            .is_some_and(|info| info.bytes > self.written)
        {
            self.disk.truncate(&segment.path, self.written)?;
        }
        if self.written <= MAGIC.len() as u64 {
            self.disk.remove(&segment.path)?;
            self.segments.pop();
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<()> {
        let number = self.segments.last().map_or(1, |segment| segment.number + 1);
        let path = format!("{}/{number:020}", self.folder);
        let file = self.disk.append_file(&path)?;
        self.written = 0;
        self.segments.push(Segment {
            number,
            path,
            end: None,
            group: self.group,
        });
        let file = self.file.insert(file);
        file.append(MAGIC)?;
        // Before any frame: a segment that begins with anything else is damaged for certain, and
        // not the torn first group of one that a power cut caught.
        file.sync()?;
        self.written = MAGIC.len() as u64;
        Ok(())
    }

    /// Removes the segments that `covered` covers entirely and that have no frame of a group
    /// after `group`. The cut alone does not say it: a frame without events, which only remembers
    /// a key, lies at its end.
    ///
    /// The last segment with frames stays: the log must reach the cut. Behind it there may be some
    /// that a process began and wrote nothing into, and a power cut can bring back any segment that
    /// was removed, but none of those after it.
    pub fn forget(&mut self, covered: &Cut, group: u64) -> Result<()> {
        if self.failed {
            return Ok(());
        }
        let has_frames = |segment: &Segment| segment.end.is_some();
        let last = self.segments.iter().rposition(has_frames).unwrap_or(0);
        for _ in 0..last {
            let first = &self.segments[0];
            let is_needed = first.group > group;
            if is_needed || first.end.as_ref().is_some_and(|end| !covered.covers(end)) {
                break;
            }
            self.disk.remove(&first.path)?;
            self.segments.remove(0);
        }
        Ok(())
    }
}

/// What reading a log found.
struct Found {
    segments: Vec<Segment>,
    group: u64,
    is_marked: bool,
    redundant: Vec<String>,
    ending: Ending,
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    pub segments: usize,
    pub frames: u64,
    pub bytes: u64,
    /// Offsets after the last frame; `None` without one.
    pub end: Option<Cut>,
    /// Broken places whose events the master dataset has.
    pub redundant: Vec<String>,
    /// What the next start cuts off: it was never acknowledged.
    pub torn: Option<String>,
}

/// Reads a log as [`Log::open`] does and changes nothing. Errors: `Damaged` in the same cases.
pub fn look_at(
    disk: &Disk,
    folder: &str,
    covered: &Cut,
    replay: &mut Replay<'_>,
) -> Result<Inspection> {
    let (_, inspection) = inspect(disk, folder, covered, replay)?;
    Ok(inspection)
}

fn inspect(
    disk: &Disk,
    folder: &str,
    covered: &Cut,
    replay: &mut Replay<'_>,
) -> Result<(Found, Inspection)> {
    let files = segment::segments(disk, folder)?;
    let mut inspection = Inspection {
        segments: files.len(),
        ..Inspection::default()
    };
    let mut reader = Reader::new(covered);
    let mut segments = Vec::new();
    let mut ending = Ending::Whole;
    for (index, (number, info)) in files.iter().enumerate() {
        let path = info.path.as_str();
        let bytes = disk.read(path)?.unwrap_or_default();
        inspection.bytes += bytes.len() as u64;
        let (mut end, mut group) = (None, 0);
        let mut each = |at: usize, header: FrameHeader, payload: &[u8]| {
            inspection.frames += 1;
            end = Some(header.range.to.clone());
            group = header.group;
            let is_needed = !covered.covers(&header.range.to);
            let events = is_needed.then(|| decode_events(payload)).transpose();
            let events = events.map_err(|e| damaged(path, format!("frame at byte {at}: {e}")))?;
            replay(header, events)
        };
        let is_last = index + 1 == files.len();
        ending = reader.read(path, &bytes, is_last, &mut each)?;
        inspection.torn = match ending {
            Ending::Whole => None,
            Ending::NotBegun => Some(format!("{path} has not begun")),
            Ending::Torn { at } => Some(format!(
                "{path}: {} bytes from byte {at} on",
                bytes.len() - at
            )),
        };
        segments.push(Segment {
            number: *number,
            path: path.to_owned(),
            end,
            group,
        });
    }
    reader.finish(folder)?;
    inspection.end = reader.reached.clone();
    inspection.redundant = reader.redundant.clone();
    let found = Found {
        segments,
        group: reader.group,
        is_marked: reader.is_marked,
        redundant: reader.redundant,
        ending,
    };
    Ok((found, inspection))
}

fn damaged(path: &str, reason: String) -> DataError {
    DataError::Damaged {
        path: path.into(),
        reason,
    }
}

//! Reading segments, and telling a torn tail from damage. Changes nothing.
//!
//! ```text
//!   broken frame, nothing whole of a later group behind it, last segment    torn: never acknowledged
//!   broken frame, and what follows it begins before the flush cut           redundant: warned about
//!   every other broken or missing frame                                     damage: an error
//! ```
//!
//! What cannot be told from a torn tail is damage to the very last group, as nothing stands
//! behind it that was written later. So when nothing came for a moment, and at a clean stop, an
//! empty group is appended: the mark. After it only the end of the last segment being lost, mark included,
//! looks like a torn tail.

use super::{FRAME_HEAD_BYTES, FrameHeader, MAGIC, MAX_FRAME_BYTES, damaged, read_header};
use crate::cut::Cut;
use crate::disk::{Disk, FileInfo};
use crate::error::Result;

/// How a segment ends.
pub(super) enum Ending {
    /// With a whole frame, or with broken ones that a later segment makes good for.
    Whole,
    /// The process died before the segment began.
    NotBegun,
    /// With a frame that was never acknowledged, from this byte on.
    Torn { at: usize },
}

/// What is done with each whole frame: where it is, its header, its payload.
pub(super) type EachFrame<'a> = dyn FnMut(usize, FrameHeader, &[u8]) -> Result<()> + 'a;

/// Reads a log segment by segment, in order.
pub(super) struct Reader<'a> {
    /// What the master dataset covers.
    pub(super) covered: &'a Cut,
    /// Group of the last whole frame.
    pub(super) group: u64,
    /// End of the last whole frame.
    pub(super) reached: Option<Cut>,
    /// True if the last frame is a mark, or there is none.
    pub(super) is_marked: bool,
    /// Broken places whose events the master dataset has.
    pub(super) redundant: Vec<String>,
    /// A broken place whose size the next whole frame will tell.
    pending: Option<String>,
}

/// The segments of a log, oldest first, with their numbers.
pub(super) fn segments(disk: &Disk, folder: &str) -> Result<Vec<(u64, FileInfo)>> {
    let files = disk.list(folder)?.into_iter();
    let numbered = files.filter_map(|info| {
        let name = info.path.rsplit('/').next();
        let number = name.and_then(|name| name.parse().ok());
        if number.is_none() {
            tracing::warn!(path = info.path, "not a log segment: ignored");
        }
        Some((number?, info))
    });
    Ok(numbered.collect())
}

impl<'a> Reader<'a> {
    pub(super) fn new(covered: &'a Cut) -> Self {
        Self {
            covered,
            group: 0,
            reached: None,
            is_marked: true,
            redundant: Vec::new(),
            pending: None,
        }
    }

    pub(super) fn read(
        &mut self,
        path: &str,
        bytes: &[u8],
        is_last: bool,
        each: &mut EachFrame<'_>,
    ) -> Result<Ending> {
        if !bytes.starts_with(MAGIC) {
            // The beginning and the first group are written together, and a power cut may keep any
            // part of what was not synced.
            let has_nothing = bytes.len() < MAGIC.len() || bytes.iter().all(|&byte| byte == 0);
            let is_torn =
                || self.pending.is_none() && !self.has_later_group(bytes, MAGIC.len() - 1);
            if is_last && (has_nothing || is_torn()) {
                return Ok(Ending::NotBegun);
            }
            // Begun by a process that wrote nothing into it, and a power cut took the beginning. Had
            // there been frames, what follows would not join.
            if bytes.len() <= MAGIC.len() {
                return Ok(Ending::Whole);
            }
            let place = format!("{path} does not begin as a log segment");
            self.pending.get_or_insert(place);
        }
        let mut at = MAGIC.len();
        while at < bytes.len() {
            if let Some(payload) = whole_frame(bytes, at) {
                let header = read_header(payload)
                    .map_err(|error| damaged(path, format!("frame at byte {at}: {error}")))?;
                self.join(path, at, &header)?;
                each(at, header, payload)?;
                at += FRAME_HEAD_BYTES + payload.len();
                continue;
            }
            if is_last && self.pending.is_none() && !self.has_later_group(bytes, at) {
                return Ok(Ending::Torn { at });
            }
            let place = format!("{path}: the frame at byte {at} fails its checksum");
            self.pending.get_or_insert(place);
            at = next_whole(bytes, at).unwrap_or(bytes.len());
        }
        Ok(Ending::Whole)
    }

    /// Checks that a frame begins where the one before it ended. What is missing between them is
    /// no loss if the master dataset has it.
    fn join(&mut self, path: &str, at: usize, header: &FrameHeader) -> Result<()> {
        let from = &header.range.from;
        let follows = self.reached.as_ref() == Some(from);
        if !follows && !self.covered.covers(from) {
            let reached = match &self.reached {
                Some(reached) => reached.to_string(),
                None => format!("{} or earlier", self.covered),
            };
            return Err(damaged(
                path,
                match self.pending.take() {
                    Some(place) => format!(
                        "{place}; the next whole frame begins at {from} where {reached} was \
                         expected: acknowledged events are lost"
                    ),
                    None => format!(
                        "the frame at byte {at} begins at {from} where {reached} was expected: \
                         what was before it is missing"
                    ),
                },
            ));
        }
        if let Some(place) = self.pending.take() {
            self.redundant.push(place);
        }
        self.group = header.group;
        self.reached = Some(header.range.to.clone());
        self.is_marked = header.range.is_empty() && header.idempotency_key.is_none();
        Ok(())
    }

    /// Ends the reading. Errors: `Damaged` if the log ends before the master dataset does, which
    /// it never did: segments are missing at its end.
    pub(super) fn finish(&mut self, folder: &str) -> Result<()> {
        let is_there = match &self.reached {
            Some(reached) => reached.covers(self.covered),
            None => self.covered.events() == 0,
        };
        if let Some(place) = self.pending.take() {
            // Nothing whole stands behind it that would tell how much is lost.
            return Err(damaged(
                folder,
                format!("{place}, and nothing is behind it"),
            ));
        }
        if is_there {
            return Ok(());
        }
        let reached = match &self.reached {
            Some(reached) => format!("it ends at {reached}"),
            None => "it has no frames".to_owned(),
        };
        let reason = format!(
            "{reached} where the master dataset goes up to {}: segments are missing",
            self.covered
        );
        Err(damaged(folder, reason))
    }

    /// The broken frame is of the last good group or of the next one. The beginning of the next
    /// group behind it says that its own was synced; so does any later group.
    fn has_later_group(&self, bytes: &[u8], at: usize) -> bool {
        let next = self.group + 1;
        let mut headers = (at + 1..bytes.len())
            .filter(|&start| looks_like_frame(bytes, start))
            .filter_map(|start| read_header(whole_frame(bytes, start)?).ok());
        headers.any(|header| header.group > next || header.group == next && header.is_first)
    }
}

/// Where the next whole frame begins.
fn next_whole(bytes: &[u8], at: usize) -> Option<usize> {
    (at + 1..bytes.len())
        .filter(|&start| looks_like_frame(bytes, start))
        .find(|&start| whole_frame(bytes, start).is_some())
}

/// A cheap look before a checksum: every header is JSON that begins with its group.
fn looks_like_frame(bytes: &[u8], at: usize) -> bool {
    bytes
        .get(at + FRAME_HEAD_BYTES + 4..)
        .is_some_and(|header| header.starts_with(b"{\"group\":"))
}

/// The payload of the frame that begins at `at`, if it is whole and checks.
fn whole_frame(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let head = bytes.get(at..at + FRAME_HEAD_BYTES)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(head[4..].try_into().ok()?);
    if length == 0 || length > MAX_FRAME_BYTES {
        return None;
    }
    let start = at + FRAME_HEAD_BYTES;
    let payload = bytes.get(start..start + length)?;
    (crc32c::crc32c(payload) == crc).then_some(payload)
}

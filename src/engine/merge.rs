//! Small master files become larger ones.
//!
//! Every flush brings a file, however few events it has, and every file costs: in each publication,
//! in the Delta log, in the plan of each query and when it is opened. So adjacent small files are
//! written as one, in the thread that also writes files in new types, and one publication entry puts
//! it in their place: the same events, the same range, nothing that a query could tell. Delta follows
//! with a commit that changes no data.
//!
//! ```text
//!   rows     20 20 20 20 20 20 20 20      eight of one magnitude ...
//!            160                          ... make one of the next
//!            160 160 160 160 160 160 160 20 20 20
//! ```
//!
//! Magnitudes are powers of eight, so an event is written again once for each, until its file is large
//! enough. Files are never merged across the cut of a version or of a running recompute: what a
//! view has not seen begins at the border of a file. A file that is known to be damaged stays by itself.
//!
//! The files that were replaced stay while a snapshot names them, and an hour longer for Delta's
//! readers that opened the table before.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lambdalake_data::master::merge_files;
use lambdalake_data::publication::{MasterFile, Publication, StreamState};
use lambdalake_data::{Cut, DataError};

use super::rewrite::outdated;
use super::{Engine, StreamRuntime, lock};

/// So many files of a magnitude are merged, if at most smaller ones are between them.
const FILES: usize = 8;

/// So many adjacent small files are merged, whatever their magnitudes are.
const MIXED_FILES: usize = 6 * FILES;

/// Binary digits of a magnitude: it is a power of [`FILES`].
const MAGNITUDE_BITS: u32 = FILES.ilog2();

/// A file of so many rows is large enough: half a row group.
const ENOUGH_ROWS: u64 = 65_536;

/// A file of so many bytes is large enough, whatever its rows are.
const ENOUGH_BYTES: u64 = 4 << 20;

/// Files that together have more than this are merged in parts, as they are in memory meanwhile.
const MOST_ROWS: u64 = 2 * ENOUGH_ROWS;
const MOST_BYTES: u64 = 2 * ENOUGH_BYTES;

/// The first adjacent files that are to be merged, or none. Never across one of `borders`.
fn to_merge<'a>(files: &'a [MasterFile], borders: &HashSet<Cut>) -> &'a [MasterFile] {
    let magnitude = |file: &MasterFile| file.rows.max(1).ilog2() / MAGNITUDE_BITS;
    for most in 0..=ENOUGH_ROWS.ilog2() / MAGNITUDE_BITS {
        let is_small = |file: &MasterFile| {
            file.rows < ENOUGH_ROWS && file.bytes < ENOUGH_BYTES && magnitude(file) <= most
        };
        let adjacent = |a: &MasterFile, b: &MasterFile| {
            is_small(a)
                && is_small(b)
                && a.range.to == b.range.from
                && !borders.contains(&a.range.to)
        };
        let mut runs = files.chunk_by(adjacent);
        let is_due = |run: &&[MasterFile]| {
            run.len() >= MIXED_FILES
                || run.iter().filter(|it| magnitude(it) == most).count() >= FILES
        };
        if let Some(run) = runs.find(is_due) {
            let (mut rows, mut bytes) = (0, 0);
            let fits = run.iter().take_while(|file| {
                rows += file.rows;
                bytes += file.bytes;
                rows <= MOST_ROWS && bytes <= MOST_BYTES
            });
            return &run[..fits.count()];
        }
    }
    &[]
}

impl Engine {
    /// Files of a stream that are to be merged now; none while some have types of before.
    pub(super) fn mergeable<'a>(
        &self,
        publication: &'a Publication,
        name: &str,
    ) -> &'a [MasterFile] {
        let state = publication.streams.get(name);
        let may_merge = |state: &&Arc<StreamState>| {
            state.files.len() >= FILES && outdated(state).next().is_none()
        };
        let Some(state) = state
            .filter(|_| self.settings.merge_files)
            .filter(may_merge)
        else {
            return &[];
        };
        let views = publication.views.values();
        let versions = views.filter(|view| view.stream == name);
        let versions = versions.filter_map(|view| Some(view.version.as_ref()?.cut.clone()));
        let running = lock(&self.running);
        let cuts = versions.chain(running.values().filter_map(|run| run.cut()));
        let mut borders: HashSet<_> = cuts.collect();
        drop(running);
        for file in self.damaged_master_files(state) {
            borders.extend([file.range.from.clone(), file.range.to.clone()]);
        }
        to_merge(&state.files, &borders)
    }

    /// Merges what [`Self::mergeable`] says, durably. A recompute that fixes its cut meanwhile
    /// does so behind these files: they are published, and it flushes before.
    pub(super) fn merge(&self, stream: &StreamRuntime) -> anyhow::Result<()> {
        let name = &stream.definition.name;
        let incarnation = stream.definition.incarnation;
        let publication = self.publisher.publication();
        let files = self.mergeable(&publication, name);
        let Some(state) = publication.streams.get(name) else {
            return Ok(());
        };
        if files.is_empty() || state.definition.incarnation != incarnation {
            return Ok(());
        }
        let version = state.master_version + 1;
        let merged = merge_files(self.disk.as_ref(), &state.definition, files, version)?;
        let Some(merged) = merged else {
            return Ok(());
        };
        let path = format!("{}/{}", state.definition.master_folder(), merged.path);
        // Under the flush lock, and Delta before and after it: a commit of nothing but this changes
        // no data.
        let mut mirror = lock(&stream.flush);
        self.roll_delta_forward(stream, &mut mirror)?;
        let published = self.publisher.change(|next| -> Result<bool, DataError> {
            let state = next.streams.get_mut(name);
            let Some(state) = state.filter(|s| s.definition.incarnation == incarnation) else {
                return Ok(false);
            };
            let begins = |at: &MasterFile| at.path == files[0].path;
            let Some(first) = state.files.iter().position(begins) else {
                return Ok(false);
            };
            let replaced = first..first + files.len();
            if state.files.get(replaced.clone()) != Some(files) {
                return Ok(false);
            }
            let state = Arc::make_mut(state);
            state.master_version += 1;
            let merged = MasterFile {
                version: state.master_version,
                ..merged
            };
            state.files.splice(replaced, [merged]);
            Ok(true)
        });
        let is_unnamed = match &published {
            Ok(is_published) => !is_published,
            // After another error it is not sure that the entry has no name.
            Err(error) => error.is_disk_full(),
        };
        if is_unnamed {
            self.publisher.remove_unnamed(&[path]);
        }
        published?;
        tracing::debug!(stream = name, files = files.len(), "files merged into one");
        let mirrored = self.roll_delta_forward(stream, &mut mirror);
        if mirrored.is_err() {
            stream.mirror_is_behind.store(true, Ordering::Relaxed);
        }
        mirrored
    }
}

#[cfg(test)]
mod tests;

//! A flush: the tail of a stream into the master dataset, and its states into panes.
//!
//! Seal, write the Parquet file, write a states file per view, publish all of it in one
//! entry, let the log forget, roll Delta forward. A crash at any point leaves either the
//! old entry (and the events in the log) or the new one. Panes of similar size are combined
//! on the way, so a late batch leaves a logarithmic number of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use lambdalake_batch::job::StatesWriter;
use lambdalake_data::delta::DeltaMirror;
use lambdalake_data::master::write_part;
use lambdalake_data::publication::{MasterFile, StoredPane};
use lambdalake_data::scan::ParquetScan;
use lambdalake_data::schema::StreamDefinition;
use lambdalake_data::tail::TailPart;
use lambdalake_data::{Cut, CutRange, DataError};
use lambdalake_serving::snapshot::{Snapshot, ViewSnapshot, scan_files};
use lambdalake_speed::keys::UnsavedKeys;
use lambdalake_speed::writer::Sealed;

use super::damage::Damage;
use super::keys::{NextKeys, touched_files, write_unsaved};
use super::rewrite::outdated;
use super::{Engine, StreamRuntime, lock};

/// A view's next pane and the panes it takes the place of.
struct NextPane {
    incarnation: u64,
    pane: StoredPane,
    replaces: Vec<CutRange>,
}

impl Engine {
    /// Moves everything acknowledged so far into the master dataset. Remembers trouble, so
    /// that health shows it, until a flush succeeds.
    pub(super) fn flush_stream(&self, stream: &StreamRuntime) -> anyhow::Result<()> {
        let mut mirror = lock(&stream.flush);
        // Files that were merged before a crash have a commit of their own; see `merge`.
        if stream.mirror_is_behind.load(Ordering::Relaxed)
            && let Err(error) = self.roll_delta_forward(stream, &mut mirror)
        {
            tracing::debug!(
                error = format!("{error:#}"),
                "the Delta table is still behind"
            );
        }
        let flushed = self.flush_locked(stream);
        let mirrored = match &flushed {
            Ok(()) => self.roll_delta_forward(stream, &mut mirror),
            Err(_) => Ok(()),
        };
        stream
            .mirror_is_behind
            .store(mirrored.is_err(), Ordering::Relaxed);
        let trouble = [flushed.as_ref().err(), mirrored.as_ref().err()]
            .into_iter()
            .flatten()
            .next();
        *lock(&stream.trouble) = trouble.map(|error| format!("{error:#}"));
        // A damaged Delta log is no damage to the dataset: it is made again.
        let damage = flushed.as_ref().err();
        if let Some(damage) = damage.and_then(|error| Damage::in_error(error.as_ref())) {
            self.note(&damage);
        }
        if let Err(error) = mirrored {
            // The publication is the truth; only Delta's readers are behind.
            tracing::warn!(
                stream = stream.definition.name,
                error = format!("{error:#}"),
                "the Delta table could not be rolled forward, trying again"
            );
        }
        flushed
    }

    pub(super) fn roll_delta_forward(
        &self,
        stream: &StreamRuntime,
        mirror: &mut DeltaMirror,
    ) -> anyhow::Result<()> {
        let publication = self.publisher.publication();
        match publication.streams.get(&stream.definition.name) {
            // Rolled forward once outdated files are written again (see `rewrite`).
            Some(state) if outdated(state).next().is_some() => Ok(()),
            Some(state) if state.definition.incarnation == stream.definition.incarnation => {
                if let Some(reason) = self.compute.block_on(mirror.roll_forward(state))? {
                    self.count_damage("delta", 1);
                    tracing::error!(
                        stream = stream.definition.name,
                        reason,
                        "the Delta log was damaged and is made again; its history begins anew"
                    );
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn flush_locked(&self, stream: &StreamRuntime) -> anyhow::Result<()> {
        let name = &stream.definition.name;
        // A part whose flush failed before is handed out again first; then what came since.
        let mut target: Option<Cut> = None;
        while let Some(Sealed { part, keys }) = stream.writer.seal()? {
            let Some(part) = part else {
                if let Some(cut) = self.save_keys(&stream.definition, &keys)? {
                    stream.writer.forget(cut, keys.group)?;
                }
                break;
            };
            let end = self
                .publisher
                .snapshot()
                .streams
                .get(name)
                .map(|s| s.end.clone());
            let started = self.clock.monotonic();
            let flushed = self.flush_part(stream, &part, &keys);
            let took = self.clock.monotonic().saturating_sub(started);
            self.meters.flushed(name, took, flushed.is_ok());
            let saved_group = if flushed? { keys.group } else { 0 };
            stream.writer.forget(part.end().clone(), saved_group)?;
            stream.room.notify_waiters();
            if target.is_none() {
                target = end;
            }
            if target
                .as_ref()
                .is_none_or(|target| part.end().covers(target))
            {
                break;
            }
        }
        Ok(())
    }

    /// True if it and the keys are published by this call.
    fn flush_part(
        &self,
        runtime: &StreamRuntime,
        part: &TailPart,
        keys: &UnsavedKeys,
    ) -> anyhow::Result<bool> {
        let of = &runtime.definition;
        let stream = &of.name;
        let snapshot = self.publisher.snapshot();
        let Some(source) = snapshot.streams.get(stream) else {
            return Ok(false);
        };
        // Dropped, and another of the same name made meanwhile: its events are not ours.
        anyhow::ensure!(
            source.definition.incarnation == of.incarnation,
            "stream {stream} was dropped"
        );
        if source.state.cut.covers(part.end()) {
            return Ok(false);
        }
        let version = source.state.master_version + 1;
        let definition = Arc::clone(&source.definition);
        let folder = definition.master_folder();
        let file = write_part(self.disk.as_ref(), &definition, part, version)?;
        let mut written: Vec<String> = file
            .iter()
            .map(|file| format!("{folder}/{}", file.path))
            .collect();
        let mut panes = Vec::new();
        let mut trouble = None;
        for view in snapshot
            .views
            .values()
            .filter(|view| &view.state.stream == stream)
        {
            match self.pane_of(view, part) {
                Ok(pane) => panes.push((view.state.name.clone(), pane)),
                Err(error) => {
                    let view = &view.state.name;
                    tracing::warn!(
                        view,
                        error = format!("{error:#}"),
                        "no pane stored; these events are mapped from the master dataset"
                    );
                    trouble = Some(format!("no pane of view {view} stored: {error:#}"));
                    if let Some(damage) = Damage::in_error(error.as_ref()) {
                        self.note(&damage);
                    }
                }
            }
        }
        *lock(&runtime.pane_trouble) = trouble;
        let panes_files = panes
            .iter()
            .flat_map(|(_, next): &(_, NextPane)| &next.pane.files);
        written.extend(panes_files.map(|file| file.path.clone()));
        let keys = match write_unsaved(&self.disk, &source.state, keys) {
            Ok(keys) => keys,
            Err(error) => {
                // The next attempt writes files of its own.
                self.publisher.remove_unnamed(&written);
                return Err(error.into());
            }
        };
        written.extend(touched_files(&source.state, &keys));
        let file_bytes = file.as_ref().map(|file| file.bytes);
        let published = self.publish_flush(stream, part, &definition, file, panes, keys);
        if published.is_ok() {
            self.meters.moved(stream, part.rows() as u64, file_bytes);
        }
        // An attempt that failed, and panes that came too late, are named by nobody. After
        // an error other than a full disk it is not sure that the entry has no name.
        if published.as_ref().err().is_none_or(DataError::is_disk_full) {
            self.publisher.remove_unnamed(&written);
        }
        published?;
        self.fill_views_made_since(&snapshot, stream);
        Ok(true)
    }

    /// A view that was made while a flush was going on got no pane from it.
    fn fill_views_made_since(&self, before: &Snapshot, stream: &str) {
        let snapshot = self.publisher.snapshot();
        let mut to_fill = lock(&self.to_fill);
        for (name, view) in &snapshot.views {
            let of_before = before.views.get(name);
            let is_known =
                of_before.is_some_and(|it| it.state.incarnation == view.state.incarnation);
            if view.state.stream == stream && !is_known && !view.gaps().is_empty() {
                to_fill.insert(name.clone(), "new_view");
            }
        }
    }

    fn publish_flush(
        &self,
        stream: &str,
        part: &TailPart,
        definition: &StreamDefinition,
        file: Option<MasterFile>,
        panes: Vec<(String, NextPane)>,
        keys: NextKeys,
    ) -> Result<(), DataError> {
        self.publisher.change(|next| {
            let Some(state) = next.streams.get_mut(stream) else {
                return Ok(());
            };
            let state = Arc::make_mut(state);
            if state.definition.incarnation != definition.incarnation {
                return Ok(());
            }
            if state.cut != part.from {
                return Err(DataError::Damaged {
                    path: definition.master_folder().into(),
                    reason: format!("a flush from {} met a dataset at {}", part.from, state.cut),
                });
            }
            state.cut = part.end().clone();
            state.master_version += 1;
            // A change of columns may have been published since the part was written.
            if definition.schema_id >= state.definition.schema_id {
                state.definition = definition.clone();
            }
            state.files.extend(file);
            keys.apply(state);
            for (name, pane) in panes {
                let Some(view) = next.views.get_mut(&name) else {
                    continue;
                };
                let view = Arc::make_mut(view);
                // A recompute may have published since the pane was made: then the panes it
                // was combined from are gone, and so is its use. The gap is mapped directly.
                let all_there = pane
                    .replaces
                    .iter()
                    .all(|range| view.panes.iter().any(|stored| &stored.range == range));
                if view.incarnation != pane.incarnation || !all_there {
                    continue;
                }
                view.panes
                    .retain(|stored| !pane.replaces.contains(&stored.range));
                view.panes.push(pane.pane);
            }
            Ok(())
        })
    }

    /// The stored pane of a sealed part, combined with neighbours of similar size.
    fn pane_of(&self, view: &ViewSnapshot, part: &TailPart) -> anyhow::Result<NextPane> {
        let open = view
            .stream
            .parts
            .iter()
            .find(|open| open.part.number == part.number);
        let open = open.ok_or_else(|| anyhow::anyhow!("the part is not in the snapshot"))?;
        let mut states = self.compute.block_on(open.states.states(view, part))?;
        let rows: usize = states.iter().map(RecordBatch::num_rows).sum();
        let replaced = self.panes_to_combine(view, part, rows as u64);
        let mut range = part.range();
        if let Some(first) = replaced.first() {
            range.from = first.range.from.clone();
            states = self.combined(view, &replaced, states)?;
        } else if states.len() > 1 || rows > 0 {
            states = self
                .compute
                .block_on(self.mapper.combine(&view.view, states))?;
        }
        let folder = view.state.folder();
        let name = format!("pane-{}", self.disk.fresh_name());
        let mut writer = StatesWriter::new(&self.disk, &folder, &name, view.view.states_schema());
        for batch in &states {
            writer.write(batch)?;
        }
        let files = writer.finish()?;
        let replaces = replaced.into_iter().map(|pane| pane.range).collect();
        let pane = StoredPane { range, files };
        Ok(NextPane {
            incarnation: view.state.incarnation,
            pane,
            replaces,
        })
    }

    /// The newest stored panes that are not much larger than what follows them, without gap,
    /// and without crossing the cut of a running batch.
    fn panes_to_combine(&self, view: &ViewSnapshot, part: &TailPart, rows: u64) -> Vec<StoredPane> {
        let barrier = lock(&self.running)
            .get(&view.state.name)
            .and_then(|run| run.cut());
        let mut taken = Vec::new();
        let mut total = rows.max(1);
        let mut from = part.from.clone();
        for pane in view.panes.iter().rev() {
            let pane_rows: u64 = pane.files.iter().map(|file| file.rows).sum();
            let crosses = barrier
                .as_ref()
                .is_some_and(|cut| cut.covers(&pane.range.to));
            if crosses || pane.range.to != from || pane_rows > 2 * total {
                break;
            }
            total += pane_rows;
            from = pane.range.from.clone();
            taken.insert(0, pane.clone());
        }
        taken
    }

    fn combined(
        &self,
        view: &ViewSnapshot,
        panes: &[StoredPane],
        newest: Vec<RecordBatch>,
    ) -> anyhow::Result<Vec<RecordBatch>> {
        let files: Vec<_> = panes
            .iter()
            .flat_map(|pane| scan_files(&pane.files))
            .collect();
        let schema = view.view.states_schema();
        let scan = ParquetScan::of(&files, &schema, 1).plan()?;
        let stored = self
            .compute
            .block_on(datafusion::physical_plan::collect(scan, self.mapper.task()))?;
        let all = [stored, newest].concat();
        Ok(self
            .compute
            .block_on(self.mapper.combine(&view.view, all))?)
    }
}

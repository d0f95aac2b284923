//! Master files in the types of today.
//!
//! After a column widened, older files still hold integers in it. The engine reads them with
//! a cast; Delta and its readers cannot. So such files are written again, in a thread of
//! their own, and one publication entry puts all of them in the place of the old ones. Until
//! then the Delta table stays at its version before: behind, but right.
//!
//! The old files stay while snapshots and other readers may still be reading them, see
//! `publisher/replaced.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lambdalake_data::DataError;
use lambdalake_data::master::rewrite_file;
use lambdalake_data::publication::{MasterFile, StreamState};

use super::damage::Damage;
use super::{Engine, StreamRuntime, lock, step_back};

/// Files whose columns have other types than the stream has today.
pub(crate) fn outdated(state: &StreamState) -> impl Iterator<Item = &MasterFile> {
    let since = state.definition.types_since;
    state
        .files
        .iter()
        .filter(move |file| file.schema_id < since)
}

impl Engine {
    /// Starts the rewriting of a stream's outdated files, or the merging of its small ones, if there
    /// are any and nobody does.
    pub(super) fn rewrite_if_due(self: &Arc<Self>, stream: &Arc<StreamRuntime>) {
        let publication = self.publisher.publication();
        let is_due = publication
            .streams
            .get(&stream.definition.name)
            .is_some_and(|state| outdated(state).next().is_some())
            || !self
                .mergeable(&publication, &stream.definition.name)
                .is_empty();
        let now = self.clock.monotonic();
        let may_try = lock(&stream.rewrite_failed).is_none_or(|at| now >= at + super::RETRY);
        if !is_due || !may_try || stream.is_rewriting.swap(true, Ordering::AcqRel) {
            return;
        }
        let (engine, of) = (Arc::clone(self), Arc::clone(stream));
        let spawned = std::thread::Builder::new()
            .name("rewrite".to_owned())
            .spawn(move || {
                step_back();
                let rewritten = engine.rewrite(&of).and_then(|()| engine.merge(&of));
                if let Some(damage) = rewritten
                    .as_ref()
                    .err()
                    .and_then(|error| Damage::in_error(error.as_ref()))
                {
                    engine.note(&damage);
                }
                if let Err(error) = &rewritten {
                    tracing::warn!(
                        stream = of.definition.name,
                        error = format!("{error:#}"),
                        "files could not be written again, trying once more later"
                    );
                }
                *lock(&of.rewrite_failed) = rewritten.err().map(|_| engine.clock.monotonic());
                of.is_rewriting.store(false, Ordering::Release);
            });
        match spawned {
            // Who calls upkeep by itself wants it done, and nothing else to happen beside it.
            Ok(thread) if !self.has_upkeep => {
                if thread.join().is_err() {
                    tracing::error!("the rewriting of files panicked");
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "no thread to rewrite files, trying again");
                *lock(&stream.rewrite_failed) = Some(now);
                stream.is_rewriting.store(false, Ordering::Release);
            }
        }
    }

    fn rewrite(&self, stream: &StreamRuntime) -> anyhow::Result<()> {
        let name = &stream.definition.name;
        let publication = self.publisher.publication();
        let Some(state) = publication.streams.get(name) else {
            return Ok(());
        };
        if outdated(state).next().is_none() {
            return Ok(());
        }
        let mut written = HashMap::new();
        for file in outdated(state) {
            let version = state.master_version + 1;
            let new = rewrite_file(self.disk.as_ref(), &state.definition, file, version)?;
            written.insert(file.path.clone(), new);
        }
        let files = written.len();
        // Under the flush lock, so that Delta follows before the next flush adds to it.
        {
            let _flush = lock(&stream.flush);
            self.publisher.change(|next| -> Result<(), DataError> {
                let Some(state) = next
                    .streams
                    .get_mut(name)
                    .filter(|s| s.definition.incarnation == stream.definition.incarnation)
                else {
                    return Ok(());
                };
                let state = Arc::make_mut(state);
                state.master_version += 1;
                for file in &mut state.files {
                    if let Some(new) = written.remove(&file.path) {
                        *file = MasterFile {
                            version: state.master_version,
                            ..new
                        };
                    }
                }
                Ok(())
            })?;
        }
        tracing::info!(stream = name, files, "files written in the types of today");
        self.flush_stream(stream)
    }
}

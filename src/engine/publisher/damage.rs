//! Streams that are stopped, and states files that are not whole.

use std::sync::Arc;

use lambdalake_data::publication::{StatesFile, StreamState, ViewState};
use lambdalake_data::schema::{StreamDefinition, stored_schema};
use lambdalake_data::{DataError, Disk, disk};
use lambdalake_serving::snapshot::{Pin, StreamSnapshot};

use super::{Publisher, lock, states_files};

impl Publisher {
    /// Shows a stream as stopped: it is listed, and every read of it is refused.
    pub fn set_stopped(&self, definition: &StreamDefinition, reason: Arc<str>) {
        let mut live = lock(&self.live);
        live.stopped.insert(definition.master_folder(), reason);
        self.rebuild(&mut live);
    }

    /// Forgets a stopped stream that was dropped; false if it was not stopped.
    pub fn remove_stopped(&self, definition: &StreamDefinition) -> bool {
        let mut live = lock(&self.live);
        let was_stopped = live.stopped.remove(&definition.master_folder()).is_some();
        self.rebuild(&mut live);
        was_stopped
    }

    /// Reads every states file of the view that has this one. Those that are not whole are not
    /// used from now on: their events are mapped from the master dataset. Returns the view and how
    /// many files were lost just now; `None` if no view has this file any more.
    pub fn recheck_states(&self, path: &str) -> Option<(String, usize)> {
        let publication = self.publication();
        let is_it = |view: &&Arc<ViewState>| states_files(view).any(|file| file.path == path);
        let view = publication.views.values().find(is_it)?;
        // Reading takes its time: not under the lock.
        let broken = broken_files(self.disk.as_ref(), view);
        let mut live = lock(&self.live);
        let before = live.unusable.len();
        live.unusable.extend(broken);
        let lost = live.unusable.len() - before;
        self.rebuild(&mut live);
        Some((view.name.clone(), lost))
    }

    /// Views whose states were made by this definition and are not whole, with the number of
    /// files concerned.
    pub fn views_with_broken_states(&self) -> Vec<(String, usize)> {
        let live = lock(&self.live);
        let broken = |view: &ViewState| {
            states_files(view)
                .filter(|file| live.unusable.contains(&file.path))
                .count()
        };
        let is_current = |view: &ViewState| {
            let key = (view.name.clone(), view.incarnation);
            let compiled = live.compiled.get(&key);
            compiled.is_some_and(|it| it.definition_hash() == view.definition_hash)
        };
        let views = live.publication.views.values();
        views
            .filter(|view| is_current(view))
            .map(|view| (view.name.clone(), broken(view)))
            .filter(|(_, files)| *files > 0)
            .collect()
    }
}

/// What is known of a stream without its log.
pub(super) fn stopped_stream(
    state: &Arc<StreamState>,
    reason: Arc<str>,
    pins: Vec<Pin>,
) -> StreamSnapshot {
    StreamSnapshot {
        schema: stored_schema(&state.definition.user_schema()),
        definition: Arc::new(state.definition.clone()),
        state: Arc::clone(state),
        parts: Vec::new(),
        end: state.cut.clone(),
        last_ingested_at_micros: None,
        stopped: Some(reason),
        pins,
    }
}

/// Paths of the view's states files that are missing, damaged or unreadable; each is logged.
pub(super) fn broken_files(disk: &Disk, state: &ViewState) -> Vec<String> {
    let broken = states_files(state).filter_map(|file| {
        let reason = why_broken(disk, file)?;
        tracing::warn!(
            view = state.name,
            path = file.path,
            reason,
            "a states file is missing or damaged; its events are mapped from the master dataset"
        );
        Some(file.path.clone())
    });
    broken.collect()
}

fn why_broken(disk: &Disk, file: &StatesFile) -> Option<String> {
    match disk::checksum(disk, &file.path) {
        Ok(Some(found)) if found == file.crc32c => None,
        Ok(Some(_)) => Some("its checksum does not match the published one".to_owned()),
        Ok(None) => Some("it is missing".to_owned()),
        Err(DataError::Damaged { reason, .. }) => Some(reason),
        Err(error) => Some(error.to_string()),
    }
}

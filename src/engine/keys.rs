//! Idempotency keys on their way from the log into files, before the log forgets them.
//!
//! A flush writes the bodies that no file has as they are, together with those of files that
//! are not much larger, so that there is a logarithmic number of files. The publication entry
//! that moves the cut names the new file instead of the old ones: keys and cut move together.

use std::collections::BTreeMap;
use std::sync::Arc;

use lambdalake_data::keys::{Body, KeysFile, read_keys, write_keys};
use lambdalake_data::publication::StreamState;
use lambdalake_data::schema::StreamDefinition;
use lambdalake_data::{Cut, DataError, Disk};
use lambdalake_speed::keys::UnsavedKeys;

use super::Engine;

/// The keys files that the next entry names, as a change of those that the last one does.
#[derive(Debug, Default)]
pub(super) struct NextKeys {
    file: Option<KeysFile>,
    replaces: Vec<String>,
    oldest_micros: i64,
}

impl NextKeys {
    pub(super) fn apply(self, state: &mut StreamState) {
        state.keys.retain(|file| {
            file.last_micros >= self.oldest_micros && !self.replaces.contains(&file.path)
        });
        state.keys.extend(self.file);
    }

    /// The file that was written for it.
    pub(super) fn written(&self) -> Option<String> {
        self.file.as_ref().map(|file| file.path.clone())
    }
}

/// The bodies of all files, oldest file first.
pub(super) fn load_keys(disk: &Disk, files: &[KeysFile]) -> Result<Vec<Body>, DataError> {
    let mut bodies = Vec::new();
    for file in files {
        bodies.extend(read_keys(disk, file)?);
    }
    Ok(bodies)
}

/// Writes what the next entry of this stream is to name.
pub(super) fn write_unsaved(
    disk: &Disk,
    state: &StreamState,
    unsaved: &UnsavedKeys,
) -> Result<NextKeys, DataError> {
    let mut next = NextKeys {
        oldest_micros: unsaved.oldest_micros,
        ..NextKeys::default()
    };
    if unsaved.bodies.is_empty() {
        return Ok(next);
    }
    let replaced = files_to_combine(&state.keys, unsaved);
    let mut bodies: BTreeMap<String, Body> = load_keys(disk, replaced)?
        .into_iter()
        .filter(|body| body.last_micros >= unsaved.oldest_micros)
        .map(|body| (body.key.clone(), body))
        .collect();
    let newest = unsaved.bodies.iter().cloned();
    bodies.extend(newest.map(|body| (body.key.clone(), body)));
    let mut bodies: Vec<Body> = bodies.into_values().collect();
    bodies.sort_by_key(|body| body.last_micros);
    let folder = state.definition.keys_folder();
    let path = format!("{folder}/{}", disk.fresh_name());
    next.file = Some(write_keys(disk, path, &bodies)?);
    next.replaces = replaced.iter().map(|file| file.path.clone()).collect();
    Ok(next)
}

/// The newest files that are not much larger than what follows them.
fn files_to_combine<'a>(files: &'a [KeysFile], unsaved: &UnsavedKeys) -> &'a [KeysFile] {
    let mut total = unsaved.bodies.len() as u64;
    let mut first = files.len();
    for (index, file) in files.iter().enumerate().rev() {
        if file.keys > 2 * total || file.last_micros < unsaved.oldest_micros {
            break;
        }
        total += file.keys;
        first = index;
    }
    &files[first..]
}

impl Engine {
    /// Publishes keys when there are no events to flush with them. The cut that the entry has;
    /// `None` if the stream was dropped.
    pub(super) fn save_keys(
        &self,
        of: &StreamDefinition,
        unsaved: &UnsavedKeys,
    ) -> Result<Option<Cut>, DataError> {
        let publication = self.publisher.publication();
        let Some(state) = publication
            .streams
            .get(&of.name)
            .filter(|state| state.definition.incarnation == of.incarnation)
        else {
            return Ok(None);
        };
        let next = write_unsaved(&self.disk, state, unsaved)?;
        let touched = touched_files(state, &next);
        let published = self.publisher.change(|entry| -> Result<(), DataError> {
            if let Some(state) = entry.streams.get_mut(&of.name)
                && state.definition.incarnation == of.incarnation
            {
                next.apply(Arc::make_mut(state));
            }
            Ok(())
        });
        if published.as_ref().err().is_none_or(DataError::is_disk_full) {
            self.publisher.remove_unnamed(&touched);
        }
        published.map(|()| Some(state.cut.clone()))
    }
}

/// The files of which the next entry may name some no more, or never did.
pub(super) fn touched_files(state: &StreamState, next: &NextKeys) -> Vec<String> {
    let named = state.keys.iter().map(|file| file.path.clone());
    named.chain(next.written()).collect()
}

#[cfg(test)]
mod tests;

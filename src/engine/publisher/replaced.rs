//! Master files that others took the place of: they go when no snapshot names them, and some time
//! has passed for readers that are not ours.
//!
//! ```text
//!   snapshots   1 2 3   4 5   6 ...      files are replaced between 3 and 4, and 5 and 6
//!   named by    A ----> B --> C          each lets go of its files after those before it
//! ```

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lambdalake_data::Disk;
use lambdalake_data::publication::{Publication, StreamState};

use super::{Live, Publisher, lock};

/// Replaced files stay this long after the last snapshot that names them: a Delta reader that has
/// opened the table reads on.
const KEPT: Duration = Duration::from_secs(3_600);

/// Held by the snapshots between two replacements of a stream's files.
#[derive(Debug)]
pub(super) struct Named {
    /// Set once, when files are replaced: these, and who holds those that are named from then on.
    /// A snapshot of before may name what is replaced later, too.
    replaced: Mutex<Option<(Vec<String>, Arc<Named>)>>,
    leaving: Arc<Leaving>,
}

/// Files that nobody names, by when that was seen first.
#[derive(Debug, Default)]
pub(super) struct Leaving(Mutex<Vec<(Option<Duration>, Vec<String>)>>);

impl Drop for Named {
    fn drop(&mut self) {
        // Its successor is let go of after it.
        if let Some((files, _successor)) = lock(&self.replaced).take() {
            lock(&self.leaving.0).push((None, files));
        }
    }
}

impl Leaving {
    /// Removes what has left long enough before `now`; true if nothing is left of it.
    fn remove_due(&self, disk: &Disk, now: Duration) {
        let mut due = Vec::new();
        lock(&self.0).retain_mut(|(since, files)| {
            let is_due = now >= *since.get_or_insert(now) + KEPT;
            if is_due {
                due.append(files);
            }
            !is_due
        });
        for path in due {
            if let Err(error) = disk.remove(&path) {
                tracing::warn!(path, %error, "left behind; the next start removes it");
            }
        }
    }
}

impl Publisher {
    /// Who holds the files that the newest entry names of a stream.
    pub(super) fn named(&self, live: &mut Live, folder: &str) -> Arc<Named> {
        let new = || Named {
            replaced: Mutex::default(),
            leaving: Arc::clone(&self.leaving),
        };
        let named = live.named.entry(folder.to_owned());
        Arc::clone(named.or_insert_with(|| Arc::new(new())))
    }

    /// Lets replaced files go with the last snapshot that names them. Those of a dropped stream go
    /// with its folder.
    pub(super) fn let_go_of_replaced(&self, live: &mut Live, before: &Publication) {
        let publication = Arc::clone(&live.publication);
        for (name, state) in &before.streams {
            let folder = state.definition.master_folder();
            let next = publication.streams.get(name);
            let Some(next) = next.filter(|it| it.definition.master_folder() == folder) else {
                live.named.remove(&folder);
                continue;
            };
            let files = gone(state, next, &folder);
            if files.is_empty() {
                continue;
            }
            let old = self.named(live, &folder);
            live.named.remove(&folder);
            let successor = self.named(live, &folder);
            *lock(&old.replaced) = Some((files, successor));
        }
    }

    /// Removes replaced files whose time has come.
    pub fn remove_replaced(&self, now: Duration) {
        self.leaving.remove_due(&self.disk, now);
    }
}

fn gone(before: &Arc<StreamState>, now: &Arc<StreamState>, folder: &str) -> Vec<String> {
    if Arc::ptr_eq(before, now) {
        return Vec::new();
    }
    // A flush only adds: then nothing has to be looked up.
    let same = before.files.iter().zip(&now.files);
    let same = same.take_while(|(a, b)| a.path == b.path).count();
    let is_gone = |path: &str| now.files[same..].iter().all(|file| file.path != path);
    let gone = before.files[same..]
        .iter()
        .filter(|file| is_gone(&file.path));
    gone.map(|file| format!("{folder}/{}", file.path)).collect()
}

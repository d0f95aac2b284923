//! The one place where what is visible changes.
//!
//! Two locks, always taken in this order: `durable` serialises publication entries and is
//! held while one is synced; `live` is held only to swap in the next snapshot, so an apply
//! never waits for a disk. A snapshot is built from the newest entry and the writers' tails:
//! tail parts that the entry's cut covers are left out, so a flush moves events from the
//! tail to the master dataset in one step.

mod damage;
mod replaced;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use lambdalake_data::Disk;
use lambdalake_data::publication::{
    Publication, PublicationLog, StatesFile, StreamState, ViewState,
};
use lambdalake_data::schema::{StreamDefinition, schema_of, stored_schema};
use lambdalake_data::tail::TailPart;
use lambdalake_serving::snapshot::{
    OpenPart, Pin, Snapshot, SpeedStates, StreamSnapshot, ViewSnapshot,
};
use lambdalake_speed::writer::StreamTail;
use lambdalake_speed::{Mapper, OpenStates};
use lambdalake_views::View;

use replaced::{Leaving, Named};

/// Joins the speed layer's states to the serving layer's port for them.
#[derive(Debug)]
struct PartStates {
    open: Arc<OpenStates>,
    mapper: Mapper,
    budget_bytes: usize,
}

#[async_trait]
impl SpeedStates for PartStates {
    async fn states(
        &self,
        view: &ViewSnapshot,
        part: &TailPart,
    ) -> Result<Vec<arrow::array::RecordBatch>, DataFusionError> {
        let key = view.key();
        let states = self
            .open
            .states(&self.mapper, &key, &view.view, part, self.budget_bytes);
        states.await.map_err(|error| match error {
            lambdalake_speed::SpeedError::DataFusion(error) => error,
            over @ lambdalake_speed::SpeedError::OverBudget { .. } => {
                DataFusionError::ResourcesExhausted(over.to_string())
            }
            other => DataFusionError::External(Box::new(other)),
        })
    }

    async fn map_ahead(
        &self,
        view: &ViewSnapshot,
        part: &TailPart,
        unmapped_rows: usize,
    ) -> Result<(), DataFusionError> {
        let mapped = self.open.mapped_rows(&view.key()).await;
        if part.rows() < mapped + unmapped_rows {
            return Ok(());
        }
        self.states(view, part).await.map(|_| ())
    }
}

/// A file or folder that goes when it is doomed and nobody holds it any more.
#[derive(Debug)]
struct Kept {
    disk: Arc<Disk>,
    path: String,
    is_folder: bool,
    doomed: std::sync::atomic::AtomicBool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.doomed.load(std::sync::atomic::Ordering::Acquire) {
            return;
        }
        let removed = if self.is_folder {
            self.disk.remove_folder(&self.path)
        } else {
            self.disk.remove(&self.path)
        };
        if let Err(error) = removed {
            tracing::warn!(path = self.path, %error, "could not be removed; the next start will");
        }
    }
}

#[derive(Default)]
struct Live {
    publication: Arc<Publication>,
    /// By master folder, which tells a stream from a dropped one of the same name.
    tails: HashMap<String, StreamTail>,
    /// By name and incarnation: the next one is compiled before the entry that names it.
    compiled: HashMap<(String, u64), Arc<View>>,
    kept: HashMap<String, Arc<Kept>>,
    /// Who holds a stream's master files, by their folder.
    named: HashMap<String, Arc<Named>>,
    /// States files that are not there or not whole; what they held is mapped again.
    unusable: HashSet<String>,
    /// Streams that do not run and why, by master folder.
    stopped: HashMap<String, Arc<str>>,
}

struct Durable {
    log: PublicationLog,
    current: Publication,
}

pub struct Publisher {
    disk: Arc<Disk>,
    mapper: Mapper,
    state_budget_bytes: usize,
    durable: Mutex<Durable>,
    live: Mutex<Live>,
    snapshot: ArcSwap<Snapshot>,
    leaving: Arc<Leaving>,
    /// The last entry could not be published because of this.
    trouble: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// Reads the newest publication, compiles its views and checks their states files.
    pub fn open(
        disk: Arc<Disk>,
        mapper: Mapper,
        state_budget_bytes: usize,
    ) -> anyhow::Result<Self> {
        let (log, current) = PublicationLog::open(Arc::clone(&disk))?;
        let mut live = Live {
            publication: Arc::new(current.clone()),
            ..Live::default()
        };
        for state in current.views.values() {
            let view = Arc::new(compile(state)?);
            if view.definition_hash() == state.definition_hash {
                live.unusable.extend(damage::broken_files(&disk, state));
            } else {
                tracing::warn!(
                    view = state.name,
                    "its states are of another engine version; it is answered directly until \
                     the next recompute"
                );
                live.unusable
                    .extend(states_files(state).map(|file| file.path.clone()));
            }
            let key = (state.name.clone(), state.incarnation);
            live.compiled.insert(key, view);
        }
        let publisher = Self {
            disk,
            mapper,
            state_budget_bytes,
            durable: Mutex::new(Durable { log, current }),
            live: Mutex::new(live),
            snapshot: ArcSwap::default(),
            leaving: Arc::default(),
            trouble: Mutex::default(),
        };
        Ok(publisher)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn publication(&self) -> Arc<Publication> {
        Arc::clone(&lock(&self.live).publication)
    }

    /// Changes the durable state: `change` edits a copy, which is published and then made
    /// visible. An error of `change` or of the disk leaves everything as it was.
    pub fn change<T, E: From<lambdalake_data::DataError>>(
        &self,
        change: impl FnOnce(&mut Publication) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut durable = lock(&self.durable);
        let mut next = durable.current.clone();
        next.number += 1;
        let result = change(&mut next)?;
        let published = durable.log.publish(&next);
        *lock(&self.trouble) = published.as_ref().err().map(ToString::to_string);
        published?;
        durable.current = next.clone();
        let mut live = lock(&self.live);
        let before = std::mem::replace(&mut live.publication, Arc::new(next));
        self.doom_replaced(&mut live, &before);
        self.let_go_of_replaced(&mut live, &before);
        self.rebuild(&mut live);
        Ok(result)
    }

    /// Why the last change of the durable state failed; `None` while all is well.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Makes a compiled view known before the entry that names it is published.
    pub fn add_compiled(&self, name: &str, incarnation: u64, view: Arc<View>) {
        lock(&self.live)
            .compiled
            .insert((name.to_owned(), incarnation), view);
    }

    /// Takes a stream's newest tail; called by its writer after every apply.
    pub fn set_tail(&self, tail: StreamTail) {
        let mut live = lock(&self.live);
        live.tails.insert(tail.definition.master_folder(), tail);
        self.rebuild(&mut live);
    }

    pub fn remove_tail(&self, definition: &StreamDefinition) {
        let mut live = lock(&self.live);
        live.tails.remove(&definition.master_folder());
        self.rebuild(&mut live);
    }

    fn rebuild(&self, live: &mut Live) {
        let mut snapshot = Snapshot {
            publication: live.publication.number,
            ..Snapshot::default()
        };
        let publication = Arc::clone(&live.publication);
        for (name, state) in &publication.streams {
            let master = state.definition.master_folder();
            if let Some(reason) = live.stopped.get(&master).cloned() {
                let pins = vec![self.pin(live, &master, true)];
                let stream = damage::stopped_stream(state, reason, pins);
                snapshot.streams.insert(name.clone(), Arc::new(stream));
                continue;
            }
            let Some(tail) = live.tails.get(&master) else {
                continue;
            };
            let parts = tail
                .parts
                .iter()
                .filter(|(part, _)| part.rows() > 0 && !state.cut.covers(part.end()))
                .map(|(part, open)| OpenPart {
                    part: part.clone(),
                    states: Arc::new(PartStates {
                        open: Arc::clone(open),
                        mapper: self.mapper.clone(),
                        budget_bytes: self.state_budget_bytes,
                    }),
                })
                .collect();
            let folder = self.pin(live, &master, true);
            let files = self.named(live, &master);
            let Some(tail) = live.tails.get(&master) else {
                continue;
            };
            let stream = StreamSnapshot {
                schema: stored_schema(&tail.definition.user_schema()),
                definition: Arc::clone(&tail.definition),
                state: Arc::clone(state),
                parts,
                end: tail.end.clone(),
                last_ingested_at_micros: tail.last_ingested_at_micros,
                stopped: None,
                pins: vec![folder, files],
            };
            snapshot.streams.insert(name.clone(), Arc::new(stream));
        }
        self.rebuild_views(live, &publication, &mut snapshot);
        self.snapshot.store(Arc::new(snapshot));
    }

    fn rebuild_views(&self, live: &mut Live, publication: &Publication, snapshot: &mut Snapshot) {
        let mut views = BTreeMap::new();
        for (name, state) in &publication.views {
            let Some(stream) = snapshot.streams.get(&state.stream) else {
                continue;
            };
            let Some(view) = live.compiled.get(&(name.clone(), state.incarnation)) else {
                continue;
            };
            let view = Arc::clone(view);
            let usable =
                |files: &[StatesFile]| files.iter().all(|file| !live.unusable.contains(&file.path));
            let version = state
                .version
                .clone()
                .filter(|version| usable(&version.files));
            let panes: Vec<_> = state
                .panes
                .iter()
                .filter(|pane| usable(&pane.files))
                .cloned()
                .collect();
            let paths: Vec<String> = states_files(state).map(|file| file.path.clone()).collect();
            let pins = paths
                .iter()
                .map(|path| self.pin(live, path, false))
                .collect();
            let view = ViewSnapshot {
                state: Arc::clone(state),
                view,
                stream: Arc::clone(stream),
                version,
                panes,
                pins,
            };
            views.insert(name.clone(), Arc::new(view));
        }
        snapshot.views = views;
    }

    fn pin(&self, live: &mut Live, path: &str, is_folder: bool) -> Pin {
        let kept = live.kept.entry(path.to_owned()).or_insert_with(|| {
            Arc::new(Kept {
                disk: Arc::clone(&self.disk),
                path: path.to_owned(),
                is_folder,
                doomed: false.into(),
            })
        });
        Arc::clone(kept) as Pin
    }

    /// Dooms what the entry before named and the newest does not.
    fn doom_replaced(&self, live: &mut Live, before: &Publication) {
        let now = names(&live.publication);
        for path in names(before).difference(&now) {
            if let Some(kept) = live.kept.remove(path) {
                kept.doomed
                    .store(true, std::sync::atomic::Ordering::Release);
            }
        }
        let publication = Arc::clone(&live.publication);
        live.compiled.retain(|(name, incarnation), _| {
            let is_current = |view: &Arc<ViewState>| view.incarnation == *incarnation;
            *incarnation > publication.number || publication.views.get(name).is_some_and(is_current)
        });
    }

    /// Removes those of these files that the newest entry does not name.
    pub fn remove_unnamed(&self, paths: &[String]) {
        let publication = self.publication();
        let named: HashSet<&str> = publication
            .views
            .values()
            .flat_map(|view| states_files(view).map(|file| file.path.as_str()))
            .chain(publication.streams.values().flat_map(|s| keys_paths(s)))
            .collect();
        let is_master_file = |path: &str| {
            publication.streams.values().any(|stream| {
                let name = path.strip_prefix(&(stream.definition.master_folder() + "/"));
                name.is_some_and(|name| stream.files.iter().any(|file| file.path == name))
            })
        };
        for path in paths
            .iter()
            .filter(|p| !named.contains(p.as_str()) && !is_master_file(p))
        {
            if let Err(error) = self.disk.remove(path) {
                tracing::warn!(path, %error, "left behind; the next start removes it");
            }
        }
    }

    /// Removes what a crash left behind: files that the newest entry does not name, and the
    /// folders of dropped streams. Nothing of a stopped stream goes: it may be what mends it.
    pub fn remove_orphans(&self) -> anyhow::Result<()> {
        let publication = self.publication();
        let is_stopped = |stream: &&Arc<StreamState>| {
            let stopped = &lock(&self.live).stopped;
            stopped.contains_key(&stream.definition.master_folder())
        };
        let stopped = publication.streams.values().filter(is_stopped);
        let stopped: HashSet<String> = stopped
            .flat_map(|stream| {
                let definition = &stream.definition;
                [definition.master_folder(), definition.keys_folder()]
            })
            .collect();
        let named = names(&publication);
        let mut master = HashSet::new();
        let mut folders = HashSet::new();
        for stream in publication.streams.values() {
            let folder = stream.definition.master_folder();
            master.extend(
                stream
                    .files
                    .iter()
                    .map(|file| format!("{folder}/{}", file.path)),
            );
            folders.extend([folder, stream.definition.log_folder()]);
        }
        let is_kept = |path: &str| {
            let folder = path.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
            let is_data = path.ends_with(".parquet") && !path.contains("/_delta_log/");
            let is_stopped = stopped.contains(&folder);
            let is_in_stream = folders.contains(&folder);
            is_stopped || is_in_stream && (!is_data || master.contains(path))
        };
        for root in ["views", "streams", "log", "keys"] {
            for info in self.disk.list(root)? {
                if !named.contains(&info.path) && !is_kept(&info.path) {
                    tracing::info!(path = info.path, "removing a file that nothing names");
                    self.disk.remove(&info.path)?;
                }
            }
        }
        Ok(())
    }
}

fn keys_paths(stream: &StreamState) -> impl Iterator<Item = &str> {
    stream.keys.iter().map(|file| file.path.as_str())
}

/// Every states file, keys file and master folder an entry names.
fn names(publication: &Publication) -> BTreeSet<String> {
    let files = publication
        .views
        .values()
        .flat_map(|view| states_files(view));
    let folders = publication
        .streams
        .values()
        .map(|stream| stream.definition.master_folder());
    let keys = publication.streams.values().flat_map(|s| keys_paths(s));
    files
        .map(|file| file.path.clone())
        .chain(folders)
        .chain(keys.map(str::to_owned))
        .collect()
}

pub fn states_files(state: &ViewState) -> impl Iterator<Item = &StatesFile> {
    let version = state.version.iter().flat_map(|version| &version.files);
    version.chain(state.panes.iter().flat_map(|pane| &pane.files))
}

pub fn compile(state: &ViewState) -> anyhow::Result<View> {
    let schema = stored_schema(&schema_of(&state.stream_columns));
    View::compile(&state.select, &|name| {
        (name == state.stream).then(|| Arc::clone(&schema))
    })
    .with_context(|| format!("view {} cannot be compiled any more", state.name))
}

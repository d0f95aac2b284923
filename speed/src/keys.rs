//! Which requests were stored already: the idempotency keys of one stream.
//!
//! A key names a body, a body has blocks, and each block that was stored is remembered with
//! its digest and its answer. The writer adds to it; requests look into it before they parse.
//!
//! ```text
//!                        remember                    seal + publish
//!   frame in the log ───────────────▶ unsaved body ────────────────▶ keys file
//!          ▲                               │                             │
//!          └─────────── replay ────────────┴──────────── start ──────────┘
//! ```
//!
//! The window is bounded by age and by count of keys. What falls out of it counts as new. A
//! body is remembered or forgotten as a whole, and never forgotten while a request sends it:
//! otherwise a repeated one would find its end and miss its beginning.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lambdalake_data::Digest;
use lambdalake_data::keys::{BlockMark, Body, StoredBlock, offsets_of};
use lambdalake_data::log::FrameHeader;

/// Stands between the key and the number of a block in frames of older versions.
const OLD_BLOCK_MARK: char = '\u{1f}';

/// What a request with a key says of the block it brings.
#[derive(Clone, Debug)]
pub struct BlockKey {
    pub key: String,
    pub number: u64,
    pub digest: Digest,
    pub is_last: bool,
    /// The size of blocks that the body is cut with.
    pub block_bytes: u64,
}

/// What is known of a block that is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: store it.
    New,
    /// It is stored; the body may have ended with it.
    Stored { block: StoredBlock, is_last: bool },
    /// The key belongs to another body.
    Other,
}

/// How long keys are remembered.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub age: Duration,
    /// Keys of one stream.
    pub keys: usize,
}

/// The keys of requests that are being answered, of all streams: a key is in progress from the
/// beginning of its request to its end, whatever that is.
#[derive(Debug, Default)]
pub struct RunningKeys(Mutex<HashMap<String, HashSet<String>>>);

/// A key that is in progress until this is dropped.
#[derive(Debug)]
pub struct RunningKey {
    keys: Arc<RunningKeys>,
    stream: String,
    key: String,
}

impl RunningKeys {
    /// `None` if another request has the key.
    pub fn begin(self: &Arc<Self>, stream: &str, key: &str) -> Option<RunningKey> {
        let mut streams = lock(&self.0);
        let is_new = streams
            .entry(stream.to_owned())
            .or_default()
            .insert(key.to_owned());
        is_new.then(|| RunningKey {
            keys: Arc::clone(self),
            stream: stream.to_owned(),
            key: key.to_owned(),
        })
    }

    fn contains(&self, stream: &str, key: &str) -> bool {
        lock(&self.0)
            .get(stream)
            .is_some_and(|keys| keys.contains(key))
    }
}

impl Drop for RunningKey {
    fn drop(&mut self) {
        let mut streams = lock(&self.keys.0);
        if let Some(keys) = streams.get_mut(&self.stream) {
            keys.remove(&self.key);
            if keys.is_empty() {
                streams.remove(&self.stream);
            }
        }
    }
}

/// Bodies that no keys file has as they are, and what a file of them lets the log forget.
#[derive(Debug)]
pub struct UnsavedKeys {
    pub bodies: Vec<Body>,
    /// The newest group of the log whose keys are all in `bodies` or in a file.
    pub group: u64,
    /// No remembered body is older; files whose bodies all are may go.
    pub oldest_micros: i64,
}

/// The remembered keys of one stream, shared by its writer and the requests to it. A mutex:
/// each use is a look-up or an insertion.
#[derive(Debug)]
pub struct RememberedKeys(Mutex<State>);

#[derive(Debug)]
struct State {
    stream: String,
    window: Window,
    running: Arc<RunningKeys>,
    bodies: HashMap<Arc<str>, Remembered>,
    /// In the order in which they are forgotten: by age, then as they came.
    order: BTreeMap<(i64, u64), Arc<str>>,
    next_sequence: u64,
    /// With the group of the log that changed them last.
    unsaved: HashMap<Arc<str>, u64>,
}

#[derive(Debug)]
struct Remembered {
    body: Body,
    sequence: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RememberedKeys {
    /// Begins with the bodies of the keys files, oldest file first.
    pub fn new(
        stream: &str,
        window: Window,
        running: Arc<RunningKeys>,
        saved: impl IntoIterator<Item = Body>,
    ) -> Self {
        let mut state = State {
            stream: stream.to_owned(),
            window,
            running,
            bodies: HashMap::new(),
            order: BTreeMap::new(),
            next_sequence: 0,
            unsaved: HashMap::new(),
        };
        for body in saved {
            state.put(body);
        }
        Self(Mutex::new(state))
    }

    /// A request with this key begins. Forgets an older body of the key that is out of the
    /// window; otherwise tells the size of blocks that body was cut with, if it is known.
    pub fn begin(&self, key: &str, now_micros: i64) -> Option<u64> {
        let mut state = lock(&self.0);
        let oldest = state.oldest_allowed(now_micros);
        let body = &state.bodies.get(key)?.body;
        if body.last_micros <= oldest {
            state.remove(key);
            return None;
        }
        Some(body.block_bytes).filter(|&bytes| bytes > 0)
    }

    /// What is known of a block.
    pub fn look_up(&self, key: &str, number: u64, digest: Digest) -> Known {
        let state = lock(&self.0);
        let Some(Remembered { body, .. }) = state.bodies.get(key) else {
            return Known::New;
        };
        match body.blocks.get(&number) {
            Some(block) if block.digest.is_some_and(|known| known != digest) => Known::Other,
            Some(block) => Known::Stored {
                block: block.clone(),
                is_last: body.last_block == Some(number),
            },
            None if body.last_block.is_some_and(|last| number > last) => Known::Other,
            None => Known::New,
        }
    }

    /// When the body of this key began; `None` if it is not known.
    pub fn began(&self, key: &str) -> Option<i64> {
        let state = lock(&self.0);
        Some(state.bodies.get(key)?.body.began_micros)
    }

    /// Takes what a frame says that is in the log for good. Frames come in the log's order,
    /// the same one maybe twice.
    pub fn remember(&self, header: &FrameHeader) {
        let Some(key) = &header.idempotency_key else {
            return;
        };
        lock(&self.0).remember(key, header);
    }

    /// Forgets what is out of the window.
    pub fn expire(&self, now_micros: i64) {
        lock(&self.0).expire(now_micros);
    }

    /// What a keys file must have before the log may forget its frames up to `group`.
    pub fn unsaved(&self, group: u64) -> UnsavedKeys {
        let state = lock(&self.0);
        let mut bodies: Vec<Body> = state
            .unsaved
            .keys()
            .filter_map(|key| Some(state.bodies.get(key)?.body.clone()))
            .collect();
        bodies.sort_by(|a, b| (a.last_micros, &a.key).cmp(&(b.last_micros, &b.key)));
        let oldest = state.order.first_key_value();
        UnsavedKeys {
            bodies,
            group,
            oldest_micros: oldest.map_or(i64::MAX, |((micros, _), _)| *micros),
        }
    }

    pub fn unsaved_count(&self) -> usize {
        lock(&self.0).unsaved.len()
    }

    /// A published keys file has what [`RememberedKeys::unsaved`] gave for this group.
    pub fn saved(&self, group: u64) {
        lock(&self.0).unsaved.retain(|_, changed| *changed > group);
    }
}

impl State {
    fn put(&mut self, body: Body) {
        self.remove(&body.key.clone());
        let key: Arc<str> = Arc::from(body.key.as_str());
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.order
            .insert((body.last_micros, sequence), Arc::clone(&key));
        self.bodies.insert(key, Remembered { body, sequence });
    }

    fn remove(&mut self, key: &str) -> Option<Body> {
        let Remembered { body, sequence } = self.bodies.remove(key)?;
        self.order.remove(&(body.last_micros, sequence));
        self.unsaved.remove(key);
        Some(body)
    }

    fn remember(&mut self, key: &str, header: &FrameHeader) {
        let now = header.ingested_at_micros;
        let (key, number, mark) = match &header.block {
            Some(mark) => (key, mark.number, Some(mark)),
            None => old_block(key),
        };
        let known = self.bodies.get(key).map(|kept| kept.body.began_micros);
        let began = mark.map_or(known.unwrap_or(now), |mark| mark.began_micros);
        let mut body = match known {
            Some(known) if known == began => match self.remove_unchanged(key, number) {
                Some(body) => body,
                None => return,
            },
            // A frame of a body before the one that is remembered.
            Some(known) if known > began => return,
            _ => Body {
                key: key.to_owned(),
                began_micros: began,
                last_micros: now,
                block_bytes: mark.map_or(0, |mark| mark.block_bytes),
                last_block: None,
                blocks: BTreeMap::new(),
            },
        };
        if let Entry::Vacant(place) = body.blocks.entry(number) {
            place.insert(StoredBlock {
                digest: mark.map(|mark| mark.digest),
                rejected: mark.map_or(0, |mark| mark.rejected),
                offsets: offsets_of(&header.range),
            });
        }
        if mark.is_some_and(|mark| mark.is_last) {
            body.last_block = Some(number);
        }
        body.last_micros = body.last_micros.max(now);
        self.put(body);
        self.unsaved.insert(Arc::from(key), header.group);
    }

    /// Takes a body out to add a block; `None` if it has the block already.
    fn remove_unchanged(&mut self, key: &str, number: u64) -> Option<Body> {
        let has_it = self.bodies.get(key)?.body.blocks.contains_key(&number);
        if has_it { None } else { self.remove(key) }
    }

    fn oldest_allowed(&self, now_micros: i64) -> i64 {
        let age = i64::try_from(self.window.age.as_micros()).unwrap_or(i64::MAX);
        now_micros.saturating_sub(age)
    }

    fn expire(&mut self, now_micros: i64) {
        let oldest = self.oldest_allowed(now_micros);
        let mut excess = self.bodies.len().saturating_sub(self.window.keys);
        let mut gone = Vec::new();
        for ((last_micros, _), key) in &self.order {
            if excess == 0 && *last_micros > oldest {
                break;
            }
            if !self.running.contains(&self.stream, key) {
                gone.push(Arc::clone(key));
                excess = excess.saturating_sub(1);
            }
        }
        for key in gone {
            self.remove(&key);
        }
    }
}

/// The key, the number and no mark, of a frame of an older version.
fn old_block(key: &str) -> (&str, u64, Option<&BlockMark>) {
    match key.split_once(OLD_BLOCK_MARK) {
        Some((key, number)) => (key, number.parse().unwrap_or(0), None),
        None => (key, 0, None),
    }
}

#[cfg(test)]
mod tests;

//! A writer, its log and its keys files against a model, through flushes and crashes anywhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use lambdalake_data::log::Log;
use lambdalake_data::schema::columns_of;
use lambdalake_data::{Clock, Digest, Digester};
use lambdalake_speed::SpeedError;
use lambdalake_speed::keys::{BlockKey, Known, RememberedKeys, Window};
use lambdalake_speed::writer::{Replayed, Request, StreamWriter, WriterLimits};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Many enough that files are combined, few enough that each is seen again.
const KEYS: u64 = 24;
const BLOCKS: u64 = 3;

#[derive(Debug, Default)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_micros(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.now_micros() as u64)
    }
}

fn digest(key: u64, number: u64) -> Digest {
    let mut digester = Digester::default();
    digester.add(&key.to_le_bytes());
    digester.add(&number.to_le_bytes());
    digester.finish()
}

fn definition() -> StreamDefinition {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
    StreamDefinition {
        name: "s".to_owned(),
        incarnation: 1,
        schema_id: 1,
        types_since: 0,
        columns: columns_of(&schema).expect("columns"),
        event_time: None,
        shard_key: None,
        shards: 1,
        input: Default::default(),
    }
}

/// A stream: what is on disk, and the process that has it open.
struct World {
    disk: Arc<Disk>,
    clock: Arc<TestClock>,
    /// What the newest publication entry says.
    state: StreamState,
    writer: Option<StreamWriter>,
    keys: Arc<RememberedKeys>,
    /// By key, what was acknowledged of its blocks: where their rows begin.
    model: BTreeMap<u64, BTreeMap<u64, Vec<u64>>>,
}

fn window() -> Window {
    Window {
        age: Duration::from_secs(3_600),
        keys: 10_000,
    }
}

impl World {
    fn new(folder: &Path) -> Self {
        let state = StreamState {
            definition: definition(),
            master_version: 0,
            cut: Cut::start(1),
            files: Vec::new(),
            created_at_micros: 0,
            comments: Default::default(),
            keys: Vec::new(),
        };
        let mut world = Self {
            disk: Disk::open(folder).expect("a disk"),
            clock: Arc::default(),
            state,
            writer: None,
            keys: Arc::new(RememberedKeys::new("s", window(), Arc::default(), [])),
            model: BTreeMap::new(),
        };
        world.start();
        world
    }

    /// Ends the process, wherever it is, and starts another.
    fn start(&mut self) {
        self.writer = None;
        let saved = load_keys(self.disk.as_ref(), &self.state.keys).expect("keys");
        self.keys = Arc::new(RememberedKeys::new("s", window(), Arc::default(), saved));
        let mut frames = Vec::new();
        let disk: Arc<Disk> = self.disk.clone();
        let folder = self.state.definition.log_folder();
        let log = Log::open(disk, &folder, 1, &self.state.cut, &mut |header, events| {
            frames.push((header, events));
            Ok(())
        });
        let limits = WriterLimits {
            queue_requests: 8,
            group_requests: 8,
            tail_bytes: usize::MAX,
            part_bytes: 400,
        };
        let writer = StreamWriter::recover(
            self.state.definition.clone(),
            &self.state.cut,
            Replayed {
                log: log.expect("a log"),
                frames,
                flushed_at_micros: None,
            },
            Arc::clone(&self.keys),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            limits,
            Box::new(|_| {}),
        );
        self.writer = Some(writer.expect("a writer"));
    }

    fn writer(&mut self) -> &mut StreamWriter {
        self.writer.as_mut().expect("it runs")
    }

    /// Sends blocks as one group, as producers do that repeat what they like.
    fn send(&mut self, blocks: &[(u64, u64)], rows: usize) {
        let mut replies = Vec::new();
        let requests = blocks.iter().map(|&(key, number)| {
            let (reply, answer) = tokio::sync::oneshot::channel();
            replies.push((key, number, answer));
            let values = Int64Array::from(vec![key as i64; rows]);
            Request {
                events: RecordBatch::try_from_iter([("n", Arc::new(values) as _)]).expect("rows"),
                schema_id: 1,
                new_fields: false,
                request_id: String::new(),
                producer: None,
                rejected: key,
                key: Some(BlockKey {
                    key: format!("k{key}"),
                    number,
                    digest: digest(key, number),
                    is_last: number + 1 == BLOCKS,
                    block_bytes: 1,
                }),
                reply,
            }
        });
        let requests = requests.collect();
        self.writer().append(requests);
        for (key, number, mut answer) in replies {
            let stored = match answer.try_recv().expect("an answer") {
                Ok(stored) => stored,
                Err(SpeedError::KeyInProgress { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(stored.rejected, key);
            let begins: Vec<u64> = stored.offsets.iter().map(|offsets| offsets.from).collect();
            let blocks = self.model.entry(key).or_default();
            assert_eq!(
                blocks.entry(number).or_insert_with(|| begins.clone()),
                &begins
            );
        }
    }

    fn send_some(&mut self, rng: &mut StdRng) {
        let blocks: Vec<_> = (0..rng.random_range(1..4))
            // The next block, or one that was sent before.
            .map(|_| (rng.random_range(0..KEYS), rng.random_range(0..BLOCKS)))
            .collect();
        self.send(&blocks, rng.random_range(0..3));
    }

    /// A flush that ends after this many of its steps. Meanwhile producers go on.
    fn flush(&mut self, steps: u32, rng: &mut StdRng) {
        let Some(sealed) = self.writer().seal() else {
            return;
        };
        let next = write_unsaved(self.disk.as_ref(), &self.state, &sealed.keys).expect("written");
        self.send_some(rng);
        if steps < 1 {
            return;
        }
        let before = touched_files(&self.state, &next);
        next.apply(&mut self.state);
        if let Some(part) = &sealed.part {
            self.state.cut = part.end().clone();
        }
        self.send_some(rng);
        if steps < 2 {
            return;
        }
        let cut = self.state.cut.clone();
        self.writer().forget(&cut, sealed.keys.group);
        for path in before {
            if self.state.keys.iter().all(|file| file.path != path) {
                self.disk.remove(&path).expect("removed");
            }
        }
    }

    fn check(&self) {
        for key in 0..KEYS {
            for number in 0..BLOCKS {
                let known = self
                    .keys
                    .look_up(&format!("k{key}"), number, digest(key, number));
                let model = self.model.get(&key).and_then(|blocks| blocks.get(&number));
                let begins = match &known {
                    Known::Stored { block, is_last } => {
                        assert_eq!(*is_last, number + 1 == BLOCKS);
                        let begins = block.offsets.iter().map(|offsets| offsets.from);
                        Some(begins.collect::<Vec<u64>>())
                    }
                    Known::New | Known::Other => None,
                };
                assert_eq!(begins.as_ref(), model, "k{key} block {number}");
            }
        }
        let end: u64 = self.state.keys.iter().map(|file| file.keys).sum();
        let files = self.state.keys.len();
        assert!(files <= 8 && end <= 3 * KEYS, "{files} files of {end} keys");
    }
}

#[test]
fn no_key_is_lost_or_doubled_whatever_happens_when() {
    for seed in 0..12 {
        let folder = tempfile::tempdir().expect("a folder");
        let mut world = World::new(folder.path());
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..120 {
            world
                .clock
                .0
                .fetch_add(rng.random_range(0..5), Ordering::Relaxed);
            match rng.random_range(0..10) {
                0..6 => world.send_some(&mut rng),
                6 | 7 => world.flush(2, &mut rng),
                8 => {
                    // A crash in the middle of a flush. Once its entry is published it counts.
                    world.flush(rng.random_range(0..2), &mut rng);
                    world.start();
                }
                _ => world.start(),
            }
            world.check();
        }
        assert!(world.model.len() as u64 > KEYS / 2, "{}", world.model.len());
    }
}

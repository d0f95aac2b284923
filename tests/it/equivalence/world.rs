//! The whole engine in this process, and everything it acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Float64Type, Int32Type, Int64Type};
use futures::TryStreamExt;
use lambdalake::engine::{Engine, Port};
use lambdalake::settings::{Settings, SettingsFlags};
use lambdalake_serving::Engine as _;
use lambdalake_serving::engine::{
    EngineError, ErrorKind, IngestRequest, Layer, QueryRequest, StreamSpec, ViewOptions, ViewSpec,
};
use serde_json::Value;

use super::events;

const STREAM: &str = "events";

pub struct World {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    // None only while it restarts.
    port: Option<Port>,
    /// What was sent and acknowledged, by `id`.
    acknowledged: BTreeMap<i64, Value>,
    /// Runs that a restart cut short.
    excused: BTreeSet<String>,
    next_request: u64,
}

/// A first open or a reopening. The folder's lock may be held for a moment by the last thread
/// of the engine before.
fn open(folder: &Path) -> Port {
    let mut settings = Settings::resolve(SettingsFlags::default(), None).expect("settings");
    settings.data_dir = folder.to_path_buf();
    settings.flush_age = Duration::from_secs(3600);
    settings.log_segment_bytes = 16 << 10;
    for _ in 0..500 {
        match Engine::open(settings.clone()) {
            Ok(engine) => return Port(engine),
            Err(error) if format!("{error:#}").contains("in use") => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("the engine does not open: {error:#}"),
        }
    }
    panic!("the engine before never let go of the folder's lock");
}

impl World {
    pub fn open(declared: bool, shards: u32, shard_key: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = open(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let world = Self {
            folder,
            runtime,
            port: Some(port),
            acknowledged: BTreeMap::new(),
            excused: BTreeSet::new(),
            next_request: 0,
        };
        let spec = StreamSpec {
            name: STREAM.to_owned(),
            if_not_exists: false,
            fields: if declared { events::fields() } else { vec![] },
            event_time: declared.then(|| "ts".to_owned()),
            shard_key: shard_key.map(str::to_owned),
            shards: Some(shards),
            keeps_rest: false,
            input: Default::default(),
            comments: Default::default(),
        };
        let made = world.runtime.block_on(world.port().create_stream(spec));
        made.expect("create the stream");
        world
    }

    fn port(&self) -> &Port {
        self.port.as_ref().expect("the engine is open")
    }

    /// Sends events, and `bad` records that must be turned away without a trace.
    pub fn ingest(&mut self, events: Vec<Value>, bad: usize) {
        let mut lines: Vec<String> = events.iter().map(Value::to_string).collect();
        for at in 0..bad {
            let line = lines.len().min(at);
            lines.insert(line, r#"{"id": -1, "i": "not a number"}"#.to_owned());
        }
        self.next_request += 1;
        let request = IngestRequest {
            stream: STREAM.to_owned(),
            format: Some("ndjson".to_owned()),
            content_type: None,
            encoding: Default::default(),
            producer: None,
            idempotency_key: None,
            body: Box::pin(futures::stream::iter([
                Ok((lines.join("\n") + "\n").into()),
            ])),
            request_id: format!("request-{}", self.next_request),
        };
        let reply = self.runtime.block_on(self.port().ingest(request));
        let reply = reply.expect("ingest");
        let counts = (reply.accepted as usize, reply.rejected as usize);
        assert_eq!(counts, (events.len(), bad), "{:?}", reply.errors);
        for event in events {
            let id = event["id"].as_i64().expect("an id");
            self.acknowledged.insert(id, event);
        }
    }

    pub fn create_view(&self, name: &str, select: &str) -> Result<(), EngineError> {
        let spec = ViewSpec {
            name: name.to_owned(),
            if_not_exists: false,
            select: select.to_owned(),
            options: ViewOptions::default(),
        };
        self.runtime.block_on(self.port().create_view(spec))
    }

    pub fn flush(&self) {
        let flushed = self.runtime.block_on(self.port().flush(Some(STREAM)));
        flushed.expect("flush");
    }

    /// Starts a recompute, unless the view has one; waits for it if told so.
    pub fn recompute(&self, view: &str, wait: bool) {
        match self.runtime.block_on(self.port().recompute(view)) {
            Ok(run) if wait => {
                let ended = self.runtime.block_on(self.port().wait_run(&run));
                ended.expect("the recompute agrees with what was stored");
            }
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => panic!("recompute {view}: {error}"),
        }
    }

    /// Runs that have not ended.
    fn running(&self) -> Vec<String> {
        running(&self.port().runs())
    }

    /// Waits for every run, and demands that none found a difference.
    pub fn runs_end_well(&self) {
        let mut runs = self.port().runs();
        // The engine starts some by itself meanwhile.
        while let Some(run) = running(&runs).first() {
            self.runtime.block_on(self.port().wait_run(run)).ok();
            runs = self.port().runs();
        }
        for run in runs {
            let excused = run["run_id"]
                .as_str()
                .is_some_and(|id| self.excused.contains(id));
            assert!(excused || run["status"] == "succeeded", "{run:#}");
        }
    }

    /// Ends the engine, tidily or by letting go of it, and opens its folder again.
    pub fn restart(&mut self, tidily: bool) {
        self.excused.extend(self.running());
        if let Some(Port(engine)) = self.port.take() {
            if tidily {
                engine.shut_down();
            }
            let gone = Arc::downgrade(&engine);
            drop(engine);
            while gone.strong_count() > 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.port = Some(open(self.folder.path()));
    }

    pub fn query(&self, sql: &str) -> RecordBatch {
        let request = QueryRequest {
            sql: sql.to_owned(),
            params: Default::default(),
            layer: Layer::Merged,
            timeout: Duration::from_secs(60),
            max_rows: 1_000_000,
            query_id: "equivalence".to_owned(),
        };
        self.runtime.block_on(async {
            let answer = self.port().query(request).await;
            let answer = answer.unwrap_or_else(|error| panic!("{sql}: {error}"));
            let batches: Vec<RecordBatch> = answer
                .batches
                .try_collect()
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
            concat_batches(&answer.schema, &batches).expect("one schema")
        })
    }

    /// Every event in stream order, after checking that they are what was acknowledged.
    pub fn events(&self) -> RecordBatch {
        let rows = self.query("SELECT * FROM events ORDER BY _shard, _offset");
        assert_eq!(rows.num_rows(), self.acknowledged.len(), "events");
        let column = |name: &str| rows.column_by_name(name).expect("a column");
        let shards = column("_shard").as_primitive::<Int32Type>();
        let offsets = column("_offset").as_primitive::<Int64Type>();
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for row in 0..rows.num_rows() {
            let expected = next.entry(shards.value(row)).or_default();
            assert_eq!(offsets.value(row), *expected, "offsets have no gaps");
            *expected += 1;
        }
        if self.acknowledged.is_empty() {
            return rows;
        }
        let ids = column("id").as_primitive::<Int64Type>();
        let ints = column("i").as_primitive::<Int64Type>();
        let floats = column("x").as_primitive::<Float64Type>();
        let strings = column("s").as_string::<i32>();
        let mut seen = BTreeSet::new();
        for row in 0..rows.num_rows() {
            let id = ids.value(row);
            let sent = self.acknowledged.get(&id);
            let sent = sent.unwrap_or_else(|| panic!("nobody sent event {id}"));
            assert!(seen.insert(id), "event {id} is there twice");
            let int = ints.is_valid(row).then(|| ints.value(row));
            let float = floats.is_valid(row).then(|| floats.value(row).to_bits());
            let string = strings.is_valid(row).then(|| strings.value(row));
            assert_eq!(int, sent["i"].as_i64(), "{sent}");
            assert_eq!(float, sent["x"].as_f64().map(f64::to_bits), "{sent}");
            assert_eq!(string, sent["s"].as_str(), "{sent}");
        }
        rows
    }
}

fn running(runs: &[Value]) -> Vec<String> {
    let has_not_ended = |run: &&Value| run["status"] == "running" || run["status"] == "queued";
    let open = runs.iter().filter(has_not_ended);
    open.filter_map(|run| run["run_id"].as_str().map(str::to_owned))
        .collect()
}

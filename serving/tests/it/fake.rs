//! An engine that remembers what it was asked and fails on demand.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use lambdalake_serving::engine::{
    AlterSpec, AlterViewSpec, Answer, CommentSpec, Engine, EngineError, ErrorKind, Expected,
    Health, IngestReply, IngestRequest, OffsetRange, QueryRequest, QueryStats, RowError,
    StreamSpec, ViewSpec,
};
use serde_json::{Value, json};
use tokio::sync::watch;

pub struct Fake {
    pub context: SessionContext,
    pub ingested: Mutex<Vec<(IngestRequest, Vec<u8>)>>,
    pub asked: Mutex<Vec<String>>,
    pub queries: Mutex<Vec<QueryRequest>>,
    /// Queries that are not dropped yet.
    pub alive: Arc<AtomicUsize>,
    pub is_ready: AtomicBool,
    /// Lists a thousand runs instead of one.
    pub many_runs: AtomicBool,
    /// Batches made by endless queries.
    pub batches: Arc<AtomicUsize>,
    /// The run `run-slow`, as a test changes it.
    pub slow_run: watch::Sender<Value>,
}

impl Fake {
    pub fn new() -> Self {
        Self {
            context: SessionContext::new(),
            ingested: Mutex::default(),
            asked: Mutex::default(),
            queries: Mutex::default(),
            alive: Arc::default(),
            is_ready: AtomicBool::new(true),
            many_runs: AtomicBool::new(false),
            batches: Arc::default(),
            slow_run: watch::Sender::new(json!({"id": "run-slow", "status": "running"})),
        }
    }

    fn note(&self, what: String) -> Result<(), EngineError> {
        self.asked.lock().unwrap().push(what);
        Ok(())
    }

    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }
}

/// Counts a query as long as anything of it lives.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub const KINDS: [(ErrorKind, &str, u16); 13] = [
    (ErrorKind::BadRequest, "bad", 400),
    (ErrorKind::NotFound, "missing", 404),
    (ErrorKind::NotAcceptable, "unlike", 406),
    (ErrorKind::Timeout, "late", 408),
    (ErrorKind::Conflict, "exists", 409),
    (ErrorKind::InProgress, "same", 409),
    (ErrorKind::TooLarge, "large", 413),
    (ErrorKind::UnsupportedMedia, "media", 415),
    (ErrorKind::OutOfMemory, "memory", 422),
    (ErrorKind::Mismatch, "other", 422),
    (ErrorKind::Busy, "busy", 429),
    (ErrorKind::Internal, "bug", 500),
    (ErrorKind::Unavailable, "away", 503),
];

fn numbers(from: i64, to: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

fn exhausted() -> DataFusionError {
    DataFusionError::ResourcesExhausted("the pool is empty".to_owned())
}

#[async_trait]
impl Engine for Fake {
    async fn ingest(&self, request: IngestRequest) -> Result<IngestReply, EngineError> {
        if let Some((kind, code, _)) = KINDS.iter().find(|(_, code, _)| *code == request.stream) {
            return Err(EngineError::new(*kind, code, "as asked").at(3, 14));
        }
        let mut request = request;
        let mut bytes = Vec::new();
        while let Some(piece) = request.body.next().await {
            bytes.extend_from_slice(&piece?);
        }
        let mut reply = IngestReply::default();
        if request.format.as_deref() == Some("arrow") {
            let rows = arrow::ipc::reader::StreamReader::try_new(&bytes[..], None).unwrap();
            reply.accepted = rows.map(|batch| batch.unwrap().num_rows() as u64).sum();
            self.ingested.lock().unwrap().push((request, bytes));
            return Ok(reply);
        }
        let body = String::from_utf8_lossy(&bytes).into_owned();
        for (index, line) in body.lines().enumerate() {
            if line.starts_with('{') {
                reply.accepted += 1;
            } else {
                reply.rejected += 1;
                reply.errors.push(RowError {
                    line: index as u64 + 1,
                    code: "invalid_json".to_owned(),
                    field: None,
                    message: "not an object".to_owned(),
                });
            }
        }
        if reply.accepted > 0 {
            reply.offsets.insert(
                "0".to_owned(),
                OffsetRange {
                    from: 0,
                    to: reply.accepted,
                },
            );
        }
        self.ingested.lock().unwrap().push((request, bytes));
        Ok(reply)
    }

    async fn create_stream(&self, spec: StreamSpec) -> Result<(), EngineError> {
        if spec.name == "taken" {
            return Err(EngineError::new(
                ErrorKind::Conflict,
                "stream_exists",
                "it exists",
            ));
        }
        self.note(format!("create_stream {}", spec.name))
    }

    async fn create_view(&self, spec: ViewSpec) -> Result<(), EngineError> {
        self.note(format!("create_view {}: {}", spec.name, spec.select))
    }

    async fn alter_stream(&self, spec: AlterSpec) -> Result<(), EngineError> {
        self.note(format!("alter_stream {}", spec.stream))
    }

    async fn alter_view(&self, spec: AlterViewSpec) -> Result<(), EngineError> {
        self.note(format!("alter_view {} {:?}", spec.view, spec.change))
    }

    async fn verify_view(&self, view: &str) -> Result<String, EngineError> {
        self.recompute(view).await
    }

    async fn cancel_run(&self, run_id: &str) -> Result<(), EngineError> {
        match self.run(run_id) {
            Some(_) => self.note(format!("cancel_run {run_id}")),
            None => Err(EngineError::not_found("unknown_run", "no such run")),
        }
    }

    async fn drop_stream(&self, name: &str, if_exists: bool) -> Result<(), EngineError> {
        self.note(format!("drop_stream {name} {if_exists}"))
    }

    async fn drop_view(&self, name: &str, if_exists: bool) -> Result<(), EngineError> {
        self.note(format!("drop_view {name} {if_exists}"))
    }

    async fn comment(&self, spec: CommentSpec) -> Result<(), EngineError> {
        self.note(format!("comment {:?} {:?}", spec.target, spec.text))
    }

    async fn flush(&self, stream: Option<&str>) -> Result<(), EngineError> {
        self.note(format!("flush {stream:?}"))
    }

    async fn recompute(&self, view: &str) -> Result<String, EngineError> {
        match view {
            "hits" | "broken" => Ok(format!("run-{view}")),
            "running" => Err(EngineError::new(
                ErrorKind::Conflict,
                "run_active",
                "it runs",
            )),
            _ => Err(EngineError::not_found("unknown_view", "no such view")),
        }
    }

    async fn explain_recompute(&self, view: &str) -> Result<Vec<Expected>, EngineError> {
        if view != "hits" {
            return Err(EngineError::not_found("unknown_view", "no such view"));
        }
        let figure = |name, value: Option<&str>| Expected {
            name,
            value: value.map(str::to_owned),
            unit: "events",
            about: "of the stream".to_owned(),
        };
        Ok(vec![figure("events", Some("12")), figure("time", None)])
    }

    async fn wait_run(&self, run_id: &str) -> Result<Value, EngineError> {
        if run_id == "run-slow" {
            let _alive = Alive::new(&self.alive);
            let mut run = self.slow_run.subscribe();
            let ended = run.wait_for(|run| run["status"] != "running").await;
            return Ok(ended.unwrap().clone());
        }
        Ok(match run_id {
            "run-broken" => json!({"id": run_id, "status": "failed", "error": "audit differs"}),
            _ => json!({"id": run_id, "status": "done", "rows": 5, "seconds": 0.5, "error": null,
                        "audit": {"checked": 3}}),
        })
    }

    fn runs(&self) -> Vec<Value> {
        let many = self.many_runs.load(Ordering::SeqCst);
        vec![json!({"id": "run-hits"}); if many { 1_000 } else { 1 }]
    }

    fn run(&self, id: &str) -> Option<Value> {
        match id {
            "run-slow" => Some(self.slow_run.borrow().clone()),
            _ => self.runs().into_iter().find(|run| run["id"] == id),
        }
    }

    fn streams(&self) -> Vec<Value> {
        vec![json!({"name": "access_log", "rows": 7, "schema": [
            {"name": "ts", "type": "Timestamp(µs, \"UTC\")", "nullable": true},
            {"name": "ip", "type": "Utf8", "nullable": false},
        ]})]
    }

    fn stream(&self, name: &str) -> Option<Value> {
        self.streams()
            .into_iter()
            .find(|stream| stream["name"] == name)
    }

    fn views(&self) -> Vec<Value> {
        vec![
            json!({"name": "hits", "definition": "SELECT count(*) FROM access_log", "schema": [
                {"name": "count", "type": "Int64", "nullable": false},
            ]}),
        ]
    }

    fn view(&self, name: &str) -> Option<Value> {
        self.views().into_iter().find(|view| view["name"] == name)
    }

    fn health(&self) -> Health {
        Health {
            ready: self.is_ready.load(Ordering::SeqCst),
            details: json!({"streams": 1}),
        }
    }

    fn meters(&self) -> lambdalake_serving::metrics::Meters {
        lambdalake_serving::metrics::Meters::nowhere()
    }

    fn metrics_text(&self) -> String {
        String::new()
    }

    async fn query(&self, request: QueryRequest) -> Result<Answer, EngineError> {
        self.queries.lock().unwrap().push(request.clone());
        let alive = Alive::new(&self.alive);
        let sql = request.sql.as_str();
        let batches: SendableRecordBatchStream = if sql.contains("never starts") {
            let _alive = alive;
            std::future::pending::<()>().await;
            unreachable!()
        } else if sql.contains("never ends") {
            let head = futures::stream::iter([Ok(numbers(0, 10))]);
            let rest = futures::stream::pending();
            adapt(numbers(0, 0), head.chain(rest), alive)
        } else if sql.contains("endless") {
            let made = Arc::clone(&self.batches);
            let all = futures::stream::repeat_with(move || {
                made.fetch_add(1, Ordering::SeqCst);
                Ok(numbers(0, 8_192))
            });
            adapt(numbers(0, 0), all, alive)
        } else if sql.contains("fails first") {
            adapt(
                numbers(0, 0),
                futures::stream::iter([Err(exhausted())]),
                alive,
            )
        } else if sql.contains("fails later") {
            // More than is gathered before the status is chosen.
            let all = [Ok(numbers(0, 65_536)), Err(exhausted())];
            adapt(numbers(0, 0), futures::stream::iter(all), alive)
        } else if sql.contains("fails soon") {
            let all = [Ok(numbers(0, 10)), Err(exhausted())];
            adapt(numbers(0, 0), futures::stream::iter(all), alive)
        } else if sql.contains("too many rows") {
            let error = EngineError::new(ErrorKind::OutOfMemory, "row_limit", "too many rows");
            adapt(
                numbers(0, 0),
                futures::stream::iter([Err(error.into())]),
                alive,
            )
        } else {
            let state = self.context.state();
            let dialect = state.config().options().sql_parser.dialect;
            let mut statement = state.sql_to_statement(sql, &dialect)?;
            lambdalake_serving::params::bind(&mut statement, &request.params)?;
            let plan = state.statement_to_plan(statement).await?;
            let frame = self.context.execute_logical_plan(plan).await?;
            let stream = frame.execute_stream().await?;
            let schema = stream.schema();
            let alive_stream = stream.map(move |batch| {
                let _ = &alive;
                batch
            });
            Box::pin(RecordBatchStreamAdapter::new(schema, alive_stream))
        };
        let stats = QueryStats {
            rows_read: AtomicU64::new(12),
            from_batch: AtomicU64::new(10),
            from_speed: AtomicU64::new(2),
            freshness_ms: Some(25),
            batch_version: Some(4),
            lag_events: 0,
            ..QueryStats::default()
        };
        Ok(Answer {
            schema: batches.schema(),
            batches,
            stats: Arc::new(stats),
        })
    }
}

fn adapt<S>(empty: RecordBatch, batches: S, alive: Alive) -> SendableRecordBatchStream
where
    S: futures::Stream<Item = Result<RecordBatch, DataFusionError>> + Send + 'static,
{
    let batches = batches.map(move |batch| {
        let _ = &alive;
        batch
    });
    Box::pin(RecordBatchStreamAdapter::new(empty.schema(), batches))
}

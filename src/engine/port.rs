//! The serving layer's port: what HTTP asks, answered by the engine.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use lambdalake_data::DataError;
use lambdalake_data::input::{self, Format, InputError, Parsed};
use lambdalake_serving::engine::{
    self as port, Answer, EngineError, ErrorKind, Health, IngestReply, IngestRequest, OffsetRange,
    QueryRequest, RowError, StreamSpec, ViewSpec,
};
use lambdalake_speed::SpeedError;
use lambdalake_speed::writer::Request;
use lambdalake_views::ViewError;
use serde_json::Value;

use super::Engine;

/// Rejections listed in an answer; all are counted.
const LISTED_REJECTIONS: usize = 100;
/// Columns of one stream, nested ones included.
const MAX_FIELDS: usize = 2_000;
/// How often a body is parsed again because another request changed the columns.
const PARSE_ATTEMPTS: usize = 16;
/// Names that an auto-created stream takes as its event time, if they are timestamps.
const EVENT_TIME_NAMES: [&str; 6] = [
    "ts",
    "timestamp",
    "time",
    "event_time",
    "@timestamp",
    "created_at",
];

pub(super) fn from_data(error: DataError) -> EngineError {
    if error.is_disk_full() {
        let message = "the data disk is full; nothing of this request was stored, try again once \
                       there is space";
        return EngineError::new(ErrorKind::Unavailable, "disk_full", message).because(error);
    }
    EngineError::internal("the data folder could not be written").because(error)
}

pub(super) fn from_view(error: ViewError) -> EngineError {
    let code = match &error {
        ViewError::UnknownStream { .. } => "unknown_stream",
        ViewError::Invalid { .. } => "invalid_view",
        ViewError::Refused { .. } => "view_cannot_be_split",
        ViewError::Mismatch { .. } => {
            return EngineError::internal("the view could not be compiled").because(error);
        }
        ViewError::Plan(_) => "invalid_view",
    };
    let message = match &error {
        ViewError::Plan(cause) => cause.to_string(),
        other => other.to_string(),
    };
    let kind = match &error {
        ViewError::UnknownStream { .. } => ErrorKind::NotFound,
        _ => ErrorKind::BadRequest,
    };
    EngineError::new(kind, code, message).because(error)
}

pub(super) fn from_speed(error: SpeedError) -> EngineError {
    match error {
        SpeedError::Busy { .. } => EngineError::new(ErrorKind::Busy, "busy", error.to_string()),
        SpeedError::SchemaMoved { .. } => EngineError::new(
            ErrorKind::Busy,
            "schema_moving",
            "the stream's columns change too quickly; send the request again",
        ),
        SpeedError::Closed { .. } => {
            EngineError::new(ErrorKind::Unavailable, "stream_closed", error.to_string())
        }
        SpeedError::Log { source, .. } => match from_data(source) {
            full if full.code == "disk_full" => full,
            other => EngineError {
                kind: ErrorKind::Unavailable,
                code: "log_failed",
                ..other
            },
        },
        SpeedError::Data(error) => from_data(error),
        other => EngineError::internal("the events could not be applied").because(other),
    }
}

fn from_input(error: InputError) -> EngineError {
    let message = error.to_string();
    match error {
        InputError::TooLarge { .. } => {
            EngineError::new(ErrorKind::TooLarge, "body_too_large", message)
        }
        InputError::UnknownFormat { .. } => EngineError::bad_request("unknown_format", message),
        InputError::Compression { .. } => EngineError::bad_request("invalid_gzip", message),
        InputError::Syntax { line, column, .. } => {
            EngineError::bad_request("invalid_json", message).at(line, column)
        }
        other => EngineError::bad_request("invalid_body", message).because(other),
    }
}

fn panicked(error: tokio::task::JoinError) -> EngineError {
    EngineError::internal("a worker ended unexpectedly").because(error)
}

impl Engine {
    /// Runs blocking work (planning, flushing, syncing) off the I/O runtime.
    async fn off_io<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let engine = Arc::clone(self);
        self.compute
            .spawn_blocking(move || work(&engine))
            .await
            .map_err(panicked)
    }

    fn parse(&self, request: &IngestRequest, schema: &SchemaRef) -> Result<Parsed, EngineError> {
        let inflated;
        let body: &[u8] = if request.gzip {
            inflated = input::decompress_gzip(&request.body, self.settings.max_body_bytes)
                .map_err(from_input)?;
            &inflated
        } else {
            &request.body
        };
        let format = match request.format.as_deref() {
            None | Some("auto") => input::sniff(body, request.content_type.as_deref()),
            Some(name) => name.parse::<Format>().map_err(from_input)?,
        };
        let limits = input::Limits {
            max_rejections: LISTED_REJECTIONS,
            max_line_bytes: self.settings.max_line_bytes,
            max_fields: MAX_FIELDS,
            max_depth: input::MAX_DEPTH,
        };
        input::parse(body, format, schema, &limits).map_err(from_input)
    }

    /// Makes a stream out of a first batch, if the settings allow it.
    fn auto_create(
        self: &Arc<Self>,
        request: &IngestRequest,
    ) -> Result<Option<Parsed>, EngineError> {
        if !self.settings.auto_create_streams {
            return Err(unknown_stream(&request.stream));
        }
        let parsed = self.parse(request, &Arc::new(Schema::empty()))?;
        if parsed.batch.num_rows() == 0 {
            return Ok(Some(parsed));
        }
        let schema = parsed.batch.schema();
        let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        let is_time = |name: &&str| {
            schema
                .field_with_name(name)
                .is_ok_and(|field| matches!(field.data_type(), DataType::Timestamp(..)))
        };
        let event_time = EVENT_TIME_NAMES.iter().find(|name| is_time(name));
        self.make_stream(StreamSpec {
            name: request.stream.clone(),
            if_not_exists: true,
            fields,
            event_time: event_time.map(|name| (*name).to_owned()),
            shard_key: None,
            shards: Some(1),
        })?;
        Ok(None)
    }

    async fn ingest_once(
        self: &Arc<Self>,
        request: &Arc<IngestRequest>,
    ) -> Result<Option<IngestReply>, EngineError> {
        let known = {
            let snapshot = self.publisher.snapshot();
            snapshot
                .streams
                .get(&request.stream)
                .map(|stream| Arc::clone(&stream.definition))
        };
        let Some(definition) = known else {
            let request = Arc::clone(request);
            let parsed = self
                .off_io(move |engine| engine.auto_create(&request))
                .await??;
            return Ok(parsed.map(|parsed| reply_of(parsed, None)));
        };
        let body = Arc::clone(request);
        let schema = definition.user_schema();
        let parsed = self
            .off_io(move |engine| engine.parse(&body, &schema))
            .await??;
        if parsed.batch.num_rows() == 0 {
            return Ok(Some(reply_of(parsed, None)));
        }
        let runtime = self.stream_runtime(&request.stream).ok_or_else(|| {
            let message = format!("stream {} is being created or dropped", request.stream);
            EngineError::new(ErrorKind::Busy, "creating", message)
        })?;
        let (reply, answered) = tokio::sync::oneshot::channel();
        runtime
            .writer
            .append(Request {
                events: parsed.batch.clone(),
                schema_id: definition.schema_id,
                new_fields: parsed.new_fields,
                request_id: request.request_id.clone(),
                producer: request.producer.clone(),
                idempotency_key: request.idempotency_key.clone(),
                reply,
            })
            .map_err(from_speed)?;
        drop(runtime);
        let answer = answered.await.map_err(|_| {
            let reason = "its writer stopped before it answered".to_owned();
            from_speed(SpeedError::Closed {
                stream: request.stream.clone(),
                reason,
            })
        })?;
        match answer {
            Ok(range) => Ok(Some(reply_of(parsed, Some(&range)))),
            Err(SpeedError::SchemaMoved { .. }) => Ok(None),
            Err(error) => Err(from_speed(error)),
        }
    }
}

fn unknown_stream(name: &str) -> EngineError {
    let message = format!("there is no stream {name}; create it with CREATE TABLE");
    EngineError::not_found("unknown_stream", message)
}

fn reply_of(parsed: Parsed, range: Option<&lambdalake_data::CutRange>) -> IngestReply {
    let errors = parsed
        .rejections
        .into_iter()
        .map(|rejection| RowError {
            line: rejection.line,
            code: rejection.code.to_owned(),
            field: rejection.field,
            message: rejection.message,
        })
        .collect();
    let offsets = range.map(|range| {
        (0..range.to.shards())
            .map(|shard| (shard, range.from.offset(shard), range.to.offset(shard)))
            .filter(|(_, from, to)| from < to)
            .map(|(shard, from, to)| (shard.to_string(), OffsetRange { from, to }))
            .collect()
    });
    IngestReply {
        accepted: range.map_or(0, lambdalake_data::CutRange::events),
        rejected: parsed.rejected,
        errors,
        offsets: offsets.unwrap_or_default(),
    }
}

/// The engine behind the port. A newtype, because the engine's own methods take `Arc<Self>`.
pub struct Port(pub Arc<Engine>);

#[async_trait]
impl port::Engine for Port {
    async fn ingest(&self, request: IngestRequest) -> Result<IngestReply, EngineError> {
        lambdalake_serving::statement::check_name(&request.stream)?;
        let request = Arc::new(request);
        for _ in 0..PARSE_ATTEMPTS {
            if let Some(reply) = self.0.ingest_once(&request).await? {
                return Ok(reply);
            }
        }
        Err(from_speed(SpeedError::SchemaMoved {
            stream: request.stream.clone(),
        }))
    }

    async fn create_stream(&self, spec: StreamSpec) -> Result<(), EngineError> {
        self.0
            .off_io(move |engine| engine.make_stream(spec))
            .await?
    }

    async fn create_view(&self, spec: ViewSpec) -> Result<(), EngineError> {
        self.0
            .off_io(move |engine| {
                let name = spec.name.clone();
                let created = engine.make_view(spec)?;
                let snapshot = engine.publisher.snapshot();
                let has_history = snapshot
                    .views
                    .get(&name)
                    .is_some_and(|view| !view.gaps().is_empty());
                if created && has_history {
                    // Exact from the first query on either way; this makes it quick.
                    if let Err(error) = engine.start_recompute(&name) {
                        tracing::warn!(view = name, %error, "not filled yet; recompute it");
                    }
                }
                Ok(())
            })
            .await?
    }

    async fn drop_stream(&self, name: &str, if_exists: bool) -> Result<(), EngineError> {
        let name = name.to_owned();
        self.0
            .off_io(move |engine| engine.remove_stream(&name, if_exists))
            .await?
    }

    async fn drop_view(&self, name: &str, if_exists: bool) -> Result<(), EngineError> {
        let name = name.to_owned();
        self.0
            .off_io(move |engine| engine.remove_view(&name, if_exists))
            .await?
    }

    async fn flush(&self, stream: Option<&str>) -> Result<(), EngineError> {
        let streams = match stream {
            Some(name) => vec![
                self.0
                    .stream_runtime(name)
                    .ok_or_else(|| unknown_stream(name))?,
            ],
            None => self.0.all_streams(),
        };
        self.0
            .off_io(move |engine| {
                streams.iter().try_for_each(|stream| {
                    engine.flush_stream(stream).map_err(|error| {
                        match error.downcast::<DataError>() {
                            Ok(error) => from_data(error),
                            Err(error) => EngineError::internal("the flush failed").because(error),
                        }
                    })
                })
            })
            .await?
    }

    async fn recompute(&self, view: &str) -> Result<String, EngineError> {
        self.0.start_recompute(view)
    }

    async fn wait_run(&self, run_id: &str) -> Result<Value, EngineError> {
        self.0.run_ended(run_id).await;
        let run = self.run(run_id).ok_or_else(|| {
            EngineError::not_found("unknown_run", format!("there is no run {run_id}"))
        })?;
        match run["error"].as_str() {
            // The old version stays and answers are exact; the caller looks at the run.
            Some(error) => Err(EngineError::new(ErrorKind::Conflict, "run_failed", error)),
            None => Ok(run),
        }
    }

    fn runs(&self) -> Vec<Value> {
        self.0
            .history
            .all()
            .iter()
            .rev()
            .map(|run| self.0.describe_run(run))
            .collect()
    }

    fn run(&self, id: &str) -> Option<Value> {
        self.0.history.get(id).map(|run| self.0.describe_run(&run))
    }

    fn streams(&self) -> Vec<Value> {
        let snapshot = self.0.publisher.snapshot();
        snapshot
            .streams
            .values()
            .map(|stream| self.0.describe_stream(stream))
            .collect()
    }

    fn stream(&self, name: &str) -> Option<Value> {
        let snapshot = self.0.publisher.snapshot();
        snapshot
            .streams
            .get(name)
            .map(|stream| self.0.describe_stream(stream))
    }

    fn views(&self) -> Vec<Value> {
        let snapshot = self.0.publisher.snapshot();
        snapshot
            .views
            .values()
            .map(|view| self.0.describe_view(view))
            .collect()
    }

    fn view(&self, name: &str) -> Option<Value> {
        let snapshot = self.0.publisher.snapshot();
        snapshot
            .views
            .get(name)
            .map(|view| self.0.describe_view(view))
    }

    fn health(&self) -> Health {
        self.0.describe_health()
    }

    async fn query(&self, request: QueryRequest) -> Result<Answer, EngineError> {
        let snapshot = self.0.publisher.snapshot();
        self.0
            .queries
            .run(snapshot, request, self.0.clock.now_micros())
            .await
    }
}

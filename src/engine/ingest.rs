//! From one request body to acknowledged events: parse, append, and again when the columns
//! changed in between.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use lambdalake_data::input::{self, Format, InputError, Parsed};
use lambdalake_data::schema::{StreamDefinition, columns_of};
use lambdalake_data::widen::{never_widening, widened};
use lambdalake_serving::engine::{
    EngineError, ErrorKind, IngestReply, IngestRequest, OffsetRange, RowError, StreamSpec,
};
use lambdalake_speed::SpeedError;
use lambdalake_speed::writer::Request;

use super::port::{from_data, from_speed, unknown_stream};
use super::{Engine, StreamRuntime, lock};

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

impl Engine {
    /// Parses, appends and applies one request; returns once it is on disk and visible.
    pub(super) async fn ingest(
        self: &Arc<Self>,
        request: IngestRequest,
    ) -> Result<IngestReply, EngineError> {
        lambdalake_serving::statement::check_name(&request.stream)?;
        let request = Arc::new(request);
        for _ in 0..PARSE_ATTEMPTS {
            if let Some(reply) = self.ingest_once(&request).await? {
                return Ok(reply);
            }
        }
        Err(from_speed(SpeedError::SchemaMoved {
            stream: request.stream.clone(),
        }))
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

    /// Parses under a stream's columns, and widens those that must. `None` if the columns have
    /// changed, by this or by another request: parse again under the newest ones.
    fn parse_widening(
        self: &Arc<Self>,
        stream: &StreamRuntime,
        definition: &StreamDefinition,
        request: &IngestRequest,
    ) -> Result<Option<Parsed>, EngineError> {
        let mut fixed = lock(&stream.never_widened).clone();
        for _ in 0..PARSE_ATTEMPTS {
            let schema = never_widening(&definition.user_schema(), &fixed);
            let parsed = self.parse(request, &schema)?;
            let columns = columns_of(parsed.batch.schema_ref()).map_err(from_data)?;
            if widened(&definition.columns, &columns).is_empty() {
                return Ok(Some(parsed));
            }
            let refused = self.widen(stream, &definition.columns, &columns)?;
            if refused.is_empty() {
                return Ok(None);
            }
            fixed.extend(refused);
        }
        Ok(None)
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
            keeps_rest: false,
            comments: Default::default(),
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
        let runtime = self.stream_runtime(&request.stream).ok_or_else(|| {
            let message = format!("stream {} is being created or dropped", request.stream);
            EngineError::new(ErrorKind::Busy, "creating", message)
        })?;
        let (body, stream, of) = (
            Arc::clone(request),
            Arc::clone(&runtime),
            Arc::clone(&definition),
        );
        let parsed = self
            .off_io(move |engine| engine.parse_widening(&stream, &of, &body))
            .await??;
        let Some(parsed) = parsed else {
            return Ok(None);
        };
        if parsed.batch.num_rows() == 0 {
            return Ok(Some(reply_of(parsed, None)));
        }
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

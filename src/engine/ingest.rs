//! From one request body to acknowledged events: block by block, while the body arrives.
//!
//! ```text
//!  socket ─▶ gather ─▶ Intake (decoder) ─▶ Block ─▶ parse ─▶ append ─▶ answer
//!  (I/O runtime)       └──────── compute runtime ────────┘  (writer)
//! ```
//!
//! One block is one append: it is stored whole or not at all. The next bytes are asked of the
//! socket only when the block before is on disk, so a fast client waits for a slow disk and
//! the memory of a request does not grow with its body.

mod intake;
mod keyed;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use lambdalake_data::input::{
    self, Block, DecoderOptions, Encoding, Format, InputError, InputOptions, Parsed, Rejection,
    Target,
};
use lambdalake_data::keys::{ShardOffsets, StoredBlock};
use lambdalake_data::schema::{Column, StreamDefinition, columns_of};
use lambdalake_data::widen::{never_widening, widened};
use lambdalake_serving::engine::{
    EngineError, ErrorKind, IngestBody, IngestReply, IngestRequest, OffsetRange, RowError,
    StreamSpec,
};
use lambdalake_speed::SpeedError;
use lambdalake_speed::keys::BlockKey;
use lambdalake_speed::writer::Request;

use self::intake::{Intake, Taken};
use self::keyed::Offered;
use super::port::{from_data, from_speed, unknown_stream};
use super::{Engine, StreamRuntime, lock};

/// Rejections listed in an answer; all are counted.
const LISTED_REJECTIONS: usize = 100;
/// Columns of one stream, nested ones included.
const MAX_FIELDS: usize = 2_000;
/// How often a block is parsed again because another request changed the columns.
const PARSE_ATTEMPTS: usize = 16;
/// Bytes of a body taken from the socket before they are worked on: most bodies are smaller,
/// and are then handed to the compute runtime once.
const GATHERED_BYTES: usize = 1024 * 1024;
/// Pause before a block is offered again to a stream that is full, unless a flush ends first.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// How often the first block of a body is offered to a full tail: two seconds, in which a flush
/// that keeps up makes room. A client that is refused sends, and we read, the same body again.
const FIRST_ATTEMPTS: usize = 100;
/// How often later ones are, or a large body could never be stored: 30 seconds, within which a
/// flush catches up or is in trouble.
const LATER_ATTEMPTS: usize = 1_500;
/// Names that an auto-created stream takes as its event time, if they are timestamps.
const EVENT_TIME_NAMES: [&str; 6] = [
    "ts",
    "timestamp",
    "time",
    "event_time",
    "@timestamp",
    "created_at",
];

/// What all blocks of one body share.
struct Context {
    stream: String,
    producer: Option<String>,
    idempotency_key: Option<String>,
    request_id: String,
    block_bytes: usize,
}

/// A block, read under a definition; `None` if the stream does not exist and need not.
struct Prepared {
    /// `None` for the mere end of a body.
    block: Option<Arc<Block>>,
    key: Option<BlockKey>,
    definition: Option<Arc<StreamDefinition>>,
    parsed: Parsed,
}

/// What became of a block.
struct Outcome {
    stored: StoredBlock,
    rejections: Vec<Rejection>,
    /// It is known to be the last one of its body.
    is_last: bool,
}

fn from_input(error: InputError) -> EngineError {
    let message = error.to_string();
    match error {
        InputError::TooLarge { .. } => {
            EngineError::new(ErrorKind::TooLarge, "body_too_large", message)
        }
        InputError::UnknownFormat { .. } => EngineError::bad_request("unknown_format", message),
        InputError::UnsupportedMedia { .. } => EngineError::new(
            ErrorKind::UnsupportedMedia,
            "unsupported_media_type",
            message,
        ),
        InputError::Compression { encoding, source } => {
            let code = match encoding {
                Encoding::Zstd => "invalid_zstd",
                Encoding::Snappy => "invalid_snappy",
                Encoding::Gzip | Encoding::Identity => "invalid_gzip",
            };
            EngineError::bad_request(code, message).because(source)
        }
        InputError::Syntax { line, column, .. } => {
            EngineError::bad_request("invalid_json", message).at(line, column)
        }
        InputError::Invalid { code, .. } => EngineError::bad_request(code, message),
        InputError::Spool(source) if source.kind() == std::io::ErrorKind::StorageFull => {
            let message = "the data disk is full: try again once there is space";
            EngineError::new(ErrorKind::Unavailable, "disk_full", message).because(source)
        }
        InputError::Spool(source) => {
            EngineError::internal("the body could not be kept while it is read").because(source)
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
        self.refuse_stopped(&request.stream)?;
        if !self.settings.auto_create_streams && self.definition(&request.stream).is_none() {
            return Err(unknown_stream(&request.stream));
        }
        let format = match request.format.as_deref() {
            None | Some("auto") => None,
            Some(name) => Some(name.parse::<Format>().map_err(from_input)?),
        };
        // Until this function ends or is dropped, because the client has left.
        let _running = self.begin_key(&request)?;
        let block_bytes = self.block_bytes(&request);
        let options = DecoderOptions {
            encoding: request.encoding,
            format,
            content_type: request.content_type,
            block_bytes,
            max_line_bytes: self.settings.max_line_bytes,
            max_bytes: self.settings.max_body_bytes,
        };
        let intake = Intake::new(options, self.spool.clone());
        let context = Arc::new(Context {
            stream: request.stream,
            producer: request.producer,
            idempotency_key: request.idempotency_key,
            request_id: request.request_id,
            block_bytes,
        });
        let mut reply = IngestReply::default();
        let mut blocks = 0;
        let body = self.ingest_body(&context, request.body, intake, &mut reply, &mut blocks);
        match body.await {
            Ok(()) => Ok(reply),
            Err(error) if blocks == 0 => Err(error),
            Err(error) => {
                reply.failure = Some(error);
                Ok(reply)
            }
        }
    }

    /// Stores the blocks of a body one after the other. What was stored before an error is in
    /// `reply`, and counted in `blocks`.
    async fn ingest_body(
        self: &Arc<Self>,
        context: &Arc<Context>,
        mut body: IngestBody,
        mut intake: Intake,
        reply: &mut IngestReply,
        blocks: &mut u64,
    ) -> Result<(), EngineError> {
        let (mut has_ended, mut is_last) = (false, false);
        loop {
            if !has_ended && !intake.has_bytes() {
                let (pieces, is_end) = gather(&mut body).await?;
                has_ended = is_end;
                intake.add(pieces, is_end);
            }
            let number = *blocks;
            let offered = if intake.is_short() && context.idempotency_key.is_none() {
                self.offer_at_once(context, &mut intake).await
            } else {
                let shared = Arc::clone(context);
                let (back, offered) = self
                    .off_io(move |engine| {
                        let taken = intake.next_block().map_err(from_input);
                        let offered = taken.and_then(|taken| {
                            let offer = |Taken { block, is_last }| {
                                engine.offer(&shared, number, block, is_last)
                            };
                            taken.map(offer).transpose()
                        });
                        (intake, offered)
                    })
                    .await?;
                intake = back;
                offered
            };
            let outcome = match offered? {
                Some(Offered::Store(prepared)) => self.store(context, number, prepared).await?,
                Some(Offered::Stored(outcome)) => {
                    let rows = outcome.stored.offsets.iter().map(|o| o.to - o.from);
                    reply.repeated += rows.sum::<u64>();
                    outcome
                }
                None if has_ended && !is_last => return self.store_end(context, number).await,
                None if has_ended => return Ok(()),
                None => continue,
            };
            is_last = outcome.is_last;
            count(reply, outcome);
            *blocks += 1;
        }
    }

    /// Takes the block of a short body on the spot; only if the stream or its columns must change
    /// first, another thread goes on.
    async fn offer_at_once(
        self: &Arc<Self>,
        context: &Arc<Context>,
        intake: &mut Intake,
    ) -> Result<Option<Offered>, EngineError> {
        let Some(taken) = intake.next_block().map_err(from_input)? else {
            return Ok(None);
        };
        let block = Arc::new(taken.block);
        let prepared = match self.parsed_at_once(context, &block)? {
            Some(prepared) => prepared,
            None => {
                let shared = Arc::clone(context);
                self.off_io(move |engine| engine.prepare(&shared, Some(block), None))
                    .await??
            }
        };
        Ok(Some(Offered::Store(prepared)))
    }

    fn parsed_at_once(
        &self,
        context: &Context,
        block: &Arc<Block>,
    ) -> Result<Option<Prepared>, EngineError> {
        let (Some(definition), Some(stream)) = (
            self.definition(&context.stream),
            self.stream_runtime(&context.stream),
        ) else {
            return Ok(None);
        };
        let fixed = lock(&stream.never_widened).clone();
        let (parsed, columns) = self.parse_under(&definition, &fixed, block)?;
        let fits = widened(&definition.columns, &columns).is_empty();
        Ok(fits.then(|| Prepared {
            block: Some(Arc::clone(block)),
            key: None,
            definition: Some(definition),
            parsed,
        }))
    }

    /// Remembers that a body with a key ends here.
    async fn store_end(
        self: &Arc<Self>,
        context: &Arc<Context>,
        number: u64,
    ) -> Result<(), EngineError> {
        let shared = Arc::clone(context);
        let end = self.off_io(move |engine| engine.offer_end(&shared, number));
        if let Some(end) = end.await?? {
            self.store(context, number, end).await?;
        }
        Ok(())
    }

    fn definition(&self, stream: &str) -> Option<Arc<StreamDefinition>> {
        let snapshot = self.publisher.snapshot();
        let stream = snapshot.streams.get(stream)?;
        Some(Arc::clone(&stream.definition))
    }

    /// Reads a block under the stream's newest definition, and makes the stream if need be.
    fn prepare(
        self: &Arc<Self>,
        context: &Context,
        block: Option<Arc<Block>>,
        key: Option<BlockKey>,
    ) -> Result<Prepared, EngineError> {
        let Some(block) = block else {
            return Ok(self.prepare_end(context, key));
        };
        if self.definition(&context.stream).is_none() {
            let parsed = self.parse(&block, &Arc::new(Schema::empty()), None)?;
            if parsed.batch.num_rows() == 0 {
                return Ok(Prepared {
                    block: Some(block),
                    key,
                    definition: None,
                    parsed,
                });
            }
            self.auto_create(&context.stream, &parsed)?;
        }
        for _ in 0..PARSE_ATTEMPTS {
            let (Some(definition), Some(stream)) = (
                self.definition(&context.stream),
                self.stream_runtime(&context.stream),
            ) else {
                return Err(in_between(&context.stream));
            };
            if let Some(parsed) = self.parse_widening(&stream, &definition, &block)? {
                return Ok(Prepared {
                    block: Some(block),
                    key,
                    definition: Some(definition),
                    parsed,
                });
            }
        }
        Err(from_speed(SpeedError::SchemaMoved {
            stream: context.stream.clone(),
        }))
    }

    fn parse(
        &self,
        block: &Block,
        schema: &SchemaRef,
        definition: Option<&StreamDefinition>,
    ) -> Result<Parsed, EngineError> {
        let limits = input::Limits {
            max_rejections: LISTED_REJECTIONS,
            max_line_bytes: self.settings.max_line_bytes,
            max_fields: MAX_FIELDS,
            max_depth: input::MAX_DEPTH,
        };
        let options = InputOptions::default();
        let target = Target {
            schema,
            event_time: definition.and_then(|definition| definition.event_time.as_deref()),
            options: definition.map_or(&options, |definition| &definition.input),
        };
        block.parse(&target, &limits).map_err(from_input)
    }

    /// Parses under a stream's columns, and widens those that must. `None` if the columns have
    /// changed, by this or by another request: parse again under the newest ones.
    fn parse_widening(
        self: &Arc<Self>,
        stream: &StreamRuntime,
        definition: &StreamDefinition,
        block: &Block,
    ) -> Result<Option<Parsed>, EngineError> {
        let mut fixed = lock(&stream.never_widened).clone();
        for _ in 0..PARSE_ATTEMPTS {
            let (parsed, columns) = self.parse_under(definition, &fixed, block)?;
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

    /// Parses under a stream's columns, of which those in `fixed` may not widen; also the columns
    /// that the rows would need.
    fn parse_under(
        &self,
        definition: &StreamDefinition,
        fixed: &HashSet<String>,
        block: &Block,
    ) -> Result<(Parsed, Vec<Column>), EngineError> {
        let schema = never_widening(&definition.user_schema(), fixed);
        let parsed = self.parse(block, &schema, Some(definition))?;
        let columns = columns_of(parsed.batch.schema_ref()).map_err(from_data)?;
        Ok((parsed, columns))
    }

    /// Makes a stream out of a first batch, if the settings allow it.
    fn auto_create(self: &Arc<Self>, stream: &str, parsed: &Parsed) -> Result<(), EngineError> {
        if !self.settings.auto_create_streams {
            return Err(unknown_stream(stream));
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
            name: stream.to_owned(),
            if_not_exists: true,
            fields,
            event_time: event_time.map(|name| (*name).to_owned()),
            shard_key: None,
            shards: Some(1),
            keeps_rest: false,
            input: InputOptions::default(),
            comments: Default::default(),
        })
    }

    /// Appends a block, and waits until it is on disk and visible. One without a good row is
    /// only appended if it has a key to remember.
    async fn store(
        self: &Arc<Self>,
        context: &Arc<Context>,
        number: u64,
        mut prepared: Prepared,
    ) -> Result<Outcome, EngineError> {
        let (mut attempts, mut pauses) = (0, 0);
        loop {
            let is_last = prepared.key.as_ref().is_none_or(|key| key.is_last);
            let outcome = |parsed: Parsed, stored| Outcome {
                stored,
                rejections: parsed.rejections,
                is_last,
            };
            let is_empty = prepared.parsed.batch.num_rows() == 0 && prepared.key.is_none();
            let definition = match &prepared.definition {
                Some(definition) if !is_empty => definition,
                _ => {
                    let nothing = StoredBlock {
                        rejected: prepared.parsed.rejected,
                        ..StoredBlock::default()
                    };
                    return Ok(outcome(prepared.parsed, nothing));
                }
            };
            match self.append(context, definition, &prepared).await? {
                Ok(stored) => return Ok(outcome(prepared.parsed, stored)),
                Err(SpeedError::SchemaMoved { .. }) if attempts + 1 < PARSE_ATTEMPTS => {
                    attempts += 1;
                    let (shared, block, key) = (Arc::clone(context), prepared.block, prepared.key);
                    prepared = self
                        .off_io(move |engine| engine.prepare(&shared, block, key))
                        .await??;
                }
                Err(error) if pauses < patience(&error, number) => {
                    pauses += 1;
                    self.pause(&context.stream).await;
                }
                Err(error) => return Err(from_speed(error)),
            }
        }
    }

    /// Waits for room in the tail, but not long: another request may take it.
    async fn pause(&self, stream: &str) {
        let room = self.stream_runtime(stream);
        let room = room.map(|it| Arc::clone(&it.room)).unwrap_or_default();
        // Who is woken and who is not both try again.
        _ = tokio::time::timeout(FULL_PAUSE, room.notified()).await;
    }

    /// Offers a block to the writer once.
    async fn append(
        self: &Arc<Self>,
        context: &Context,
        definition: &StreamDefinition,
        prepared: &Prepared,
    ) -> Result<Result<StoredBlock, SpeedError>, EngineError> {
        let parsed = &prepared.parsed;
        let runtime = self
            .stream_runtime(&context.stream)
            .ok_or_else(|| in_between(&context.stream))?;
        let (reply, answered) = tokio::sync::oneshot::channel();
        let queued = runtime.writer.append(Request {
            events: parsed.batch.clone(),
            schema_id: definition.schema_id,
            new_fields: parsed.new_fields,
            request_id: context.request_id.clone(),
            producer: context.producer.clone(),
            rejected: parsed.rejected,
            key: prepared.key.clone(),
            reply,
        });
        drop(runtime);
        if let Err(error) = queued {
            return Ok(Err(error));
        }
        answered.await.map_err(|_| {
            let reason = "its writer stopped before it answered".to_owned();
            from_speed(SpeedError::Closed {
                stream: context.stream.clone(),
                reason,
            })
        })
    }
}

/// The next bytes of a body; true if these are the last.
async fn gather(body: &mut IngestBody) -> Result<(Vec<Bytes>, bool), EngineError> {
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while bytes < GATHERED_BYTES {
        let Some(piece) = body.next().await else {
            return Ok((pieces, true));
        };
        let piece = piece?;
        bytes += piece.len();
        pieces.push(piece);
    }
    Ok((pieces, false))
}

/// How often a block with this number is offered again after such an error.
fn patience(error: &SpeedError, number: u64) -> usize {
    match error {
        SpeedError::TailFull { .. } if number == 0 => FIRST_ATTEMPTS,
        SpeedError::TailFull { .. } | SpeedError::Busy { .. } if number > 0 => LATER_ATTEMPTS,
        _ => 0,
    }
}

fn in_between(stream: &str) -> EngineError {
    let message = format!("stream {stream} is being created or dropped");
    EngineError::new(ErrorKind::Busy, "creating", message)
}

/// Adds what became of a block to what became of its body.
fn count(reply: &mut IngestReply, outcome: Outcome) {
    let room = LISTED_REJECTIONS.saturating_sub(reply.errors.len());
    let errors = outcome.rejections.into_iter().take(room);
    reply.errors.extend(errors.map(|rejection| RowError {
        line: rejection.line,
        code: rejection.code.to_owned(),
        field: rejection.field,
        message: rejection.message,
    }));
    reply.rejected += outcome.stored.rejected;
    for ShardOffsets { shard, from, to } in outcome.stored.offsets {
        reply.accepted += to - from;
        let found = reply.offsets.entry(shard.to_string());
        found.or_insert(OffsetRange { from, to }).to = to;
    }
}

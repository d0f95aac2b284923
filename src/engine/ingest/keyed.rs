//! Requests with an idempotency key: what is stored already is answered, not stored again.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use lambdalake_data::Digest;
use lambdalake_data::input::{Block, Parsed, Rejection};
use lambdalake_data::keys::StoredBlock;
use lambdalake_serving::engine::{EngineError, IngestRequest};
use lambdalake_speed::SpeedError;
use lambdalake_speed::keys::{BlockKey, Known, RunningKey};

use super::{Context, Engine, Outcome, Prepared, from_input, from_speed};

/// What is to be done about a block.
pub(super) enum Offered {
    Store(Prepared),
    Stored(Outcome),
}

impl Engine {
    /// Takes the request's key until the guard is dropped. An error if another request has it.
    pub(super) fn begin_key(
        &self,
        request: &IngestRequest,
    ) -> Result<Option<RunningKey>, EngineError> {
        let Some(key) = &request.idempotency_key else {
            return Ok(None);
        };
        match self.running_keys.begin(&request.stream, key) {
            Some(running) => Ok(Some(running)),
            None => Err(from_speed(SpeedError::KeyInProgress {
                stream: request.stream.clone(),
                key: key.clone(),
            })),
        }
    }

    /// The size of blocks for a request: that of the first time, if there was one, so that
    /// blocks end where they did whatever the setting is now.
    pub(super) fn block_bytes(&self, request: &IngestRequest) -> usize {
        let known = request.idempotency_key.as_ref().and_then(|key| {
            let stream = self.stream_runtime(&request.stream)?;
            stream.keys.begin(key, self.clock.now_micros())
        });
        known.map_or(self.settings.ingest_block_bytes, |bytes| bytes as usize)
    }

    /// Reads a block, unless it is stored already.
    pub(super) fn offer(
        self: &Arc<Self>,
        context: &Context,
        number: u64,
        block: Block,
        is_last: bool,
    ) -> Result<Offered, EngineError> {
        let Some(name) = &context.idempotency_key else {
            let prepared = self.prepare(context, Some(Arc::new(block)), None)?;
            return Ok(Offered::Store(prepared));
        };
        let key = BlockKey {
            key: name.clone(),
            number,
            digest: block.digest().map_err(from_input)?,
            is_last,
            block_bytes: context.block_bytes as u64,
        };
        match self.known(context, &key)? {
            Some((stored, is_last)) => {
                let rejections = match stored.rejected {
                    0 => Vec::new(),
                    _ => self.rejections(&context.stream, &block, &stored),
                };
                Ok(Offered::Stored(Outcome {
                    stored,
                    rejections,
                    is_last,
                }))
            }
            None => {
                let prepared = self.prepare(context, Some(Arc::new(block)), Some(key))?;
                Ok(Offered::Store(prepared))
            }
        }
    }

    /// The end of a body whose last block did not say that it is; `None` if that is known, or
    /// there is no stream to remember it.
    pub(super) fn offer_end(
        self: &Arc<Self>,
        context: &Context,
        number: u64,
    ) -> Result<Option<Prepared>, EngineError> {
        let Some(name) = &context.idempotency_key else {
            return Ok(None);
        };
        let key = BlockKey {
            key: name.clone(),
            number,
            digest: Digest::empty(),
            is_last: true,
            block_bytes: context.block_bytes as u64,
        };
        if self.known(context, &key)?.is_some() {
            return Ok(None);
        }
        self.prepare(context, None, Some(key)).map(Some)
    }

    /// A block without events, under the stream's newest columns.
    pub(super) fn prepare_end(&self, context: &Context, key: Option<BlockKey>) -> Prepared {
        let definition = self.definition(&context.stream);
        let schema = definition.as_ref().map(|found| found.user_schema());
        Prepared {
            block: None,
            key,
            parsed: Parsed {
                batch: RecordBatch::new_empty(schema.unwrap_or_else(|| Arc::new(Schema::empty()))),
                new_fields: false,
                rejections: Vec::new(),
                rejected: 0,
            },
            definition,
        }
    }

    fn known(
        &self,
        context: &Context,
        key: &BlockKey,
    ) -> Result<Option<(StoredBlock, bool)>, EngineError> {
        let Some(stream) = self.stream_runtime(&context.stream) else {
            return Ok(None);
        };
        match stream.keys.look_up(&key.key, key.number, key.digest) {
            Known::New => Ok(None),
            Known::Stored { block, is_last } => Ok(Some((block, is_last))),
            Known::Other => Err(from_speed(SpeedError::KeyReused {
                stream: context.stream.clone(),
                key: key.key.clone(),
            })),
        }
    }

    /// Why rows of a stored block were turned away, found again in the same bytes. None if
    /// other columns than then would turn others away.
    fn rejections(&self, stream: &str, block: &Block, stored: &StoredBlock) -> Vec<Rejection> {
        let Some(definition) = self.definition(stream) else {
            return Vec::new();
        };
        match self.parse(block, &definition.user_schema(), Some(&definition)) {
            Ok(parsed) if parsed.rejected == stored.rejected => parsed.rejections,
            _ => Vec::new(),
        }
    }
}

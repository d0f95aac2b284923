//! From a running query to a response that streams.
//!
//! ```text
//!   engine's batches -> slices -> encode, compress (blocking pool) -> pieces (bounded)
//!                    -> body -> client
//! ```
//!
//! The first kilobytes are gathered before the status is chosen, so a query that fails early has
//! an error answer. After that a task pumps the rest, and a failure ends the chunked
//! body without its last chunk: a client that checks its transport sees it, and no error text
//! ever stands inside a result. The task belongs to the body: when the client goes away, hyper
//! drops the body, which stops the task, which drops the engine's stream. And it works without
//! being polled, so that a client that stops reading still meets the query's deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use datafusion::common::DataFusionError;
use futures::{Stream, StreamExt};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::Instrument;
use warp::http::{HeaderMap, HeaderName, HeaderValue, header};
use warp::reply::{Reply, Response};

use super::App;
use super::errors;
use super::queries::Ticket;
use super::query_record::QueryRecord;
use crate::encode::pack::{Coding, Packer};
use crate::encode::slices::Slices;
use crate::encode::{Encoder, Format, Shape};
use crate::engine::{Answer, QueryStats};
use crate::error::EngineError;

/// A body below this many bytes is not compressed: it fits a packet as it is.
const SMALL_BYTES: usize = 1024;

/// Bytes of an answer that are gathered before its status is chosen: a small answer that fails on
/// its way has an error answer, and one that does not has a length.
const GATHERED_BYTES: usize = 64 * 1024;

/// How long an answer may pause while it is gathered: rows that are there are not held back for
/// rows that are slow.
const GATHER_PAUSE: Duration = Duration::from_millis(20);

/// How a client wants to see its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) format: Format,
    /// Columns of its terminal, for tables.
    pub(super) width: u16,
    pub(super) coding: Coding,
}

/// Sends an answer as it should be shown. Errors of its first part are returned; later ones break
/// the body and are logged.
pub(super) async fn respond(
    app: &App,
    ticket: Ticket,
    answer: Answer,
    shown: Shown,
    record: &Arc<QueryRecord>,
) -> Result<Response, EngineError> {
    record.answering(&answer.stats);
    let shape = Shape {
        rows: app.limits.table_rows,
        width: shown.width,
    };
    let mut pump = Pump {
        output: Some(Output {
            encoder: shown.format.encoder(&answer.schema, shape),
            packer: Packer::Identity,
        }),
        answer,
        slices: Slices::default(),
        next_batch: None,
        rows: 0,
    };
    let mut first = pump.encode(|encoder| encoder.start()).await?;
    let is_ended = loop {
        match ticket.run(pump.next()).await?? {
            Some(piece) => first.extend_from_slice(&piece),
            None => break true,
        }
        if first.len() >= GATHERED_BYTES || !pump.is_next_soon().await {
            break false;
        }
    };
    let mut headers = headers(&ticket.id, &pump.answer.stats, shown.format);
    if is_ended {
        first.extend_from_slice(&pump.finish(&ticket).await?);
        record.done(pump.rows);
        let response = with_headers(Response::new(first.into()), headers);
        return coded(response, shown.coding).await;
    }
    add_coding(&mut headers, shown.coding);
    let first = pump.start_packing(shown.coding, first).await?;
    let (pieces, receiver) = mpsc::channel(app.limits.answer_pieces.max(1));
    let mut task = JoinSet::new();
    let record = Arc::clone(record);
    let pumping = async move {
        let id = ticket.id.clone();
        if let Err(error) = pump.run(ticket, &pieces, &record).await {
            record.failed(&error);
            errors::log(&error, &id);
            // Dropping the sender without `End` breaks the body; that is the message.
        }
    };
    task.spawn(pumping.in_current_span());
    let body = Body {
        first: Some(first.into()),
        receiver,
        is_ended: false,
        _task: task,
    };
    Ok(with_headers(
        warp::reply::stream(body).into_response(),
        headers,
    ))
}

/// Compresses a body that is whole and in memory, unless it is small.
pub(super) async fn coded(response: Response, coding: Coding) -> Result<Response, EngineError> {
    let (mut head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|error| EngineError::internal("a body in memory was not there").because(error))?
        .to_bytes();
    head.headers
        .entry(header::VARY)
        .or_insert(HeaderValue::from_static("accept-encoding"));
    if body.len() < SMALL_BYTES || coding == Coding::Identity {
        return Ok(Response::from_parts(head, body.into()));
    }
    let packed = blocking(move || Ok(Packer::new(coding)?.finish(body.into())?)).await?;
    add_coding(&mut head.headers, coding);
    Ok(Response::from_parts(head, packed.into()))
}

fn add_coding(headers: &mut HeaderMap, coding: Coding) {
    if let Some(name) = coding.header() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
}

/// A part of the body, or its proper end.
enum Piece {
    Data(Bytes),
    End,
}

/// Makes bytes of rows. It travels to a blocking thread and back.
struct Output {
    encoder: Box<dyn Encoder>,
    packer: Packer,
}

/// Moves batches from the engine through the encoder.
struct Pump {
    /// Away only while a blocking thread has it.
    output: Option<Output>,
    answer: Answer,
    /// The batch being encoded.
    slices: Slices,
    /// What `is_next_soon` found: a batch, or the end.
    next_batch: Option<Option<Result<RecordBatch, DataFusionError>>>,
    rows: u64,
}

impl Pump {
    /// Sends the rest of the answer, and its end only if it is complete. A body that is gone is
    /// no error: its client left, and this task is about to be stopped.
    async fn run(
        mut self,
        ticket: Ticket,
        pieces: &mpsc::Sender<Piece>,
        record: &QueryRecord,
    ) -> Result<(), EngineError> {
        while let Some(piece) = ticket.run(self.next()).await?? {
            if piece.is_empty() {
                continue;
            }
            if ticket
                .run(pieces.send(Piece::Data(piece.into())))
                .await?
                .is_err()
            {
                return Ok(());
            }
        }
        let last = self.finish(&ticket).await?;
        for piece in [Piece::Data(last.into()), Piece::End] {
            if ticket.run(pieces.send(piece)).await?.is_err() {
                return Ok(());
            }
        }
        record.done(self.rows);
        Ok(())
    }

    /// The next slice of rows, encoded; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        loop {
            if !self
                .output
                .as_ref()
                .is_some_and(|output| output.encoder.wants_more())
            {
                return Ok(None);
            }
            let Some(slice) = self.slices.next() else {
                let next = match self.next_batch.take() {
                    Some(next) => next,
                    None => self.answer.batches.next().await,
                };
                let Some(batch) = next else {
                    return Ok(None);
                };
                self.slices.put(batch?);
                continue;
            };
            let rows = slice.num_rows();
            self.rows += rows as u64;
            let piece = self.encode(move |encoder| encoder.batch(&slice)).await?;
            self.slices.encoded(rows, piece.len());
            return Ok(Some(piece));
        }
    }

    /// Whether the next piece, or the end, comes within [`GATHER_PAUSE`].
    async fn is_next_soon(&mut self) -> bool {
        if self.slices.is_empty() && self.next_batch.is_none() {
            match timeout(GATHER_PAUSE, self.answer.batches.next()).await {
                Ok(next) => self.next_batch = Some(next),
                Err(_) => return false,
            }
        }
        true
    }

    /// Compresses what was made until now, and everything after it.
    async fn start_packing(
        &mut self,
        coding: Coding,
        first: Vec<u8>,
    ) -> Result<Vec<u8>, EngineError> {
        if coding == Coding::Identity {
            return Ok(first);
        }
        let (packer, first) = blocking(move || {
            let mut packer = Packer::new(coding)?;
            let first = packer.pack(first)?;
            Ok((packer, first))
        })
        .await?;
        if let Some(output) = &mut self.output {
            output.packer = packer;
        }
        Ok(first)
    }

    async fn finish(&mut self, ticket: &Ticket) -> Result<Vec<u8>, EngineError> {
        let rows = self.rows;
        let stats = self.answer.stats.to_json(ticket.started.elapsed());
        let Some(Output {
            mut encoder,
            packer,
        }) = self.output.take()
        else {
            return Err(failed_before());
        };
        let last = blocking(move || {
            let last = encoder.finish(rows, &stats)?;
            Ok(packer.finish(last)?)
        });
        ticket.run(last).await?
    }

    /// Encoding is CPU work: it runs on a blocking thread, the encoder travels there and back.
    async fn encode<F>(&mut self, work: F) -> Result<Vec<u8>, EngineError>
    where
        F: FnOnce(&mut dyn Encoder) -> Result<Vec<u8>, ArrowError> + Send + 'static,
    {
        let Some(mut output) = self.output.take() else {
            return Err(failed_before());
        };
        let (output, bytes) = blocking(move || {
            let bytes = work(output.encoder.as_mut())?;
            let bytes = output.packer.pack(bytes)?;
            Ok((output, bytes))
        })
        .await?;
        self.output = Some(output);
        Ok(bytes)
    }
}

async fn blocking<T, F>(work: F) -> Result<T, EngineError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ArrowError> + Send + 'static,
{
    spawn_blocking(work)
        .await
        .map_err(|error| EngineError::internal("encoding an answer failed").because(error))?
        .map_err(|error| DataFusionError::from(error).into())
}

fn failed_before() -> EngineError {
    EngineError::internal("an answer failed to encode before")
}

/// The body of a streamed answer. It owns the task that fills it.
struct Body {
    first: Option<Bytes>,
    receiver: mpsc::Receiver<Piece>,
    is_ended: bool,
    /// A set of one, because dropping a set stops its tasks.
    _task: JoinSet<()>,
}

impl Stream for Body {
    type Item = Result<Bytes, Broken>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.is_ended {
            return Poll::Ready(None);
        }
        match self.receiver.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Piece::Data(piece))) => Poll::Ready(Some(Ok(piece))),
            Poll::Ready(Some(Piece::End)) => {
                self.is_ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(None) => {
                self.is_ended = true;
                Poll::Ready(Some(Err(Broken)))
            }
        }
    }
}

/// The answer ends before its end; the reason is in the log.
#[derive(Debug, thiserror::Error)]
#[error("the query failed after its first rows were sent")]
struct Broken;

fn headers(id: &str, stats: &QueryStats, format: Format) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::VARY,
        HeaderValue::from_static("accept, accept-encoding"),
    );
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(format.content_type()),
    );
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-query-id", id);
    }
    let mut number = |name: &'static str, value: u64| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    };
    if let Some(freshness_ms) = stats.freshness_ms {
        number("x-freshness-ms", freshness_ms);
    }
    if let Some(batch_version) = stats.batch_version {
        number("x-batch-version", batch_version);
    }
    number("x-lag-events", stats.lag_events);
    headers
}

fn with_headers(mut response: Response, headers: HeaderMap) -> Response {
    response.headers_mut().extend(headers);
    response
}

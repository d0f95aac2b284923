//! From a running query to a response that streams.
//!
//! ```text
//!   engine's batches -> encode (blocking pool) -> pieces (bounded) -> body -> client
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
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::stream::Peekable;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use warp::http::{HeaderMap, HeaderName, HeaderValue, header};
use warp::reply::{Reply, Response};

use super::App;
use super::errors;
use super::queries::Ticket;
use crate::encode::{Encoder, Format};
use crate::engine::{Answer, QueryStats};
use crate::error::EngineError;

/// Bytes of an answer that are gathered before its status is chosen: a small answer that fails on
/// its way has an error answer, and one that does not has a length.
const GATHERED_BYTES: usize = 64 * 1024;

/// How long an answer may pause while it is gathered: rows that are there are not held back for
/// rows that are slow.
const GATHER_PAUSE: Duration = Duration::from_millis(20);

/// Sends an answer in a format. Errors of its first part are returned; later ones break the body
/// and are logged.
pub(super) async fn respond(
    app: &App,
    ticket: Ticket,
    answer: Answer,
    format: Format,
) -> Result<Response, EngineError> {
    let mut pump = Pump {
        encoder: Some(format.encoder(&answer.schema, app.limits.table_rows)),
        batches: answer.batches.peekable(),
        stats: answer.stats,
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
    let headers = headers(&ticket.id, &pump.stats, format);
    if is_ended {
        first.extend_from_slice(&pump.finish(&ticket).await?);
        return Ok(with_headers(Response::new(first.into()), headers));
    }
    let (pieces, receiver) = mpsc::channel(app.limits.answer_pieces.max(1));
    let mut task = JoinSet::new();
    task.spawn(async move {
        let id = ticket.id.clone();
        if let Err(error) = pump.run(ticket, &pieces).await {
            errors::log(&error, &id);
            // Dropping the sender without `End` breaks the body; that is the message.
        }
    });
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

/// A part of the body, or its proper end.
enum Piece {
    Data(Bytes),
    End,
}

/// Moves batches from the engine through the encoder.
struct Pump {
    /// Away only while a blocking thread has it.
    encoder: Option<Box<dyn Encoder>>,
    batches: Peekable<SendableRecordBatchStream>,
    stats: Arc<QueryStats>,
    rows: u64,
}

impl Pump {
    /// Sends the rest of the answer, and its end only if it is complete. A body that is gone is
    /// no error: its client left, and this task is about to be stopped.
    async fn run(
        mut self,
        ticket: Ticket,
        pieces: &mpsc::Sender<Piece>,
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
        Ok(())
    }

    /// The next batch with rows, encoded; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        loop {
            if !self
                .encoder
                .as_ref()
                .is_some_and(|encoder| encoder.wants_more())
            {
                return Ok(None);
            }
            let batch: RecordBatch = match self.batches.next().await {
                None => return Ok(None),
                Some(batch) => batch?,
            };
            if batch.num_rows() == 0 {
                continue;
            }
            self.rows += batch.num_rows() as u64;
            return self
                .encode(move |encoder| encoder.batch(&batch))
                .await
                .map(Some);
        }
    }

    /// Whether the next batch, or the end, comes within [`GATHER_PAUSE`].
    async fn is_next_soon(&mut self) -> bool {
        timeout(GATHER_PAUSE, Pin::new(&mut self.batches).peek())
            .await
            .is_ok()
    }

    async fn finish(&mut self, ticket: &Ticket) -> Result<Vec<u8>, EngineError> {
        let rows = self.rows;
        let stats = self.stats.to_json(ticket.started.elapsed());
        self.encode(move |encoder| encoder.finish(rows, &stats))
            .await
    }

    /// Encoding is CPU work: it runs on a blocking thread, the encoder travels there and back.
    async fn encode<F>(&mut self, work: F) -> Result<Vec<u8>, EngineError>
    where
        F: FnOnce(&mut dyn Encoder) -> Result<Vec<u8>, arrow::error::ArrowError> + Send + 'static,
    {
        let Some(mut encoder) = self.encoder.take() else {
            return Err(EngineError::internal("an answer failed to encode before"));
        };
        let (encoder, bytes) = spawn_blocking(move || {
            let bytes = work(encoder.as_mut());
            (encoder, bytes)
        })
        .await
        .map_err(|error| EngineError::internal("encoding an answer failed").because(error))?;
        self.encoder = Some(encoder);
        Ok(bytes.map_err(DataFusionError::from)?)
    }
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

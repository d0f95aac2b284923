//! The serving layer's port: what HTTP asks, answered by the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::TryStreamExt;
use lambdalake_batch::history::RunKind;
use lambdalake_data::DataError;
use lambdalake_serving::engine::{
    self as port, AlterSpec, AlterViewSpec, Answer, CommentSpec, EngineError, ErrorKind, Expected,
    Health, IngestReply, IngestRequest, QueryRequest, StreamSpec, ViewSpec,
};
use lambdalake_serving::metrics::Meters;
use lambdalake_speed::SpeedError;
use lambdalake_views::ViewError;
use serde_json::Value;

use super::Engine;

pub(super) fn from_data(error: DataError) -> EngineError {
    if error.is_disk_full() {
        let message = "the data disk is full; nothing of this request was stored, try again once \
                       there is space";
        return EngineError::new(ErrorKind::Unavailable, "disk_full", message).because(error);
    }
    if let Some((path, reason)) = DataError::damage_in(&error) {
        return EngineError::data_damaged(&path, &reason).because(error);
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
        SpeedError::Busy { .. } | SpeedError::TailFull { .. } => {
            EngineError::new(ErrorKind::Busy, "busy", error.to_string())
        }
        SpeedError::KeyReused { .. } => EngineError::new(
            ErrorKind::Mismatch,
            "idempotency_key_reused",
            error.to_string(),
        ),
        SpeedError::KeyInProgress { .. } => EngineError::new(
            ErrorKind::InProgress,
            "idempotency_key_in_progress",
            error.to_string(),
        ),
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

fn panicked(error: tokio::task::JoinError) -> EngineError {
    EngineError::internal("a worker ended unexpectedly").because(error)
}

impl Engine {
    /// Runs blocking work (planning, flushing, syncing) off the I/O runtime.
    pub(super) async fn off_io<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let engine = Arc::clone(self);
        let span = tracing::Span::current();
        self.compute
            .spawn_blocking(move || span.in_scope(|| work(&engine)))
            .await
            .map_err(panicked)
    }
}

pub(super) fn unknown_stream(name: &str) -> EngineError {
    let message = format!("there is no stream {name}; create it with CREATE TABLE");
    EngineError::not_found("unknown_stream", message)
}

/// The engine behind the port. A newtype, because the engine's own methods take `Arc<Self>`.
pub struct Port(pub Arc<Engine>);

#[async_trait]
impl port::Engine for Port {
    async fn ingest(&self, request: IngestRequest) -> Result<IngestReply, EngineError> {
        let (stream, bytes) = (request.stream.clone(), Arc::new(AtomicU64::new(0)));
        let arrived = Arc::clone(&bytes);
        let body = request.body.inspect_ok(move |piece| {
            arrived.fetch_add(piece.len() as u64, Ordering::Relaxed);
        });
        let request = IngestRequest {
            body: Box::pin(body),
            ..request
        };
        let reply = self.0.ingest(request).await?;
        let bytes = bytes.load(Ordering::Relaxed);
        // Only streams that exist become labels, whatever names clients try.
        if self.0.stream_runtime(&stream).is_some() {
            self.0.meters.ingested(&stream, bytes, &reply);
        }
        Ok(reply)
    }

    async fn create_stream(&self, spec: StreamSpec) -> Result<(), EngineError> {
        self.0
            .off_io(move |engine| engine.make_stream(spec))
            .await?
    }

    async fn alter_stream(&self, spec: AlterSpec) -> Result<(), EngineError> {
        self.0
            .off_io(move |engine| engine.alter_stream(spec))
            .await?
    }

    async fn alter_view(&self, spec: AlterViewSpec) -> Result<(), EngineError> {
        self.0.off_io(move |engine| engine.alter_view(spec)).await?
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
                    if let Err(error) = engine.start_recompute(&name, "new_view".to_owned()) {
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

    async fn comment(&self, spec: CommentSpec) -> Result<(), EngineError> {
        self.0
            .off_io(move |engine| engine.set_comment(spec))
            .await?
    }

    async fn flush(&self, stream: Option<&str>) -> Result<(), EngineError> {
        let streams = match stream {
            Some(name) => vec![self.0.running_stream(name)?],
            None => self.0.all_streams(),
        };
        let is_all = stream.is_none();
        self.0
            .off_io(move |engine| {
                streams.iter().try_for_each(|stream| {
                    engine.flush_stream(stream).map_err(|error| {
                        match error.downcast::<DataError>() {
                            Ok(error) => from_data(error),
                            Err(error) => EngineError::internal("the flush failed").because(error),
                        }
                    })
                })?;
                // After the others: what can be flushed is.
                if is_all {
                    engine.refuse_any_stopped()?;
                }
                Ok(())
            })
            .await?
    }

    async fn recompute(&self, view: &str) -> Result<String, EngineError> {
        self.0.start_recompute(view, "request".to_owned())
    }

    async fn verify_view(&self, view: &str) -> Result<String, EngineError> {
        self.0
            .start_run(view, "request".to_owned(), RunKind::Verify)
    }

    async fn explain_recompute(&self, view: &str) -> Result<Vec<Expected>, EngineError> {
        let view = view.to_owned();
        self.0
            .off_io(move |engine| engine.expect_recompute(&view))
            .await?
    }

    async fn cancel_run(&self, run_id: &str) -> Result<(), EngineError> {
        let run_id = run_id.to_owned();
        self.0
            .off_io(move |engine| engine.cancel_recompute(&run_id))
            .await?
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
        self.0.describe_runs()
    }

    fn run(&self, id: &str) -> Option<Value> {
        self.0.describe_run(id)
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

    fn meters(&self) -> Meters {
        self.0.meters.meters.clone()
    }

    fn metrics_text(&self) -> String {
        self.0.metrics_text()
    }

    async fn query(&self, request: QueryRequest) -> Result<Answer, EngineError> {
        self.0.answer(request).await
    }
}

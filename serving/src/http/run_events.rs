//! A run as server-sent events, until it ends.
//!
//! ```text
//!   event: progress    the run, when it has changed; at most once in `Limits::run_event_pause`
//!   :                  a comment, when nothing has changed for `Limits::run_event_silence`
//!   event: end         the run as it ended; then the body ends
//! ```
//!
//! Every event holds all that can be told of the run, so none has an id: who comes again has missed
//! nothing. A body that ends without `end` was broken off, because the server stops.
//!
//! A task looks at the run and fills the body. It belongs to the body: when the client goes away,
//! hyper drops the body, which stops the task, which gives its place back. What a client does not
//! read is not gathered: the task waits, and then tells what is by then.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use warp::http::Method;
use warp::reply::{Reply, Response};
use warp::sse::{self, Event};

use super::{App, found};
use crate::engine::Engine;
use crate::error::{EngineError, ErrorKind};
use crate::limits::Limits;

/// Members that change with every look, and are no news.
const NO_NEWS: [&str; 2] = ["duration_ms", "eta_ms"];

/// The open streams of one server.
pub(super) struct RunEvents {
    places: Arc<Semaphore>,
    /// A watch, because it keeps its value for who looks later.
    is_stopping: watch::Sender<bool>,
}

impl RunEvents {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.max_run_events)),
            is_stopping: watch::Sender::new(false),
        }
    }

    /// Ends the open streams, and those to come.
    pub(super) fn stop(&self) {
        self.is_stopping.send_replace(true);
    }
}

/// Errors: `unknown_run`; `too_many_run_events`, come again.
pub(super) fn events(app: &App, id: String, method: &Method) -> Result<Response, EngineError> {
    found(app.engine.run(&id), "unknown_run", "run", &id)?;
    let (sender, mut events) = mpsc::channel(1);
    let mut task = JoinSet::new();
    if method != Method::HEAD {
        let places = Arc::clone(&app.run_events.places);
        let place = places.try_acquire_owned().map_err(|error| {
            EngineError::new(
                ErrorKind::Busy,
                "too_many_run_events",
                "as many streams of events are open as may: try again shortly, or ask for the run \
                 itself",
            )
            .because(error)
        })?;
        let (engine, limits) = (Arc::clone(&app.engine), app.limits.clone());
        let is_stopping = app.run_events.is_stopping.subscribe();
        task.spawn(async move {
            tell(engine.as_ref(), &id, &limits, is_stopping, &sender).await;
            drop(place);
        });
    }
    let body = stream::poll_fn(move |context| {
        // It goes where the body goes, and dropping a set stops its tasks.
        let _task = &task;
        let event = events.poll_recv(context);
        event.map(|event| event.map(Ok::<Event, Infallible>))
    });
    Ok(sse::reply(body).into_response())
}

/// Sends what there is to tell until the run ends, the server stops, or nobody listens.
async fn tell(
    engine: &dyn Engine,
    id: &str,
    limits: &Limits,
    mut is_stopping: watch::Receiver<bool>,
    events: &mpsc::Sender<Event>,
) {
    let telling = async {
        let mut ended = pin!(engine.wait_run(id));
        let (mut told, mut silent) = (Value::Null, Duration::ZERO);
        while let Some(run) = engine.run(id) {
            if is_over(&run) {
                return send(events, run_event("end", &run)).await;
            }
            let news = news_of(&run);
            if news != told {
                send(events, run_event("progress", &run)).await;
                (told, silent) = (news, Duration::ZERO);
            } else if silent >= limits.run_event_silence {
                send(events, Event::default().comment("")).await;
                silent = Duration::ZERO;
            }
            silent += limits.run_event_pause;
            // Its end is told at once. Without one nobody works for it any more.
            if timeout(limits.run_event_pause, &mut ended).await.is_ok()
                && !engine.run(id).is_some_and(|run| is_over(&run))
            {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        _ = is_stopping.wait_for(|is_stopping| *is_stopping) => {}
        () = telling => {}
    }
}

/// Whether nothing more comes of a run.
fn is_over(run: &Value) -> bool {
    !["queued", "running"].contains(&run["status"].as_str().unwrap_or_default())
}

/// What must differ for a run to be told again.
fn news_of(run: &Value) -> Value {
    let mut news = run.clone();
    if let Value::Object(members) = &mut news {
        members.retain(|name, _| !NO_NEWS.contains(&name.as_str()));
    }
    news
}

fn run_event(word: &'static str, run: &Value) -> Event {
    Event::default().event(word).data(run.to_string())
}

/// Waits for a client that reads slowly. One that is gone takes this task with it.
async fn send(events: &mpsc::Sender<Event>, event: Event) {
    if events.send(event).await.is_err() {
        tracing::debug!("nobody listens to the run any more");
    }
}

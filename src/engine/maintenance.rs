//! The thread that flushes, schedules recomputes and maps ahead.
//!
//! Every tick it looks at each stream's tail (size, rows, age) and at each view's interval.
//! It also maps long unread tails in the background, so that the first query after a burst
//! does not pay for all of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use lambdalake_speed::writer::UNSAVED_KEYS;

use super::{Engine, RETRY, StreamRuntime, lock, step_back};

/// How often tails and schedules are looked at.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Maintenance {
    // Bounded and only ever closed: its end tells the thread to stop.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Maintenance {
    pub(super) fn start(engine: &Arc<Engine>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        // Weak: the thread must not keep an engine alive that everybody else dropped.
        let engine = Arc::downgrade(engine);
        let thread = std::thread::Builder::new()
            .name("maintenance".to_owned())
            .spawn(move || {
                step_back();
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                    let Some(engine) = Weak::upgrade(&engine) else {
                        return;
                    };
                    engine.beat();
                    engine.meters.upkeep();
                    engine.upkeep();
                }
            })?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        // The last owner of the engine may be the thread itself; it must not wait for itself.
        if self.thread.thread().id() != std::thread::current().id() && self.thread.join().is_err() {
            tracing::error!("the maintenance thread panicked");
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

impl Engine {
    /// Does once what is due: flushes, scheduled recomputes, mapping ahead.
    pub fn upkeep(self: &Arc<Self>) {
        for stream in self.all_streams() {
            self.flush_if_due(&stream);
            self.rewrite_if_due(&stream);
            self.mark_if_quiet(&stream);
        }
        self.publisher.remove_replaced(self.clock.monotonic());
        self.fill_emptied_views();
        self.map_ahead();
        self.start_due_recomputes();
    }

    fn flush_if_due(&self, stream: &StreamRuntime) {
        let snapshot = self.publisher.snapshot();
        let Some(tail) = snapshot.streams.get(&stream.definition.name) else {
            return;
        };
        let rows = tail.tail_rows() as usize;
        let now = self.clock.monotonic();
        let since = {
            let mut waiting = lock(&stream.waiting_since);
            // A Delta table that is behind needs no new events to be rolled forward, nor do many
            // keys to be saved.
            let has_work = stream.mirror_is_behind.load(Ordering::Relaxed)
                || stream.keys.unsaved_count() >= UNSAVED_KEYS;
            if rows == 0 && !has_work {
                *waiting = None;
                return;
            }
            *waiting.get_or_insert(now)
        };
        let bytes: usize = tail.parts.iter().map(|open| open.part.bytes()).sum();
        let age = now.saturating_sub(since);
        let in_trouble = lock(&stream.trouble).is_some();
        let due = rows == 0
            || in_trouble
            || rows >= self.settings.flush_rows
            || bytes >= self.settings.flush_bytes
            || age >= self.settings.flush_age;
        if !due || in_trouble && age < RETRY {
            return;
        }
        drop(snapshot);
        if let Err(error) = self.flush_stream(stream) {
            tracing::error!(
                stream = stream.definition.name,
                error = format!("{error:#}"),
                "flush failed; the events are safe in the log, trying again"
            );
            // From here on age counts the time since the failure.
            *lock(&stream.waiting_since) = Some(self.clock.monotonic());
        } else {
            *lock(&stream.waiting_since) = None;
        }
    }

    /// Maps the tails of views that nobody reads, once enough rows wait.
    fn map_ahead(&self) {
        let snapshot = self.publisher.snapshot();
        for view in snapshot.views.values() {
            for open in &view.stream.parts {
                if open.part.rows() < MAP_AHEAD_ROWS {
                    continue;
                }
                let states = open.states.map_ahead(view, &open.part, MAP_AHEAD_ROWS);
                if let Err(error) = self.compute.block_on(states) {
                    tracing::debug!(view = view.state.name, %error, "not mapped ahead");
                }
            }
        }
    }
}

/// Unmapped rows of a tail part that are worth a background map: enough to amortise the
/// plan, few enough that a first query maps the rest in milliseconds.
const MAP_AHEAD_ROWS: usize = 32_768;

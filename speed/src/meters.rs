//! What a writer counts. The names of the metrics are the serving layer's; the binary hands
//! the counters in, so this crate knows no recorder.

use metrics::{Counter, Histogram};

/// The counters of one stream's writer. The default counts nothing.
pub struct WriterMeters {
    /// Groups of requests written and synced together.
    pub commits: Counter,
    /// Requests in them.
    pub requests: Counter,
    /// Bytes of their frames.
    pub bytes: Counter,
    /// Seconds to write and sync one group.
    pub seconds: Histogram,
    /// Groups that could not be written and synced.
    pub failures: Counter,
}

impl Default for WriterMeters {
    fn default() -> Self {
        Self {
            commits: Counter::noop(),
            requests: Counter::noop(),
            bytes: Counter::noop(),
            seconds: Histogram::noop(),
            failures: Counter::noop(),
        }
    }
}

impl WriterMeters {
    /// Counts one group of encoded frames.
    pub(crate) fn logged(&self, frames: &[Vec<u8>], is_stored: bool, seconds: f64) {
        if !is_stored {
            self.failures.increment(1);
            return;
        }
        self.commits.increment(1);
        self.requests.increment(frames.len() as u64);
        let bytes: usize = frames.iter().map(Vec::len).sum();
        self.bytes.increment(bytes as u64);
        self.seconds.record(seconds);
    }
}

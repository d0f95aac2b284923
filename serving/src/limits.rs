//! Every bound of the serving layer, with its unit and its reason, in one place.
//!
//! Nothing a client sends or asks for is held, waited for or answered without one of these.

use std::time::Duration;

/// Bytes in one mebibyte.
const MIB: usize = 1024 * 1024;

/// What one server accepts and holds. `Limits::default()` is meant for one node of a few
/// gigabytes; the binary overrides fields from its configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one ingest body, as sent. Past it the answer is 413; a producer splits its batch.
    pub body_bytes: usize,
    /// Bytes of one ingest body that are held at once: it is parsed and stored while it arrives.
    pub body_buffer_bytes: usize,
    /// Bytes of all ingest bodies being read or ingested at once. Past it the answer is 429, so
    /// that many large uploads cannot take the memory that queries and the speed layer need.
    pub body_bytes_in_flight: usize,
    /// Bytes of one SQL request body. Statements are text written by people or tools; a megabyte
    /// is a very long IN list.
    pub sql_bytes: usize,
    /// How long a body may make no progress before the request is given up (408).
    pub body_idle_timeout: Duration,
    /// Connections served at once; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// How long a connection may take to send a request head, also when it idles between two.
    pub header_timeout: Duration,
    /// Bytes of a connection's read buffer, at least 8,192. It bounds a request's head, loosely:
    /// it is checked between reads, so a head may be up to twice as long.
    pub header_bytes: usize,
    /// Header lines of one request.
    pub max_headers: usize,
    /// Time a query gets if it does not say, counted until its last row is handed over.
    pub default_query_timeout: Duration,
    /// The longest time a query may ask for.
    pub max_query_timeout: Duration,
    /// Rows of one answer: the default, and the most that a request may ask for.
    pub max_result_rows: u64,
    /// Queries running at once. Past it the answer is 429.
    pub max_concurrent_queries: usize,
    /// Streams of a run's events open at once. Past it the answer is 429: each of them looks at its
    /// run some times a second.
    pub max_run_events: usize,
    /// How often a stream of events looks at its run, which bounds how often it tells something.
    pub run_event_pause: Duration,
    /// Without an event for so long, a stream sends a comment: proxies close what is silent.
    pub run_event_silence: Duration,
    /// Encoded pieces of an answer that may wait for a slow client; each is one record batch.
    pub answer_pieces: usize,
    /// Rows the `table` format prints: it is for eyes and needs all rows to find the widths.
    pub table_rows: usize,
    /// Row errors listed in one ingest answer; `rejected` always counts all of them.
    pub row_errors: usize,
    /// How long open requests may go on after shutdown was asked for.
    pub shutdown_grace: Duration,
    /// A statement that takes longer is written to the log.
    pub slow_query: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 * MIB,
            body_buffer_bytes: 64 * MIB,
            body_bytes_in_flight: 512 * MIB,
            sql_bytes: MIB,
            body_idle_timeout: Duration::from_secs(30),
            max_connections: 1_024,
            header_timeout: Duration::from_secs(30),
            header_bytes: MIB / 16,
            max_headers: 100,
            default_query_timeout: Duration::from_secs(60),
            max_query_timeout: Duration::from_secs(3_600),
            max_result_rows: 10_000_000,
            max_concurrent_queries: 64,
            max_run_events: 64,
            run_event_pause: Duration::from_millis(250),
            run_event_silence: Duration::from_secs(15),
            answer_pieces: 2,
            table_rows: 1_000,
            row_errors: 100,
            shutdown_grace: Duration::from_secs(10),
            slow_query: Duration::from_secs(5),
        }
    }
}

//! `lambdalake ingest`: files to a stream, chunk by chunk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::json;

use super::args::{IngestArgs, IngestFormat};
use super::chunks::{Chunk, LineChunks};
use super::client::{Answer, Client, Payload, Repeat};
use super::input::Input;
use super::keys::Keys;
use super::{ClientError, Exit, Refusal};

/// Size of a request. The keys of a file rest on it: another size would cut it elsewhere.
const REQUEST_BYTES: usize = 4 << 20;
/// The server's word for a key that it knows with another body.
const KEY_REUSED: &str = "idempotency_key_reused";
/// Rejected lines printed one by one; the others are only counted.
const MAX_REPORTED_LINES: u64 = 100;

/// Sends the files in their order. Ends with [`Exit::BadInput`] if lines were rejected.
pub fn run(args: IngestArgs) -> anyhow::Result<Exit> {
    let mut sender = Sender::new(&args)?;
    let outcome = args.files.iter().try_for_each(|file| sender.file(file));
    sender.progress.finish_and_clear();
    match args.json {
        true => println!("{}", sender.json_summary(outcome.is_ok())),
        false => println!("{}", sender.summary()),
    }
    outcome?;
    Ok(match sender.totals.rejected {
        0 => Exit::Ok,
        _ => Exit::BadInput,
    })
}

struct Sender<'a> {
    client: Client,
    args: &'a IngestArgs,
    progress: ProgressBar,
    /// Stored bytes read so far, over all files.
    done_bytes: u64,
    keys: Keys,
    totals: Totals,
}

#[derive(Default)]
struct Totals {
    accepted: u64,
    /// Of the accepted, those that an earlier run had stored.
    repeated: u64,
    rejected: u64,
    bytes: u64,
    requests: u64,
    reported: u64,
}

/// A file that is being sent.
struct Source<'a> {
    path: &'a Path,
    name: String,
    format: IngestFormat,
    read_bytes: Arc<AtomicU64>,
}

impl Source<'_> {
    fn format_name(&self) -> String {
        let value = self.format.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// It can be cut into requests.
    fn is_in_lines(&self) -> bool {
        use IngestFormat::{Arrow, Json, Parquet};
        !matches!(self.format, Json | Parquet | Arrow)
    }

    fn bad(&self, error: std::io::Error) -> ClientError {
        bad_file(&self.name, error)
    }
}

fn bad_file(name: &str, error: std::io::Error) -> ClientError {
    ClientError::BadInput(format!("{name}: {error}"))
}

/// What the server answers to a request it has looked into.
#[derive(Debug, Deserialize)]
struct Ingested {
    #[serde(default)]
    accepted: u64,
    rejected: u64,
    #[serde(default)]
    errors: Vec<RejectedLine>,
}

#[derive(Debug, Deserialize)]
struct RejectedLine {
    line: Option<u64>,
    #[serde(default)]
    code: String,
    field: Option<String>,
    #[serde(default)]
    message: String,
}

impl<'a> Sender<'a> {
    fn new(args: &'a IngestArgs) -> anyhow::Result<Sender<'a>> {
        check_sizes(args)?;
        Ok(Sender {
            client: Client::new(&args.server.url),
            args,
            progress: progress_bar(total_bytes(&args.files)?),
            done_bytes: 0,
            keys: Keys::new(args.idempotency_key.as_deref()),
            totals: Totals::default(),
        })
    }

    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = match path == Path::new("-") {
            true => "stdin".to_owned(),
            false => path.display().to_string(),
        };
        self.progress.set_message(name.clone());
        let mut input = Input::open(path).map_err(|error| bad_file(&name, error))?;
        let format = input
            .settle_format(self.args.format, path)
            .map_err(|error| bad_file(&name, error))?;
        let read_bytes = Arc::clone(&input.read_bytes);
        let source = Source {
            path,
            name,
            format,
            read_bytes: Arc::clone(&read_bytes),
        };
        self.begin_keys(&source, &mut input)
            .map_err(|error| source.bad(error))?;
        let batch_bytes = self.args.batch_bytes.unwrap_or(REQUEST_BYTES);
        match format {
            _ if !source.is_in_lines() => self.whole(&source, input)?,
            IngestFormat::Csv => {
                self.chunks(&source, LineChunks::csv(input.reader, batch_bytes))?
            }
            _ => self.chunks(&source, LineChunks::new(input.reader, batch_bytes))?,
        }
        self.done_bytes += read_bytes.load(Ordering::Relaxed);
        Ok(())
    }

    fn begin_keys(&mut self, source: &Source<'_>, input: &mut Input) -> std::io::Result<()> {
        if !repeats_keys(self.args, input.is_file) {
            self.keys.begin_unique();
            return Ok(());
        }
        // Only lines stay what they are when a file grows; a prefix stands for the first one.
        let first_line = match source.is_in_lines() && self.args.idempotency_key.is_none() {
            true => input.first_line()?,
            false => Vec::new(),
        };
        let format = source.format_name();
        self.keys.begin_file(source.path, &format, &first_line);
        Ok(())
    }

    fn chunks(
        &mut self,
        source: &Source<'_>,
        chunks: LineChunks<Box<dyn std::io::Read>>,
    ) -> anyhow::Result<()> {
        for chunk in chunks {
            let chunk = chunk.map_err(|error| source.bad(error))?;
            let key = self.keys.next();
            let answer = self.send(source, &key, &Payload::Bytes(&chunk.bytes))?;
            let bytes = chunk.bytes.len() as u64;
            self.take_answer(source, &chunk, bytes, answer)?;
            let read = self.done_bytes + source.read_bytes.load(Ordering::Relaxed);
            self.progress.set_position(read);
        }
        Ok(())
    }

    /// Sends what cannot be cut as one request, streamed from a file.
    fn whole(&mut self, source: &Source<'_>, input: Input) -> anyhow::Result<()> {
        let (file, bytes): (File, u64) = input
            .into_file(source.path)
            .map_err(|error| source.bad(error))?;
        if bytes == 0 {
            return Ok(());
        }
        let key = self.keys.next();
        // The bar counts stored bytes, which are fewer if they are compressed.
        let stored = source.read_bytes.load(Ordering::Relaxed) as f64;
        let (progress, done) = (self.progress.clone(), self.done_bytes);
        let on_sent = move |sent: u64| {
            let part = sent as f64 / bytes as f64;
            progress.set_position(done + (stored * part) as u64);
        };
        let payload = Payload::File {
            file: &file,
            bytes,
            on_sent: &on_sent,
        };
        let answer = self.send(source, &key, &payload)?;
        let from_the_top = Chunk {
            first_line: 1,
            repeated_lines: 0,
            bytes: Vec::new(),
        };
        self.take_answer(source, &from_the_top, bytes, answer)
    }

    fn take_answer(
        &mut self,
        source: &Source<'_>,
        chunk: &Chunk,
        bytes: u64,
        answer: Answer,
    ) -> anyhow::Result<()> {
        let file = &source.name;
        let rejected_all = answer.status == 400;
        let repeated = answer.headers.get("x-repeated-events");
        let repeated = repeated.and_then(|count| count.to_str().ok()?.parse().ok());
        let repeated: u64 = repeated.unwrap_or_default();
        let ingested = match serde_json::from_str::<Ingested>(&answer.text) {
            Ok(ingested) if answer.is_success() || rejected_all => ingested,
            _ if answer.is_success() => {
                return Err(ClientError::UnexpectedAnswer {
                    url: self.client.url(&[], &[]).to_string(),
                    reason: "it does not say how many events were rejected".to_owned(),
                }
                .into());
            }
            _ if answer.body["error"]["code"] == KEY_REUSED => {
                return Err(changed(source, chunk, answer).into());
            }
            _ => return Err(refused(file, chunk, answer).into()),
        };
        self.totals.accepted += ingested.accepted;
        self.totals.repeated += repeated;
        self.totals.rejected += ingested.rejected;
        self.totals.bytes += bytes;
        self.totals.requests += 1;
        for line in &ingested.errors {
            self.report(file, chunk, line);
        }
        Ok(())
    }

    fn send(
        &self,
        source: &Source<'_>,
        key: &str,
        payload: &Payload<'_>,
    ) -> Result<Answer, ClientError> {
        let format = source.format_name();
        let url = self.client.url(
            &["api", "v1", "streams", &self.args.stream, "events"],
            &[("format", &format)],
        );
        let content_type = match source.format {
            IngestFormat::Ndjson => "application/x-ndjson",
            IngestFormat::Json => "application/json",
            IngestFormat::Csv => "text/csv",
            IngestFormat::Parquet => "application/vnd.apache.parquet",
            IngestFormat::Arrow => "application/vnd.apache.arrow.stream",
            IngestFormat::Auto | IngestFormat::Combined | IngestFormat::Common => "text/plain",
        };
        let headers = [("content-type", content_type), ("idempotency-key", key)];
        let on_wait = |wait: Duration| {
            let seconds = wait.as_secs_f32();
            self.progress
                .suspend(|| eprintln!("the server is busy, trying again in {seconds:.1} s"));
        };
        self.client
            .post(&url, &headers, payload, Repeat::Harmless, &on_wait)
    }

    fn report(&mut self, file: &str, chunk: &Chunk, rejected: &RejectedLine) {
        self.totals.reported += 1;
        if self.totals.reported > MAX_REPORTED_LINES {
            return;
        }
        let place = place(file, chunk, rejected.line);
        let field = rejected.field.as_deref();
        let field = field.map_or_else(String::new, |field| format!("field {field}: "));
        let RejectedLine { message, code, .. } = rejected;
        self.progress
            .suspend(|| eprintln!("{place}: {field}{message} [{code}]"));
    }

    fn summary(&self) -> String {
        let Totals {
            accepted,
            repeated,
            rejected,
            bytes,
            reported,
            ..
        } = self.totals;
        let elapsed = self.progress.elapsed();
        let stored_before = match repeated {
            0 => String::new(),
            count => format!(" ({} of them stored before)", HumanCount(count)),
        };
        let stored = accepted.saturating_sub(repeated);
        let per_second = (stored as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
        let not_shown = match rejected.saturating_sub(reported.min(MAX_REPORTED_LINES)) {
            0 => String::new(),
            more => format!(" ({} of them not shown)", HumanCount(more)),
        };
        format!(
            "{}: {} accepted{stored_before}, {} rejected{not_shown}, {} in {:.1} s, {} events/s",
            self.args.stream,
            HumanCount(accepted),
            HumanCount(rejected),
            HumanBytes(bytes),
            elapsed.as_secs_f64(),
            HumanCount(per_second),
        )
    }

    /// The same for programs. `complete` is false if the command ended before the input did.
    fn json_summary(&self, is_complete: bool) -> serde_json::Value {
        json!({
            "stream": self.args.stream,
            "accepted": self.totals.accepted,
            "stored_before": self.totals.repeated,
            "rejected": self.totals.rejected,
            "requests": self.totals.requests,
            "bytes": self.totals.bytes,
            "elapsed_ms": self.progress.elapsed().as_millis() as u64,
            "complete": is_complete,
        })
    }
}

/// Whether a second run of the command sends the same keys for this input.
fn repeats_keys(args: &IngestArgs, is_file: bool) -> bool {
    !args.no_idempotency_key && (is_file || args.idempotency_key.is_some())
}

/// Refuses a size of requests where it would make a second run send other requests.
fn check_sizes(args: &IngestArgs) -> Result<(), ClientError> {
    let repeats = |path: &PathBuf| repeats_keys(args, path.is_file());
    if args.batch_bytes.is_none() || !args.files.iter().any(repeats) {
        return Ok(());
    }
    Err(ClientError::BadInput(
        "--batch-bytes goes with --no-idempotency-key or stdin only: files with keys are always cut \
         in the same places, so that a second run finds what the first has stored"
            .to_owned(),
    ))
}

/// The server has other bytes under the key of this request.
fn changed(source: &Source<'_>, chunk: &Chunk, answer: Answer) -> ClientError {
    let place = match chunk.first_line {
        1 => "it is not what was sent then, and nothing of it is stored now".to_owned(),
        line => format!(
            "it differs somewhere from line {line} on. Stored are all lines that it had then, those \
             after line {line} too"
        ),
    };
    let name = &source.name;
    match answer.into_error() {
        ClientError::Refused(refusal) => ClientError::Refused(Refusal {
            message: format!(
                "{name} has changed since it was sent to this stream: {place}. Send only the lines that \
                 it did not have then, as a file of their own; or store all of it, also what is there already, with another \
                 --idempotency-key or with --no-idempotency-key"
            ),
            ..refusal
        }),
        other => other,
    }
}

/// The server would not look into the chunk at all: say where it began.
fn refused(file: &str, chunk: &Chunk, answer: Answer) -> ClientError {
    let line = answer.body["error"]["line"].as_u64();
    match answer.into_error() {
        ClientError::Refused(refusal) => ClientError::Refused(Refusal {
            message: format!(
                "{}: {}",
                place(file, chunk, line.or(Some(1 + chunk.repeated_lines))),
                refusal.message
            ),
            ..refusal
        }),
        other => other,
    }
}

/// The server counts lines from 1 in each request.
fn place(file: &str, chunk: &Chunk, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("{file}:{}", chunk.file_line(line)),
        None => file.to_owned(),
    }
}

/// Stored bytes of all files; none if stdin is among them. A file that is not there is an
/// error now, before anything has been sent.
fn total_bytes(files: &[PathBuf]) -> Result<Option<u64>, ClientError> {
    files.iter().try_fold(Some(0), |total, path| {
        if path == Path::new("-") {
            return Ok(None);
        }
        let metadata = std::fs::metadata(path)
            .map_err(|error| ClientError::BadInput(format!("{}: {error}", path.display())))?;
        Ok(total.map(|total| total + metadata.len()))
    })
}

fn progress_bar(total_bytes: Option<u64>) -> ProgressBar {
    // Drawn on stderr; hidden by itself when that is not a terminal.
    let (bar, template) = match total_bytes {
        Some(total) => (
            ProgressBar::new(total),
            "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {bytes_per_sec} {msg}",
        ),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_of_the_file() {
        let chunk = Chunk {
            first_line: 101,
            repeated_lines: 0,
            bytes: Vec::new(),
        };
        assert_eq!(place("a.log", &chunk, Some(1)), "a.log:101");
        assert_eq!(place("a.log", &chunk, Some(5)), "a.log:105");
        assert_eq!(place("a.log", &chunk, None), "a.log");
    }

    #[test]
    fn every_format_has_a_name_for_the_server() {
        for format in IngestFormat::value_variants() {
            assert!(format.to_possible_value().is_some());
        }
    }
}

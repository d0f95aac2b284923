//! One thread per stream that turns requests into logged, numbered, visible events.
//!
//! The thread owns everything that changes: the log, the next offsets, the tail. It takes
//! what waits in its queue (up to a limit), numbers it, writes one frame per request, syncs
//! once, appends to the tail, publishes, and only then answers. The core is [`StreamWriter`],
//! plain state; the thread around it is at the end of the file.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use lambdalake_data::keys::{BlockMark, StoredBlock, offsets_of};
use lambdalake_data::log::{Frame, FrameHeader, Log};
use lambdalake_data::schema::{StreamDefinition, adapt};
use lambdalake_data::tail::{Chunk, TailPart};
use lambdalake_data::{Clock, Cut, CutRange, DataError};
use tokio::sync::oneshot;

use crate::error::SpeedError;
use crate::keys::{BlockKey, Known, RememberedKeys, UnsavedKeys};
use crate::meters::WriterMeters;
use crate::open_states::OpenStates;
use crate::shard::number_events;

/// Small chunks are merged up to this many rows, so that a tail of single events does not
/// become a list of tiny batches.
const MERGED_CHUNK_ROWS: usize = 16_384;

/// Keys of requests without events that wait for the next flush, beyond which they are reason
/// enough for one: their frames are what keeps the log from being forgotten.
pub const UNSAVED_KEYS: usize = 10_000;

/// Bounds of one stream's writer.
#[derive(Clone, Debug)]
pub struct WriterLimits {
    /// Requests that may wait; one more is answered with `Busy`.
    pub queue_requests: usize,
    /// Requests that share one sync.
    pub group_requests: usize,
    /// Bytes of the tail beyond which requests are answered with `Busy`.
    pub tail_bytes: usize,
    /// Bytes of one part, beyond which another begins: a flush holds one part at a time.
    pub part_bytes: usize,
}

/// A parsed request on its way to the log.
pub struct Request {
    /// The user's columns.
    pub events: RecordBatch,
    /// The definition the body was parsed under.
    pub schema_id: u32,
    /// True when `events` has columns that definition lacks.
    pub new_fields: bool,
    pub request_id: String,
    pub producer: Option<String>,
    /// Rows that were turned away, to be remembered with the key.
    pub rejected: u64,
    pub key: Option<BlockKey>,
    pub reply: Reply,
}

/// Where the answer goes.
pub type Reply = oneshot::Sender<Result<StoredBlock, SpeedError>>;

/// What a flush is to write.
#[derive(Debug)]
pub struct Sealed {
    /// `None` if there are no events, but keys that are to be saved.
    pub part: Option<TailPart>,
    pub keys: UnsavedKeys,
}

/// Decides on a stream's next definition, given its tail as it is between two groups, and
/// makes it durable; `None` leaves all as it is.
pub type Redefinition = Box<
    dyn FnOnce(
            &StreamTail,
        )
            -> Result<Option<StreamDefinition>, Box<dyn std::error::Error + Send + Sync>>
        + Send,
>;

enum Command {
    Append(Box<Request>),
    Redefine(Redefinition, oneshot::Sender<Result<(), SpeedError>>),
    Seal(oneshot::Sender<Option<Sealed>>),
    Forget(Cut, u64),
    MarkEnd(oneshot::Sender<()>),
    Stop,
}

/// What the rest of the engine sees of a stream's tail after each change.
#[derive(Clone, Debug)]
pub struct StreamTail {
    pub definition: Arc<StreamDefinition>,
    /// Ordered; the last one is active, those before it are sealed and being flushed.
    pub parts: Vec<(TailPart, Arc<OpenStates>)>,
    pub end: Cut,
    /// Of the newest event, flushed or not.
    pub last_ingested_at_micros: Option<i64>,
}

/// A log that was opened, and the frames that [`Log::open`] handed out, in order.
pub struct Replayed {
    pub log: Log,
    pub frames: Vec<(FrameHeader, Option<RecordBatch>)>,
    /// When the newest event before them was ingested.
    pub flushed_at_micros: Option<i64>,
}

/// The plain state of a writer.
pub struct StreamWriter {
    tail: StreamTail,
    log: Log,
    keys: Arc<RememberedKeys>,
    /// Groups of the log up to this one have their keys in published files.
    saved_group: u64,
    clock: Arc<dyn Clock>,
    limits: WriterLimits,
    publish: Box<dyn Fn(StreamTail) + Send>,
    meters: WriterMeters,
    /// Why the log takes nothing any more; shared with the handle, for health.
    failure: Arc<Mutex<Option<String>>>,
}

struct Appended {
    request: Request,
    header: FrameHeader,
    events: RecordBatch,
}

impl StreamWriter {
    /// Begins where the log ends.
    pub fn recover(
        mut definition: StreamDefinition,
        flushed: &Cut,
        replayed: Replayed,
        keys: Arc<RememberedKeys>,
        clock: Arc<dyn Clock>,
        limits: WriterLimits,
        publish: Box<dyn Fn(StreamTail) + Send>,
    ) -> Result<Self, SpeedError> {
        let Replayed {
            log,
            frames,
            flushed_at_micros,
        } = replayed;
        let mut end = flushed.clone();
        let mut last = flushed_at_micros;
        let mut chunks = Vec::new();
        for (header, events) in frames {
            if !header.range.is_empty() {
                last = last.max(Some(header.ingested_at_micros));
            }
            keys.remember(&header);
            let Some(events) = events else { continue };
            // A definition that was published later knows these columns, and maybe wider.
            if let Some(columns) = header
                .new_columns
                .filter(|_| header.schema_id > definition.schema_id)
            {
                definition.columns = columns;
                definition.schema_id = header.schema_id;
            }
            if header.range.from != end {
                return Err(SpeedError::Data(DataError::Damaged {
                    path: definition.log_folder().into(),
                    reason: format!(
                        "the log goes on at {} where {end} was expected",
                        header.range.from
                    ),
                }));
            }
            end = header.range.to.clone();
            push_chunk(&mut chunks, header.range, events);
        }
        keys.expire(clock.now_micros());
        let part = TailPart {
            number: 0,
            from: flushed.clone(),
            chunks: Arc::from(chunks),
        };
        let tail = StreamTail {
            definition: Arc::new(definition),
            parts: vec![(part, Arc::default())],
            end,
            last_ingested_at_micros: last,
        };
        let writer = Self {
            tail,
            log,
            keys,
            saved_group: 0,
            clock,
            limits,
            publish,
            meters: WriterMeters::default(),
            failure: Arc::default(),
        };
        (writer.publish)(writer.tail.clone());
        Ok(writer)
    }

    /// Counts from here on.
    #[must_use]
    pub fn with_meters(mut self, meters: WriterMeters) -> Self {
        self.meters = meters;
        self
    }

    /// Logs and applies a group; answers every request.
    pub fn append(&mut self, requests: Vec<Request>) {
        let now = self.clock.now_micros();
        let mut end = self.tail.end.clone();
        let mut definition = Arc::clone(&self.tail.definition);
        let mut group = Vec::new();
        let mut frames = Vec::new();
        let tail_bytes: usize = self.tail.parts.iter().map(|(part, _)| part.bytes()).sum();
        for request in requests {
            let request = match self.answer_repeated(request, &group) {
                Some(request) => request,
                None => continue,
            };
            let prepared = if tail_bytes > self.limits.tail_bytes {
                let stream = self.tail.definition.name.clone();
                Err(SpeedError::TailFull { stream })
            } else {
                self.prepare(&request, &definition, &end, now, group.is_empty())
            };
            match prepared {
                Ok((events, header, next_definition, frame)) => {
                    end = header.range.to.clone();
                    definition = next_definition;
                    frames.push(frame);
                    group.push(Appended {
                        request,
                        header,
                        events,
                    });
                }
                Err(error) => answer(request.reply, Err(error)),
            }
        }
        if group.is_empty() {
            return;
        }
        let started = self.clock.monotonic();
        let logged = self.log.append(&frames, &end);
        let seconds = (self.clock.monotonic() - started).as_secs_f64();
        self.meters.logged(&frames, logged.is_ok(), seconds);
        if let Err(error) = logged {
            let requests: Vec<&str> = group.iter().map(|one| &*one.request.request_id).collect();
            tracing::error!(
                stream = %definition.name,
                ?requests,
                %error,
                "the log could not be written"
            );
            if !error.is_disk_full() {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert_with(|| error.to_string());
            }
            self.refuse(group, error);
            return;
        }
        self.apply(group, definition, end, now);
    }

    /// Appends an empty group behind the last one, if that has events.
    fn mark_end(&mut self) {
        if self.log.is_marked() {
            return;
        }
        let last = self.tail.last_ingested_at_micros;
        let definition = &self.tail.definition;
        let mark = Frame {
            header: FrameHeader {
                group: self.log.next_group(),
                is_first: true,
                request_id: "mark".to_owned(),
                ingested_at_micros: last.unwrap_or_else(|| self.clock.now_micros()),
                schema_id: definition.schema_id,
                new_columns: None,
                range: CutRange::new(self.tail.end.clone(), self.tail.end.clone()),
                idempotency_key: None,
                block: None,
            },
            events: RecordBatch::new_empty(definition.stored_schema()),
        };
        if let Err(error) = self.log.mark(&mark) {
            tracing::warn!(stream = definition.name, %error, "the end of the log is not marked");
            if !error.is_disk_full() {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// Answers a request whose block was stored before; gives back any other. Who sends it
    /// has looked already, but an abandoned request may have been in the queue then.
    fn answer_repeated(&self, request: Request, group: &[Appended]) -> Option<Request> {
        let Some(key) = &request.key else {
            return Some(request);
        };
        let (stream, name) = (self.tail.definition.name.clone(), key.key.clone());
        let is_in_group = |other: &Appended| {
            let other = other.request.key.as_ref();
            other.is_some_and(|other| other.key == name)
        };
        let result = match self.keys.look_up(&key.key, key.number, key.digest) {
            Known::Stored { block, .. } => Ok(block),
            Known::Other => Err(SpeedError::KeyReused { stream, key: name }),
            Known::New if group.iter().any(is_in_group) => {
                Err(SpeedError::KeyInProgress { stream, key: name })
            }
            Known::New => return Some(request),
        };
        answer(request.reply, result);
        None
    }

    fn prepare(
        &self,
        request: &Request,
        definition: &Arc<StreamDefinition>,
        end: &Cut,
        now: i64,
        is_first_in_group: bool,
    ) -> Result<(RecordBatch, FrameHeader, Arc<StreamDefinition>, Vec<u8>), SpeedError> {
        let moved = request.schema_id != definition.schema_id;
        if moved && (request.new_fields || !fits(&request.events, definition)) {
            return Err(SpeedError::SchemaMoved {
                stream: definition.name.clone(),
            });
        }
        let definition = if request.new_fields {
            Arc::new(definition.with_schema(&request.events.schema())?)
        } else {
            Arc::clone(definition)
        };
        let events = adapt(&request.events, &definition.user_schema())?;
        let mut to = end.clone();
        let events = number_events(
            &definition,
            &events,
            &mut to,
            now,
            request.producer.as_deref(),
        )?;
        let range = CutRange::new(end.clone(), to);
        let frame = Frame {
            header: FrameHeader {
                group: self.log.next_group(),
                is_first: is_first_in_group,
                request_id: request.request_id.clone(),
                ingested_at_micros: now,
                schema_id: definition.schema_id,
                new_columns: request.new_fields.then(|| definition.columns.clone()),
                range: range.clone(),
                idempotency_key: request.key.as_ref().map(|key| key.key.clone()),
                block: request.key.as_ref().map(|key| BlockMark {
                    number: key.number,
                    began_micros: self.keys.began(&key.key).unwrap_or(now),
                    digest: key.digest,
                    rejected: request.rejected,
                    is_last: key.is_last,
                    block_bytes: key.block_bytes,
                }),
            },
            events,
        };
        let bytes = frame.encode()?;
        let Frame { header, events } = frame;
        Ok((events, header, definition, bytes))
    }

    fn refuse(&self, group: Vec<Appended>, error: DataError) {
        let stream = &self.tail.definition.name;
        let text = error.to_string();
        let mut first = Some(error);
        for appended in group {
            let error = match first.take() {
                Some(source) => SpeedError::Log {
                    stream: stream.clone(),
                    source,
                },
                None if text.starts_with("no space") => SpeedError::Log {
                    stream: stream.clone(),
                    source: DataError::DiskFull {
                        operation: "append to",
                        path: "the log".into(),
                    },
                },
                None => SpeedError::Closed {
                    stream: stream.clone(),
                    reason: text.clone(),
                },
            };
            answer(appended.request.reply, Err(error));
        }
    }

    fn apply(
        &mut self,
        group: Vec<Appended>,
        definition: Arc<StreamDefinition>,
        end: Cut,
        now: i64,
    ) {
        let mut answers = Vec::with_capacity(group.len());
        if let Some((part, _)) = self.tail.parts.last_mut() {
            let mut chunks = part.chunks.to_vec();
            for Appended {
                request,
                header,
                events,
            } in group
            {
                self.keys.remember(&header);
                let stored = StoredBlock {
                    digest: None,
                    rejected: request.rejected,
                    offsets: offsets_of(&header.range),
                };
                push_chunk(&mut chunks, header.range, events);
                answers.push((request.reply, stored));
            }
            part.chunks = Arc::from(chunks);
        }
        self.keys.expire(now);
        self.tail.definition = definition;
        // A group may bring keys alone.
        if self.tail.end != end {
            self.tail.last_ingested_at_micros = self.tail.last_ingested_at_micros.max(Some(now));
        }
        self.tail.end = end;
        if self
            .tail
            .parts
            .last()
            .is_some_and(|(part, _)| part.bytes() >= self.limits.part_bytes)
        {
            self.begin_part();
        }
        (self.publish)(self.tail.clone());
        for (reply, stored) in answers {
            answer(reply, Ok(stored));
        }
    }

    /// Changes the columns between two groups. Requests that were parsed under the columns
    /// before are adapted, or sent back with `SchemaMoved`.
    fn redefine(&mut self, change: Redefinition) -> Result<(), SpeedError> {
        let next = change(&self.tail).map_err(|source| SpeedError::NotRedefined {
            stream: self.tail.definition.name.clone(),
            source,
        })?;
        if let Some(next) = next {
            self.tail.definition = Arc::new(next);
            (self.publish)(self.tail.clone());
        }
        Ok(())
    }

    /// Seals the active part and begins another. `None` when there is nothing to flush. A
    /// part sealed before, because it was full or its flush failed, is handed out first. The
    /// keys are those of everything that is in the log by now, behind the part as well: which
    /// frames are before a cut is not clear for those without events.
    pub fn seal(&mut self) -> Option<Sealed> {
        let part = self.seal_part();
        if part.is_none() && self.keys.unsaved_count() < UNSAVED_KEYS {
            return None;
        }
        let keys = self.keys.unsaved(self.log.last_group());
        Some(Sealed { part, keys })
    }

    fn seal_part(&mut self) -> Option<TailPart> {
        if self.tail.parts.len() > 1 {
            return self.tail.parts.first().map(|(part, _)| part.clone());
        }
        let (active, _) = self.tail.parts.last()?;
        if active.rows() == 0 {
            return None;
        }
        let sealed = active.clone();
        self.begin_part();
        (self.publish)(self.tail.clone());
        Some(sealed)
    }

    fn begin_part(&mut self) {
        if let Some((active, _)) = self.tail.parts.last() {
            let next = TailPart::empty(active.number + 1, active.end().clone());
            self.tail.parts.push((next, Arc::default()));
        }
    }

    /// Drops the parts that a publication covers, and log segments with them whose keys, up
    /// to a group, are in the files that it names.
    pub fn forget(&mut self, covered: &Cut, saved_group: u64) {
        self.keys.saved(saved_group);
        self.saved_group = self.saved_group.max(saved_group);
        let active = self.tail.parts.len() - 1;
        let mut index = 0;
        self.tail.parts.retain(|(part, _)| {
            index += 1;
            index > active || !covered.covers(part.end())
        });
        (self.publish)(self.tail.clone());
        if let Err(error) = self.log.forget(covered, self.saved_group) {
            tracing::warn!(%error, "old log segments could not be removed; trying at the next flush");
        }
    }
}

/// True when every column of `events` is in the definition with the same type.
fn fits(events: &RecordBatch, definition: &StreamDefinition) -> bool {
    let known = definition.user_schema();
    events.schema().fields().iter().all(|field| {
        known
            .field_with_name(field.name())
            .is_ok_and(|k| k.data_type() == field.data_type())
    })
}

/// Appends a chunk, merging small neighbours so that the list stays short.
fn push_chunk(chunks: &mut Vec<Arc<Chunk>>, range: CutRange, events: RecordBatch) {
    if range.is_empty() {
        return;
    }
    let bytes = events.get_array_memory_size();
    let mut last = Chunk {
        range,
        bytes,
        events,
    };
    while let Some(before) = chunks.last() {
        let (old, new) = (before.events.num_rows(), last.events.num_rows());
        let same_schema = before.events.schema() == last.events.schema();
        if !same_schema || old > 2 * new || old + new > MERGED_CHUNK_ROWS {
            break;
        }
        // Merging only saves memory: what cannot be merged (texts beyond 2 GiB) stays apart.
        let both = [&before.events, &last.events];
        let Ok(events) = concat_batches(&last.events.schema(), both) else {
            break;
        };
        let range = CutRange::new(before.range.from.clone(), last.range.to);
        last = Chunk {
            range,
            bytes: events.get_array_memory_size(),
            events,
        };
        chunks.pop();
    }
    chunks.push(Arc::new(last));
}

/// The client may have gone; its events are stored all the same.
fn answer(reply: Reply, result: Result<StoredBlock, SpeedError>) {
    if reply.send(result).is_err() {
        tracing::debug!("a producer left before its answer");
    }
}

/// The writer's thread and the way to it.
pub struct WriterHandle {
    stream: String,
    // Bounded crossbeam: many HTTP tasks in, one thread out, and `try_send` tells full from
    // closed so that back-pressure becomes an answer instead of a wait.
    commands: Sender<Command>,
    failure: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl WriterHandle {
    pub fn spawn(mut writer: StreamWriter) -> std::io::Result<Self> {
        let stream = writer.tail.definition.name.clone();
        let failure = Arc::clone(&writer.failure);
        let (commands, queue) = bounded(writer.limits.queue_requests);
        let thread = std::thread::Builder::new()
            .name(format!("writer-{stream}"))
            .spawn(move || run(&mut writer, &queue))?;
        Ok(Self {
            stream,
            commands,
            failure,
            thread: Some(thread),
        })
    }

    /// Queues a request; the answer comes through its `reply`.
    pub fn append(&self, request: Request) -> Result<(), SpeedError> {
        self.commands
            .try_send(Command::Append(Box::new(request)))
            .map_err(|error| match error {
                TrySendError::Full(_) => SpeedError::Busy {
                    stream: self.stream.clone(),
                },
                TrySendError::Disconnected(_) => self.closed(),
            })
    }

    /// Seals the tail for a flush; see [`StreamWriter::seal`]. Waits for its turn.
    pub fn seal(&self) -> Result<Option<Sealed>, SpeedError> {
        let (reply, sealed) = oneshot::channel();
        self.commands
            .send(Command::Seal(reply))
            .map_err(|_| self.closed())?;
        sealed.blocking_recv().map_err(|_| self.closed())
    }

    /// Changes the stream's columns; see [`Redefinition`]. Waits for its turn.
    ///
    /// Errors: `NotRedefined` with what the change returned, `Closed`.
    pub fn redefine(&self, change: Redefinition) -> Result<(), SpeedError> {
        let (reply, redefined) = oneshot::channel();
        self.commands
            .send(Command::Redefine(change, reply))
            .map_err(|_| self.closed())?;
        redefined.blocking_recv().map_err(|_| self.closed())?
    }

    /// Marks the end of the log, if its last group has events: from then on damage to that group
    /// can be told from a group that was never finished. Waits for its turn.
    pub fn mark_end(&self) -> Result<(), SpeedError> {
        let (reply, marked) = oneshot::channel();
        self.commands
            .send(Command::MarkEnd(reply))
            .map_err(|_| self.closed())?;
        marked.blocking_recv().map_err(|_| self.closed())
    }

    /// See [`StreamWriter::forget`].
    pub fn forget(&self, covered: Cut, saved_group: u64) -> Result<(), SpeedError> {
        self.commands
            .send(Command::Forget(covered, saved_group))
            .map_err(|_| self.closed())
    }

    /// Commands that wait for the thread.
    pub fn queued(&self) -> usize {
        self.commands.len()
    }

    /// Why the stream takes no events until a restart; `None` while all is well.
    pub fn failure(&self) -> Option<String> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Some("the writer thread has ended".to_owned());
        }
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn closed(&self) -> SpeedError {
        let reason = "its writer has stopped".to_owned();
        SpeedError::Closed {
            stream: self.stream.clone(),
            reason,
        }
    }
}

impl Drop for WriterHandle {
    /// Lets the thread finish what is queued, then waits for it.
    fn drop(&mut self) {
        if self.commands.send(Command::Stop).is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(stream = %self.stream, "the writer thread panicked");
        }
    }
}

fn run(writer: &mut StreamWriter, queue: &Receiver<Command>) {
    let mut waiting = Vec::new();
    let mut next = None;
    while let Some(command) = next.take().or_else(|| queue.recv().ok()) {
        match command {
            Command::Append(request) => {
                waiting.push(*request);
                while waiting.len() < writer.limits.group_requests {
                    match queue.try_recv() {
                        Ok(Command::Append(request)) => waiting.push(*request),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                writer.append(std::mem::take(&mut waiting));
            }
            Command::Seal(reply) => {
                if reply.send(writer.seal()).is_err() {
                    tracing::debug!("the flusher left; the part stays sealed for the next one");
                }
            }
            Command::Redefine(change, reply) => {
                if reply.send(writer.redefine(change)).is_err() {
                    tracing::debug!("nobody waits for the change of columns any more");
                }
            }
            Command::Forget(covered, saved_group) => writer.forget(&covered, saved_group),
            Command::MarkEnd(reply) => {
                writer.mark_end();
                if reply.send(()).is_err() {
                    tracing::debug!("nobody waits for the mark any more");
                }
            }
            Command::Stop => return,
        }
    }
}

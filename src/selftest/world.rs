//! The simulated world: the real engine over files that forget, against the model.

mod checks;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use lambdalake_data::Clock;
use lambdalake_data::disk::Disk;
use lambdalake_data::input::Encoding;
use lambdalake_data::sim::{Fault, SimFiles};
use lambdalake_serving::engine::{Engine as _, EngineError, IngestReply, IngestRequest};
use lambdalake_serving::statement::Statement;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::model::{Fate, Request, SHARDS, StreamModel, select};
use super::steps::{CHANGES, Ending, SCHEDULES, STREAMS, Step, VIEWS};
use crate::engine::{Engine, Port, Surroundings};
use crate::settings::{Settings, SettingsFlags};

/// The engine may need so many milliseconds for what runs beside the steps.
const PATIENCE_MILLIS: u64 = 60_000;

/// Time that only the steps move.
#[derive(Debug, Default)]
struct StepClock {
    micros: AtomicI64,
}

impl Clock for StepClock {
    fn now_micros(&self) -> i64 {
        self.micros.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::SeqCst) as u64)
    }
}

/// What a run did, for its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub steps: u64,
    pub checks: u64,
    pub acknowledged: u64,
    pub starts: u64,
    pub faults: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.checks += other.checks;
        self.acknowledged += other.acknowledged;
        self.starts += other.starts;
        self.faults += other.faults;
    }
}

/// One stream's slot: what must be there, and whether it is sure that it is.
#[derive(Default)]
struct Slot {
    model: Option<StreamModel>,
    /// A statement about the stream had no answer: there or not after the next start.
    is_in_doubt: bool,
    views_in_doubt: BTreeSet<usize>,
}

pub struct World {
    files: Arc<SimFiles>,
    clock: Arc<StepClock>,
    spill: TempDir,
    driver: Runtime,
    port: Option<Port>,
    slots: [Slot; STREAMS],
    requests: usize,
    tally: Tally,
    outcomes: u32,
}

fn stream_name(stream: usize) -> String {
    format!("s{stream}")
}

fn view_name(stream: usize, kind: usize) -> String {
    format!("s{stream}_v{kind}")
}

impl World {
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        let driver = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut world = Self {
            files: SimFiles::new(seed),
            clock: Arc::default(),
            spill: tempfile::tempdir()?,
            driver,
            port: None,
            slots: Default::default(),
            requests: 0,
            tally: Tally::default(),
            outcomes: 0,
        };
        world.open()?;
        Ok(world)
    }

    /// Does a step, and starts the engine again if that ended it; then all must hold.
    ///
    /// # Errors
    ///
    /// What does not hold.
    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        self.act_and_check(step)?;
        if self.files.is_down() {
            self.restart(Ending::Kill, None)?;
        }
        Ok(())
    }

    fn act_and_check(&mut self, step: &Step) -> Result<(), String> {
        self.tally.steps += 1;
        self.clock.micros.fetch_add(1_000, Ordering::SeqCst);
        let before = self.files.fired().len();
        self.act(step)?;
        self.note_failed_logs(before);
        match step.stream() {
            Some(stream) if !self.files.is_down() => self.check(stream),
            _ => Ok(()),
        }
    }

    /// A log is also written to beside requests: a second after the last group, and when a flush
    /// begins a segment. If that fails, no later request is taken.
    fn note_failed_logs(&mut self, before: usize) {
        for fault in &self.files.fired()[before..] {
            for (stream, slot) in self.slots.iter_mut().enumerate() {
                let is_its_log = fault.contains(&format!("log/{}-", stream_name(stream)));
                if let (true, Some(model)) = (is_its_log, &mut slot.model) {
                    model.log_failed = true;
                }
            }
        }
    }

    /// What the run did; two runs of one seed must agree in all of it.
    pub fn tally(&self) -> (Tally, (u64, u64), u32) {
        let tally = Tally {
            faults: self.files.fired().len() as u64,
            ..self.tally
        };
        (tally, self.files.trace(), self.outcomes)
    }

    pub fn faults(&self) -> Vec<String> {
        self.files.fired()
    }

    fn act(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::CreateStream { stream } => self.create_stream(*stream),
            Step::DropStream { stream } => self.drop_stream(*stream),
            Step::CreateView { stream, kind } => self.create_view(*stream, *kind),
            Step::AlterView { change } => self.alter_view(*change),
            Step::DropView { stream, kind } => self.drop_view(*stream, *kind),
            Step::Ingest {
                stream,
                good,
                bad,
                seed,
                keyed,
            } => {
                let number = self.requests;
                self.requests += 1;
                let request = Request::new(number, *good, *bad, *seed, *keyed);
                let Some(model) = &mut self.slots[*stream].model else {
                    return Ok(());
                };
                model.requests.push(request);
                let nth = model.requests.len() - 1;
                self.ingest(*stream, nth)
            }
            Step::Retry { stream, nth } => {
                let Some(model) = &self.slots[*stream].model else {
                    return Ok(());
                };
                let keyed = |(_, request): &(usize, &Request)| request.key.is_some();
                let keyed: Vec<usize> = model
                    .requests
                    .iter()
                    .enumerate()
                    .filter(keyed)
                    .map(|(nth, _)| nth)
                    .collect();
                match keyed.len() {
                    0 => Ok(()),
                    some => {
                        let nth = keyed[nth % some];
                        self.ingest(*stream, nth)?;
                        self.reuse_key(*stream, nth)
                    }
                }
            }
            Step::Flush { stream, during } => self.flush(*stream, during),
            Step::Recompute {
                stream,
                kind,
                during,
            } => self.recompute(*stream, *kind, during),
            Step::Verify { stream, kind } => self.verify(*stream, *kind),
            Step::Cancel => self.cancel(),
            Step::Upkeep { millis, during } => {
                let micros = i64::try_from(*millis).unwrap_or_default() * 1_000;
                self.clock.micros.fetch_add(micros, Ordering::SeqCst);
                self.beside_run(during, |world| {
                    if let Some(port) = &world.port {
                        port.0.upkeep();
                    }
                    Ok(())
                })
            }
            Step::Restart { how, again_after } => self.restart(*how, *again_after),
            Step::Arm { after, fault } => {
                self.files.arm(*after, *fault);
                Ok(())
            }
            Step::FreeSpace => {
                self.files.free_space();
                Ok(())
            }
        }
    }

    fn port(&self) -> Result<&Port, EngineError> {
        let gone = || EngineError::internal("the engine is not open");
        self.port.as_ref().ok_or_else(gone)
    }

    /// Does something that may only fail if something was broken for it; tells whether it
    /// succeeded, or with which code it failed.
    fn expect<T>(
        &mut self,
        what: &str,
        known_trouble: Option<&str>,
        act: impl FnOnce(&mut Self) -> Result<T, EngineError>,
    ) -> Result<Result<T, &'static str>, String> {
        let before = self.files.fired().len();
        let was_full = self.files.is_full();
        let result = act(self);
        let code = result.as_ref().err().map_or("done", |error| error.code);
        self.outcomes = crc32c::crc32c_append(self.outcomes, format!("{what} {code}").as_bytes());
        let has_reason = self.files.fired().len() > before
            || was_full
            || self.files.is_full()
            || self.files.is_down()
            || known_trouble.is_some();
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(_) if has_reason => Ok(Err(code)),
            Err(error) => Err(format!("{what} failed without a reason: {code}: {error:?}")),
        }
    }

    fn statement(&mut self, sql: &str) -> Result<Result<(), &'static str>, String> {
        let statement = Statement::parse(sql).map_err(|error| format!("{sql}: {error}"))?;
        let done = self.expect(sql, None, |world| {
            let port = world.port()?;
            world.driver.block_on(async {
                match statement {
                    Statement::CreateStream(spec) => port.create_stream(spec).await,
                    Statement::CreateView(spec) => port.create_view(spec).await,
                    Statement::AlterView(spec) => port.alter_view(spec).await,
                    _ => Err(EngineError::internal("not a statement of the world")),
                }
            })
        })?;
        self.wait_idle()?;
        Ok(done)
    }

    fn create_stream(&mut self, stream: usize) -> Result<(), String> {
        if self.slots[stream].model.is_some() || self.slots[stream].is_in_doubt {
            return Ok(());
        }
        let sql = format!(
            "CREATE TABLE s{stream} (ts TIMESTAMP, r BIGINT, i BIGINT, k TEXT, n BIGINT, x DOUBLE) \
             WITH (event_time = 'ts', shard_key = 'k', shards = {SHARDS})"
        );
        let made = self.statement(&sql)?;
        let slot = &mut self.slots[stream];
        slot.is_in_doubt = made.is_err();
        slot.model = made.is_ok().then(StreamModel::default);
        Ok(())
    }

    fn drop_stream(&mut self, stream: usize) -> Result<(), String> {
        if self.slots[stream].model.is_none() {
            return Ok(());
        }
        for kind in 0..VIEWS {
            self.drop_view(stream, kind)?;
        }
        if self.files.is_down() || !self.slots[stream].views_in_doubt.is_empty() {
            return Ok(());
        }
        let name = stream_name(stream);
        let dropped = self.expect("drop stream", None, |world| {
            world
                .driver
                .block_on(world.port()?.drop_stream(&name, false))
        })?;
        let is_there = self
            .port
            .as_ref()
            .is_some_and(|port| port.stream(&name).is_some());
        let slot = &mut self.slots[stream];
        match dropped {
            Ok(()) => slot.model = None,
            Err(_) => {
                slot.is_in_doubt = true;
                if !self.files.is_down() && !is_there {
                    slot.model = None;
                }
            }
        }
        Ok(())
    }

    fn create_view(&mut self, stream: usize, kind: usize) -> Result<(), String> {
        let slot = &self.slots[stream];
        let Some(model) = &slot.model else {
            return Ok(());
        };
        if model.views.contains(&kind) || slot.views_in_doubt.contains(&kind) {
            return Ok(());
        }
        let name = view_name(stream, kind);
        let select = select(&stream_name(stream), kind);
        let with = SCHEDULES[kind];
        let sql = format!("CREATE MATERIALIZED VIEW {name} {with} AS {select}");
        let made = self.statement(&sql)?;
        self.settle_view(stream, kind, made.is_ok(), true);
        Ok(())
    }

    /// Answers must be right whatever recomputes a view, so what became of it does not matter.
    fn alter_view(&mut self, change: usize) -> Result<(), String> {
        let is_there = |model: &StreamModel| model.views.contains(&0);
        if self.slots[0].model.as_ref().is_some_and(is_there) {
            let (name, change) = (view_name(0, 0), CHANGES[change % CHANGES.len()]);
            let sql = format!("ALTER MATERIALIZED VIEW {name} {change}");
            _ = self.statement(&sql)?;
        }
        Ok(())
    }

    fn drop_view(&mut self, stream: usize, kind: usize) -> Result<(), String> {
        let Some(model) = &self.slots[stream].model else {
            return Ok(());
        };
        if !model.views.contains(&kind) {
            return Ok(());
        }
        let name = view_name(stream, kind);
        let dropped = self.expect("drop view", None, |world| {
            world.driver.block_on(world.port()?.drop_view(&name, false))
        })?;
        self.settle_view(stream, kind, dropped.is_ok(), false);
        Ok(())
    }

    fn settle_view(&mut self, stream: usize, kind: usize, is_done: bool, is_made: bool) {
        let slot = &mut self.slots[stream];
        let Some(model) = &mut slot.model else { return };
        if !is_done {
            slot.views_in_doubt.insert(kind);
        }
        if is_done && is_made {
            model.views.insert(kind);
        } else {
            // In doubt it is not looked at until the next start.
            model.views.remove(&kind);
        }
    }

    fn ingest(&mut self, stream: usize, nth: usize) -> Result<(), String> {
        let Some(model) = &self.slots[stream].model else {
            return Ok(());
        };
        let request = model.requests[nth].clone();
        let trouble = model.log_failed.then_some("log_failed");
        let trouble = trouble.or(self.slots[stream].is_in_doubt.then_some("in doubt"));
        let answer = self.expect("ingest", trouble, |world| {
            world
                .driver
                .block_on(send(world.port()?, &stream_name(stream), &request))
        })?;
        let is_down = self.files.is_down();
        let Some(model) = &mut self.slots[stream].model else {
            return Ok(());
        };
        match answer {
            Ok(reply) => {
                let counts = (reply.accepted, reply.rejected);
                if counts != (request.rows.len() as u64, request.bad as u64) {
                    return Err(format!("{counts:?} rows were taken and not of {request:?}"));
                }
                let offsets = first_offsets(&reply)?;
                if request.fate == Fate::Stored {
                    if offsets != request.offsets {
                        return Err(format!("stored twice, at {offsets:?}: {request:?}"));
                    }
                } else {
                    model.store(nth, offsets);
                    self.tally.acknowledged += 1;
                    // Whatever became of a DROP, the stream has taken events again.
                    self.slots[stream].is_in_doubt = false;
                }
            }
            Err(_) if request.fate == Fate::Stored => {}
            Err("disk_full" | "busy") if !is_down && request.fate == Fate::Absent => {}
            Err(code) => {
                model.log_failed |= !is_down && code == "log_failed";
                model.requests[nth].fate = Fate::InDoubt;
            }
        }
        Ok(())
    }

    /// Another body with the key of a stored request is refused.
    fn reuse_key(&mut self, stream: usize, nth: usize) -> Result<(), String> {
        let slot = &self.slots[stream];
        let Some(model) = &slot.model else {
            return Ok(());
        };
        let mut request = model.requests[nth].clone();
        if request.fate != Fate::Stored || self.files.is_down() {
            return Ok(());
        }
        request.bad += 1;
        let trouble = (model.log_failed || slot.is_in_doubt).then_some("not open");
        let name = stream_name(stream);
        let answer = self.expect("reuse a key", trouble, |world| {
            let sent = send(world.port()?, &name, &request);
            match world.driver.block_on(sent) {
                Err(error) if error.code == "idempotency_key_reused" => Ok(None),
                other => other.map(Some),
            }
        })?;
        match answer {
            Ok(Some(reply)) => Err(format!("{request:?} was answered with {reply:?}")),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    fn flush(&mut self, stream: usize, during: &[Step]) -> Result<(), String> {
        if self.slots[stream].model.is_none() {
            return Ok(());
        }
        let name = stream_name(stream);
        self.expect("flush", None, |world| {
            if during.is_empty() {
                return world
                    .driver
                    .block_on(world.port()?.flush(Some(&name)))
                    .map(Ok);
            }
            let port = Port(Arc::clone(&world.port()?.0));
            let gate = format!("streams/{name}-");
            world.files.arm_gate(&gate);
            let flush = std::thread::Builder::new()
                .name("flush".to_owned())
                .spawn(move || futures::executor::block_on(port.flush(Some(&name))))
                .map_err(|error| EngineError::internal("no thread").because(error))?;
            let met = world.wait("the flush", |world| {
                world.files.at_gate(&gate) || flush.is_finished()
            });
            let acted = met.and_then(|()| world.act_during(during));
            world.files.open_gate(&gate);
            let flushed = flush
                .join()
                .map_err(|_| EngineError::internal("the flush panicked"))?;
            flushed.map(|()| acted)
        })?
        .unwrap_or(Ok(()))
    }

    fn act_during(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            if !self.files.is_down() {
                self.act_and_check(step)?;
            }
        }
        Ok(())
    }

    fn recompute(&mut self, stream: usize, kind: usize, during: &[Step]) -> Result<(), String> {
        let exists = |slot: &Slot| slot.model.as_ref().is_some_and(|m| m.views.contains(&kind));
        if !exists(&self.slots[stream]) {
            return Ok(());
        }
        let before = self.files.fired().len();
        let was_full = self.files.is_full();
        let name = view_name(stream, kind);
        let run = self.beside_run(during, |world| {
            world.expect("recompute", None, |world| {
                world.driver.block_on(world.port()?.recompute(&name))
            })
        })?;
        let Ok(run) = run else { return Ok(()) };
        let has_reason = self.files.fired().len() > before || was_full || self.files.is_down();
        let found = self.port.as_ref().and_then(|port| port.run(&run));
        match found.as_ref().and_then(|run| run["error"].as_str()) {
            Some(error) if !has_reason && !during.contains(&Step::Cancel) => {
                Err(format!("the recompute failed: {error}"))
            }
            Some(_) => Ok(()),
            None if has_reason => Ok(()),
            None => self.check_has_no_gaps(&name),
        }
    }

    /// Does what makes runs begin, and the steps while the first of them has its states and has not
    /// published them; then waits until all have ended.
    fn beside_run<T>(
        &mut self,
        during: &[Step],
        begin: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        // A version's files begin with the time of their run.
        let gate = format!("/{:016}-", self.clock.now_micros());
        if !during.is_empty() {
            self.files.arm_gate(&gate);
        }
        let begun = begin(self)?;
        self.wait("the recompute", |world| {
            world.files.at_gate(&gate) || world.is_idle()
        })?;
        self.act_during(during)?;
        self.files.open_gate(&gate);
        self.wait_idle()?;
        Ok(begun)
    }

    /// The states that are stored must be what the events give, whatever happened to them.
    fn verify(&mut self, stream: usize, kind: usize) -> Result<(), String> {
        let exists = |slot: &Slot| slot.model.as_ref().is_some_and(|m| m.views.contains(&kind));
        if !exists(&self.slots[stream]) {
            return Ok(());
        }
        let before = self.files.fired().len();
        let was_full = self.files.is_full();
        let name = view_name(stream, kind);
        let run = self.expect("verify", None, |world| {
            world.driver.block_on(world.port()?.verify_view(&name))
        })?;
        self.wait_idle()?;
        let Ok(run) = run else { return Ok(()) };
        if self.files.fired().len() > before || was_full || self.files.is_down() {
            return Ok(());
        }
        let found = self.port.as_ref().and_then(|port| port.run(&run));
        let audit = found.as_ref().and_then(|run| run["audit"].as_str());
        match audit {
            Some("equal" | "nothing_to_compare") => Ok(()),
            _ => Err(format!("{name} was verified with {found:?}")),
        }
    }

    fn cancel(&mut self) -> Result<(), String> {
        let Some(port) = &self.port else {
            return Ok(());
        };
        let mut ids: Vec<String> = Vec::new();
        for run in port.runs() {
            if let (true, Some(id)) = (run["phase"].is_string(), run["run_id"].as_str()) {
                ids.push(id.to_owned());
            }
        }
        ids.sort_unstable();
        for id in ids {
            let cancelled = self.driver.block_on(port.cancel_run(&id));
            cancelled.map_err(|error| format!("{id} was not cancelled: {error:?}"))?;
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.port.as_ref().is_none_or(|port| port.0.is_idle())
    }

    fn wait_idle(&self) -> Result<(), String> {
        self.wait("what runs beside the steps", Self::is_idle)
    }

    fn wait(&self, what: &str, is_over: impl Fn(&Self) -> bool) -> Result<(), String> {
        for _ in 0..PATIENCE_MILLIS {
            if is_over(self) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!("{what} does not end"))
    }

    fn restart(&mut self, how: Ending, again_after: Option<u64>) -> Result<(), String> {
        match how {
            Ending::Clean => {
                if let Some(port) = &self.port {
                    port.0.shut_down();
                }
            }
            Ending::Kill => self.files.kill(false),
            Ending::PowerCut => self.files.kill(true),
        }
        self.close()?;
        self.files.restart();
        if let Some(after) = again_after {
            self.files.arm(after, Fault::PowerCut { done: false });
        }
        if let Err(error) = self.open() {
            if !self.files.is_down() {
                return Err(format!("it does not start: {error:#}"));
            }
            self.close()?;
            self.files.restart();
            self.open()
                .map_err(|error| format!("it does not start: {error:#}"))?;
        }
        self.files.disarm();
        if self.files.is_down() {
            return self.restart(Ending::Kill, None);
        }
        self.check_named_files()?;
        self.settle()?;
        (0..STREAMS).try_for_each(|stream| self.check(stream))
    }

    /// Waits until nothing of the engine is left.
    fn close(&mut self) -> Result<(), String> {
        let Some(Port(engine)) = self.port.take() else {
            return Ok(());
        };
        self.wait("a thread of the engine", |_| {
            Arc::strong_count(&engine) == 1
        })?;
        drop(engine);
        Ok(())
    }

    fn open(&mut self) -> anyhow::Result<()> {
        self.tally.starts += 1;
        let mut settings = Settings::resolve(SettingsFlags::default(), None)?;
        settings.auto_create_streams = false;
        settings.log_segment_bytes = 3_000;
        settings.flush_rows = 60;
        let surroundings = Surroundings {
            disk: Disk::open_on(Arc::new(Arc::clone(&self.files)), None)?,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            spill: self.spill.path().to_owned(),
            cores: 1,
            has_upkeep: false,
        };
        self.port = Some(Port(Engine::open_in(settings, surroundings)?));
        Ok(())
    }
}

impl Drop for World {
    /// Lets threads that wait at a gate go on, and fail.
    fn drop(&mut self) {
        self.files.kill(false);
    }
}

async fn send(port: &Port, stream: &str, request: &Request) -> Result<IngestReply, EngineError> {
    let body = bytes::Bytes::from(request.body());
    let reply = port
        .ingest(IngestRequest {
            stream: stream.to_owned(),
            format: Some("ndjson".to_owned()),
            content_type: None,
            encoding: Encoding::Identity,
            producer: None,
            idempotency_key: request.key.clone(),
            body: Box::pin(futures::stream::once(async move { Ok(body) })),
            request_id: "selftest".to_owned(),
        })
        .await?;
    match reply.failure {
        Some(error) => Err(error),
        None => Ok(reply),
    }
}

fn first_offsets(reply: &IngestReply) -> Result<BTreeMap<u32, u64>, String> {
    let offset = |(shard, range): (&String, _)| {
        let range: &lambdalake_serving::engine::OffsetRange = range;
        let shard = shard
            .parse()
            .map_err(|error| format!("shard {shard}: {error}"))?;
        Ok((shard, range.from))
    };
    reply.offsets.iter().map(offset).collect()
}

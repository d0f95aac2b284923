//! Making and dropping streams and views.

use std::sync::{Arc, Mutex};

use datafusion::arrow::datatypes::{Field, Schema};
use lambdalake_data::delta::DeltaMirror;
use lambdalake_data::keys::KeysFile;
use lambdalake_data::log::Log;
use lambdalake_data::publication::{Comments, StreamState, ViewState};
use lambdalake_data::schema::{Column, StreamDefinition, columns_of};
use lambdalake_data::widen::widened;
use lambdalake_data::{Cut, DataError};
use lambdalake_serving::engine::{EngineError, ErrorKind, StreamSpec, ViewSpec};
use lambdalake_speed::SpeedError;
use lambdalake_speed::keys::{RememberedKeys, Window};
use lambdalake_speed::writer::{Replayed, StreamWriter, WriterHandle, WriterLimits};
use lambdalake_views::View;

use super::keys::load_keys;
use super::port::{from_data, from_view};
use super::schedule::{on_mismatch_of, schedule_of};
use super::{Engine, StreamRuntime, lock};

/// A stream has at most this many shards: each is a counter in every cut.
const MAX_SHARDS: u32 = 1024;

fn conflict(kind: &str, name: &str) -> EngineError {
    EngineError::new(
        ErrorKind::Conflict,
        "exists",
        format!("a {kind} named {name} exists already"),
    )
}

impl Engine {
    /// Replays a stream's log and starts its writer. `flushed_at_micros` is when the newest flushed
    /// event was ingested.
    pub(super) fn start_stream(
        self: &Arc<Self>,
        definition: &StreamDefinition,
        flushed: &Cut,
        saved_keys: &[KeysFile],
        flushed_at_micros: Option<i64>,
    ) -> Result<(), SpeedError> {
        let window = Window {
            age: self.settings.idempotency_window,
            keys: self.settings.idempotency_keys,
        };
        let keys = Arc::new(RememberedKeys::new(
            &definition.name,
            window,
            Arc::clone(&self.running_keys),
            load_keys(self.disk.as_ref(), saved_keys)?,
        ));
        let mut frames = Vec::new();
        let log = Log::open(
            Arc::clone(&self.disk),
            &definition.log_folder(),
            self.settings.log_segment_bytes,
            flushed,
            &mut |header, events| {
                frames.push((header, events));
                Ok(())
            },
        )?;
        self.count_damage("log", log.redundant_damage());
        let limits = WriterLimits {
            queue_requests: self.settings.ingest_queue_requests,
            group_requests: self.settings.group_commit_requests,
            tail_bytes: self.settings.tail_limit_bytes,
            part_bytes: self.settings.flush_bytes,
        };
        let publisher = Arc::clone(&self.publisher);
        let writer = StreamWriter::recover(
            definition.clone(),
            flushed,
            Replayed {
                log,
                frames,
                flushed_at_micros,
            },
            Arc::clone(&keys),
            Arc::clone(&self.clock),
            limits,
            Box::new(move |tail| publisher.set_tail(tail)),
        )?
        .with_meters(self.meters.of_writer(&definition.name));
        let writer = WriterHandle::spawn(writer).map_err(|error| SpeedError::Closed {
            stream: definition.name.clone(),
            reason: format!("its writer thread could not be started: {error}"),
        })?;
        let runtime = StreamRuntime {
            definition: definition.clone(),
            writer,
            keys,
            flush: Mutex::new(DeltaMirror::new(Arc::clone(&self.disk), definition)),
            room: Arc::default(),
            mirror_is_behind: true.into(),
            waiting_since: Mutex::default(),
            quiet: Mutex::default(),
            never_widened: Mutex::default(),
            is_rewriting: false.into(),
            rewrite_failed: Mutex::default(),
            trouble: Mutex::default(),
            pane_trouble: Mutex::default(),
        };
        lock(&self.streams).insert(definition.name.clone(), Arc::new(runtime));
        Ok(())
    }

    pub(super) fn make_stream(self: &Arc<Self>, spec: StreamSpec) -> Result<(), EngineError> {
        let schema = Schema::new(spec.fields.clone());
        check_column(&spec.fields, spec.event_time.as_deref(), "event_time")?;
        check_column(&spec.fields, spec.shard_key.as_deref(), "shard_key")?;
        if let Some(name) = spec.event_time.as_deref()
            && let Ok(field) = schema.field_with_name(name)
            && !matches!(
                field.data_type(),
                datafusion::arrow::datatypes::DataType::Timestamp(..)
            )
        {
            let message = format!("event_time column {name} must be a TIMESTAMP");
            return Err(EngineError::bad_request("invalid_option", message));
        }
        let shards = spec.shards.unwrap_or(self.settings.default_shards);
        if !(1..=MAX_SHARDS).contains(&shards) {
            let message = format!("shards must be from 1 to {MAX_SHARDS}, not {shards}");
            return Err(EngineError::bad_request("invalid_option", message));
        }
        if shards > 1 && spec.shard_key.is_none() {
            let message = "more than one shard needs a shard_key to choose by".to_owned();
            return Err(EngineError::bad_request("invalid_option", message));
        }
        let mut columns = columns_of(&schema).map_err(from_data)?;
        if spec.keeps_rest {
            columns.push(Column::rest());
        }
        let now = self.clock.now_micros();
        let made = self.publisher.change(|next| -> Result<_, ChangeError> {
            if next.streams.contains_key(&spec.name) {
                return Ok(None);
            }
            if next.views.contains_key(&spec.name) {
                return Err(ChangeError::Engine(conflict("view", &spec.name)));
            }
            let definition = StreamDefinition {
                name: spec.name.clone(),
                incarnation: next.number,
                schema_id: 1,
                types_since: 0,
                columns,
                event_time: spec.event_time.clone(),
                shard_key: spec.shard_key.clone(),
                shards,
                input: spec.input.clone(),
            };
            let state = StreamState {
                definition: definition.clone(),
                master_version: 0,
                cut: Cut::start(shards),
                files: Vec::new(),
                created_at_micros: now,
                comments: spec.comments.clone(),
                keys: Vec::new(),
            };
            next.streams.insert(spec.name.clone(), Arc::new(state));
            Ok(Some(definition))
        });
        match made.map_err(ChangeError::into_engine)? {
            Some(definition) => {
                let started = self.start_stream(&definition, &Cut::start(shards), &[], None);
                if started.is_err() {
                    // A stream without a writer would be in everybody's way until a restart.
                    self.remove_stream(&spec.name, true)?;
                }
                started.map_err(super::port::from_speed)
            }
            // It exists; why it is stopped is told by what reads or writes it.
            None if spec.if_not_exists && self.refuse_stopped(&spec.name).is_err() => Ok(()),
            None if spec.if_not_exists => self.wait_for_stream(&spec.name),
            None => Err(conflict("stream", &spec.name)),
        }
    }

    /// Another request is making the stream this instant; its writer starts right after.
    fn wait_for_stream(&self, name: &str) -> Result<(), EngineError> {
        if self.stream_runtime(name).is_some() {
            return Ok(());
        }
        let message = format!("stream {name} is being created");
        Err(EngineError::new(ErrorKind::Busy, "creating", message))
    }

    pub(super) fn make_view(self: &Arc<Self>, spec: ViewSpec) -> Result<bool, EngineError> {
        let snapshot = self.publisher.snapshot();
        let resolve = |name: &str| snapshot.streams.get(name).map(|s| Arc::clone(&s.schema));
        if let Some(view) = snapshot.views.get(&spec.name) {
            return if spec.if_not_exists {
                Ok(false)
            } else {
                Err(conflict("view", &view.state.name))
            };
        }
        if let Some(name) = view_read_by(&spec.select, &snapshot) {
            let message = format!(
                "{name} is a view; a materialized view reads a stream (write it over the stream \
                 that {name} reads)"
            );
            return Err(EngineError::bad_request("view_over_view", message));
        }
        let now = self.clock.now_micros();
        let schedule = schedule_of(&spec.options, now)?;
        let on_mismatch = on_mismatch_of(&spec.options)?.unwrap_or_default();
        let view = Arc::new(View::compile(&spec.select, &resolve).map_err(from_view)?);
        let stream = view.stream().to_owned();
        let source = snapshot.streams.get(&stream).ok_or_else(|| {
            EngineError::not_found("unknown_stream", format!("there is no stream {stream}"))
        })?;
        source.readable()?;
        let columns = source.definition.columns.clone();
        let publisher = Arc::clone(&self.publisher);
        let made = self.publisher.change(|next| -> Result<bool, ChangeError> {
            if next.streams.contains_key(&spec.name) {
                return Err(ChangeError::Engine(conflict("stream", &spec.name)));
            }
            if next.views.contains_key(&spec.name) {
                return Ok(false);
            }
            let Some(source) = next.streams.get(&stream) else {
                let message = format!("stream {stream} was dropped meanwhile");
                let error = EngineError::not_found("unknown_stream", message);
                return Err(ChangeError::Engine(error));
            };
            // The view was compiled for types that a change of columns has just replaced.
            if !widened(&columns, &source.definition.columns).is_empty() {
                let message = format!("the columns of stream {stream} change; try again");
                let error = EngineError::new(ErrorKind::Busy, "schema_moving", message);
                return Err(ChangeError::Engine(error));
            }
            let state = ViewState {
                name: spec.name.clone(),
                incarnation: next.number,
                stream: stream.clone(),
                select: spec.select.clone(),
                stream_columns: columns,
                definition_hash: view.definition_hash().to_owned(),
                recompute_every_ms: None,
                schedule: schedule.clone(),
                on_mismatch,
                version: None,
                panes: Vec::new(),
                created_at_micros: now,
                comments: Comments::default(),
            };
            publisher.add_compiled(&spec.name, next.number, Arc::clone(&view));
            next.views.insert(spec.name.clone(), Arc::new(state));
            Ok(true)
        });
        match made.map_err(ChangeError::into_engine)? {
            true => Ok(true),
            false if spec.if_not_exists => Ok(false),
            false => Err(conflict("view", &spec.name)),
        }
    }

    pub(super) fn remove_stream(&self, name: &str, if_exists: bool) -> Result<(), EngineError> {
        let removed = self.publisher.change(|next| {
            if let Some(view) = next.views.values().find(|view| view.stream == name) {
                let message = format!("view {} reads stream {name}; drop it first", view.name);
                let error = EngineError::new(ErrorKind::Conflict, "in_use", message);
                return Err(ChangeError::Engine(error));
            }
            let removed = next.streams.remove(name).ok_or(ChangeError::Unchanged)?;
            Ok(removed.definition.clone())
        });
        let definition = match removed {
            Ok(definition) => definition,
            Err(ChangeError::Unchanged) if if_exists => return Ok(()),
            Err(ChangeError::Unchanged) => {
                let message = format!("there is no stream {name}");
                return Err(EngineError::not_found("unknown_stream", message));
            }
            Err(error) => return Err(error.into_engine()),
        };
        let runtime = {
            let mut streams = lock(&self.streams);
            // Somebody may have made another stream of this name already; that one stays.
            let is_it = |runtime: &Arc<StreamRuntime>| {
                runtime.definition.incarnation == definition.incarnation
            };
            if streams.get(name).is_some_and(is_it) {
                streams.remove(name)
            } else {
                None
            }
        };
        let did_run = runtime.is_some();
        // Waits for the writer, which holds the log.
        drop(runtime);
        if did_run {
            self.publisher.remove_tail(&definition);
        }
        self.forget_damage(&definition);
        if did_run || self.publisher.remove_stopped(&definition) {
            let log = definition.log_folder();
            self.disk.remove_folder(&log).map_err(from_data)?;
            let keys = definition.keys_folder();
            self.disk.remove_folder(&keys).map_err(from_data)?;
        }
        Ok(())
    }

    pub(super) fn remove_view(&self, name: &str, if_exists: bool) -> Result<(), EngineError> {
        let removed = self.publisher.change(|next| match next.views.remove(name) {
            Some(_) => Ok(()),
            None => Err(ChangeError::Unchanged),
        });
        match removed {
            Err(ChangeError::Unchanged) if if_exists => Ok(()),
            Err(ChangeError::Unchanged) => Err(EngineError::not_found(
                "unknown_view",
                format!("there is no view {name}"),
            )),
            other => {
                other.map_err(ChangeError::into_engine)?;
                self.cancel_run_of(name);
                Ok(())
            }
        }
    }
}

/// Why a change of the publication did not happen.
#[derive(Debug)]
pub(super) enum ChangeError {
    /// There was nothing to do.
    Unchanged,
    Engine(EngineError),
    Data(DataError),
}

impl From<DataError> for ChangeError {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

impl ChangeError {
    pub(super) fn into_engine(self) -> EngineError {
        match self {
            Self::Unchanged => EngineError::internal("nothing changed"),
            Self::Engine(error) => error,
            Self::Data(error) => from_data(error),
        }
    }
}

fn check_column(fields: &[Field], name: Option<&str>, option: &str) -> Result<(), EngineError> {
    let Some(name) = name else { return Ok(()) };
    if fields.is_empty() || fields.iter().any(|field| field.name() == name) {
        return Ok(());
    }
    let message = format!("{option} names column {name}, which the stream does not have");
    Err(EngineError::bad_request("invalid_option", message))
}

/// A view that the SELECT reads, if any: views over views are not kept.
fn view_read_by(select: &str, snapshot: &lambdalake_serving::snapshot::Snapshot) -> Option<String> {
    let state = lambdalake_views::session_state();
    let dialect = state.config().options().sql_parser.dialect;
    let statement = state.sql_to_statement(select, &dialect).ok()?;
    let names = state.resolve_table_references(&statement).ok()?;
    names
        .iter()
        .map(|name| name.table().to_owned())
        .find(|n| snapshot.views.contains_key(n))
}

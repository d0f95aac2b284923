//! Streams, views and runs as the JSON that the HTTP surface shows.

use datafusion::arrow::datatypes::Schema;
use serde_json::{Value, json};

use lambdalake_batch::history::{History, Run, RunStatus};
use lambdalake_batch::progress::{Phase, Told};
use lambdalake_data::delta::refused_column;
use lambdalake_data::publication::Comments;
use lambdalake_data::schema::is_hidden;
use lambdalake_serving::snapshot::{StreamSnapshot, ViewSnapshot};
use lambdalake_serving::system::{RunRow, SettingRow, System, hidden_comment};

use super::recompute::Running;
use super::rewrite::outdated;
use super::{Engine, lock};

fn columns(schema: &Schema, is_stream: bool, comments: &Comments) -> Vec<Value> {
    schema
        .fields()
        .iter()
        .map(|field| {
            let hidden = is_stream && is_hidden(field.name());
            let own = hidden.then(|| hidden_comment(field.name())).flatten();
            let said = comments.columns.get(field.name()).map(String::as_str);
            json!({
                "name": field.name(),
                "type": field.data_type().to_string(),
                "nullable": field.is_nullable(),
                "hidden": hidden,
                "comment": own.or(said),
            })
        })
        .collect()
}

pub(super) fn rfc3339(micros: i64) -> Value {
    chrono::DateTime::from_timestamp_micros(micros)
        .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
        .into()
}

impl Engine {
    pub(super) fn describe_stream(&self, stream: &StreamSnapshot) -> Value {
        let definition = &stream.definition;
        let shards = 0..definition.shards as usize;
        let bytes: u64 = stream.state.files.iter().map(|file| file.bytes).sum();
        let tail: usize = stream.parts.iter().map(|open| open.part.bytes()).sum();
        let runtime = self.stream_runtime(&definition.name);
        let trouble = runtime.and_then(|runtime| lock(&runtime.trouble).clone());
        let damaged = self.damaged_files_of(definition);
        let stopped = stream.stopped.as_ref().map(ToString::to_string);
        json!({
            "name": definition.name,
            "comment": stream.state.comments.table,
            "schema": columns(&stream.schema, true, &stream.state.comments),
            "schema_id": definition.schema_id,
            "event_time": definition.event_time,
            "shard_key": definition.shard_key,
            "shards": definition.shards,
            "on_conflict": if definition.keeps_rest() { "rest" } else { "reject" },
            "rows": stream.end.events(),
            "bytes": bytes,
            "offsets": shards.clone().map(|shard| stream.end.offset(shard)).collect::<Vec<_>>(),
            "cut": shards.map(|shard| stream.state.cut.offset(shard)).collect::<Vec<_>>(),
            "master_version": stream.state.master_version,
            "files": stream.state.files.len(),
            "files_to_rewrite": outdated(&stream.state).count(),
            "tail_rows": stream.tail_rows(),
            "tail_bytes": tail,
            "lag_events": stream.tail_rows(),
            "freshness_ms": self.freshness_ms(stream.last_ingested_at_micros),
            "delta_table": match refused_column(definition) {
                None => json!(definition.master_folder()),
                Some(_) => Value::Null,
            },
            "delta_refused_column": refused_column(definition),
            "created_at": rfc3339(stream.state.created_at_micros),
            "error": stopped.or(damaged).or(trouble),
        })
    }

    fn freshness_ms(&self, last_micros: Option<i64>) -> Option<i64> {
        last_micros.map(|last| (self.clock.now_micros() - last).max(0) / 1000)
    }

    pub(super) fn describe_view(&self, view: &ViewSnapshot) -> Value {
        let state = &view.state;
        let last = self.describe_last_run(&state.name);
        let offsets = |cut: &lambdalake_data::Cut| -> Vec<u64> {
            (0..cut.shards()).map(|shard| cut.offset(shard)).collect()
        };
        let panes: Vec<Value> = view
            .panes
            .iter()
            .map(|pane| {
                json!({
                    "from": offsets(&pane.range.from),
                    "to": offsets(&pane.range.to),
                    "events": pane.range.events(),
                    "states": pane.files.iter().map(|file| file.rows).sum::<u64>(),
                    "bytes": pane.files.iter().map(|file| file.bytes).sum::<u64>(),
                })
            })
            .collect();
        let gaps: u64 = view
            .gaps()
            .iter()
            .map(lambdalake_data::CutRange::events)
            .sum();
        json!({
            "name": state.name,
            "stream": state.stream,
            "definition": state.select,
            "canonical_definition": view.view.canonical_sql(),
            "definition_hash": view.view.definition_hash(),
            "comment": state.comments.table,
            "schema": columns(&view.view.output_schema(), false, &state.comments),
            "recompute": state.recompute(),
            "recompute_time_zone": state.schedule.time_zone,
            "paused": state.schedule.is_paused,
            "on_mismatch": state.on_mismatch,
            "next_run_at": self.next_run_at(view).map(rfc3339),
            "version": view.version.as_ref().map(|version| version.number),
            "versions": view.version.iter().map(|version| json!({
                "number": version.number,
                "cut": offsets(&version.cut),
                "states": version.files.iter().map(|file| file.rows).sum::<u64>(),
                "bytes": version.files.iter().map(|file| file.bytes).sum::<u64>(),
                "created_at": rfc3339(version.created_at_micros),
                "run_id": version.run_id,
            })).collect::<Vec<_>>(),
            "cut": offsets(&view.batch_cut()),
            "panes": panes,
            "unstored_events": gaps,
            "tail_events": view.stream.tail_rows(),
            "lag_events": view.lag_events(),
            "freshness_ms": self.freshness_ms(view.stream.last_ingested_at_micros),
            "audit": last.as_ref().map(|run| run["audit"].clone()),
            "last_run": last,
            "created_at": rfc3339(state.created_at_micros),
            "error": view.stream.readable().err().map(|error| error.message),
        })
    }

    /// One run, as it is now.
    pub(super) fn describe_run(&self, id: &str) -> Option<Value> {
        let seen = self.see_runs(|history| history.get(id).into_iter().collect());
        seen.first().map(SeenRun::describe)
    }

    /// The newest run of a view, as it is now.
    fn describe_last_run(&self, view: &str) -> Option<Value> {
        let seen = self.see_runs(|history| history.last_of(view).into_iter().collect());
        seen.first().map(SeenRun::describe)
    }

    /// All runs, newest first.
    pub(super) fn describe_runs(&self) -> Vec<Value> {
        let seen = self.see_runs(History::all);
        seen.iter().rev().map(SeenRun::describe).collect()
    }

    /// Runs, and what those tell that have not ended. They end under the lock, so that none is
    /// seen that goes on and tells nothing.
    fn see_runs(&self, look: impl FnOnce(&History) -> Vec<Run>) -> Vec<SeenRun> {
        let now_micros = self.clock.now_micros();
        let running = lock(&self.running);
        let see = |run: Run| {
            let found = running.get(&run.view);
            let told = found
                .filter(|running| running.run_id() == run.run_id)
                .map(Running::told);
            SeenRun::new(run, told, now_micros)
        };
        look(&self.history).into_iter().map(see).collect()
    }
}

/// A run at a moment.
struct SeenRun {
    /// With counts and duration of that moment.
    run: Run,
    /// `None` once it has ended.
    phase: Option<&'static str>,
    eta_ms: Option<u64>,
}

impl SeenRun {
    fn new(mut run: Run, told: Option<Told>, now_micros: i64) -> Self {
        let Some(told) = told.filter(|_| !run.status.has_ended()) else {
            return Self {
                run,
                phase: None,
                eta_ms: None,
            };
        };
        run.counts = told.counts;
        let mut phase = told.phase;
        match run.status {
            // Its thread has just begun.
            RunStatus::Running if phase == Phase::Queued => phase = Phase::Flushing,
            RunStatus::Queued => phase = Phase::Queued,
            _ => {}
        }
        if run.status == RunStatus::Running {
            run.duration_ms = (now_micros - run.started_at_micros).max(0) as u64 / 1000;
        }
        Self {
            run,
            phase: Some(phase.word()),
            eta_ms: told.remaining.map(|left| left.as_millis() as u64),
        }
    }

    fn describe(&self) -> Value {
        let (run, counts) = (&self.run, &self.run.counts);
        json!({
            "run_id": run.run_id,
            "view": run.view,
            "kind": run.kind,
            "status": run.status,
            "started_by": run.started_by,
            "started_at": rfc3339(run.started_at_micros),
            "duration_ms": run.duration_ms,
            "phase": self.phase,
            "rows_read": counts.rows_read,
            "rows_total": counts.rows_total,
            "bytes_read": counts.bytes_read,
            "bytes_total": counts.bytes_total,
            "files_read": counts.files_read,
            "files_total": counts.files_total,
            "eta_ms": self.eta_ms,
            "states": run.states_rows,
            "cut": (0..run.cut.shards()).map(|shard| run.cut.offset(shard)).collect::<Vec<_>>(),
            "audit": run.audit,
            "groups_compared": run.groups_compared,
            "differences": run.differences,
            "damaged": run.damaged,
            "version": run.version,
            "error": run.error,
            "shared_with": run.shared_with,
            "memory_bytes": run.memory_bytes,
        })
    }

    fn row(self) -> RunRow {
        let (counts, run) = (self.run.counts, self.run);
        RunRow {
            run_id: run.run_id,
            view: run.view,
            kind: run.kind.word(),
            status: run.status.word().to_owned(),
            started_by: run.started_by,
            started_at_micros: run.started_at_micros,
            duration_ms: run.duration_ms,
            phase: self.phase,
            rows_read: counts.rows_read,
            rows_total: counts.rows_total,
            bytes_read: counts.bytes_read,
            bytes_total: counts.bytes_total,
            files_read: counts.files_read,
            files_total: counts.files_total,
            eta_ms: self.eta_ms,
            states: run.states_rows,
            cut: run.cut.to_string(),
            audit: run.audit,
            groups_compared: run.groups_compared,
            version: run.version,
            error: run.error,
        }
    }
}

/// What the system tables ask of the engine.
impl System for Engine {
    fn runs(&self) -> Vec<RunRow> {
        let seen = self.see_runs(History::all);
        seen.into_iter().rev().map(SeenRun::row).collect()
    }

    fn settings(&self) -> Vec<SettingRow> {
        let settings = self.settings.describe().into_iter();
        settings
            .map(|setting| SettingRow {
                name: setting.name,
                value: Some(setting.value).filter(|value| !value.is_empty()),
                default: setting.default,
                unit: setting.unit,
                about: setting.about,
            })
            .collect()
    }
}

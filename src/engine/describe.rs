//! Streams, views and runs as the JSON that the HTTP surface shows.

use serde_json::{Value, json};

use lambdalake_batch::history::{Run, RunStatus};
use lambdalake_data::delta::refused_column;
use lambdalake_data::schema::is_hidden;
use lambdalake_serving::snapshot::{StreamSnapshot, ViewSnapshot};

use super::rewrite::outdated;
use super::{Engine, lock};

fn columns(schema: &datafusion::arrow::datatypes::Schema) -> Vec<Value> {
    schema
        .fields()
        .iter()
        .map(|field| {
            json!({
                "name": field.name(),
                "type": field.data_type().to_string(),
                "nullable": field.is_nullable(),
                "hidden": is_hidden(field.name()),
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
        json!({
            "name": definition.name,
            "schema": columns(&stream.schema),
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
            "error": trouble,
        })
    }

    fn freshness_ms(&self, last_micros: Option<i64>) -> Option<i64> {
        last_micros.map(|last| (self.clock.now_micros() - last).max(0) / 1000)
    }

    pub(super) fn describe_view(&self, view: &ViewSnapshot) -> Value {
        let state = &view.state;
        let last = self
            .history
            .last_of(&state.name)
            .map(|run| self.describe_run(&run));
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
            "schema": columns(&view.view.output_schema()),
            "recompute_every_ms": state.recompute_every_ms,
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
        })
    }

    pub(super) fn describe_run(&self, run: &Run) -> Value {
        let mut rows_read = run.rows_read;
        let mut duration_ms = run.duration_ms;
        if run.status == RunStatus::Running {
            let running = lock(&self.running);
            let running = running
                .values()
                .find(|running| running.run_id() == run.run_id);
            rows_read = running.map_or(rows_read, |running| running.rows_read());
            duration_ms = ((self.clock.now_micros() - run.started_at_micros).max(0) / 1000) as u64;
        }
        json!({
            "run_id": run.run_id,
            "view": run.view,
            "status": run.status,
            "started_at": rfc3339(run.started_at_micros),
            "duration_ms": duration_ms,
            "rows_read": rows_read,
            "rows_total": run.rows_total,
            "states": run.states_rows,
            "cut": (0..run.cut.shards()).map(|shard| run.cut.offset(shard)).collect::<Vec<_>>(),
            "audit": run.audit,
            "version": run.version,
            "error": run.error,
        })
    }
}

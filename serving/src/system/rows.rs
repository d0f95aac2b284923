//! The content of system tables.

use arrow::datatypes::{Field, Schema};
use lambdalake_data::CutRange;
use lambdalake_data::publication::Comments;
use lambdalake_data::schema::is_hidden;

use super::{Cell, PUBLIC, QueryRow, System, TABLES, hidden_comment};
use crate::snapshot::Snapshot;

/// The one catalog.
const CATALOG: &str = "lambdalake";

/// Where the rows come from: one snapshot, one moment.
pub(crate) struct Source<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) system: &'a dyn System,
    pub(crate) queries: &'a [QueryRow],
    pub(crate) now_micros: i64,
}

type Rows = Vec<Vec<Cell>>;

macro_rules! row {
    ($($value:expr),+ $(,)?) => { vec![$(Cell::from($value)),+] };
}

pub(super) fn streams(source: &Source<'_>) -> Rows {
    let streams = source.snapshot.streams.values();
    streams
        .map(|stream| {
            let (definition, state) = (&stream.definition, &stream.state);
            let tail_bytes: usize = stream.parts.iter().map(|open| open.part.bytes()).sum();
            row![
                definition.name.as_str(),
                stream.end.events(),
                stream.master_rows(),
                stream.tail_rows(),
                state.files.iter().map(|file| file.bytes).sum::<u64>(),
                tail_bytes,
                state.files.len(),
                state.master_version,
                u64::from(definition.shards),
                definition.shard_key.as_deref(),
                definition.event_time.as_deref(),
                u64::from(definition.schema_id),
                state.cut.to_string(),
                stream.end.to_string(),
                stream.last_ingested_at_micros,
                state.created_at_micros,
                state.comments.table.as_deref(),
                stream.stopped.as_deref(),
            ]
        })
        .collect()
}

pub(super) fn views(source: &Source<'_>) -> Rows {
    let views = source.snapshot.views.values();
    views
        .map(|view| {
            let state = &view.state;
            let version = view.version.iter().flat_map(|version| &version.files);
            let panes = view.panes.iter().flat_map(|pane| &pane.files);
            let files: Vec<_> = version.chain(panes).collect();
            row![
                state.name.as_str(),
                state.stream.as_str(),
                state.select.as_str(),
                view.version.as_ref().map(|version| version.number),
                view.batch_cut().to_string(),
                view.lag_events(),
                view.panes.len(),
                view.gaps().iter().map(CutRange::events).sum::<u64>(),
                view.stream.tail_rows(),
                files.iter().map(|file| file.rows).sum::<u64>(),
                files.iter().map(|file| file.bytes).sum::<u64>(),
                files.len(),
                state.recompute(),
                state.schedule.time_zone.as_deref(),
                state.schedule.is_paused,
                state.definition_hash.as_str(),
                state.created_at_micros,
                state.comments.table.as_deref(),
            ]
        })
        .collect()
}

pub(super) fn versions(source: &Source<'_>) -> Rows {
    let views = source.snapshot.views.values();
    views
        .flat_map(|view| {
            view.version
                .iter()
                .map(|version| (&view.state.name, version))
        })
        .map(|(view, version)| {
            row![
                view.as_str(),
                version.number,
                version.cut.to_string(),
                version.cut.events(),
                version.files.iter().map(|file| file.rows).sum::<u64>(),
                version.files.iter().map(|file| file.bytes).sum::<u64>(),
                version.files.len(),
                version.created_at_micros,
                version.run_id.as_str(),
            ]
        })
        .collect()
}

pub(super) fn runs(source: &Source<'_>) -> Rows {
    let runs = source.system.runs().into_iter();
    runs.map(|run| {
        row![
            run.run_id,
            run.view,
            run.kind,
            run.status,
            run.started_by,
            run.started_at_micros,
            run.duration_ms,
            run.phase,
            run.rows_read,
            run.rows_total,
            run.bytes_read,
            run.bytes_total,
            run.files_read,
            run.files_total,
            run.eta_ms,
            run.states,
            run.cut,
            run.audit,
            run.groups_compared,
            run.version,
            run.error,
        ]
    })
    .collect()
}

pub(super) fn queries(source: &Source<'_>) -> Rows {
    let queries = source.queries.iter();
    queries
        .map(|query| {
            let elapsed = source.now_micros.saturating_sub(query.started_at_micros);
            row![
                query.query_id.as_str(),
                query.sql.as_str(),
                query.layer.as_str(),
                query.started_at_micros,
                elapsed.max(0) / 1_000,
                query.rows,
            ]
        })
        .collect()
}

pub(super) fn settings(source: &Source<'_>) -> Rows {
    let settings = source.system.settings().into_iter();
    settings
        .map(|setting| {
            let default = Some(setting.default).filter(|default| !default.is_empty());
            let unit = setting.unit.to_lowercase();
            row![setting.name, setting.value, default, unit, setting.about]
        })
        .collect()
}

/// A column of any table.
struct Listed {
    schema: &'static str,
    table: String,
    name: String,
    position: usize,
    data_type: String,
    nullable: bool,
    hidden: bool,
    comment: Option<String>,
}

impl Listed {
    fn new(table: &str, at: usize, field: &Field, is_stream: bool, comments: &Comments) -> Self {
        let name = field.name();
        let hidden = is_stream && is_hidden(name);
        let own = hidden.then(|| hidden_comment(name)).flatten();
        Self {
            schema: PUBLIC,
            table: table.to_owned(),
            name: name.clone(),
            position: at + 1,
            data_type: field.data_type().to_string(),
            nullable: field.is_nullable(),
            hidden,
            comment: own
                .map(str::to_owned)
                .or_else(|| comments.columns.get(name).cloned()),
        }
    }
}

fn listed(source: &Source<'_>) -> Vec<Listed> {
    let mut all = Vec::new();
    let mut add = |table: &str, schema: &Schema, is_stream, comments: &Comments| {
        let fields = schema.fields().iter().enumerate();
        all.extend(fields.map(|(at, field)| Listed::new(table, at, field, is_stream, comments)));
    };
    for (name, stream) in &source.snapshot.streams {
        add(name, &stream.schema, true, &stream.state.comments);
    }
    for (name, view) in &source.snapshot.views {
        add(
            name,
            &view.view.output_schema(),
            false,
            &view.state.comments,
        );
    }
    for table in TABLES {
        let columns = table.columns.iter().enumerate();
        all.extend(columns.map(|(at, column)| Listed {
            schema: table.schema,
            table: table.name.to_owned(),
            name: column.name.to_owned(),
            position: at + 1,
            data_type: column.kind.data_type().to_string(),
            nullable: column.nullable,
            hidden: false,
            comment: Some(column.about.to_owned()),
        }));
    }
    all
}

pub(super) fn columns(source: &Source<'_>) -> Rows {
    let columns = listed(source).into_iter();
    columns
        .map(|column| {
            row![
                column.schema,
                column.table,
                column.name,
                column.position,
                column.data_type,
                column.nullable,
                column.hidden,
                column.comment,
            ]
        })
        .collect()
}

fn yes_or_no(value: bool) -> &'static str {
    if value { "YES" } else { "NO" }
}

pub(super) fn standard_columns(source: &Source<'_>) -> Rows {
    let columns = listed(source).into_iter();
    columns
        .map(|column| {
            row![
                CATALOG,
                column.schema,
                column.table,
                column.name,
                column.position,
                None::<String>,
                yes_or_no(column.nullable),
                column.data_type,
                yes_or_no(column.hidden),
                column.comment,
            ]
        })
        .collect()
}

pub(super) fn standard_tables(source: &Source<'_>) -> Rows {
    let public = |name: &str, kind: &str, comments: &Comments| {
        row![CATALOG, PUBLIC, name, kind, comments.table.as_deref()]
    };
    let streams = source.snapshot.streams.iter();
    let views = source.snapshot.views.iter();
    streams
        .map(|(name, stream)| public(name, "BASE TABLE", &stream.state.comments))
        .chain(views.map(|(name, view)| public(name, "VIEW", &view.state.comments)))
        .chain(TABLES.iter().map(|table| {
            row![
                CATALOG,
                table.schema,
                table.name,
                "SYSTEM VIEW",
                Some(table.about)
            ]
        }))
        .collect()
}

pub(super) fn standard_views(source: &Source<'_>) -> Rows {
    let views = source.snapshot.views.iter();
    views
        .map(|(name, view)| row![CATALOG, PUBLIC, name.as_str(), view.state.select.as_str()])
        .collect()
}

pub(super) fn schemata(_: &Source<'_>) -> Rows {
    ["public", "lambdalake", "information_schema"]
        .map(|schema| row![CATALOG, schema, None::<String>])
        .to_vec()
}

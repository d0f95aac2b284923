//! Every system table and column: names, types, meaning and units.

use super::{ColumnDoc, Kind, TableDoc, rows};

const OURS: &str = "lambdalake";
const STANDARD: &str = "information_schema";

const fn column(name: &'static str, kind: Kind, about: &'static str) -> ColumnDoc {
    ColumnDoc {
        name,
        kind,
        nullable: false,
        about,
    }
}

const fn maybe(name: &'static str, kind: Kind, about: &'static str) -> ColumnDoc {
    ColumnDoc {
        name,
        kind,
        nullable: true,
        about,
    }
}

use Kind::{Bool, Int, Text, Time};

/// All of them, in the order of the documentation.
pub const TABLES: &[TableDoc] = &[
    TableDoc {
        schema: OURS,
        name: "streams",
        about: "Streams of this snapshot.",
        columns: &[
            column("name", Text, "Name of the stream."),
            column("rows", Int, "Events, flushed or not."),
            column("master_rows", Int, "Events in the master dataset."),
            column("tail_rows", Int, "Events that are not flushed yet."),
            column("bytes", Int, "Bytes of the master dataset's files."),
            column("tail_bytes", Int, "Bytes of memory of the tail."),
            column("files", Int, "Files of the master dataset."),
            column(
                "master_version",
                Int,
                "Changes of its files: flushes, and files that others took the place of.",
            ),
            column("shards", Int, "Shards."),
            maybe("shard_key", Text, "Column that chooses the shard."),
            maybe("event_time", Text, "Column that files are sorted by."),
            column(
                "schema_id",
                Int,
                "Counts the changes of the columns, from 1.",
            ),
            column(
                "cut",
                Text,
                "Offsets per shard up to which events are flushed.",
            ),
            column("end", Text, "Offsets per shard after the newest event."),
            maybe(
                "last_ingested_at",
                Time,
                "When the newest event was accepted.",
            ),
            column("created_at", Time, "When the stream was made."),
            maybe("comment", Text, "What COMMENT ON TABLE says."),
            maybe(
                "stopped",
                Text,
                "Why it is stopped: what is damaged; null while it runs.",
            ),
        ],
        rows: rows::streams,
    },
    TableDoc {
        schema: OURS,
        name: "views",
        about: "Materialized views of this snapshot.",
        columns: &[
            column("name", Text, "Name of the view."),
            column("stream", Text, "Stream that it reads."),
            column("definition", Text, "Its SELECT, as it was written."),
            maybe(
                "version",
                Int,
                "Newest published version; null before the first.",
            ),
            column("cut", Text, "Offsets per shard that the version covers."),
            column(
                "lag_events",
                Int,
                "Events after the cut; answers have them.",
            ),
            column("panes", Int, "Stored panes after the cut."),
            column(
                "unstored_events",
                Int,
                "Flushed events that are mapped at every query.",
            ),
            column("tail_events", Int, "Events that are not flushed yet."),
            column(
                "states",
                Int,
                "Rows of stored states, of version and panes.",
            ),
            column("bytes", Int, "Bytes of stored states."),
            column("files", Int, "Files of stored states."),
            maybe(
                "recompute",
                Text,
                "What recomputes it without being asked; null: nothing.",
            ),
            maybe(
                "recompute_time_zone",
                Text,
                "Zone of those times; null: that of the settings.",
            ),
            column("paused", Bool, "Nothing but a request recomputes it."),
            column(
                "definition_hash",
                Text,
                "Tells states of different definitions apart.",
            ),
            column("created_at", Time, "When the view was made."),
            maybe("comment", Text, "What COMMENT ON VIEW says."),
        ],
        rows: rows::views,
    },
    TableDoc {
        schema: OURS,
        name: "versions",
        about: "Published versions of views.",
        columns: &[
            column("view", Text, "Name of the view."),
            column("number", Int, "Number of the version, from 1."),
            column("cut", Text, "Offsets per shard that it covers."),
            column("events", Int, "Events that it covers."),
            column("states", Int, "Rows of its states."),
            column("bytes", Int, "Bytes of its files."),
            column("files", Int, "Its files."),
            column("created_at", Time, "When it was published."),
            column("run_id", Text, "The run that made it; see lambdalake.runs."),
        ],
        rows: rows::versions,
    },
    TableDoc {
        schema: OURS,
        name: "runs",
        about: "Recomputes, running and ended.",
        columns: &[
            column("run_id", Text, "Name of the run."),
            column("view", Text, "View that it recomputes."),
            column(
                "kind",
                Text,
                "recompute, or verify, which publishes nothing.",
            ),
            column(
                "status",
                Text,
                "queued, running, succeeded, failed, over_budget or cancelled.",
            ),
            column(
                "started_by",
                Text,
                "The trigger that was due, request, new_view, new_columns or damaged_states.",
            ),
            column(
                "started_at",
                Time,
                "When it began; while queued, when it was asked for.",
            ),
            column("duration_ms", Int, "Milliseconds it took, or takes so far."),
            maybe(
                "phase",
                Text,
                "queued, flushing, reading, sorting, writing, comparing or publishing; null once it has ended.",
            ),
            column("rows_read", Int, "Events read so far."),
            column("rows_total", Int, "Events to read."),
            column(
                "bytes_read",
                Int,
                "Bytes of the master dataset's files read so far.",
            ),
            column("bytes_total", Int, "Bytes of the files to read."),
            column("files_read", Int, "Files read to their end so far."),
            column("files_total", Int, "Files to read."),
            maybe(
                "eta_ms",
                Int,
                "Milliseconds that it may still take; null while that cannot be told.",
            ),
            column("states", Int, "Rows of the new states."),
            column("cut", Text, "Offsets per shard up to which it reads."),
            column(
                "audit",
                Text,
                "equal, nothing_to_compare or differences; empty while it runs.",
            ),
            column("groups_compared", Int, "Groups that the audit compared."),
            maybe("version", Int, "Version that it published."),
            maybe("error", Text, "Why it failed."),
        ],
        rows: rows::runs,
    },
    TableDoc {
        schema: OURS,
        name: "queries",
        about: "Queries that run at this moment, this one included.",
        columns: &[
            column(
                "query_id",
                Text,
                "What X-Query-Id says; DELETE /api/v1/queries/{id} ends it.",
            ),
            column("sql", Text, "Its text; the first 1,000 characters."),
            column("layer", Text, "merged, batch or speed."),
            column("started_at", Time, "When its planning began."),
            column("elapsed_ms", Int, "Milliseconds since then."),
            column("rows", Int, "Rows answered so far."),
        ],
        rows: rows::queries,
    },
    TableDoc {
        schema: OURS,
        name: "settings",
        about: "Settings of this process.",
        columns: &[
            column("name", Text, "Key in the settings file."),
            maybe("value", Text, "What holds; null if nothing is set."),
            maybe(
                "default",
                Text,
                "What holds if nothing is said; null for nothing.",
            ),
            column("unit", Text, "What the value is written in."),
            column("about", Text, "What it does."),
        ],
        rows: rows::settings,
    },
    TableDoc {
        schema: OURS,
        name: "columns",
        about: "Columns of streams, views and system tables.",
        columns: &[
            column("schema", Text, "public for streams and views."),
            column("table", Text, "Stream, view or system table."),
            column("name", Text, "Name of the column."),
            column("position", Int, "Place in the table, from 1."),
            column("type", Text, "Type, as Arrow writes it."),
            column("nullable", Bool, "Whether it may be null."),
            column("hidden", Bool, "Kept by the engine with every event."),
            maybe(
                "comment",
                Text,
                "What COMMENT ON COLUMN or the documentation says.",
            ),
        ],
        rows: rows::columns,
    },
    TableDoc {
        schema: STANDARD,
        name: "schemata",
        about: "Schemas, as the SQL standard lists them.",
        columns: &[
            column("catalog_name", Text, "Always lambdalake."),
            column(
                "schema_name",
                Text,
                "public, lambdalake or information_schema.",
            ),
            maybe("schema_owner", Text, "Always null: there are no owners."),
        ],
        rows: rows::schemata,
    },
    TableDoc {
        schema: STANDARD,
        name: "tables",
        about: "Tables, as the SQL standard lists them.",
        columns: &[
            column("table_catalog", Text, "Always lambdalake."),
            column(
                "table_schema",
                Text,
                "public, lambdalake or information_schema.",
            ),
            column("table_name", Text, "Stream, view or system table."),
            column(
                "table_type",
                Text,
                "BASE TABLE: stream; VIEW: view; SYSTEM VIEW: the engine's own.",
            ),
            maybe(
                "table_comment",
                Text,
                "What COMMENT ON or the documentation says.",
            ),
        ],
        rows: rows::standard_tables,
    },
    TableDoc {
        schema: STANDARD,
        name: "columns",
        about: "Columns, as the SQL standard lists them.",
        columns: &[
            column("table_catalog", Text, "Always lambdalake."),
            column(
                "table_schema",
                Text,
                "public, lambdalake or information_schema.",
            ),
            column("table_name", Text, "Stream, view or system table."),
            column("column_name", Text, "Name of the column."),
            column("ordinal_position", Int, "Place in the table, from 1."),
            maybe(
                "column_default",
                Text,
                "Always null: there are no defaults.",
            ),
            column("is_nullable", Text, "YES or NO."),
            column("data_type", Text, "Type, as Arrow writes it."),
            column(
                "is_hidden",
                Text,
                "YES for columns that the engine keeps with every event.",
            ),
            maybe(
                "column_comment",
                Text,
                "What COMMENT ON COLUMN or the documentation says.",
            ),
        ],
        rows: rows::standard_columns,
    },
    TableDoc {
        schema: STANDARD,
        name: "views",
        about: "Materialized views, as the SQL standard lists views.",
        columns: &[
            column("table_catalog", Text, "Always lambdalake."),
            column("table_schema", Text, "Always public."),
            column("table_name", Text, "Name of the view."),
            column("view_definition", Text, "Its SELECT, as it was written."),
        ],
        rows: rows::standard_views,
    },
];

/// What a hidden column of a stream holds.
pub fn hidden_comment(name: &str) -> Option<&'static str> {
    use lambdalake_data::schema::{INGESTED_AT, OFFSET, PRODUCER, SHARD};
    Some(match name {
        SHARD => "Number of the shard, from 0.",
        OFFSET => "Number of the event in its shard, from 0, without gaps.",
        INGESTED_AT => "When the engine accepted the event, by its own clock.",
        PRODUCER => "Who sent it, if the sender said so.",
        _ => return None,
    })
}

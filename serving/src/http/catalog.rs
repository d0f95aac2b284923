//! Statements that are not queries, carried out and answered as a small table: `SHOW TABLES`,
//! `DESCRIBE`, `INSERT`, `COMMENT`, `CREATE`, `ALTER`, `DROP`, `FLUSH`,
//! `REFRESH`, `VERIFY`, `EXPLAIN PROVENANCE`, `EXPLAIN RECOMPUTE`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use serde_json::{Map, Value};

use crate::engine::{Answer, Engine, Expected, QueryRequest, QueryStats};
use crate::error::{EngineError, ErrorKind};
use crate::insert;
use crate::provenance;
use crate::statement::{DropTarget, Pattern, Statement};
use crate::system::{self, PUBLIC};

/// Does what a statement says.
pub(super) async fn carry_out(
    engine: &dyn Engine,
    statement: Statement,
    query: QueryRequest,
) -> Result<Answer, EngineError> {
    match statement {
        Statement::CreateStream(spec) => {
            let name = spec.name.clone();
            engine.create_stream(spec).await?;
            done(format!("stream {name} created"))
        }
        Statement::AlterStream(spec) => {
            let name = spec.stream.clone();
            engine.alter_stream(spec).await?;
            done(format!("stream {name} altered"))
        }
        Statement::CreateView(spec) => {
            let name = spec.name.clone();
            engine.create_view(spec).await?;
            done(format!("view {name} created"))
        }
        Statement::AlterView(spec) => {
            let name = spec.view.clone();
            engine.alter_view(spec).await?;
            done(format!("view {name} altered"))
        }
        Statement::Drop {
            target: DropTarget::Stream,
            name,
            if_exists,
        } => {
            engine.drop_stream(&name, if_exists).await?;
            done(format!("stream {name} dropped"))
        }
        Statement::Drop {
            target: DropTarget::View,
            name,
            if_exists,
        } => {
            engine.drop_view(&name, if_exists).await?;
            done(format!("view {name} dropped"))
        }
        Statement::Flush(stream) => {
            engine.flush(stream.as_deref()).await?;
            done(match stream {
                Some(stream) => format!("stream {stream} flushed"),
                None => "all streams flushed".to_owned(),
            })
        }
        Statement::Refresh(view) => run_of(engine, &view, true).await,
        Statement::Verify(view) => run_of(engine, &view, false).await,
        Statement::Comment(spec) => {
            let result = match &spec.text {
                Some(_) => "comment set",
                None => "comment removed",
            };
            engine.comment(spec).await?;
            done(result.to_owned())
        }
        Statement::Insert(spec) => answer(insert::insert(engine, spec, query).await?),
        Statement::ShowTables(pattern) => show_tables(engine, pattern),
        Statement::Describe(name) => describe(engine, &name),
        Statement::ExplainProvenance(text) => {
            provenance_of(engine, QueryRequest { sql: text, ..query }).await
        }
        Statement::ExplainRecompute(view) => {
            answer(expected(&engine.explain_recompute(&view).await?))
        }
        Statement::Query(text) => engine.query(QueryRequest { sql: text, ..query }).await,
    }
}

/// Runs a query for what it reads; its rows are dropped.
async fn provenance_of(engine: &dyn Engine, query: QueryRequest) -> Result<Answer, EngineError> {
    // The answer has a row for each view and stream, however many rows the query has.
    let max_rows = u64::MAX;
    let Answer {
        mut batches, stats, ..
    } = engine.query(QueryRequest { max_rows, ..query }).await?;
    while let Some(batch) = batches.next().await {
        batch?;
    }
    let told = answer(provenance::table(&stats.provenance))?;
    Ok(Answer { stats, ..told })
}

/// Columns `name`, `value`, `unit` and `about`; a value that is not known is null.
fn expected(figures: &[Expected]) -> Result<RecordBatch, ArrowError> {
    let text = |of: fn(&Expected) -> Option<&str>| -> ArrayRef {
        Arc::new(figures.iter().map(of).collect::<StringArray>())
    };
    RecordBatch::try_from_iter_with_nullable([
        ("name", text(|it| Some(it.name)), false),
        ("value", text(|it| it.value.as_deref()), true),
        ("unit", text(|it| Some(it.unit)), false),
        ("about", text(|it| Some(&it.about)), false),
    ])
}

/// How often a REFRESH looks whether the run before it has ended.
const RUN_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// Starts a run over a view and answers with the finished run as one row.
async fn run_of(engine: &dyn Engine, view: &str, publishes: bool) -> Result<Answer, EngineError> {
    // A run that began earlier may lack what the caller has just sent: it is let through,
    // and another one started. The statement's timeout bounds the wait.
    let run_id = loop {
        let started = match publishes {
            true => engine.recompute(view).await,
            false => engine.verify_view(view).await,
        };
        match started {
            Err(error) if error.code == "already_running" => tokio::time::sleep(RUN_POLL).await,
            started => break started?,
        }
    };
    let run = engine.wait_run(&run_id).await?;
    if let Some(error) = run.get("error").filter(|error| !error.is_null()) {
        let reason = match error {
            Value::String(reason) => reason.clone(),
            other => other.to_string(),
        };
        return Err(EngineError::new(
            ErrorKind::Internal,
            "run_failed",
            format!("the run {run_id} of the view {view} failed: {reason}"),
        ));
    }
    let Value::Object(run) = run else {
        return Err(EngineError::internal("a run is not an object"));
    };
    answer(run_row(&run))
}

/// One row of a JSON object's members: numbers and texts as such, what nests as JSON text.
fn run_row(run: &Map<String, Value>) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter_with_nullable(run.iter().map(|(name, value)| {
        let column: ArrayRef = match value {
            Value::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Arc::new(Int64Array::from(vec![integer])),
                (None, Some(float)) => Arc::new(Float64Array::from(vec![float])),
                (None, None) => Arc::new(StringArray::from(vec![number.to_string()])),
            },
            Value::Null => Arc::new(StringArray::from(vec![None::<String>])),
            Value::String(text) => Arc::new(StringArray::from(vec![text.as_str()])),
            nested => Arc::new(StringArray::from(vec![nested.to_string()])),
        };
        (name, column, true)
    }))
}

/// Columns `name`, `kind` (`stream` or `view`), `rows` and `definition`; the last two are null
/// where they are unknown or do not apply.
fn show_tables(engine: &dyn Engine, pattern: Option<Pattern>) -> Result<Answer, EngineError> {
    let (streams, views) = (engine.streams(), engine.views());
    let tables: Vec<(&str, &Value)> = streams
        .iter()
        .map(|stream| ("stream", stream))
        .chain(views.iter().map(|view| ("view", view)))
        .collect();
    let text = |key: &str| -> ArrayRef {
        let texts = tables.iter().map(|(_, table)| table[key].as_str());
        Arc::new(texts.collect::<StringArray>())
    };
    let kinds: ArrayRef = Arc::new(StringArray::from_iter_values(
        tables.iter().map(|(kind, _)| kind),
    ));
    let rows: ArrayRef = Arc::new(
        tables
            .iter()
            .map(|(_, table)| table["rows"].as_i64())
            .collect::<Int64Array>(),
    );
    let all = RecordBatch::try_from_iter_with_nullable([
        ("name", text("name"), false),
        ("kind", kinds, false),
        ("rows", rows, true),
        ("definition", text("definition"), true),
    ]);
    answer(all.and_then(|all| match pattern {
        Some(pattern) => like(&all, &pattern),
        None => Ok(all),
    }))
}

/// The rows whose first column is like the pattern.
fn like(all: &RecordBatch, pattern: &Pattern) -> Result<RecordBatch, ArrowError> {
    let text = StringArray::new_scalar(&pattern.text);
    let is_like = if pattern.ignores_case {
        arrow::compute::ilike(all.column(0), &text)?
    } else {
        arrow::compute::like(all.column(0), &text)?
    };
    arrow::compute::filter_record_batch(all, &is_like)
}

/// One line of DESCRIBE.
struct Described<'a> {
    name: &'a str,
    data_type: String,
    nullable: Option<bool>,
    hidden: bool,
    comment: Option<&'a str>,
}

/// Columns `column_name`, `data_type`, `nullable`, `hidden` and `comment`, in the table's order.
fn describe(engine: &dyn Engine, name: &str) -> Result<Answer, EngineError> {
    let unknown = || {
        EngineError::not_found(
            "unknown_table",
            format!("there is no stream, view or system table {name:?}"),
        )
    };
    let parts: Vec<&str> = name.split('.').collect();
    let table = match parts[..] {
        [schema, table] | ["lambdalake", schema, table] if schema != PUBLIC => {
            let table = system::find(schema, table).ok_or_else(unknown)?;
            return answer(described(table.columns.iter().map(|column| Described {
                name: column.name,
                data_type: column.kind.data_type().to_string(),
                nullable: Some(column.nullable),
                hidden: false,
                comment: Some(column.about),
            })));
        }
        [table] | [PUBLIC, table] | ["lambdalake", PUBLIC, table] => {
            engine.stream(table).or_else(|| engine.view(table))
        }
        _ => None,
    };
    let table = table.ok_or_else(unknown)?;
    let columns: &[Value] = table["schema"].as_array().map_or(&[], Vec::as_slice);
    answer(described(columns.iter().map(|column| Described {
        name: column["name"].as_str().unwrap_or_default(),
        data_type: column["type"].as_str().unwrap_or_default().to_owned(),
        nullable: column["nullable"].as_bool(),
        hidden: column["hidden"].as_bool().unwrap_or(false),
        comment: column["comment"].as_str(),
    })))
}

fn described<'a>(columns: impl Iterator<Item = Described<'a>>) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<Described<'_>> = columns.collect();
    let text = |of: fn(&Described<'a>) -> Option<String>| -> ArrayRef {
        Arc::new(columns.iter().map(of).collect::<StringArray>())
    };
    let nullable: BooleanArray = columns.iter().map(|column| column.nullable).collect();
    let hidden: BooleanArray = columns.iter().map(|column| Some(column.hidden)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("column_name", text(|it| Some(it.name.to_owned())), false),
        ("data_type", text(|it| Some(it.data_type.clone())), false),
        ("nullable", Arc::new(nullable) as ArrayRef, true),
        ("hidden", Arc::new(hidden) as ArrayRef, false),
        ("comment", text(|it| it.comment.map(str::to_owned)), true),
    ])
}

fn done(result: String) -> Result<Answer, EngineError> {
    let column: ArrayRef = Arc::new(StringArray::from(vec![result]));
    answer(RecordBatch::try_from_iter_with_nullable([(
        "result", column, false,
    )]))
}

fn answer(batch: Result<RecordBatch, ArrowError>) -> Result<Answer, EngineError> {
    let batch = batch.map_err(|error| {
        EngineError::internal("an answer could not be put together").because(error)
    })?;
    let schema = batch.schema();
    let batches = futures::stream::iter([Ok::<_, DataFusionError>(batch)]);
    Ok(Answer {
        schema: Arc::clone(&schema),
        batches: Box::pin(RecordBatchStreamAdapter::new(schema, batches)),
        stats: Arc::new(QueryStats::default()),
    })
}

//! Statements that are not queries, carried out and answered as a small table: `SHOW TABLES`,
//! `DESCRIBE`, `CREATE`, `DROP`, `FLUSH`, `REFRESH`.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use serde_json::{Map, Value};

use crate::engine::{Answer, Engine, QueryRequest, QueryStats};
use crate::error::{EngineError, ErrorKind};
use crate::statement::{DropTarget, Statement};

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
        Statement::Refresh(view) => refresh(engine, &view).await,
        Statement::ShowTables => show_tables(engine),
        Statement::Describe(name) => describe(engine, name, query).await,
        Statement::Query(text) => engine.query(QueryRequest { sql: text, ..query }).await,
    }
}

/// How often a REFRESH looks whether the run before it has ended.
const RUN_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// Recomputes a view and answers with the finished run as one row.
async fn refresh(engine: &dyn Engine, view: &str) -> Result<Answer, EngineError> {
    // A run that began earlier may lack what the caller has just sent: it is let through,
    // and another one started. The statement's timeout bounds the wait.
    let run_id = loop {
        match engine.recompute(view).await {
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
fn show_tables(engine: &dyn Engine) -> Result<Answer, EngineError> {
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
    answer(RecordBatch::try_from_iter_with_nullable([
        ("name", text("name"), false),
        ("kind", kinds, false),
        ("rows", rows, true),
        ("definition", text("definition"), true),
    ]))
}

/// Columns `column_name`, `data_type`, `nullable`, in the table's order.
async fn describe(
    engine: &dyn Engine,
    name: String,
    query: QueryRequest,
) -> Result<Answer, EngineError> {
    if name.contains('.') {
        // System tables are only known to the planner: the columns of no rows are its answer.
        let quoted: Vec<String> = name
            .split('.')
            .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
            .collect();
        let sql = format!("SELECT * FROM {} LIMIT 0", quoted.join("."));
        let columns = engine.query(QueryRequest { sql, ..query }).await?;
        return answer(described_schema(&columns.schema));
    }
    let Some(table) = engine.stream(&name).or_else(|| engine.view(&name)) else {
        return Err(EngineError::not_found(
            "unknown_table",
            format!("there is no stream or view {name:?}"),
        ));
    };
    let columns: &[Value] = table["schema"].as_array().map_or(&[], Vec::as_slice);
    answer(described(
        columns
            .iter()
            .map(|column| column["name"].as_str().unwrap_or_default())
            .collect(),
        columns
            .iter()
            .map(|column| column["type"].as_str().unwrap_or_default())
            .collect(),
        columns
            .iter()
            .map(|column| column["nullable"].as_bool())
            .collect(),
    ))
}

fn described_schema(schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let types: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    described(
        schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect(),
        types.iter().map(String::as_str).collect(),
        schema
            .fields()
            .iter()
            .map(|field| Some(field.is_nullable()))
            .collect(),
    )
}

fn described(
    names: Vec<&str>,
    types: Vec<&str>,
    nullable: Vec<Option<bool>>,
) -> Result<RecordBatch, ArrowError> {
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("column_name", Arc::new(StringArray::from(names)), false),
        ("data_type", Arc::new(StringArray::from(types)), false),
        ("nullable", Arc::new(BooleanArray::from(nullable)), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns)
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

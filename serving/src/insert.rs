//! `INSERT`: a query's rows, brought to a stream's columns, through the same door as all events.
//!
//! ```text
//!   SELECT or VALUES, read-only on one snapshot -> batches
//!     -> columns by name, cast without loss     -> Arrow IPC stream, bounded
//!     -> one ingest request, which stores it in blocks like every body
//! ```
//!
//! Nothing is changed silently on the way: a value that does not fit its column is an error
//! that names the column. An INSERT that fits one block is stored whole or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use lambdalake_data::input::Encoding;
use lambdalake_data::schema::is_hidden;
use tokio::task::spawn_blocking;

use crate::engine::{Engine, IngestRequest, InsertSpec, QueryRequest};
use crate::error::EngineError;
use crate::params::Params;

/// Runs an INSERT. The answer has one row with the column `inserted`.
pub(crate) async fn insert(
    engine: &dyn Engine,
    spec: InsertSpec,
    query: QueryRequest,
) -> Result<Result<RecordBatch, ArrowError>, EngineError> {
    let columns = stream_columns(engine, &spec.stream, &query).await?;
    let request_id = query.query_id.clone();
    let source = engine
        .query(QueryRequest {
            sql: spec.source,
            ..query
        })
        .await?;
    let plan = Plan::new(&spec.stream, &columns, spec.columns, &source.schema)?;
    // Nothing is stored for a source without rows, nor does it need a body.
    let mut batches = source.batches;
    let Some(first) = next_rows(&mut batches).await? else {
        return Ok(inserted(0));
    };
    let rows = Arc::new(AtomicU64::new(0));
    let body = Body {
        writer: Some(StreamWriter::try_new(Vec::new(), &plan.schema).map_err(not_encoded)?),
        plan: Arc::new(plan),
        next: Some(first),
        batches,
        rows: Arc::clone(&rows),
    };
    let reply = engine
        .ingest(IngestRequest {
            stream: spec.stream,
            format: Some("arrow".to_owned()),
            content_type: None,
            encoding: Encoding::default(),
            producer: None,
            idempotency_key: None,
            body: Box::pin(futures::stream::try_unfold(body, Body::piece)),
            request_id,
        })
        .await?;
    if let Some(error) = reply.failure {
        let message = match reply.accepted {
            0 => error.message.clone(),
            stored => format!("{stored} rows were stored, then: {}", error.message),
        };
        return Err(EngineError { message, ..error });
    }
    let rows = rows.load(Ordering::Relaxed);
    if reply.accepted != rows {
        let first = reply.errors.first().map(|error| error.message.as_str());
        let message = format!(
            "{} of {rows} rows were stored, the others were not: {}",
            reply.accepted,
            first.unwrap_or("no reason was given")
        );
        return Err(EngineError::bad_request("rows_rejected", message));
    }
    Ok(inserted(rows))
}

fn inserted(rows: u64) -> Result<RecordBatch, ArrowError> {
    let count: ArrayRef = Arc::new(Int64Array::from(vec![rows as i64]));
    RecordBatch::try_from_iter([("inserted", count)])
}

/// The stream's own columns, without the hidden ones.
async fn stream_columns(
    engine: &dyn Engine,
    stream: &str,
    query: &QueryRequest,
) -> Result<Vec<Arc<Field>>, EngineError> {
    if engine.stream(stream).is_none() {
        if engine.view(stream).is_some() {
            let message =
                format!("{stream} is a view: insert into the stream that it reads, and it follows");
            return Err(EngineError::bad_request("not_a_stream", message));
        }
        let message = format!("there is no stream {stream}; create it with CREATE TABLE");
        return Err(EngineError::not_found("unknown_stream", message));
    }
    let sql = format!("SELECT * FROM \"{stream}\" LIMIT 0");
    let query = QueryRequest {
        sql,
        params: Params::default(),
        ..query.clone()
    };
    let fields = engine.query(query).await?.schema;
    let fields = fields
        .fields()
        .iter()
        .filter(|field| !is_hidden(field.name()));
    Ok(fields.cloned().collect())
}

/// How the source's columns become the stream's.
struct Plan {
    schema: SchemaRef,
    /// Per column of the stream its place in the source; `None` stays null.
    sources: Vec<Option<usize>>,
}

impl Plan {
    fn new(
        stream: &str,
        columns: &[Arc<Field>],
        named: Option<Vec<String>>,
        source: &Schema,
    ) -> Result<Self, EngineError> {
        let targets = targets(stream, columns, named, source.fields().len())?;
        if targets.len() != source.fields().len() {
            let message = format!(
                "the INSERT names {} columns and its source has {}",
                targets.len(),
                source.fields().len()
            );
            return Err(EngineError::bad_request("wrong_number_of_columns", message));
        }
        let sources: Vec<Option<usize>> = (0..columns.len())
            .map(|column| targets.iter().position(|target| *target == column))
            .collect();
        for (column, place) in columns.iter().zip(&sources) {
            match place {
                Some(place) => check_castable(column, source.field(*place))?,
                None if !column.is_nullable() => {
                    let message =
                        format!("the column {} is NOT NULL and gets no value", column.name());
                    return Err(EngineError::bad_request("null_value", message));
                }
                None => {}
            }
        }
        Ok(Self {
            schema: Arc::new(Schema::new(columns.to_vec())),
            sources,
        })
    }

    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, EngineError> {
        let fields = self.schema.fields().iter().zip(&self.sources);
        let columns = fields
            .map(|(field, place)| match place {
                Some(place) => cast(batch.column(*place), field),
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| EngineError::internal("an INSERT lost its columns").because(error))
    }
}

/// The places of the named columns in the stream; without names, of its first columns.
fn targets(
    stream: &str,
    columns: &[Arc<Field>],
    named: Option<Vec<String>>,
    sources: usize,
) -> Result<Vec<usize>, EngineError> {
    let Some(named) = named else {
        if sources > columns.len() {
            let message = format!(
                "the source has {sources} columns and the stream {stream} only {}",
                columns.len()
            );
            return Err(EngineError::bad_request("wrong_number_of_columns", message));
        }
        return Ok((0..sources).collect());
    };
    let mut targets = Vec::with_capacity(named.len());
    for name in named {
        if is_hidden(&name) {
            let message = format!("the hidden column {name} is written by the engine alone");
            return Err(EngineError::bad_request("hidden_column", message));
        }
        let place = columns.iter().position(|column| *column.name() == name);
        let Some(place) = place else {
            let message = format!("the stream {stream} has no column {name}");
            return Err(EngineError::bad_request("unknown_column", message));
        };
        if targets.contains(&place) {
            let message = format!("the column {name} is named twice");
            return Err(EngineError::bad_request("wrong_number_of_columns", message));
        }
        targets.push(place);
    }
    Ok(targets)
}

fn check_castable(column: &Field, source: &Field) -> Result<(), EngineError> {
    let (from, to) = (source.data_type(), column.data_type());
    let is_number = |it: &DataType| it.is_numeric();
    let is_time = |it: &DataType| it.is_temporal();
    // A number is not a time until somebody says in which unit.
    let mixes = is_number(from) && is_time(to) || is_time(from) && is_number(to);
    if !mixes && can_cast_types(from, to) {
        return Ok(());
    }
    let hint = match mixes {
        true => ": convert it in the SELECT, for example with to_timestamp_millis",
        false => "",
    };
    let message = format!(
        "the column {} has the type {to}, and the source gives it {} of the type {from}{hint}",
        column.name(),
        source.name()
    );
    Err(EngineError::bad_request("type_mismatch", message))
}

/// The values in the type of the column, or an error: never another value.
fn cast(values: &ArrayRef, column: &Field) -> Result<ArrayRef, EngineError> {
    let refused = |reason: String| {
        let message = format!(
            "a value does not fit the column {}: {reason}",
            column.name()
        );
        EngineError::bad_request("invalid_value", message)
    };
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let convert = |values: &ArrayRef, to: &DataType| {
        cast_with_options(values, to, &options).map_err(|error| match error {
            ArrowError::CastError(reason) | ArrowError::ParseError(reason) => refused(reason),
            other => refused(other.to_string()),
        })
    };
    let cast = convert(values, column.data_type())?;
    let (from, to) = (values.data_type(), column.data_type());
    if from != to && from.is_numeric() && to.is_numeric() {
        let back = convert(&cast, from)?;
        if back.as_ref() != values.as_ref() {
            return Err(refused(format!("{from} to {to} would change a number")));
        }
    }
    if !column.is_nullable() && cast.null_count() > 0 {
        let message = format!("the column {} is NOT NULL and gets a null", column.name());
        return Err(EngineError::bad_request("null_value", message));
    }
    Ok(cast)
}

/// The next batch that has rows.
async fn next_rows(
    batches: &mut SendableRecordBatchStream,
) -> Result<Option<RecordBatch>, EngineError> {
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if batch.num_rows() > 0 {
            return Ok(Some(batch));
        }
    }
    Ok(None)
}

/// The request body, made while the engine reads it.
struct Body {
    plan: Arc<Plan>,
    /// `None` once the body has ended.
    writer: Option<StreamWriter<Vec<u8>>>,
    next: Option<RecordBatch>,
    batches: SendableRecordBatchStream,
    rows: Arc<AtomicU64>,
}

impl Body {
    /// The next batch as the stream's columns, encoded; after the last one the end mark.
    async fn piece(mut self) -> Result<Option<(Bytes, Self)>, EngineError> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(None);
        };
        let batch = match self.next.take() {
            Some(batch) => Some(batch),
            None => next_rows(&mut self.batches).await?,
        };
        let Some(batch) = batch else {
            let end = writer.into_inner().map_err(not_encoded)?;
            return Ok(Some((end.into(), self)));
        };
        self.rows
            .fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        let plan = Arc::clone(&self.plan);
        // Casting and encoding are CPU work; the writer travels there and back.
        let encoded = spawn_blocking(move || {
            writer.write(&plan.apply(&batch)?).map_err(not_encoded)?;
            let bytes = std::mem::take(writer.get_mut());
            Ok::<_, EngineError>((bytes, writer))
        });
        let (bytes, writer) = encoded
            .await
            .map_err(|error| EngineError::internal("an INSERT's worker ended").because(error))??;
        self.writer = Some(writer);
        Ok(Some((bytes.into(), self)))
    }
}

fn not_encoded(error: ArrowError) -> EngineError {
    EngineError::internal("the rows of an INSERT could not be encoded").because(error)
}

//! What the engine knows of a stream: its columns, shards and options.
//!
//! Columns have one of seven types ([`ColumnType`]); that list, not Arrow's, is what is
//! written to disk, so a stored definition stays readable and does not depend on a
//! library's encoding. Four hidden columns follow the user's columns in every stored
//! event; they make replay, tie-breaking and checks possible.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::input::InputOptions;
use crate::widen::widened;

/// Number of the shard, from 0.
pub const SHARD: &str = "_shard";
/// Number of the event in its shard, from 0, without gaps.
pub const OFFSET: &str = "_offset";
/// When the engine accepted the event, by its own clock.
pub const INGESTED_AT: &str = "_ingested_at";
/// Who sent it, when the sender said so.
pub const PRODUCER: &str = "_producer";

/// The JSON text of rows that did not fit the columns, in streams that keep such rows. An
/// ordinary column, but no producer writes it.
pub const REST: &str = "_rest";

/// How many hidden columns stand at the end of a stored event.
pub const HIDDEN_COLUMNS: usize = 4;

/// Microseconds in UTC: the one timestamp type of a stream.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The hidden columns, in their stored order.
pub fn hidden_fields() -> [Field; HIDDEN_COLUMNS] {
    [
        Field::new(SHARD, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(INGESTED_AT, timestamp(), false),
        Field::new(PRODUCER, DataType::Utf8, true),
    ]
}

/// True for the names that only the engine may use in a stream.
pub fn is_hidden(name: &str) -> bool {
    [SHARD, OFFSET, INGESTED_AT, PRODUCER].contains(&name)
}

/// The stored schema of a stream: the user's columns, then the hidden ones.
pub fn stored_schema(user: &Schema) -> SchemaRef {
    let hidden = hidden_fields();
    let fields: Fields = user
        .fields()
        .iter()
        .cloned()
        .chain(hidden.into_iter().map(Arc::new))
        .collect();
    Arc::new(Schema::new(fields))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    Boolean,
    Int64,
    Float64,
    String,
    Timestamp,
    Object(Vec<Column>),
    List(Box<Column>),
}

/// One column as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    pub nullable: bool,
}

impl Column {
    /// The column of an Arrow field; `None` for a type no stream can hold.
    pub fn from_field(field: &Field) -> Option<Self> {
        let column_type = match field.data_type() {
            DataType::Boolean => ColumnType::Boolean,
            DataType::Int64 => ColumnType::Int64,
            DataType::Float64 => ColumnType::Float64,
            DataType::Utf8 => ColumnType::String,
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => ColumnType::Timestamp,
            DataType::Struct(fields) => ColumnType::Object(
                fields
                    .iter()
                    .map(|field| Self::from_field(field))
                    .collect::<Option<_>>()?,
            ),
            DataType::List(item) => ColumnType::List(Box::new(Self::from_field(item)?)),
            _ => return None,
        };
        Some(Self {
            name: field.name().clone(),
            column_type,
            nullable: field.is_nullable(),
        })
    }

    /// The column of rows that do not fit; see [`REST`].
    pub fn rest() -> Self {
        Self {
            name: REST.to_owned(),
            column_type: ColumnType::String,
            nullable: true,
        }
    }

    fn to_field(&self) -> Field {
        let data_type = match &self.column_type {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Int64 => DataType::Int64,
            ColumnType::Float64 => DataType::Float64,
            ColumnType::String => DataType::Utf8,
            ColumnType::Timestamp => timestamp(),
            ColumnType::Object(columns) => {
                DataType::Struct(columns.iter().map(Self::to_field).collect())
            }
            ColumnType::List(item) => DataType::List(Arc::new(item.to_field())),
        };
        Field::new(&self.name, data_type, self.nullable)
    }
}

/// A stream's definition at one schema id. A new column makes the next id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDefinition {
    pub name: String,
    /// Tells a stream from an earlier one of the same name that was dropped.
    pub incarnation: u64,
    pub schema_id: u32,
    /// The schema id that last changed the type of a column. Files of an earlier one hold the
    /// narrower type: they are read with a cast, and written again for other readers.
    #[serde(default)]
    pub types_since: u32,
    pub columns: Vec<Column>,
    /// The column that files are sorted by; `None` keeps the order of arrival.
    pub event_time: Option<String>,
    /// The column whose value chooses the shard; `None` puts everything in shard 0.
    pub shard_key: Option<String>,
    pub shards: u32,
    /// How its events are read. Absent in entries of before there was a choice.
    #[serde(default)]
    pub input: InputOptions,
}

impl StreamDefinition {
    /// The user's columns as Arrow sees them.
    pub fn user_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns
                .iter()
                .map(Column::to_field)
                .collect::<Fields>(),
        ))
    }

    pub fn stored_schema(&self) -> SchemaRef {
        stored_schema(&self.user_schema())
    }

    /// The next schema id with these user columns, which keep the types of known ones.
    pub fn with_schema(&self, schema: &Schema) -> Result<Self> {
        Ok(self.with_columns(columns_of(schema)?))
    }

    /// The next schema id with these user columns.
    pub fn with_columns(&self, columns: Vec<Column>) -> Self {
        let schema_id = self.schema_id + 1;
        let widened = !widened(&self.columns, &columns).is_empty();
        Self {
            schema_id,
            types_since: if widened { schema_id } else { self.types_since },
            columns,
            ..self.clone()
        }
    }

    /// Whether rows that do not fit the columns are kept in the column [`REST`].
    pub fn keeps_rest(&self) -> bool {
        self.columns.iter().any(|column| column.name == REST)
    }

    /// Where the master dataset of this stream lies.
    pub fn master_folder(&self) -> String {
        format!("streams/{}-{}", self.name, self.incarnation)
    }

    /// Where the log of this stream lies.
    pub fn log_folder(&self) -> String {
        format!("log/{}-{}", self.name, self.incarnation)
    }

    /// Where the idempotency keys of this stream lie that the log has forgotten.
    pub fn keys_folder(&self) -> String {
        format!("keys/{}-{}", self.name, self.incarnation)
    }
}

/// The Arrow schema of these columns.
pub fn schema_of(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(
        columns.iter().map(Column::to_field).collect::<Fields>(),
    ))
}

/// The columns of a user schema, or which one has a type no stream can hold.
pub fn columns_of(schema: &Schema) -> Result<Vec<Column>> {
    let column = |field: &Arc<Field>| {
        Column::from_field(field).ok_or_else(|| DataError::Damaged {
            path: Path::new(field.name()).to_path_buf(),
            reason: format!("a stream column cannot have type {}", field.data_type()),
        })
    };
    schema.fields().iter().map(column).collect()
}

/// The rows of `batch` in the columns of `target`: columns are found by name, a missing
/// one is null, nested fields likewise. Used to read older events under a newer schema.
pub fn adapt(
    batch: &arrow::record_batch::RecordBatch,
    target: &SchemaRef,
) -> Result<arrow::record_batch::RecordBatch> {
    use arrow::array::{RecordBatch, RecordBatchOptions};
    if batch.schema().fields() == target.fields() {
        return Ok(RecordBatch::try_new_with_options(
            Arc::clone(target),
            batch.columns().to_vec(),
            &RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
        )?);
    }
    let columns = target
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => adapt_array(column, field.data_type()),
            None => Ok(arrow::array::new_null_array(
                field.data_type(),
                batch.num_rows(),
            )),
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(target),
        columns,
        &options,
    )?)
}

fn adapt_array(
    array: &arrow::array::ArrayRef,
    target: &DataType,
) -> Result<arrow::array::ArrayRef> {
    use arrow::array::{Array, AsArray, ListArray, StructArray};
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), target) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let source = array.as_struct();
            let columns = fields
                .iter()
                .map(|field| match source.column_by_name(field.name()) {
                    Some(column) => adapt_array(column, field.data_type()),
                    None => Ok(arrow::array::new_null_array(
                        field.data_type(),
                        source.len(),
                    )),
                })
                .collect::<Result<Vec<_>>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                columns,
                source.nulls().cloned(),
                source.len(),
            )?))
        }
        (DataType::List(_), DataType::List(item)) => {
            let source = array.as_list::<i32>();
            let values = adapt_array(source.values(), item.data_type())?;
            Ok(Arc::new(ListArray::try_new(
                Arc::clone(item),
                source.offsets().clone(),
                values,
                source.nulls().cloned(),
            )?))
        }
        _ => Ok(arrow::compute::cast(array, target)?),
    }
}

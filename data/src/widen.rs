//! Integer columns that become float columns.
//!
//! A stream's integer column that meets a number with a fraction widens to `Float64`, if
//! nothing is lost by it: every integer it ever held must be exact in a float, which is sure
//! up to 2^53. New events are checked by the parser; this module checks what is there, in
//! batches of the tail by value and in master files by the statistics of their footers.
//!
//! A place is written as in `payload.sizes[]`: members by name, elements of lists as `[]`.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type, Schema, SchemaRef};
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::statistics::Statistics;

use crate::disk::Disk;
use crate::error::{DataError, Result};
use crate::schema::{Column, ColumnType};

/// Integers up to here, and down to its negative, are exact in a float of 64 bits.
pub const EXACT_IN_FLOAT: i64 = 1 << 53;

/// Marks a field whose integers must stay integers, for the parser.
const NEVER_WIDENED: &str = "lambdalake.never_widened";

/// The end of a Parquet file that is read at first; most footers fit.
const FOOTER_BYTES: u64 = 64 * 1024;

/// One step to a place within a row.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Element(String),
}

/// A place whose type changes from integer to float.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Widening {
    steps: Vec<Step>,
}

impl Widening {
    /// For people and as a key, such as `payload.sizes[]`.
    pub fn path(&self) -> String {
        path_of(&self.steps)
    }

    /// The leaf's path as Parquet spells it, such as `payload.sizes.list.element`.
    fn leaf(&self) -> Vec<&str> {
        fn parts(step: &Step) -> Vec<&str> {
            match step {
                Step::Member(name) => vec![name],
                Step::Element(name) => vec!["list", name],
            }
        }
        self.steps.iter().flat_map(parts).collect()
    }

    /// Whether an integer at this place is not exact in a float.
    pub fn loses_in_batch(&self, batch: &RecordBatch) -> bool {
        let Some((Step::Member(first), rest)) = self.steps.split_first() else {
            return false;
        };
        batch
            .column_by_name(first)
            .is_some_and(|column| loses(column, rest))
    }

    /// Whether a master file may hold an integer at this place that is not exact in a float.
    /// A file without statistics may; one without the column does not.
    pub fn loses_in_file(&self, footer: &ParquetMetaData) -> bool {
        let leaf = self.leaf();
        let chunks = footer.row_groups().iter().flat_map(|group| group.columns());
        chunks
            .filter(|chunk| chunk.column_path().parts() == leaf)
            .filter(|chunk| chunk.num_values() > 0)
            .any(|chunk| match chunk.statistics() {
                Some(Statistics::Int64(range)) => match (range.min_opt(), range.max_opt()) {
                    (Some(min), Some(max)) => is_beyond(*min) || is_beyond(*max),
                    // Only nulls.
                    _ => range.null_count_opt() != Some(chunk.num_values() as u64),
                },
                Some(Statistics::Double(_)) => false,
                _ => true,
            })
    }
}

fn is_beyond(number: i64) -> bool {
    !(-EXACT_IN_FLOAT..=EXACT_IN_FLOAT).contains(&number)
}

fn loses(array: &ArrayRef, steps: &[Step]) -> bool {
    match (steps.split_first(), array.data_type()) {
        (None, DataType::Int64) => array
            .as_primitive::<Int64Type>()
            .iter()
            .flatten()
            .any(is_beyond),
        (Some((Step::Member(name), rest)), DataType::Struct(_)) => array
            .as_struct()
            .column_by_name(name)
            .is_some_and(|member| loses(member, rest)),
        (Some((Step::Element(_), rest)), DataType::List(_)) => {
            loses(array.as_list::<i32>().values(), rest)
        }
        _ => false,
    }
}

fn path_of(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Member(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            Step::Element(_) => path.push_str("[]"),
        }
    }
    path
}

/// The places that are integers in `from` and floats in `to`.
pub fn widened(from: &[Column], to: &[Column]) -> Vec<Widening> {
    let mut found = Vec::new();
    compare_members(from, to, &mut Vec::new(), &mut found);
    found
}

fn compare_members(
    from: &[Column],
    to: &[Column],
    steps: &mut Vec<Step>,
    found: &mut Vec<Widening>,
) {
    for column in from {
        if let Some(other) = to.iter().find(|other| other.name == column.name) {
            steps.push(Step::Member(column.name.clone()));
            compare(&column.column_type, &other.column_type, steps, found);
            steps.pop();
        }
    }
}

fn compare(from: &ColumnType, to: &ColumnType, steps: &mut Vec<Step>, found: &mut Vec<Widening>) {
    match (from, to) {
        (ColumnType::Int64, ColumnType::Float64) => found.push(Widening {
            steps: steps.clone(),
        }),
        (ColumnType::Object(from), ColumnType::Object(to)) => {
            compare_members(from, to, steps, found);
        }
        (ColumnType::List(from), ColumnType::List(to)) => {
            steps.push(Step::Element(from.name.clone()));
            compare(&from.column_type, &to.column_type, steps, found);
            steps.pop();
        }
        _ => {}
    }
}

/// `columns` with these places as floats. Places that are not there are left out.
pub fn with_widened(columns: &[Column], widenings: &[Widening]) -> Vec<Column> {
    let mut columns = columns.to_vec();
    for widening in widenings {
        widen_member(&mut columns, &widening.steps);
    }
    columns
}

fn widen_member(columns: &mut [Column], steps: &[Step]) {
    if let Some((Step::Member(name), rest)) = steps.split_first()
        && let Some(column) = columns.iter_mut().find(|column| &column.name == name)
    {
        widen_type(&mut column.column_type, rest);
    }
}

fn widen_type(column_type: &mut ColumnType, steps: &[Step]) {
    match (column_type, steps.split_first()) {
        (found @ ColumnType::Int64, None) => *found = ColumnType::Float64,
        (ColumnType::Object(columns), Some(_)) => widen_member(columns, steps),
        (ColumnType::List(element), Some((Step::Element(_), rest))) => {
            widen_type(&mut element.column_type, rest);
        }
        _ => {}
    }
}

/// The footer of a master file.
pub fn read_footer(disk: &Disk, path: &str, bytes: u64) -> Result<ParquetMetaData> {
    let mut wanted = FOOTER_BYTES.min(bytes);
    loop {
        let end: Bytes = disk
            .read_range(path, bytes - wanted..bytes)?
            .ok_or_else(|| DataError::Damaged {
                path: path.into(),
                reason: "the file is gone".to_owned(),
            })?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&end, bytes) {
            Ok(()) => return Ok(reader.finish()?),
            Err(ParquetError::NeedMoreData(more)) if (more as u64) > wanted => {
                wanted = (more as u64).min(bytes);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The schema the parser gets: integer columns at `paths` are marked to stay as they are.
pub fn never_widening(schema: &SchemaRef, paths: &HashSet<String>) -> SchemaRef {
    if paths.is_empty() {
        return Arc::clone(schema);
    }
    let fields = marked(schema.fields(), &mut Vec::new(), paths);
    Arc::new(Schema::new_with_metadata(fields, schema.metadata.clone()))
}

/// Whether [`never_widening`] marked a field.
pub fn is_never_widened(field: &Field) -> bool {
    field.metadata().contains_key(NEVER_WIDENED)
}

fn marked(fields: &Fields, steps: &mut Vec<Step>, paths: &HashSet<String>) -> Fields {
    let mut all = Vec::with_capacity(fields.len());
    for field in fields {
        steps.push(Step::Member(field.name().clone()));
        all.push(marked_field(field, steps, paths));
        steps.pop();
    }
    all.into()
}

fn marked_field(field: &FieldRef, steps: &mut Vec<Step>, paths: &HashSet<String>) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Int64 if paths.contains(&path_of(steps)) => {
            let metadata = [(NEVER_WIDENED.to_owned(), String::new())].into();
            return Arc::new(field.as_ref().clone().with_metadata(metadata));
        }
        DataType::Struct(fields) => DataType::Struct(marked(fields, steps, paths)),
        DataType::List(element) => {
            steps.push(Step::Element(element.name().clone()));
            let element = marked_field(element, steps, paths);
            steps.pop();
            DataType::List(element)
        }
        _ => return Arc::clone(field),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

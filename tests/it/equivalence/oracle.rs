//! One direct pass of plain DataFusion over all events, and the comparison with it.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::aggregates::Judge;
use super::views::Column;

/// Largest difference of floats, relative to their scale.
const TOLERANCE: f64 = 1e-9;
/// Largest error of an estimated quantile's rank, relative to the number of values.
const RANK: f64 = 0.05;

pub struct Oracle {
    context: SessionContext,
    runtime: tokio::runtime::Runtime,
}

impl Oracle {
    pub fn new(events: RecordBatch) -> Self {
        let mut config = SessionConfig::new().with_target_partitions(1);
        let options = config.options_mut();
        options.sql_parser.map_string_types_to_utf8view = false;
        options.execution.time_zone = Some("+00:00".to_owned());
        let context = SessionContext::new_with_config(config);
        let table = MemTable::try_new(events.schema(), vec![vec![events]]).expect("a table");
        context
            .register_table("events", Arc::new(table))
            .expect("registered");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        Self { context, runtime }
    }

    pub fn run(&self, sql: &str) -> RecordBatch {
        self.try_run(sql)
            .unwrap_or_else(|error| panic!("direct pass: {sql}: {error}"))
    }

    pub fn try_run(&self, sql: &str) -> Result<RecordBatch> {
        self.runtime.block_on(async {
            let frame = self.context.sql(sql).await?;
            let schema = Arc::clone(frame.schema().inner());
            let batches = frame.collect().await?;
            let schema = batches.first().map_or(schema, RecordBatch::schema);
            Ok(concat_batches(&schema, &batches)?)
        })
    }
}

/// Compares the answer of a view with the direct pass; the difference, if there is one.
pub fn difference(
    merged: &RecordBatch,
    direct: &RecordBatch,
    columns: &[Column],
) -> Option<String> {
    let names: Vec<String> = merged
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    if merged.num_columns() != columns.len() {
        return Some(format!("columns {names:?}"));
    }
    for (at, name) in names.iter().enumerate() {
        let (a, b) = (merged.column(at).data_type(), direct.column(at).data_type());
        if a != b {
            return Some(format!("column {name} is {a}, directly {b}"));
        }
    }
    if merged.num_rows() != direct.num_rows() {
        let counts = (merged.num_rows(), direct.num_rows());
        return Some(format!("{} rows, directly {}", counts.0, counts.1));
    }
    let (left, right) = (Side::new(merged, columns), Side::new(direct, columns));
    for (&l, &r) in left.order.iter().zip(&right.order) {
        for (at, column) in columns.iter().enumerate() {
            if !agrees(&left, l, &right, r, at, column) {
                return Some(format!(
                    "row {:?}: {} is {}, directly {} ({:?})",
                    right.exact(r, columns),
                    names[at],
                    left.text[at][l],
                    right.text[at][r],
                    column.judge,
                ));
            }
        }
    }
    None
}

struct Side<'a> {
    rows: &'a RecordBatch,
    /// Values by column and row.
    text: Vec<Vec<String>>,
    /// Rows by their exact values, then by the others.
    order: Vec<usize>,
}

impl<'a> Side<'a> {
    fn new(rows: &'a RecordBatch, columns: &[Column]) -> Self {
        let options = FormatOptions::default().with_null("NULL");
        let text = rows
            .columns()
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let number = columns
                    .get(at)
                    .is_some_and(|column| matches!(column.judge, Judge::Number));
                let shown = ArrayFormatter::try_new(column, &options).expect("a printable type");
                (0..rows.num_rows())
                    .map(|row| match shown.value(row).to_string() {
                        zero if number && zero == "-0.0" => "0.0".to_owned(),
                        text => text,
                    })
                    .collect()
            })
            .collect();
        let mut side = Self {
            rows,
            text,
            order: vec![],
        };
        let mut order: Vec<usize> = (0..rows.num_rows()).collect();
        order.sort_by_cached_key(|&row| side.exact(row, columns));
        side.order = order;
        side
    }

    fn exact(&self, row: usize, columns: &[Column]) -> Vec<&str> {
        let exact = columns.iter().zip(&self.text);
        exact
            .filter(|(column, _)| matches!(column.judge, Judge::Exact | Judge::Number))
            .map(|(_, text)| text[row].as_str())
            .collect()
    }

    fn float(&self, at: usize, row: usize) -> Option<f64> {
        let value = cast(&self.rows.column(at).slice(row, 1), &DataType::Float64).ok()?;
        let value = value.as_primitive::<Float64Type>();
        value.is_valid(0).then(|| value.value(0))
    }
}

fn agrees(left: &Side, l: usize, right: &Side, r: usize, at: usize, column: &Column) -> bool {
    let (a, b) = (left.float(at, l), right.float(at, r));
    let hidden = || -> Vec<f64> {
        let values = column.hidden.iter().map(|&at| right.float(at, r));
        values.map(Option::unwrap_or_default).collect()
    };
    match column.judge {
        Judge::Exact | Judge::Number => left.text[at][l] == right.text[at][r],
        Judge::Float(scale) => close(a, b, scale(&hidden())),
        Judge::Squared(scale) => {
            let square = |v: Option<f64>| v.map(|v| v * v);
            close(square(a), square(b), scale(&hidden()))
        }
        Judge::Between => match (a, b, hidden().as_slice()) {
            (None, None, _) => true,
            (Some(a), Some(_), [least, most]) => {
                let slack = TOLERANCE * least.abs().max(most.abs());
                (least - slack..=most + slack).contains(&a)
            }
            _ => false,
        },
        Judge::Quantile(quantile) => match (a, b, column.hidden.as_slice()) {
            (None, None, _) => true,
            (Some(a), Some(_), [list]) => {
                let values = right.rows.column(*list).as_list::<i32>().value(r);
                let values = values.as_primitive::<Float64Type>();
                has_rank(a, &values.iter().flatten().collect::<Vec<_>>(), quantile)
            }
            _ => false,
        },
    }
}

fn close(a: Option<f64>, b: Option<f64>, scale: f64) -> bool {
    match (a, b) {
        _ if scale.is_infinite() => true,
        (None, None) => true,
        (Some(a), Some(b)) => {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * scale
        }
        _ => false,
    }
}

/// Whether `value` stands about where `quantile` of `values` does. Estimates lie between two
/// neighbours, so that one rank on either side is always allowed.
fn has_rank(value: f64, values: &[f64], quantile: f64) -> bool {
    let below = values.iter().filter(|v| **v < value).count() as f64;
    let up_to = values.iter().filter(|v| **v <= value).count() as f64;
    let wanted = quantile * values.len() as f64;
    let slack = RANK * values.len() as f64 + 1.5;
    below - slack <= wanted && wanted <= up_to + slack
}

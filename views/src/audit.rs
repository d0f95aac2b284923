//! The audit: do two computations of the same rows agree?
//!
//! Rows are compared key by key, each column by its class. Exact columns bit for bit. Floats
//! within `TOLERANCE` of the scale that was computed beside them (`scale.rs`), not of
//! the result: `1e9 - 1e9 + 0.1` may be off by more than itself and still be right. Sketches
//! must have seen the same number of values between the same extremes, and answer between
//! them; how far apart two quantiles may be cannot be told from finished rows, so a digest is
//! trusted when its input is shown to be the same.
//!
//! Where a scale is infinite or NaN (an overflow, NaN in the data) the float column is not
//! judged; exact columns of the same row still are.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::plan::check_columns;
use crate::scale::{HiddenKind, Judge, Quotient};
use crate::{Class, View, ViewError};

/// Largest difference of floats, as a part of their scale. Summing n values in any order errs
/// by at most n * 1.1e-16 of the sum of magnitudes: this covers ten million values of one key
/// in the worst case, and far more in practice, where errors cancel and events come in chunks.
const TOLERANCE: f64 = 1e-9;

/// One disagreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The group key, `name=value` joined by commas; empty without GROUP BY.
    pub key: String,
    /// The column by the view's own name for it if it has one, or `(row)` if one side has no row for the key.
    pub column: String,
    /// The value on the left; `(none)` where there is no row.
    pub left: String,
    /// The value on the right.
    pub right: String,
}

/// Compares finished rows ([`View::aggregate_schema`], one per key, any order) and returns up
/// to `limit` differences; none means they agree. For results too large to hold, call it for
/// ranges of keys, with all rows of a range on both sides.
///
/// Errors: [`ViewError::Mismatch`] if the rows have other columns.
pub fn differences(
    view: &View,
    left: &[RecordBatch],
    right: &[RecordBatch],
    limit: usize,
) -> Result<Vec<Difference>, ViewError> {
    let schema = view.aggregate_schema();
    let left = Side::new(view, &schema, left)?;
    let right = Side::new(view, &schema, right)?;
    let mut found = Vec::new();
    if let Some(unlike) = Unlike::of_same_keys(&left, &right, view.key_columns()) {
        for row in 0..left.rows.num_rows() {
            if found.len() >= limit {
                break;
            }
            compare_row(
                view,
                (&left, row),
                (&right, row),
                &unlike,
                limit,
                &mut found,
            )?;
        }
        return Ok(found);
    }
    let keys = KeyIndex::new(&left, &right, view.key_columns())?;
    for (at_left, at_right) in keys.pairs() {
        if found.len() >= limit {
            break;
        }
        match (at_left, at_right) {
            (Some(l), Some(r)) => {
                compare_row(
                    view,
                    (&left, l),
                    (&right, r),
                    &Unlike::Unknown,
                    limit,
                    &mut found,
                )?;
            }
            (Some(l), None) => found.push(missing(view, &left, l, true)?),
            (None, Some(r)) => found.push(missing(view, &right, r, false)?),
            (None, None) => {}
        }
    }
    Ok(found)
}

/// One side as one batch, with a float view of each numeric column.
struct Side {
    rows: RecordBatch,
    floats: Vec<Option<ArrayRef>>,
}

impl Side {
    fn new(view: &View, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Self, ViewError> {
        for batch in batches {
            check_columns("differences", schema, &batch.schema())?;
        }
        let rows = match batches.first() {
            Some(first) => concat_batches(&first.schema(), batches),
            None => Ok(RecordBatch::new_empty(std::sync::Arc::clone(schema))),
        }
        .map_err(engine)?;
        let keys = view.key_columns();
        let floats = rows
            .columns()
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let numeric = at >= keys && column.data_type().is_numeric();
                numeric
                    .then(|| cast(column, &DataType::Float64).ok())
                    .flatten()
            })
            .collect();
        Ok(Self { rows, floats })
    }

    /// The value as a float; `None` if it is NULL or no number.
    fn float(&self, column: usize, row: usize) -> Option<f64> {
        let array = self.floats[column].as_ref()?.as_primitive::<Float64Type>();
        (!array.is_null(row)).then(|| array.value(row))
    }

    fn show(&self, column: usize, row: usize) -> Result<String, ViewError> {
        let options = FormatOptions::default().with_null("NULL");
        let array = self.rows.column(column);
        let shown = ArrayFormatter::try_new(array.as_ref(), &options).map_err(engine)?;
        Ok(shown.value(row).to_string())
    }

    fn key(&self, view: &View, row: usize) -> Result<String, ViewError> {
        let schema = self.rows.schema();
        let parts = (0..view.key_columns())
            .map(|at| {
                let title = view.title_of(schema.field(at).name());
                Ok(format!("{title}={}", self.show(at, row)?))
            })
            .collect::<Result<Vec<_>, ViewError>>()?;
        Ok(parts.join(", "))
    }
}

/// Which row of the left belongs to which row of the right.
struct KeyIndex {
    pairs: Vec<(Option<usize>, Option<usize>)>,
}

impl KeyIndex {
    fn new(left: &Side, right: &Side, keys: usize) -> Result<Self, ViewError> {
        if keys == 0 {
            let rows = left.rows.num_rows().max(right.rows.num_rows());
            let at = |side: &Side, row: usize| (row < side.rows.num_rows()).then_some(row);
            let pairs = (0..rows)
                .map(|row| (at(left, row), at(right, row)))
                .collect();
            return Ok(Self { pairs });
        }
        let fields = left.rows.columns()[..keys]
            .iter()
            .map(|column| SortField::new(column.data_type().clone()))
            .collect();
        let converter = RowConverter::new(fields).map_err(engine)?;
        let right_keys = converter
            .convert_columns(&right.rows.columns()[..keys])
            .map_err(engine)?;
        let left_keys = converter
            .convert_columns(&left.rows.columns()[..keys])
            .map_err(engine)?;
        // A key that is there twice on one side is itself a fault: every row of the right is
        // taken once, and what is left over is reported.
        let mut waiting: HashMap<OwnedRow, Vec<usize>> = HashMap::new();
        for (at, key) in right_keys.iter().enumerate() {
            waiting.entry(key.owned()).or_default().push(at);
        }
        let mut pairs = Vec::with_capacity(left_keys.num_rows());
        for (at, key) in left_keys.iter().enumerate() {
            pairs.push((Some(at), waiting.get_mut(&key.owned()).and_then(Vec::pop)));
        }
        let mut rest: Vec<usize> = waiting.into_values().flatten().collect();
        rest.sort_unstable();
        pairs.extend(rest.into_iter().map(|at| (None, Some(at))));
        Ok(Self { pairs })
    }

    fn pairs(&self) -> impl Iterator<Item = (Option<usize>, Option<usize>)> + '_ {
        self.pairs.iter().copied()
    }
}

fn missing(view: &View, side: &Side, row: usize, on_left: bool) -> Result<Difference, ViewError> {
    let (there, none) = ("(there)".to_string(), "(none)".to_string());
    let (left, right) = if on_left {
        (there, none)
    } else {
        (none, there)
    };
    let key = side.key(view, row)?;
    Ok(Difference {
        key,
        column: "(row)".to_string(),
        left,
        right,
    })
}

/// Which values differ from what stands opposite them.
enum Unlike {
    /// Each must be looked at.
    Unknown,
    /// Row for row of both sides, by column; `None` for a type that has no such comparison.
    Rows(Vec<Option<BooleanArray>>),
}

impl Unlike {
    /// Compares whole columns; `None` unless both sides have the same keys in the same order, which
    /// they have when all is well.
    fn of_same_keys(left: &Side, right: &Side, keys: usize) -> Option<Self> {
        if left.rows.num_rows() != right.rows.num_rows() {
            return None;
        }
        let columns = left.rows.columns().iter().zip(right.rows.columns());
        let unlike: Vec<_> = columns
            .map(|(left, right)| distinct(left, right).ok())
            .collect();
        let same = |unlike: &Option<BooleanArray>| {
            unlike
                .as_ref()
                .is_some_and(|unlike| unlike.true_count() == 0)
        };
        unlike[..keys]
            .iter()
            .all(same)
            .then_some(Self::Rows(unlike))
    }

    fn may_differ(&self, column: usize, row: usize) -> bool {
        match self {
            Self::Unknown => true,
            Self::Rows(columns) => columns[column]
                .as_ref()
                .is_none_or(|unlike| unlike.value(row)),
        }
    }
}

fn compare_row(
    view: &View,
    (left, l): (&Side, usize),
    (right, r): (&Side, usize),
    unlike: &Unlike,
    limit: usize,
    found: &mut Vec<Difference>,
) -> Result<(), ViewError> {
    let keys = view.key_columns();
    let visible = view.aggregates().len();
    for column in keys..left.rows.num_columns() {
        if found.len() >= limit {
            return Ok(());
        }
        let pair = Pair {
            left,
            l,
            right,
            r,
            hidden_from: keys + visible,
        };
        let at = column - keys;
        // What is the same agrees by every rule but one: an estimate must lie between its bounds.
        let is_between = matches!(view.judges().get(at), Some(Judge::Between(..)));
        if !is_between && !unlike.may_differ(column, l) {
            continue;
        }
        let agrees = match at.checked_sub(visible) {
            None if view.aggregates()[at].class == Class::Set => pair.same_elements(column)?,
            None => pair.agrees(column, &view.judges()[at])?,
            Some(hidden) => match view.hidden()[hidden] {
                HiddenKind::Exact => pair.identical(column),
                HiddenKind::Magnitude => pair.within(column, pair.largest(column)),
                HiddenKind::Aside => true,
            },
        };
        if !agrees {
            found.push(Difference {
                key: left.key(view, l)?,
                column: view
                    .title_of(left.rows.schema().field(column).name())
                    .to_owned(),
                left: left.show(column, l)?,
                right: right.show(column, r)?,
            });
        }
    }
    Ok(())
}

/// One row of each side.
struct Pair<'a> {
    left: &'a Side,
    l: usize,
    right: &'a Side,
    r: usize,
    hidden_from: usize,
}

impl Pair<'_> {
    fn agrees(&self, column: usize, judge: &Judge) -> Result<bool, ViewError> {
        Ok(match judge {
            Judge::Exact => self.identical(column),
            Judge::Scale(at) => self.within(column, self.hidden(*at)),
            Judge::Root(at) => self.within(column, self.hidden(*at).sqrt()),
            Judge::RootOfProduct(a, b) => {
                self.within(column, self.hidden(*a).sqrt() * self.hidden(*b).sqrt())
            }
            Judge::Squared(at) => {
                let square = |v: Option<f64>| v.map(|v| v * v);
                let (a, b) = self.values(column);
                close(square(a), square(b), self.hidden(*at))
            }
            Judge::Quotient {
                of,
                mean_squares,
                variances,
            } => self.within(column, self.condition(*of, mean_squares, variances)),
            Judge::Between(least, most) => self.between(column, *least, *most),
        })
    }

    fn values(&self, column: usize) -> (Option<f64>, Option<f64>) {
        (
            self.left.float(column, self.l),
            self.right.float(column, self.r),
        )
    }

    fn identical(&self, column: usize) -> bool {
        let a = self.left.rows.column(column).slice(self.l, 1);
        let b = self.right.rows.column(column).slice(self.r, 1);
        // Of 0.0 and -0.0, min and max keep whichever they met first: no order is wrong.
        let alike = |a: f64, b: f64| (a.is_nan() && b.is_nan()) || (a == 0.0 && b == 0.0);
        a == b || matches!(self.values(column), (Some(a), Some(b)) if alike(a, b))
    }

    fn within(&self, column: usize, scale: f64) -> bool {
        let (a, b) = self.values(column);
        close(a, b, scale)
    }

    /// The larger of the two sides of a hidden column; 0 where there were no values.
    fn hidden(&self, at: usize) -> f64 {
        self.largest(self.hidden_from + at)
    }

    fn largest(&self, column: usize) -> f64 {
        match self.values(column) {
            (Some(a), Some(b)) if a.is_nan() || b.is_nan() => f64::NAN,
            (a, b) => a.unwrap_or(0.0).abs().max(b.unwrap_or(0.0).abs()),
        }
    }

    /// How far a quotient moves when sums move by their scale. Infinite where the variance of
    /// x is itself nothing but rounding.
    fn condition(&self, of: Quotient, mean_squares: &[usize; 2], variances: &[usize; 2]) -> f64 {
        let [qx, qy] = mean_squares.map(|at| self.hidden(at));
        let [vx, vy] = variances.map(|at| self.hidden(at));
        let steepest = (vy / vx).sqrt();
        let slope = (qx * qy).sqrt() / vx + steepest * qx / vx;
        let scale = match of {
            Quotient::Slope => slope,
            Quotient::Intercept => qy.sqrt() + (steepest + slope) * qx.sqrt(),
            Quotient::Correlation => {
                2.0 * ((qx / vx).sqrt() * (qy / vy).sqrt() + qx / vx + qy / vy)
            }
        };
        let rounding_only =
            vx <= TOLERANCE * qx || (of == Quotient::Correlation && vy <= TOLERANCE * qy);
        if rounding_only { f64::INFINITY } else { scale }
    }

    fn between(&self, column: usize, least: usize, most: usize) -> bool {
        let (least, most) = (self.hidden_from + least, self.hidden_from + most);
        let inside = |side: &Side, row: usize| match (
            side.float(column, row),
            side.float(least, row),
            side.float(most, row),
        ) {
            (Some(value), Some(least), Some(most)) => {
                let slack = TOLERANCE * least.abs().max(most.abs());
                value.is_nan() || (value >= least - slack && value <= most + slack)
            }
            (None, _, _) | (_, None, _) | (_, _, None) => true,
        };
        let (a, b) = self.values(column);
        a.is_some() == b.is_some() && inside(self.left, self.l) && inside(self.right, self.r)
    }

    fn same_elements(&self, column: usize) -> Result<bool, ViewError> {
        let elements = |side: &Side, row: usize| -> Result<Option<Vec<OwnedRow>>, ViewError> {
            let array = side.rows.column(column);
            let Some(list) = array.as_list_opt::<i32>().filter(|list| !list.is_null(row)) else {
                return Ok(None);
            };
            let values = list.value(row);
            let field = SortField::new(values.data_type().clone());
            let converter = RowConverter::new(vec![field]).map_err(engine)?;
            let rows = converter.convert_columns(&[values]).map_err(engine)?;
            let mut rows: Vec<OwnedRow> = rows.iter().map(|row| row.owned()).collect();
            rows.sort();
            Ok(Some(rows))
        };
        match (elements(self.left, self.l)?, elements(self.right, self.r)?) {
            (Some(a), Some(b)) => Ok(a == b),
            (None, None) => Ok(self.identical(column)),
            _ => Ok(false),
        }
    }
}

fn close(a: Option<f64>, b: Option<f64>, scale: f64) -> bool {
    if !scale.is_finite() {
        return true;
    }
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * scale
        }
        _ => false,
    }
}

fn engine(error: arrow::error::ArrowError) -> ViewError {
    ViewError::Plan(error.into())
}

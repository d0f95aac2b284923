//! Finished aggregates beside the states of a group, so that a query need not make them.
//!
//! ```text
//!   a row of a version   keys k0.. | states s0.. | values v0..
//!   a finished row       keys      | aggregates
//! ```
//!
//! A count, a sum or an extreme is its own state and takes no room twice; every other aggregate
//! has a value. Values are only good for a group that nothing is merged into any more.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{concat, partition};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::ExecutionPlan;

use crate::AggregateInfo;
use crate::aggregates::check_storable;
use crate::relabel::RelabelExec;

/// Raised when the same view would store its finished aggregates in other columns.
pub const FINISHED_LAYOUT: u32 = 1;

/// Functions whose state is the result itself, unless they are DISTINCT.
const ARE_THEIR_STATES: [&str; 9] = [
    "count", "sum", "min", "max", "bit_and", "bit_or", "bit_xor", "bool_and", "bool_or",
];

/// Where the columns of finished rows are among those of stored rows.
#[derive(Debug)]
pub struct Finished {
    /// States, then values.
    stored_schema: SchemaRef,
    aggregate_schema: SchemaRef,
    key_columns: usize,
    /// For each column of finished rows, its place in stored ones.
    places: Vec<usize>,
    /// The columns of finished rows that are stored as values, in their order.
    values: Vec<usize>,
}

impl Finished {
    /// `None` if some value may be as long as the data (a list of a group's values), or cannot be
    /// stored.
    pub(crate) fn plan(
        calls: &[Arc<AggregateFunctionExpr>],
        infos: &[AggregateInfo],
        states_schema: &SchemaRef,
        aggregate_schema: &SchemaRef,
        key_columns: usize,
    ) -> Result<Option<Self>> {
        let mut places: Vec<usize> = (0..key_columns).collect();
        let (mut values, mut fields) = (Vec::new(), states_schema.fields().to_vec());
        let mut state = key_columns;
        for (at, call) in calls.iter().enumerate() {
            let column = key_columns + at;
            let data_type = aggregate_schema.field(column).data_type();
            let states = call.state_fields()?.len();
            let is_its_own_state = states == 1
                && !call.is_distinct()
                && ARE_THEIR_STATES.contains(&call.fun().name())
                && states_schema.field(state).data_type() == data_type;
            let is_long = infos.get(at).is_some_and(|info| info.data_sized);
            if is_long && !data_type.is_primitive() && *data_type != DataType::Boolean {
                return Ok(None);
            }
            if is_its_own_state {
                places.push(state);
            } else {
                places.push(fields.len());
                let name = format!("v{}", values.len());
                fields.push(Arc::new(Field::new(name, data_type.clone(), true)));
                values.push(column);
            }
            state += states;
        }
        let stored_schema = Arc::new(Schema::new(fields));
        Ok(check_storable(&stored_schema).is_ok().then(|| Self {
            stored_schema,
            aggregate_schema: Arc::clone(aggregate_schema),
            key_columns,
            places,
            values,
        }))
    }

    /// Columns of stored rows: those of states, then values `v0..`. All nullable.
    pub fn stored_schema(&self) -> SchemaRef {
        Arc::clone(&self.stored_schema)
    }

    /// Whether there are values beside the states at all.
    pub fn has_values(&self) -> bool {
        !self.values.is_empty()
    }

    /// For each column of [`crate::View::aggregate_schema`], its place in stored rows.
    pub fn places(&self) -> &[usize] {
        &self.places
    }

    /// `states` with the values that finish gave for them; without values if these are not
    /// exactly one row for each row of `states`, in the same order.
    pub fn stored_rows(
        &self,
        states: &RecordBatch,
        finished: Option<&RecordBatch>,
    ) -> Result<(RecordBatch, bool)> {
        let rows = states.num_rows();
        let finished = finished.filter(|finished| {
            let keys = 0..self.key_columns;
            finished.num_rows() == rows
                && keys
                    .into_iter()
                    .all(|key| finished.column(key) == states.column(key))
        });
        let values = self.values.iter().map(|&column| match finished {
            Some(finished) => Arc::clone(finished.column(column)),
            None => new_null_array(self.aggregate_schema.field(column).data_type(), rows),
        });
        let columns = states.columns().iter().cloned().chain(values).collect();
        let stored = RecordBatch::try_new(self.stored_schema(), columns)?;
        Ok((stored, finished.is_some() || !self.has_values()))
    }

    /// Stored rows, of which `rows` has the columns [`Self::places`] of `columns`, as finished
    /// rows of these columns.
    pub fn finished_rows(
        &self,
        rows: Arc<dyn ExecutionPlan>,
        columns: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = Arc::new(self.aggregate_schema.project(columns)?);
        Ok(Arc::new(RelabelExec::try_new(rows, schema)?))
    }
}

/// Tells whether sorted rows have a key twice. Keys of a type that cannot be compared count as
/// if they had.
#[derive(Debug)]
pub struct UniqueKeys {
    key_columns: usize,
    /// The keys of the last row seen, of one row each.
    last: Option<Vec<ArrayRef>>,
    are_unique: bool,
}

impl UniqueKeys {
    pub fn of(key_columns: usize) -> Self {
        Self {
            key_columns,
            last: None,
            are_unique: true,
        }
    }

    /// The next rows.
    pub fn see(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 || !self.are_unique {
            return Ok(());
        }
        let keys = &rows.columns()[..self.key_columns];
        let at = |row: usize| keys.iter().map(|key| key.slice(row, 1)).collect::<Vec<_>>();
        self.are_unique = differ(keys);
        if let Some(last) = self.last.replace(at(rows.num_rows() - 1)) {
            let pairs = last.iter().zip(at(0));
            let pairs = pairs.map(|(last, first)| concat(&[last.as_ref(), first.as_ref()]));
            self.are_unique &= differ(&pairs.collect::<std::result::Result<Vec<_>, _>>()?);
        }
        Ok(())
    }

    pub fn are_unique(&self) -> bool {
        self.are_unique
    }
}

/// No two neighbours are equal.
fn differ(keys: &[ArrayRef]) -> bool {
    let rows = keys.first().map_or(0, |key| key.len());
    partition(keys).is_ok_and(|partitions| partitions.len() == rows)
}

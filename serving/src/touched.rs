//! Which groups of a view the speed layer may have touched.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::{max, min};
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, IsNotNullExpr, IsNullExpr, Literal,
};
use lambdalake_data::scan::ScanFile;

/// More ranges than this are told as one that spans them.
const MAX_RANGES: usize = 8;

pub(crate) enum Touched {
    Nothing,
    /// Groups at other times are not touched.
    At(Times),
}

/// Ranges of a group key.
pub(crate) struct Times {
    /// Its column in states.
    pub key: usize,
    name: String,
    data_type: DataType,
    /// Microseconds, both ends included; disjoint.
    ranges: Vec<(i64, i64)>,
}

impl Touched {
    /// By these states files and states in memory; `None` if that is not known without reading
    /// the files, or the view has no group key that is a time.
    pub fn by(
        states: &SchemaRef,
        key_columns: usize,
        files: &[ScanFile],
        open: &[RecordBatch],
    ) -> Option<Self> {
        if files.is_empty() && open.iter().all(|batch| batch.num_rows() == 0) {
            return Some(Self::Nothing);
        }
        let is_time = |key: &usize| {
            let data_type = states.field(*key).data_type();
            matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _))
        };
        let key = (0..key_columns).find(is_time)?;
        let field = states.field(key);
        let mut ranges = Vec::new();
        for file in files {
            let bounds = file.bounds_of(field.name())?;
            ranges.extend(bounds.least.zip(bounds.greatest));
        }
        for batch in open {
            let times = batch
                .column(key)
                .as_primitive_opt::<TimestampMicrosecondType>()?;
            ranges.extend(min(times).zip(max(times)));
        }
        Some(Self::At(Times {
            key,
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            ranges: disjoint(ranges),
        }))
    }
}

fn disjoint(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut disjoint: Vec<(i64, i64)> = Vec::new();
    for (from, to) in ranges {
        match disjoint.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => disjoint.push((from, to)),
        }
    }
    if let (true, [first, .., last]) = (disjoint.len() > MAX_RANGES, disjoint.as_slice()) {
        return vec![(first.0, last.1)];
    }
    disjoint
}

impl Times {
    /// The groups that may be touched: those in the ranges, and those without a time. Over states.
    pub fn inside(&self) -> Arc<dyn PhysicalExpr> {
        let key = self.column(self.key);
        let without: Arc<dyn PhysicalExpr> = Arc::new(IsNullExpr::new(Arc::clone(&key)));
        let ranges = self.ranges.iter().map(|&(from, to)| {
            let after = self.compare(&key, Operator::GtEq, from);
            both(after, Operator::And, self.compare(&key, Operator::LtEq, to))
        });
        ranges.fold(without, |any, range| both(any, Operator::Or, range))
    }

    /// All others. Over rows that have the key at `column`.
    pub fn outside(&self, column: usize) -> Arc<dyn PhysicalExpr> {
        let key = self.column(column);
        let with: Arc<dyn PhysicalExpr> = Arc::new(IsNotNullExpr::new(Arc::clone(&key)));
        let ranges = self.ranges.iter().map(|&(from, to)| {
            let before = self.compare(&key, Operator::Lt, from);
            both(before, Operator::Or, self.compare(&key, Operator::Gt, to))
        });
        ranges.fold(with, |all, range| both(all, Operator::And, range))
    }

    fn column(&self, at: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(&self.name, at))
    }

    fn compare(
        &self,
        key: &Arc<dyn PhysicalExpr>,
        operator: Operator,
        micros: i64,
    ) -> Arc<dyn PhysicalExpr> {
        let zone = match &self.data_type {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let time = ScalarValue::TimestampMicrosecond(Some(micros), zone);
        both(Arc::clone(key), operator, Arc::new(Literal::new(time)))
    }
}

fn both(
    left: Arc<dyn PhysicalExpr>,
    operator: Operator,
    right: Arc<dyn PhysicalExpr>,
) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, operator, right))
}

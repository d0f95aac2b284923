//! The value at a rank: of a few values exactly, of many by a t-digest.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{AggregateUDF, ColumnarValue};
use datafusion::physical_expr::PhysicalExpr;
use datasketches::tdigest::TDigestMut;

use super::groups::Summary;

/// Compression where the call names none, as DataFusion's.
const DEFAULT_COMPRESSION: u16 = 100;

/// A digest of fewer centroids says nothing; a call may ask for them nevertheless.
const LEAST_COMPRESSION: u16 = 10;

/// Values that are no finite numbers are passed over.
#[derive(Debug, Clone)]
pub struct Quantile {
    rank: f64,
    compression: u16,
    /// A type of floats: the value's, and the estimate's.
    of: DataType,
}

impl Quantile {
    pub fn at(rank: f64, of: DataType) -> Self {
        Self {
            rank,
            compression: DEFAULT_COMPRESSION,
            of,
        }
    }

    pub fn median(like: &AggregateUDF, args: AccumulatorArgs) -> Result<Self> {
        let of = args.expr_fields[0].data_type().clone();
        like.accumulator(args)?;
        Ok(Self::at(0.5, of))
    }

    /// `(value, rank [, compression])`, as `like` takes them.
    pub fn of(like: &AggregateUDF, args: AccumulatorArgs) -> Result<Self> {
        let of = args.expr_fields[0].data_type().clone();
        let (arguments, order) = (args.exprs, args.order_bys);
        like.accumulator(args)?;
        let literal = |at: usize, wanted| literal_as(&arguments[at], wanted);
        let ScalarValue::Float64(Some(rank)) = literal(1, DataType::Float64)? else {
            return Err(DataFusionError::Plan("the percentile is NULL".into()));
        };
        let descending = order.first().is_some_and(|by| by.options.descending);
        let compression = match arguments.len() {
            0..3 => DEFAULT_COMPRESSION,
            _ => match literal(2, DataType::UInt16) {
                Ok(ScalarValue::UInt16(Some(compression))) => compression.max(LEAST_COMPRESSION),
                _ => return Err(DataFusionError::Plan(NO_COMPRESSION.into())),
            },
        };
        Ok(Self {
            rank: if descending { 1.0 - rank } else { rank },
            compression,
            of,
        })
    }
}

const NO_COMPRESSION: &str = "approx_percentile_cont takes at most 65535 centroids";

fn literal_as(expr: &Arc<dyn PhysicalExpr>, wanted: DataType) -> Result<ScalarValue> {
    let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
    match expr.evaluate(&nothing)? {
        ColumnarValue::Scalar(value) => value.cast_to(&wanted),
        ColumnarValue::Array(_) => Err(DataFusionError::Plan(format!("{expr} is no literal"))),
    }
}

/// Up to this many values are kept as they are: a digest of them would take as much room.
const FEW: usize = 128;

/// First byte of written values. A written digest begins with the length of its header, which is
/// not zero.
const VALUES: u8 = 0;

#[derive(Debug)]
pub enum ValuesOrDigest {
    /// In any order, at most [`FEW`].
    Values(Vec<f64>),
    Digest(TDigestMut),
}

impl ValuesOrDigest {
    /// `values` are finite.
    fn add(&mut self, values: &mut [f64], compression: u16) {
        match self {
            Self::Values(few) if few.len() + values.len() <= FEW => few.extend_from_slice(values),
            Self::Values(few) => {
                let mut few = std::mem::take(few);
                let mut digest = new_digest(compression);
                add_sorted(&mut digest, &mut few);
                add_sorted(&mut digest, values);
                *self = Self::Digest(digest);
            }
            Self::Digest(digest) => add_sorted(digest, values),
        }
    }
}

fn new_digest(compression: u16) -> TDigestMut {
    // The only error is a compression below the least one.
    TDigestMut::new(compression).unwrap_or_else(|error| unreachable!("{error}"))
}

/// A digest sorts what it has gathered; here it is half as long, and each value is moved less.
fn add_sorted(digest: &mut TDigestMut, values: &mut [f64]) {
    values.sort_unstable_by(f64::total_cmp);
    for value in values {
        digest.update(*value);
    }
}

/// The value at a rank of these, between two of them where the rank is; `None` of no values.
fn value_at(rank: f64, values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let at = rank * values.len().checked_sub(1)? as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    let (towards, distance) = (at.fract(), above - below);
    Some(match distance.is_finite() {
        true => below + distance * towards,
        false => below * (1.0 - towards) + above * towards,
    })
}

impl Summary for Quantile {
    type Sketch = ValuesOrDigest;
    type Item = f64;

    fn empty(&self) -> ValuesOrDigest {
        ValuesOrDigest::Values(Vec::new())
    }

    fn items(&self, values: &ArrayRef) -> Result<Vec<f64>> {
        let floats = cast(values, &DataType::Float64)?;
        Ok(floats.as_primitive::<Float64Type>().values().to_vec())
    }

    fn add(&self, sketch: &mut ValuesOrDigest, values: &mut Vec<f64>) {
        values.retain(|value| value.is_finite());
        sketch.add(values, self.compression);
    }

    fn read(written: &[u8]) -> Result<ValuesOrDigest> {
        Ok(match written.split_first() {
            Some((&VALUES, values)) => {
                let (values, rest) = values.as_chunks();
                if !rest.is_empty() {
                    let message = "values of a quantile end within one".to_owned();
                    return Err(DataFusionError::Execution(message));
                }
                ValuesOrDigest::Values(values.iter().copied().map(f64::from_le_bytes).collect())
            }
            _ => ValuesOrDigest::Digest(
                TDigestMut::deserialize(written)
                    .map_err(|error| DataFusionError::External(Box::new(error)))?,
            ),
        })
    }

    fn merge(&self, sketch: &mut ValuesOrDigest, written: &[u8]) -> Result<()> {
        match (&mut *sketch, Self::read(written)?) {
            (_, ValuesOrDigest::Values(mut values)) => sketch.add(&mut values, self.compression),
            (ValuesOrDigest::Digest(digest), ValuesOrDigest::Digest(other)) => digest.merge(&other),
            (ValuesOrDigest::Values(few), ValuesOrDigest::Digest(mut other)) => {
                add_sorted(&mut other, few);
                *sketch = ValuesOrDigest::Digest(other);
            }
        }
        Ok(())
    }

    fn write(sketch: &mut ValuesOrDigest) -> Vec<u8> {
        match sketch {
            ValuesOrDigest::Digest(digest) => digest.serialize(),
            ValuesOrDigest::Values(values) => {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                std::iter::once(VALUES).chain(bytes).collect()
            }
        }
    }

    fn estimates<'a>(
        &self,
        sketches: impl Iterator<Item = Result<&'a mut ValuesOrDigest>>,
    ) -> Result<ArrayRef> {
        let estimate = |sketch: Result<&'a mut ValuesOrDigest>| match sketch? {
            ValuesOrDigest::Values(values) => Ok(value_at(self.rank, values)),
            ValuesOrDigest::Digest(digest) => digest
                .quantile(self.rank)
                .map_err(|error| DataFusionError::External(Box::new(error))),
        };
        let estimates = sketches.map(estimate).collect::<Result<Float64Array>>()?;
        Ok(cast(&estimates, &self.of)?)
    }

    fn heap_bytes(sketch: &ValuesOrDigest) -> usize {
        match sketch {
            ValuesOrDigest::Values(values) => values.capacity() * size_of::<f64>(),
            ValuesOrDigest::Digest(digest) => digest.estimated_size(),
        }
    }
}

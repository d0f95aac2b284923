//! How many distinct values: HyperLogLog.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt64Array};
use datafusion::common::hash_utils::{HLL_RANDOM_STATE, create_hashes};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::AggregateUDF;
use datafusion::logical_expr::function::AccumulatorArgs;
use datasketches::hll::{HllSketch, HllType, HllUnion};

use super::groups::Summary;

/// Registers of a full sketch are 2 to the power of this: a standard error of 0.8 %. Below
/// about 1,500 values a sketch lists them, and errs by far less.
const LG_REGISTERS: u8 = 14;

#[derive(Debug, Clone)]
pub struct DistinctValues;

impl DistinctValues {
    /// Refuses the types that `like` refuses.
    pub fn of(like: &AggregateUDF, args: AccumulatorArgs) -> Result<Self> {
        like.accumulator(args)?;
        Ok(Self)
    }
}

/// A sketch, or, once it has met another, a union of them.
#[derive(Debug)]
pub enum DistinctSketch {
    One(HllSketch),
    Union(HllUnion),
}

impl Summary for DistinctValues {
    type Sketch = DistinctSketch;
    type Item = u64;

    fn empty(&self) -> DistinctSketch {
        let sketch = HllSketch::new(LG_REGISTERS, HllType::Hll8);
        DistinctSketch::One(sketch.unwrap_or_else(never))
    }

    fn items(&self, values: &ArrayRef) -> Result<Vec<u64>> {
        let mut hashes = vec![0; values.len()];
        create_hashes([values], &HLL_RANDOM_STATE, &mut hashes)?;
        Ok(hashes)
    }

    fn add(&self, sketch: &mut DistinctSketch, hashes: &mut Vec<u64>) {
        for hash in hashes {
            match sketch {
                DistinctSketch::One(sketch) => sketch.update(*hash),
                DistinctSketch::Union(union) => union.update_value(*hash),
            }
        }
    }

    fn read(written: &[u8]) -> Result<DistinctSketch> {
        Ok(DistinctSketch::One(read(written)?))
    }

    fn merge(&self, sketch: &mut DistinctSketch, written: &[u8]) -> Result<()> {
        let other = read(written)?;
        match sketch {
            DistinctSketch::Union(union) => union.update(&other),
            DistinctSketch::One(one) => {
                let mut union = HllUnion::new(LG_REGISTERS).unwrap_or_else(never);
                union.update(one);
                union.update(&other);
                *sketch = DistinctSketch::Union(union);
            }
        }
        Ok(())
    }

    fn write(sketch: &mut DistinctSketch) -> Vec<u8> {
        match sketch {
            DistinctSketch::One(sketch) => sketch.serialize(),
            DistinctSketch::Union(union) => union.to_sketch(HllType::Hll8).serialize(),
        }
    }

    /// By the estimator that the order of events and of merges is nothing to: any two ways to
    /// split the events must give the same number.
    fn estimates<'a>(
        &self,
        sketches: impl Iterator<Item = Result<&'a mut DistinctSketch>>,
    ) -> Result<ArrayRef> {
        let estimates = sketches
            .map(|sketch| {
                let estimate = match sketch? {
                    DistinctSketch::One(sketch) => sketch.composite_estimate(),
                    DistinctSketch::Union(union) => union.composite_estimate(),
                };
                Ok(Some(estimate.round() as u64))
            })
            .collect::<Result<UInt64Array>>()?;
        Ok(Arc::new(estimates))
    }

    fn heap_bytes(sketch: &DistinctSketch) -> usize {
        match sketch {
            DistinctSketch::One(sketch) => sketch.estimated_size(),
            DistinctSketch::Union(union) => union.estimated_size(),
        }
    }
}

fn read(written: &[u8]) -> Result<HllSketch> {
    HllSketch::deserialize(written).map_err(|error| DataFusionError::External(Box::new(error)))
}

/// The only error of making a sketch is a number of registers that none can have.
fn never<T>(error: datasketches::error::Error) -> T {
    unreachable!("{error}")
}

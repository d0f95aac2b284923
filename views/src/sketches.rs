//! Aggregates that estimate: sketches of Apache DataSketches behind DataFusion's names.
//!
//! `approx_distinct`, `approx_median` and `approx_percentile_cont` take the arguments, give the
//! types and refuse what DataFusion's own of these names do. Their states are one binary column
//! in DataSketches' portable format, as long as what a group has seen until it is full; why they
//! are not DataFusion's is in `docs/decisions/0010-sketches.md`.

mod distinct;
mod groups;
mod quantile;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, Signature,
};

use distinct::DistinctValues;
use groups::{Groups, Ungrouped};
use quantile::Quantile;

/// DataFusion's aggregates, with ours in the place of those of the same names.
///
/// Views and queries must both use these: a query that is answered from a view gives what the
/// same query gives of the stream.
pub fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    let mut functions = SessionStateDefaults::default_aggregate_functions();
    for function in &mut functions {
        if let Some(estimate) = Estimate::of(function.name()) {
            let like = Arc::clone(function);
            *function = Arc::new(AggregateUDF::new_from_impl(Sketched { like, estimate }));
        }
    }
    functions
}

/// What the states of an aggregate are, if they are not DataFusion's: part of the hash of the
/// definitions that use it.
pub(crate) fn state_format(function: &str) -> Option<&'static str> {
    Estimate::of(function).map(|_| "datasketches 1")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Estimate {
    DistinctValues,
    Median,
    Percentile,
}

impl Estimate {
    fn of(function: &str) -> Option<Self> {
        Some(match function {
            "approx_distinct" => Self::DistinctValues,
            "approx_median" => Self::Median,
            "approx_percentile_cont" => Self::Percentile,
            _ => return None,
        })
    }
}

/// An aggregate that is called like one of DataFusion's and computed by a sketch.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Sketched {
    like: Arc<AggregateUDF>,
    estimate: Estimate,
}

impl Sketched {
    /// Whether a sketch is needed: of the type of NULL there are no values.
    fn has_values(argument: &FieldRef) -> bool {
        *argument.data_type() != DataType::Null
    }
}

impl AggregateUDFImpl for Sketched {
    fn name(&self) -> &str {
        self.like.name()
    }

    fn signature(&self) -> &Signature {
        self.like.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.like.return_type(arguments)
    }

    fn is_nullable(&self) -> bool {
        self.like.is_nullable()
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.like.default_value(data_type)
    }

    fn supports_within_group_clause(&self) -> bool {
        self.like.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.like.documentation()
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if !Self::has_values(&args.input_fields[0]) {
            return self.like.state_fields(args);
        }
        let name = format_state_name(args.name, "sketch");
        Ok(vec![Arc::new(Field::new(name, DataType::Binary, false))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !Self::has_values(&args.expr_fields[0]) {
            return self.like.accumulator(args);
        }
        Ok(match self.estimate {
            Estimate::DistinctValues => {
                Box::new(Ungrouped::new(DistinctValues::of(&self.like, args)?))
            }
            Estimate::Median => Box::new(Ungrouped::new(Quantile::median(&self.like, args)?)),
            Estimate::Percentile => Box::new(Ungrouped::new(Quantile::of(&self.like, args)?)),
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        Self::has_values(&args.expr_fields[0])
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(match self.estimate {
            Estimate::DistinctValues => {
                Box::new(Groups::new(DistinctValues::of(&self.like, args)?))
            }
            Estimate::Median => Box::new(Groups::new(Quantile::median(&self.like, args)?)),
            Estimate::Percentile => Box::new(Groups::new(Quantile::of(&self.like, args)?)),
        })
    }
}

//! From a logical aggregate to the one physical operator map, combine and finish share.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Aggregate, LogicalPlan};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, replace_children_if_necessary};

use crate::finished::Finished;
use crate::input::InputExec;
use crate::relabel::RelabelExec;
use crate::session::complete;
use crate::{AggregateInfo, ViewError};

/// The three steps of one aggregate, as templates.
#[derive(Debug)]
pub(crate) struct Steps {
    /// `AggregateExec` of mode Partial with everything below it, down to an [`InputExec`].
    partial: Arc<dyn ExecutionPlan>,
    /// Columns the leaf reads; may be none.
    pub(crate) leaf_schema: SchemaRef,
    /// Keys `k0..`, then states `s0..`.
    pub(crate) states_schema: SchemaRef,
    /// Keys and aggregates under their logical names.
    pub(crate) aggregate_schema: SchemaRef,
    /// Leading key columns of states, the grouping id included.
    pub(crate) key_columns: usize,
    /// Whether the last key column is a grouping id.
    pub(crate) has_grouping_sets: bool,
}

impl Steps {
    /// Plans an analysed aggregate. Errors are DataFusion's: a call it has no operator for.
    pub(crate) fn plan(aggregate: &Aggregate, state: &SessionState) -> Result<Self> {
        let logical = LogicalPlan::Aggregate(aggregate.clone());
        let optimized = state.optimizer().optimize(logical, state, |_, _| {})?;
        let physical = complete(
            state
                .query_planner()
                .create_physical_plan(&optimized, state),
        )?;
        let partial = find_partial(&physical).ok_or_else(|| {
            DataFusionError::Internal("the plan has no partial aggregation".to_string())
        })?;
        let operator = aggregate_of(&partial)?;
        // Some calls are only found impossible when they are about to run; not after CREATE.
        for call in operator.aggr_expr() {
            call.create_accumulator()?;
            if call.groups_accumulator_supported() {
                call.create_groups_accumulator()?;
            }
        }
        let key_columns = operator.group_expr().num_group_exprs();
        let has_grouping_sets = operator.group_expr().has_grouping_set();
        let leaf_schema = find_leaf(&partial).ok_or_else(|| {
            DataFusionError::Internal("the plan does not read the stream".to_string())
        })?;
        let states_schema = states_schema(&partial.schema(), key_columns);
        let fields: Vec<Field> = aggregate
            .schema
            .fields()
            .iter()
            .map(|f| Field::new(f.name(), f.data_type().clone(), f.is_nullable()))
            .collect();
        let aggregate_schema = Arc::new(Schema::new(fields));
        Ok(Self {
            partial,
            leaf_schema,
            states_schema,
            aggregate_schema,
            key_columns,
            has_grouping_sets,
        })
    }

    /// See [`crate::View::finished`].
    pub(crate) fn finished(&self, infos: &[AggregateInfo]) -> Result<Option<Finished>> {
        if self.key_columns == 0 || self.has_grouping_sets {
            return Ok(None);
        }
        Finished::plan(
            aggregate_of(&self.partial)?.aggr_expr(),
            infos,
            &self.states_schema,
            &self.aggregate_schema,
            self.key_columns,
        )
    }

    pub(crate) fn map(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        self.map_over(input, Ok)
    }

    /// Map, with something between the aggregation and the events as it reads them.
    fn map_over(
        &self,
        input: Arc<dyn ExecutionPlan>,
        between: impl FnOnce(Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partial = Arc::clone(&self.partial)
            .transform_up(|node| {
                Ok(match node.downcast_ref::<InputExec>() {
                    Some(leaf) => Transformed::yes(
                        Arc::new(leaf.reading(Arc::clone(&input))) as Arc<dyn ExecutionPlan>
                    ),
                    None => Transformed::no(node),
                })
            })
            .data()?;
        let events = Arc::clone(aggregate_of(&partial)?.input());
        let partial = replace_children_if_necessary(partial, vec![between(events)?])?;
        let states = RelabelExec::try_new(partial, Arc::clone(&self.states_schema))?;
        Ok(Arc::new(states.aggregating_all()))
    }

    /// See [`crate::View::map_apart`].
    pub(crate) fn map_apart(
        &self,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if self.key_columns == 0 || self.has_grouping_sets {
            return Ok(None);
        }
        let partitions = input.properties().partitioning.partition_count();
        let keys = aggregate_of(&self.partial)?.group_expr().input_exprs();
        let mapped = self.map_over(input, |events| {
            let by_key = Partitioning::Hash(keys, partitions);
            Ok(Arc::new(RepartitionExec::try_new(events, by_key)?))
        })?;
        Ok(Some(mapped))
    }

    /// See [`crate::View::combine_sorted`].
    pub(crate) fn combine_sorted(
        &self,
        states: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let states = RelabelExec::try_new(states, self.partial.schema())?;
        let states = Arc::new(states.sorted_by_first(self.key_columns));
        let combined = self.operator(AggregateMode::PartialReduce, states)?;
        let combined = RelabelExec::try_new(combined, Arc::clone(&self.states_schema))?;
        let combined = combined.sorted_by_first(self.key_columns);
        Ok(Arc::new(combined.aggregating_all()))
    }

    pub(crate) fn combine(&self, states: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let states = self.gathered(states)?;
        let combined = self.operator(AggregateMode::PartialReduce, states)?;
        let combined = RelabelExec::try_new(combined, Arc::clone(&self.states_schema))?;
        Ok(Arc::new(combined.aggregating_all()))
    }

    pub(crate) fn finish(&self, states: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let states = self.gathered(self.with_grand_total(states)?)?;
        let mode = match states.properties().partitioning.partition_count() {
            1 => AggregateMode::Final,
            _ => AggregateMode::FinalPartitioned,
        };
        let rows = self.operator(mode, states)?;
        Ok(Arc::new(RelabelExec::try_new(
            rows,
            Arc::clone(&self.aggregate_schema),
        )?))
    }

    /// See [`crate::View::finish_sorted`].
    pub(crate) fn finish_sorted(
        &self,
        states: Arc<dyn ExecutionPlan>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if self.key_columns == 0 || self.has_grouping_sets {
            return Ok(None);
        }
        let states = RelabelExec::try_new(states, self.partial.schema())?;
        let states = Arc::new(states.sorted_by_first(self.key_columns));
        let rows = self.operator(AggregateMode::Final, states)?;
        let rows = RelabelExec::try_new(rows, Arc::clone(&self.aggregate_schema))?;
        Ok(Some(Arc::new(rows.sorted_by_first(self.key_columns))))
    }

    /// The empty grouping set has a row even where there are no events (ROLLUP, CUBE). Map
    /// gives its state, finish does not: so the states of no events come along.
    fn with_grand_total(&self, states: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let group_by = aggregate_of(&self.partial)?.group_expr();
        let is_empty_set = |set: &Vec<bool>| set.iter().all(|&absent| absent);
        if !self.has_grouping_sets || !group_by.groups().iter().any(is_empty_set) {
            return Ok(states);
        }
        let no_events = Arc::new(EmptyExec::new(Arc::clone(&self.leaf_schema)));
        UnionExec::try_new(vec![states, self.map(no_events)?])
    }

    /// States with the operator's own column names, each key in one partition only.
    fn gathered(&self, states: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = states.properties().partitioning.partition_count();
        let states: Arc<dyn ExecutionPlan> = if partitions == 0 {
            Arc::new(EmptyExec::new(states.schema()))
        } else {
            states
        };
        let mut states = RelabelExec::try_new(states, self.partial.schema())?;
        if self.key_columns == 0 {
            states = states.row_by_row();
        }
        let states: Arc<dyn ExecutionPlan> = Arc::new(states);
        if partitions <= 1 {
            return Ok(states);
        }
        if self.key_columns == 0 {
            return Ok(Arc::new(CoalescePartitionsExec::new(states)));
        }
        let keys = aggregate_of(&self.partial)?.group_expr().output_exprs();
        Ok(Arc::new(RepartitionExec::try_new(
            states,
            Partitioning::Hash(keys, partitions),
        )?))
    }

    fn operator(
        &self,
        mode: AggregateMode,
        states: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partial = aggregate_of(&self.partial)?;
        let calls = partial.aggr_expr().to_vec();
        // FILTER was applied by map; it would look for columns of events here.
        let filters = vec![None; calls.len()];
        Ok(Arc::new(AggregateExec::try_new(
            mode,
            partial.group_expr().as_final(),
            calls,
            filters,
            states,
            partial.input_schema(),
        )?))
    }
}

fn aggregate_of(plan: &Arc<dyn ExecutionPlan>) -> Result<&AggregateExec> {
    plan.downcast_ref::<AggregateExec>()
        .ok_or_else(|| DataFusionError::Internal("not an aggregate operator".to_string()))
}

fn find_partial(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    if let Some(operator) = plan.downcast_ref::<AggregateExec>()
        && *operator.mode() == AggregateMode::Partial
    {
        return Some(Arc::clone(plan));
    }
    match plan.children().as_slice() {
        [child] => find_partial(child),
        _ => None,
    }
}

fn find_leaf(plan: &Arc<dyn ExecutionPlan>) -> Option<SchemaRef> {
    if plan.downcast_ref::<InputExec>().is_some() {
        return Some(plan.schema());
    }
    match plan.children().as_slice() {
        [child] => find_leaf(child),
        _ => None,
    }
}

fn states_schema(operator: &Schema, key_columns: usize) -> SchemaRef {
    let fields: Vec<Field> = operator
        .fields()
        .iter()
        .enumerate()
        .map(|(at, field)| {
            let name = match at.checked_sub(key_columns) {
                None => format!("k{at}"),
                Some(at) => format!("s{at}"),
            };
            Field::new(name, field.data_type().clone(), true)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// Fails if `given` does not have the names and types of `wanted`, in order.
pub(crate) fn check_columns(
    step: &'static str,
    wanted: &Schema,
    given: &Schema,
) -> std::result::Result<(), ViewError> {
    let same = wanted.fields().len() == given.fields().len()
        && wanted
            .fields()
            .iter()
            .zip(given.fields())
            .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
    if same {
        return Ok(());
    }
    let list = |schema: &Schema| {
        let columns: Vec<String> = schema
            .fields()
            .iter()
            .map(|f| format!("{} {}", f.name(), f.data_type()))
            .collect();
        columns.join(", ")
    };
    Err(ViewError::Mismatch {
        step,
        detail: format!("wanted [{}], given [{}]", list(wanted), list(given)),
    })
}

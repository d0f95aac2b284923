//! The first step of an aggregate by one key that has a code: the entry of a dictionary, or a
//! whole number from a narrow range. The group of a code is looked up in a table; only the first
//! row of each code is hashed and compared.
//!
//! ```text
//!   key of a row ──▶ code ──▶ group of the code ──▶ DataFusion's accumulators
//!                               │ not known yet
//!                               ▼
//!                             DataFusion's group values
//! ```
//!
//! It gives what `AggregateExec` gives in the mode `Partial`: a row of states for each group, or
//! several if memory ran short in between.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::{cast, min, take};
use datafusion::arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use futures::{StreamExt, stream};

/// Whole numbers that are looked up in a table: so many, from a little below the first ones seen.
const RANGE: usize = 1 << 16;

/// No row of this code has been seen.
const UNSEEN: u32 = u32::MAX;

/// Whether keys of this type have codes.
pub(crate) fn has_codes(key: &DataType) -> bool {
    matches!(key, DataType::Dictionary(code, _) if **code == DataType::Int32)
        || is_whole_number(key)
}

fn is_whole_number(key: &DataType) -> bool {
    matches!(
        key,
        DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
    )
}

/// What is aggregated, over the columns of the input.
#[derive(Clone)]
pub(crate) struct Aggregates {
    /// Of a type that [`has_codes`].
    pub key: Arc<dyn PhysicalExpr>,
    pub functions: Arc<[Arc<AggregateFunctionExpr>]>,
    /// Which rows each function sees.
    pub filters: Arc<[Option<Arc<dyn PhysicalExpr>>]>,
}

/// See the module.
pub(crate) struct CodedAggregate {
    input: Arc<dyn ExecutionPlan>,
    aggregates: Aggregates,
    metrics: ExecutionPlanMetricsSet,
    properties: Arc<PlanProperties>,
}

impl CodedAggregate {
    /// `schema` is that of the states: the key as its plain type, then those of each function.
    pub fn new(input: Arc<dyn ExecutionPlan>, aggregates: Aggregates, schema: SchemaRef) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            input,
            aggregates,
            metrics: ExecutionPlanMetricsSet::new(),
            properties: Arc::new(properties),
        }
    }
}

impl fmt::Debug for CodedAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodedAggregate({:?})", self.input)
    }
}

impl DisplayAs for CodedAggregate {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.aggregates.functions.iter();
        let functions: Vec<&str> = functions.map(|function| function.name()).collect();
        let functions = functions.join(", ");
        let key = &self.aggregates.key;
        write!(f, "{}: key={key}, aggr=[{functions}]", self.name())
    }
}

impl ExecutionPlan for CodedAggregate {
    fn name(&self) -> &str {
        "CodedAggregateExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (aggregates, schema) = (self.aggregates.clone(), self.schema());
        Ok(Arc::new(Self::new(children.remove(0), aggregates, schema)))
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        visit(&self.aggregates.key)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let memory = MemoryConsumer::new(format!("{}[{partition}]", self.name()))
            .with_can_spill(true)
            .register(context.memory_pool());
        let work = Work {
            input: self.input.execute(partition, Arc::clone(&context))?,
            groups: Groups::new(&self.aggregates, self.schema())?,
            memory,
            batch_rows: context.session_config().batch_size(),
            ready: VecDeque::new(),
            ended: false,
            metrics,
        };
        let states = stream::try_unfold(work, |mut work| async move {
            let batch = work.next().await?;
            Ok(batch.map(|batch| (batch, work)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            states,
        )))
    }
}

/// One partition.
struct Work {
    input: SendableRecordBatchStream,
    groups: Groups,
    memory: MemoryReservation,
    batch_rows: usize,
    ready: VecDeque<RecordBatch>,
    ended: bool,
    metrics: BaselineMetrics,
}

impl Work {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.metrics.output_rows().add(batch.num_rows());
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(None);
            }
            match self.input.next().await {
                Some(batch) => self.take_in(&batch?)?,
                None => {
                    self.ended = true;
                    self.emit()?;
                }
            }
        }
    }

    fn take_in(&mut self, batch: &RecordBatch) -> Result<()> {
        let clock = self.metrics.elapsed_compute().clone();
        let _timer = clock.timer();
        self.groups.add(batch)?;
        if self.memory.try_resize(self.groups.bytes()).is_err() {
            // The next step merges several states of one key.
            self.emit()?;
            self.memory.try_resize(self.groups.bytes())?;
        }
        Ok(())
    }

    fn emit(&mut self) -> Result<()> {
        let states = self.groups.emit()?;
        let starts = (0..states.num_rows()).step_by(self.batch_rows);
        self.ready
            .extend(starts.map(|at| states.slice(at, self.batch_rows.min(states.num_rows() - at))));
        Ok(())
    }
}

/// The groups so far, and their states.
struct Groups {
    aggregates: Aggregates,
    schema: SchemaRef,
    values: Box<dyn GroupValues>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    codes: Codes,
    /// The group of each row of a batch.
    of_rows: Vec<usize>,
    constants: Constants,
}

impl Groups {
    fn new(aggregates: &Aggregates, schema: SchemaRef) -> Result<Self> {
        let key = Arc::new(Schema::new(vec![schema.field(0).clone()]));
        let functions = aggregates.functions.iter();
        let accumulators = functions.map(|function| function.create_groups_accumulator());
        Ok(Self {
            aggregates: aggregates.clone(),
            schema,
            values: new_group_values(key, &GroupOrdering::None)?,
            accumulators: accumulators.collect::<Result<_>>()?,
            codes: Codes::default(),
            of_rows: Vec::new(),
            constants: Constants::default(),
        })
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        let keys = self.aggregates.key.evaluate(batch)?.into_array(rows)?;
        self.codes
            .groups(&keys, self.values.as_mut(), &mut self.of_rows)?;
        let all = self.values.len();
        let functions = self.aggregates.functions.iter();
        let functions = functions.zip(self.aggregates.filters.iter());
        for ((function, filter), accumulator) in functions.zip(&mut self.accumulators) {
            let arguments = function.expressions();
            let arguments = arguments
                .iter()
                .map(|argument| self.constants.evaluated(argument, batch));
            let arguments = arguments.collect::<Result<Vec<ArrayRef>>>()?;
            let seen: Option<BooleanArray> = match filter {
                Some(filter) => Some(
                    filter
                        .evaluate(batch)?
                        .into_array(rows)?
                        .as_boolean()
                        .clone(),
                ),
                None => None,
            };
            accumulator.update_batch(&arguments, &self.of_rows, seen.as_ref(), all)?;
        }
        Ok(())
    }

    /// The states of all groups; then there are none.
    fn emit(&mut self) -> Result<RecordBatch> {
        self.codes = Codes::default();
        if self.values.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let mut columns = self.values.emit(EmitTo::All)?;
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        self.values.clear_shrink(0);
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    fn bytes(&self) -> usize {
        let accumulators = self.accumulators.iter();
        self.values.size()
            + accumulators.map(|states| states.size()).sum::<usize>()
            + self.codes.of_codes.capacity() * size_of::<u32>()
            + self.of_rows.capacity() * size_of::<usize>()
    }
}

/// Arguments that are the same for every row, as the `1` that `count(*)` counts: made once.
#[derive(Default)]
struct Constants(Vec<(Arc<dyn PhysicalExpr>, ArrayRef)>);

impl Constants {
    fn evaluated(
        &mut self,
        argument: &Arc<dyn PhysicalExpr>,
        batch: &RecordBatch,
    ) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        if !argument.is::<Literal>() {
            return argument.evaluate(batch)?.into_array(rows);
        }
        self.0
            .retain(|(known, values)| !known.eq(argument) || values.len() >= rows);
        if let Some((_, values)) = self.0.iter().find(|(known, _)| known.eq(argument)) {
            return Ok(values.slice(0, rows));
        }
        let values = argument.evaluate(batch)?.into_array(rows)?;
        self.0.push((Arc::clone(argument), Arc::clone(&values)));
        Ok(values)
    }
}

/// Which group the rows of a code belong to.
#[derive(Default)]
struct Codes {
    of: Coded,
    /// The group of each code, or [`UNSEEN`].
    of_codes: Vec<u32>,
}

/// What has the codes.
#[derive(Default)]
enum Coded {
    #[default]
    Nothing,
    /// The entries of these values, and after them the code of what has none.
    Dictionary(ArrayRef),
    /// [`RANGE`] numbers from this one on.
    Numbers(i64),
}

impl Codes {
    /// The group of each key. New ones become `values`.
    fn groups(
        &mut self,
        keys: &ArrayRef,
        values: &mut dyn GroupValues,
        of_rows: &mut Vec<usize>,
    ) -> Result<()> {
        of_rows.clear();
        if let Some(dictionary) = keys.as_any_dictionary_opt() {
            let entries = dictionary.values();
            self.of_dictionary(entries);
            let codes = dictionary
                .keys()
                .as_primitive::<datafusion::arrow::datatypes::Int32Type>();
            let null = entries.len();
            let key_of = |_, code: usize| (code != null).then_some(code as u32);
            return match codes.null_count() {
                0 => {
                    let codes = codes.values().iter().map(|&code| code as usize);
                    self.look_up(codes, entries, key_of, values, of_rows)
                }
                _ => {
                    let codes = codes.iter();
                    let codes = codes.map(|code| code.map_or(null, |code| code as usize));
                    self.look_up(codes, entries, key_of, values, of_rows)
                }
            };
        }
        if let Some((numbers, from)) = self.of_numbers(keys)? {
            let codes = numbers.values().iter();
            let codes = codes.map(|number| number.wrapping_sub(from) as usize);
            return self.look_up(codes, keys, |row, _| Some(row as u32), values, of_rows);
        }
        values.intern(std::slice::from_ref(keys), of_rows)
    }

    fn of_dictionary(&mut self, entries: &ArrayRef) {
        let same = |known: &ArrayRef| known.to_data().ptr_eq(&entries.to_data());
        if !matches!(&self.of, Coded::Dictionary(known) if same(known)) {
            self.of = Coded::Dictionary(Arc::clone(entries));
            self.of_codes.clear();
            self.of_codes.resize(entries.len() + 1, UNSEEN);
        }
    }

    /// The keys, and where the range that they are all in begins.
    fn of_numbers(&mut self, keys: &ArrayRef) -> Result<Option<(Int64Array, i64)>> {
        if !is_whole_number(keys.data_type()) || keys.null_count() > 0 {
            return Ok(None);
        }
        let numbers = cast(keys, &DataType::Int64)?;
        let numbers = numbers.as_primitive::<Int64Type>().clone();
        let from = match self.of {
            Coded::Numbers(from) => from,
            _ => {
                let Some(least) = min(&numbers) else {
                    return Ok(None);
                };
                let from = least.saturating_sub(RANGE as i64 / 4);
                self.of = Coded::Numbers(from);
                self.of_codes.resize(RANGE, UNSEEN);
                from
            }
        };
        let is_far = |number: &i64| number.wrapping_sub(from) as u64 >= RANGE as u64;
        let far = numbers
            .values()
            .iter()
            .fold(false, |far, n| far | is_far(n));
        Ok((!far).then_some((numbers, from)))
    }

    /// `key_of` says, by a row and its code, where in `keys` the key is.
    fn look_up(
        &mut self,
        codes: impl Iterator<Item = usize> + Clone,
        keys: &ArrayRef,
        key_of: impl Fn(usize, usize) -> Option<u32>,
        values: &mut dyn GroupValues,
        of_rows: &mut Vec<usize>,
    ) -> Result<()> {
        // Nearly always all codes are known: then this is all.
        of_rows.extend(codes.clone().map(|code| self.of_codes[code] as usize));
        let unseen = |any, &group: &usize| any | (group == UNSEEN as usize);
        if !of_rows.iter().fold(false, unseen) {
            return Ok(());
        }
        of_rows.clear();
        let mut new = Vec::new();
        let mut places = Vec::new();
        for (row, code) in codes.clone().enumerate() {
            if self.of_codes[code] == UNSEEN {
                // Any other value, until its group is known.
                self.of_codes[code] = 0;
                new.push(code);
                places.push(key_of(row, code));
            }
        }
        let keys = match keys.is_empty() {
            true => new_null_array(keys.data_type(), places.len()),
            false => take(keys, &UInt32Array::from(places), None)?,
        };
        let mut groups = Vec::new();
        values.intern(&[keys], &mut groups)?;
        for (code, group) in new.into_iter().zip(groups) {
            self.of_codes[code] = group as u32;
        }
        of_rows.extend(codes.map(|code| self.of_codes[code] as usize));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{DictionaryArray, Int32Array, StringArray};
    use datafusion::arrow::compute::{SortOptions, concat_batches};
    use datafusion::arrow::datatypes::{Field, Int32Type};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::functions_aggregate::count::count_udaf;
    use datafusion::functions_aggregate::sum::sum_udaf;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::aggregate::AggregateExprBuilder;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
    use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
    use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
    use datafusion::physical_plan::collect;
    use datafusion::physical_plan::sorts::sort::SortExec;

    use super::*;

    fn column(name: &str, schema: &Schema) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(name, schema.index_of(name).expect("a column")))
    }

    fn batch(keys: ArrayRef, from: i64) -> RecordBatch {
        let values = Int64Array::from_iter_values(from..from + keys.len() as i64);
        let schema = Schema::new(vec![
            Field::new("key", keys.data_type().clone(), true),
            Field::new("value", DataType::Int64, true),
        ]);
        RecordBatch::try_new(Arc::new(schema), vec![keys, Arc::new(values)]).expect("a batch")
    }

    fn batches(keys: Vec<ArrayRef>) -> Vec<RecordBatch> {
        let batches = keys.into_iter().enumerate();
        batches
            .map(|(n, keys)| batch(keys, n as i64 * 1_000))
            .collect()
    }

    /// `count(value)`, and `sum(value)` of every row but the first hundred.
    fn grouped(schema: &SchemaRef) -> (Aggregates, PhysicalGroupBy) {
        let value = column("value", schema);
        let function = |function, name: &str| {
            let built = AggregateExprBuilder::new(function, vec![Arc::clone(&value)])
                .schema(Arc::clone(schema))
                .alias(name)
                .build();
            Arc::new(built.expect("a function"))
        };
        let late: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(
            Arc::clone(&value),
            Operator::GtEq,
            lit(100_i64),
        ));
        let key = column("key", schema);
        let aggregates = Aggregates {
            key: Arc::clone(&key),
            functions: [function(count_udaf(), "n"), function(sum_udaf(), "s")].into(),
            filters: [None, Some(late)].into(),
        };
        (
            aggregates,
            PhysicalGroupBy::new_single(vec![(key, "key".to_owned())]),
        )
    }

    fn context(memory: usize) -> Arc<TaskContext> {
        let env = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory)))
            .build_arc();
        Arc::new(TaskContext::default().with_runtime(env.expect("an environment")))
    }

    /// All rows, by key.
    async fn sorted(plan: Arc<dyn ExecutionPlan>) -> RecordBatch {
        let schema = plan.schema();
        let sort = PhysicalSortExpr::new(column("key", &schema), SortOptions::default());
        let order = LexOrdering::new(vec![sort]).expect("an order");
        let sorted = Arc::new(SortExec::new(order, plan));
        let rows = collect(sorted, context(1 << 30)).await.expect("rows");
        concat_batches(&schema, &rows).expect("a batch")
    }

    /// What DataFusion says of the same rows with plain keys.
    async fn expected(batches: &[RecordBatch]) -> RecordBatch {
        let plain = |batch: &RecordBatch| {
            let keys = batch.column(0);
            let keys = match keys.as_any_dictionary_opt() {
                Some(_) => cast(keys, &DataType::Utf8).expect("text"),
                None => Arc::clone(keys),
            };
            let values = batch.column(1).as_primitive::<Int64Type>();
            super::tests::batch(keys, values.values().first().copied().unwrap_or(0))
        };
        let batches: Vec<RecordBatch> = batches.iter().map(plain).collect();
        let schema = batches[0].schema();
        let input = MemorySourceConfig::try_new_exec(&[batches], Arc::clone(&schema), None);
        let (aggregates, by) = grouped(&schema);
        let all = AggregateExec::try_new(
            AggregateMode::Single,
            by,
            aggregates.functions.to_vec(),
            aggregates.filters.to_vec(),
            input.expect("rows"),
            schema,
        );
        sorted(Arc::new(all.expect("a plan"))).await
    }

    /// The same by codes, and how many rows of states there were.
    async fn by_codes(batches: &[RecordBatch], memory: usize) -> (RecordBatch, usize) {
        let coded = batches[0].schema();
        let input = MemorySourceConfig::try_new_exec(&[batches.to_vec()], Arc::clone(&coded), None);
        let (aggregates, _) = grouped(&coded);
        let text = matches!(coded.field(0).data_type(), DataType::Dictionary(..));
        let plain = match text {
            true => batch(Arc::new(StringArray::from(vec!["a"])), 0).schema(),
            false => coded,
        };
        let (_, by) = grouped(&plain);
        let functions = &aggregates.functions;
        let mut fields = vec![plain.field(0).clone().into()];
        for function in functions.iter() {
            fields.extend(function.state_fields().expect("fields"));
        }
        let schema = Arc::new(Schema::new(fields));
        let states = CodedAggregate::new(input.expect("rows"), aggregates.clone(), schema);
        let states = collect(Arc::new(states), context(memory))
            .await
            .expect("states");
        let rows = states.iter().map(RecordBatch::num_rows).sum();
        let schema = states[0].schema();
        let input = MemorySourceConfig::try_new_exec(&[states], schema, None).expect("states");
        let finished = AggregateExec::try_new(
            AggregateMode::Final,
            by.as_final(),
            aggregates.functions.to_vec(),
            vec![None; 2],
            input,
            plain,
        );
        (sorted(Arc::new(finished.expect("a plan"))).await, rows)
    }

    fn dictionary(rows: &[Option<&str>]) -> ArrayRef {
        Arc::new(rows.iter().copied().collect::<DictionaryArray<Int32Type>>())
    }

    #[tokio::test]
    async fn keys_of_dictionaries_are_those_of_their_text() {
        let unused = StringArray::from(vec![Some("never"), Some("b"), None, Some("b"), Some("")]);
        let unused = DictionaryArray::new(Int32Array::from(vec![1, 2, 4, 3, 1]), Arc::new(unused));
        let none = Int32Array::from(vec![None, None]);
        let none = DictionaryArray::new(none, Arc::new(StringArray::from(Vec::<&str>::new())));
        let shared = dictionary(&[Some("a"), Some("c"), None, Some("a"), Some("b")]);
        let batches = batches(vec![
            shared.slice(0, 2),
            shared.slice(2, 3),
            Arc::new(unused),
            shared.slice(1, 4),
            Arc::new(none),
            shared.slice(0, 0),
        ]);
        let expected = expected(&batches).await;
        assert_eq!(expected.num_rows(), 5, "a, b, c, '' and none");
        let (answer, states) = by_codes(&batches, 1 << 30).await;
        assert_eq!(answer, expected);
        assert_eq!(states, 5);
    }

    #[tokio::test]
    async fn numbers_are_grouped_near_far_and_absent() {
        let numbers = |numbers: &[i64]| Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
        let batches = batches(vec![
            numbers(&[200, 404, 200, 500]),
            numbers(&[404, 199, -16_184, 49_351]),
            numbers(&[404, 49_352, i64::MAX, i64::MIN]),
            Arc::new(Int64Array::from(vec![Some(200), None, Some(404)])),
            numbers(&[500, 199, 200]),
        ]);
        let (answer, states) = by_codes(&batches, 1 << 30).await;
        assert_eq!(answer, expected(&batches).await);
        assert_eq!(states, 10);
    }

    #[tokio::test]
    async fn short_of_memory_states_are_given_early_and_still_add_up() {
        let keys = |batch: usize| {
            let rows =
                (0..500).map(|row| format!("some longer key {}", (batch * 131 + row) % 4_000));
            let rows: Vec<String> = rows.collect();
            let rows = rows.iter().map(String::as_str);
            Arc::new(rows.collect::<DictionaryArray<Int32Type>>()) as ArrayRef
        };
        let batches = batches((0..40).map(keys).collect());
        let expected = expected(&batches).await;
        let (answer, states) = by_codes(&batches, 1 << 30).await;
        assert_eq!((&answer, states), (&expected, 4_000));
        let (answer, states) = by_codes(&batches, 150_000).await;
        assert_eq!(answer, expected);
        assert!(states > 4_000, "{states} states");
    }
}

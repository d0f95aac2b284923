//! A compiled view.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use sha2::{Digest, Sha256};

use crate::aggregates::{call_of, check_storable, describe};
use crate::finished::Finished;
use crate::fold::fold_constants;
use crate::input::StreamTable;
use crate::plan::{Steps, check_columns};
use crate::scale::{HiddenKind, Judge, with_scales};
use crate::session::{TIME_ZONE, complete, session_state};
use crate::sketches::state_format;
use crate::{AggregateInfo, SHARD, ViewError, answer, order, shape};

/// Version of the layout of states. Part of the definition hash; raised when states written
/// before can no longer be combined with new ones although DataFusion's version is the same.
pub const STATE_FORMAT_VERSION: u32 = 1;

/// A SELECT compiled to map, combine and finish. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct View {
    stream: String,
    canonical_sql: String,
    definition_hash: String,
    input_schema: SchemaRef,
    output_schema: SchemaRef,
    steps: Steps,
    analysed: LogicalPlan,
    aggregate: Aggregate,
    aggregates: Vec<AggregateInfo>,
    judges: Vec<Judge>,
    hidden: Vec<HiddenKind>,
    finished: Option<Finished>,
}

impl View {
    /// Compiles `select`. `resolve` gives a stream's columns: the user's and the hidden ones.
    ///
    /// Errors: [`ViewError::Invalid`] for text that is no SELECT or names things that are not
    /// there, [`ViewError::UnknownStream`], and [`ViewError::Refused`] for what cannot be kept
    /// exactly; all three are for the author of the view.
    pub fn compile(
        select: &str,
        resolve: &dyn Fn(&str) -> Option<SchemaRef>,
    ) -> Result<Self, ViewError> {
        let state = session_state();
        let statement = parse(&state, select)?;
        let canonical_sql = statement.to_string();
        let (stream, stream_schema) = register_stream(&state, &statement, resolve)?;
        let plan = complete(state.statement_to_plan(statement)).map_err(not_understood)?;
        let plan = shape::distinct_as_group_by(plan)?;
        shape::check(&plan)?;
        let displays = displays(&plan);
        let plan = with_total_order(&plan, &state)?;
        let analysed = state
            .analyzer()
            .execute_and_check(plan, state.config_options(), |_, _| {})
            .map_err(not_understood)?;
        let found = fold_constants(aggregate_in(&analysed)?, &state)?;
        let aggregates = found
            .aggr_expr
            .iter()
            .enumerate()
            .map(|(at, expr)| {
                let display = displays
                    .get(at)
                    .cloned()
                    .unwrap_or_else(|| expr.to_string());
                describe(expr, display, found.input.schema())
            })
            .collect::<Result<Vec<_>, _>>()?;
        let scaled = with_scales(&found, &aggregates, &state)?;
        let steps = Steps::plan(&scaled.aggregate, &state).map_err(not_planned)?;
        check_storable(&steps.states_schema)?;
        let finished = steps.finished(&aggregates).map_err(not_planned)?;
        let input_schema = input_schema(&steps.leaf_schema, &stream_schema);
        let output_schema = output_schema(&analysed)?;
        let definition_hash = definition_hash(&canonical_sql, &input_schema, &aggregates);
        Ok(Self {
            stream,
            canonical_sql,
            definition_hash,
            input_schema,
            output_schema,
            steps,
            analysed,
            aggregate: scaled.aggregate,
            aggregates,
            judges: scaled.judges,
            hidden: scaled.hidden,
            finished,
        })
    }

    /// The stream the view reads.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The SELECT as the parser understood it: one spelling for keywords and spaces.
    pub fn canonical_sql(&self) -> &str {
        &self.canonical_sql
    }

    /// SHA-256, in hex, of everything that decides what states mean: canonical SQL, names and
    /// types of the columns read, DataFusion's version, [`STATE_FORMAT_VERSION`], time zone, and
    /// the format of sketches.
    /// States of different hashes are never combined.
    pub fn definition_hash(&self) -> &str {
        &self.definition_hash
    }

    /// The columns of the stream that [`View::map`] reads, in its order; never empty.
    pub fn input_schema(&self) -> SchemaRef {
        Arc::clone(&self.input_schema)
    }

    /// Columns of states: group keys `k0..` (a grouping id last, if there are grouping sets),
    /// then states `s0..`. All nullable; every type can be stored in Parquet. What is read
    /// back is cast to these types by the caller.
    pub fn states_schema(&self) -> SchemaRef {
        Arc::clone(&self.steps.states_schema)
    }

    /// Number of leading key columns of states and of finished rows, the grouping id included.
    pub fn key_columns(&self) -> usize {
        self.steps.key_columns
    }

    /// Columns of finished rows: group keys, aggregates, and hidden columns `_audit_<n>` that
    /// [`crate::differences`] judges rounding by and [`View::answer_plan`] drops.
    pub fn aggregate_schema(&self) -> SchemaRef {
        Arc::clone(&self.steps.aggregate_schema)
    }

    /// The view's own columns.
    pub fn output_schema(&self) -> SchemaRef {
        Arc::clone(&self.output_schema)
    }

    /// The visible aggregates, in the order of [`View::aggregate_schema`] after the keys.
    pub fn aggregates(&self) -> &[AggregateInfo] {
        &self.aggregates
    }

    /// Events to states. `input` has [`View::input_schema`] and any number of partitions, each
    /// of which is mapped by itself; the result has [`View::states_schema`]. Under memory
    /// pressure a partition may give several rows per key.
    ///
    /// Errors: [`ViewError::Mismatch`] if `input` has other columns.
    pub fn map(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, ViewError> {
        check_columns("map", &self.input_schema, &input.schema())?;
        Ok(self.steps.map(input)?)
    }

    /// As [`View::map`], with all events of a key in one partition, so that no two partitions hold
    /// states of the same key: for keys that hardly repeat, whose states would otherwise be kept
    /// once for each partition, and again where they meet. `None` without keys or with grouping
    /// sets.
    ///
    /// Errors: [`ViewError::Mismatch`] if `input` has other columns.
    pub fn map_apart(
        &self,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>, ViewError> {
        check_columns("map", &self.input_schema, &input.schema())?;
        Ok(self.steps.map_apart(input)?)
    }

    /// States of one partition, sorted by ascending keys with nulls first, to exactly one row per
    /// key in the same order. Holds a batch at a time.
    ///
    /// Errors: [`ViewError::Mismatch`] if `states` has other columns.
    pub fn combine_sorted(
        &self,
        states: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>, ViewError> {
        check_columns("combine", &self.steps.states_schema, &states.schema())?;
        Ok(self.steps.combine_sorted(states)?)
    }

    /// States to fewer states, as many partitions as came in. All rows of a key meet in one
    /// partition, and are one row afterwards unless memory ran short: then there may be
    /// several. Only finish guarantees one.
    ///
    /// Errors: [`ViewError::Mismatch`] if `states` has other columns.
    pub fn combine(
        &self,
        states: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>, ViewError> {
        check_columns("combine", &self.steps.states_schema, &states.schema())?;
        Ok(self.steps.combine(states)?)
    }

    /// States to rows of [`View::aggregate_schema`], exactly one per key, in no order. Without
    /// GROUP BY exactly one row, also from no states.
    ///
    /// Errors: [`ViewError::Mismatch`] if `states` has other columns.
    pub fn finish(
        &self,
        states: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>, ViewError> {
        check_columns("finish", &self.steps.states_schema, &states.schema())?;
        Ok(self.steps.finish(states)?)
    }

    /// As [`View::finish`], of states of one partition that are sorted by ascending keys with nulls
    /// first: the rows come in the same order, a batch at a time is held. `None` without keys, and
    /// for grouping sets.
    ///
    /// Errors: [`ViewError::Mismatch`] if `states` has other columns.
    pub fn finish_sorted(
        &self,
        states: Arc<dyn ExecutionPlan>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>, ViewError> {
        check_columns("finish", &self.steps.states_schema, &states.schema())?;
        Ok(self.steps.finish_sorted(states)?)
    }

    /// How finished aggregates are stored beside the states of a group; `None` if that is no use:
    /// there are no keys, or grouping sets, or values as long as the data.
    pub fn finished(&self) -> Option<&Finished> {
        self.finished.as_ref()
    }

    /// A filter over finished rows (columns by the names of [`View::aggregate_schema`], any
    /// qualifier) as a predicate over states, to be applied before combine and finish. `None`
    /// if it must wait: it reads aggregates, or there are grouping sets.
    pub fn key_filter(&self, filter: &Expr) -> Option<Arc<dyn PhysicalExpr>> {
        answer::key_filter(&self.steps, filter)
    }

    /// What is above the aggregate (expressions, HAVING, ORDER BY, LIMIT) over a scan of
    /// `finished`, a table with [`View::aggregate_schema`]. Analysed, not optimised: filters of
    /// the query around it are pushed into the scan by the caller's optimizer.
    ///
    /// Errors: [`ViewError::Mismatch`] if `finished` has other columns.
    pub fn answer_plan(&self, finished: Arc<dyn TableProvider>) -> Result<LogicalPlan, ViewError> {
        answer::answer_plan(&self.analysed, &self.aggregate, &self.steps, finished)
    }

    /// The view's own name for a column of [`View::aggregate_schema`]; that name if it has none.
    pub(crate) fn title_of<'a>(&'a self, name: &'a str) -> &'a str {
        let mut plan = &self.analysed;
        loop {
            plan = match plan {
                LogicalPlan::Projection(top) => {
                    let titles = top.expr.iter().filter_map(|expr| match expr {
                        Expr::Alias(alias) => Some((aliased(&alias.expr), alias.name.as_str())),
                        _ => None,
                    });
                    let is_it =
                        |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == name);
                    let mut titles = titles.filter(|(expr, _)| is_it(expr));
                    return titles.next().map_or(name, |(_, title)| title);
                }
                LogicalPlan::Aggregate(_) => return name,
                _ => match plan.inputs()[..] {
                    [input] => input,
                    _ => return name,
                },
            }
        }
    }

    pub(crate) fn judges(&self) -> &[Judge] {
        &self.judges
    }

    pub(crate) fn hidden(&self) -> &[HiddenKind] {
        &self.hidden
    }
}

/// What an alias stands for: `count(*) AS n` has one within the other.
fn aliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => aliased(&alias.expr),
        other => other,
    }
}

fn parse(state: &SessionState, select: &str) -> Result<Statement, ViewError> {
    let dialect = state.config_options().sql_parser.dialect;
    let statement = state
        .sql_to_statement(select.trim().trim_end_matches(';'), &dialect)
        .map_err(|e| ViewError::invalid(message(&e), "check the syntax of the SELECT"))?;
    match &statement {
        Statement::Statement(inner) if matches!(**inner, ast::Statement::Query(_)) => Ok(statement),
        _ => Err(ViewError::invalid(
            "a view is defined by a SELECT",
            "start with SELECT",
        )),
    }
}

fn register_stream(
    state: &SessionState,
    statement: &Statement,
    resolve: &dyn Fn(&str) -> Option<SchemaRef>,
) -> Result<(String, SchemaRef), ViewError> {
    let references = state.resolve_table_references(statement)?;
    let [reference] = references.as_slice() else {
        return Err(match references.len() {
            0 => ViewError::refused(
                "a SELECT without a stream is not supported in a view",
                "add FROM with the name of a stream",
            ),
            _ => ViewError::refused(
                "a view reads one stream, and this SELECT names several tables",
                "make one view per stream and join the views when you query them",
            ),
        });
    };
    let name = reference.table().to_string();
    if reference.schema().is_some() {
        return Err(ViewError::UnknownStream {
            name: reference.to_string(),
        });
    }
    let schema = resolve(&name).ok_or(ViewError::UnknownStream { name: name.clone() })?;
    let table = StreamTable {
        schema: Arc::clone(&schema),
    };
    state
        .schema_for_ref(reference.clone())?
        .register_table(name.clone(), Arc::new(table))?;
    Ok((name, schema))
}

fn aggregate_in(plan: &LogicalPlan) -> Result<&Aggregate, ViewError> {
    shape::find_aggregate(plan)
        .ok_or_else(|| ViewError::Plan(DataFusionError::Internal("the aggregate is gone".into())))
}

fn displays(plan: &LogicalPlan) -> Vec<String> {
    let calls = shape::find_aggregate(plan)
        .map(|a| a.aggr_expr.as_slice())
        .unwrap_or_default();
    calls
        .iter()
        .filter(|e| call_of(e).is_some())
        .map(|e| e.human_display().to_string())
        .collect()
}

fn with_total_order(plan: &LogicalPlan, state: &SessionState) -> Result<LogicalPlan, ViewError> {
    let first_value = state
        .aggregate_functions()
        .get("first_value")
        .ok_or_else(|| {
            ViewError::Plan(DataFusionError::Internal(
                "no aggregate function first_value".into(),
            ))
        })?;
    let ordered = order::total_order(aggregate_in(plan)?, first_value)?;
    shape::replace_aggregate(plan, LogicalPlan::Aggregate(ordered))
}

/// The leaf's columns, or, where it reads none (`count(*)`), the cheapest column there is: a
/// plan without columns is a special case in every reader.
fn input_schema(leaf: &SchemaRef, stream: &SchemaRef) -> SchemaRef {
    if !leaf.fields().is_empty() {
        return Arc::clone(leaf);
    }
    let fields = stream.fields();
    let field = fields
        .iter()
        .find(|f| f.name() == SHARD)
        .or_else(|| fields.first());
    Arc::new(Schema::new(field.into_iter().cloned().collect::<Vec<_>>()))
}

fn output_schema(analysed: &LogicalPlan) -> Result<SchemaRef, ViewError> {
    let schema = analysed.schema();
    let fields = schema.fields();
    for (at, field) in fields.iter().enumerate() {
        if fields
            .iter()
            .skip(at + 1)
            .any(|other| other.name() == field.name())
        {
            return Err(ViewError::invalid(
                format!("two columns are named {}", field.name()),
                "name one of them with AS",
            ));
        }
    }
    Ok(Arc::clone(schema.inner()))
}

fn definition_hash(canonical_sql: &str, input: &Schema, aggregates: &[AggregateInfo]) -> String {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    part(canonical_sql);
    for field in input.fields() {
        part(field.name());
        part(&format!("{:?}", field.data_type()));
    }
    part(datafusion::DATAFUSION_VERSION);
    part(&STATE_FORMAT_VERSION.to_string());
    part(TIME_ZONE);
    for aggregate in aggregates {
        if let Some(format) = state_format(&aggregate.function) {
            part(format);
        }
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The engine's message without its prefixes and internals.
fn message(error: &DataFusionError) -> String {
    error
        .strip_backtrace()
        .lines()
        .next()
        .unwrap_or_default()
        .to_string()
}

fn not_understood(error: DataFusionError) -> ViewError {
    ViewError::invalid(
        message(&error),
        "check the names of columns and functions and the types of their arguments",
    )
}

fn not_planned(error: DataFusionError) -> ViewError {
    match error.find_root() {
        DataFusionError::Internal(_) => ViewError::Plan(error),
        _ => ViewError::refused(
            message(&error),
            "the engine cannot compute this aggregate in steps; write it in another way",
        ),
    }
}

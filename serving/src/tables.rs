//! Streams and views of a pinned snapshot, as DataFusion tables.
//!
//! ```text
//! stream = Parquet scan of master files  ∪  tail batches
//! view   = everything above the Aggregate ( finish ( states ) )
//! states = version files ∪ pane files ∪ map(master rows in gaps) ∪ states of tail parts
//! ```
//!
//! `layer=batch` keeps only the version files (for a stream: the master files), `speed`
//! everything else. A filter on group keys reaches the states before they are finished.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use lambdalake_data::CutRange;
use lambdalake_data::bounds::may_match;
use lambdalake_data::scan::{ScanFile, ScanPredicate, cast_to, in_range, parquet_scan};
use lambdalake_data::schema::adapt;
use lambdalake_data::through::ThroughExec;

use crate::engine::{Layer, QueryStats};
use crate::snapshot::{StreamSnapshot, ViewSnapshot};

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Names a layer in EXPLAIN.
fn layer(label: String, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(ThroughExec::new("LayerExec", label, input))
}

/// Plans a scan of those files whose bounds do not rule the predicate out. Also their number
/// and rows.
struct PrunedScan {
    plan: Arc<dyn ExecutionPlan>,
    files: usize,
    rows: u64,
}

/// What all scans of one table have in common.
struct Reader<'a> {
    schema: &'a SchemaRef,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    partitions: usize,
    stats: &'a QueryStats,
}

impl Reader<'_> {
    fn scan(
        &self,
        files: &[ScanFile],
        projection: Option<&[usize]>,
        limit: Option<usize>,
    ) -> Result<PrunedScan> {
        let kept = may_match(files, self.schema, self.predicate.as_ref());
        self.stats.count_files(files.len(), kept.len());
        let predicate = self.predicate.clone().map(|predicate| ScanPredicate {
            filters_rows: saves_reading(&predicate, self.schema, projection),
            predicate,
        });
        let plan = parquet_scan(
            &kept,
            self.schema,
            projection,
            predicate,
            limit,
            self.partitions,
        );
        Ok(PrunedScan {
            plan: plan.map_err(external)?,
            files: kept.len(),
            rows: kept.iter().map(|file| file.rows).sum(),
        })
    }
}

/// Whether rows filtered inside a scan spare it the other columns of those rows. If all that is
/// read is what the predicate needs, the operator above filters with less ado.
fn saves_reading(
    predicate: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
    projection: Option<&[usize]>,
) -> bool {
    let needed = collect_columns(predicate);
    let is_needed = |index: usize| needed.iter().any(|column| column.index() == index);
    match projection {
        Some(indices) => !indices.iter().all(|&index| is_needed(index)),
        None => !(0..schema.fields().len()).all(is_needed),
    }
}

/// A stream's events in one snapshot.
#[derive(Debug)]
pub struct StreamTable {
    stream: Arc<StreamSnapshot>,
    layer: Layer,
    stats: Arc<QueryStats>,
}

impl StreamTable {
    pub fn new(stream: Arc<StreamSnapshot>, layer: Layer, stats: Arc<QueryStats>) -> Self {
        Self {
            stream,
            layer,
            stats,
        }
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.stream.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let stream = &self.stream;
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if self.layer != Layer::Speed {
            self.stats.count_batch(stream.master_rows());
            let reader = Reader {
                schema: &stream.schema,
                predicate: physical_filter(state, &stream.schema, filters)?,
                partitions: state.config().target_partitions(),
                stats: &self.stats,
            };
            let files = stream.master_files();
            let scan = reader.scan(&files, projection.map(Vec::as_slice), limit)?;
            let label = format!(
                "batch: master version {}, cut {}, {} of {} files may match, with {} of {} rows",
                stream.state.master_version,
                stream.state.cut,
                scan.files,
                files.len(),
                scan.rows,
                stream.master_rows()
            );
            inputs.push(layer(label, scan.plan));
        }
        if self.layer != Layer::Batch {
            self.stats.count_speed(stream.tail_rows());
            let tail = MemorySourceConfig::try_new_exec(
                &[tail_batches(stream)?],
                Arc::clone(&stream.schema),
                projection.cloned(),
            )?;
            inputs.push(layer(
                format!("speed: {} tail rows", stream.tail_rows()),
                tail,
            ));
        }
        union(inputs, || match projection {
            Some(indices) => Ok(Arc::new(stream.schema.project(indices)?)),
            None => Ok(Arc::clone(&stream.schema)),
        })
    }
}

fn tail_batches(stream: &StreamSnapshot) -> Result<Vec<RecordBatch>> {
    let chunks = stream.parts.iter().flat_map(|open| open.part.chunks.iter());
    chunks
        .map(|chunk| adapt(&chunk.events, &stream.schema).map_err(external))
        .collect()
}

/// The filters that can be evaluated on rows of `schema`, as one predicate.
fn physical_filter(
    state: &dyn Session,
    schema: &SchemaRef,
    filters: &[Expr],
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let df_schema = DFSchema::try_from(Arc::clone(schema))?;
    let predicates = filters
        .iter()
        .map(|filter| state.create_physical_expr(filter.clone(), &df_schema))
        .collect::<Result<Vec<_>>>()?;
    Ok((!predicates.is_empty()).then(|| conjunction(predicates)))
}

fn union(
    mut inputs: Vec<Arc<dyn ExecutionPlan>>,
    empty_schema: impl Fn() -> Result<SchemaRef>,
) -> Result<Arc<dyn ExecutionPlan>> {
    match inputs.len() {
        0 => Ok(Arc::new(datafusion::physical_plan::empty::EmptyExec::new(
            empty_schema()?,
        ))),
        1 => Ok(inputs.remove(0)),
        _ => UnionExec::try_new(inputs),
    }
}

/// The finished aggregate of a view in one snapshot; what stands above the aggregate in
/// the view's SQL is planned over this table.
#[derive(Debug)]
pub struct FinishedTable {
    view: Arc<ViewSnapshot>,
    schema: SchemaRef,
    layer: Layer,
    stats: Arc<QueryStats>,
}

impl FinishedTable {
    pub fn new(view: Arc<ViewSnapshot>, layer: Layer, stats: Arc<QueryStats>) -> Self {
        let schema = view.view.aggregate_schema();
        Self {
            view,
            schema,
            layer,
            stats,
        }
    }

    async fn states(
        &self,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let snapshot = &self.view;
        let schema = snapshot.view.states_schema();
        let reader = Reader {
            schema: &schema,
            predicate,
            partitions,
            stats: &self.stats,
        };
        let mut sides = Vec::new();
        if self.layer != Layer::Speed {
            self.stats.count_batch(snapshot.batch_cut().events());
            let files = snapshot.version_files();
            let scan = reader.scan(&files, None, None)?;
            let label = match &snapshot.version {
                Some(version) => format!(
                    "batch: version {}, cut {}, {} of {} files may match, with {} states",
                    version.number,
                    version.cut,
                    scan.files,
                    files.len(),
                    scan.rows
                ),
                None => "batch: no version yet".to_owned(),
            };
            sides.push(layer(label, scan.plan));
        }
        if self.layer != Layer::Batch {
            self.stats.count_speed(snapshot.lag_events());
            sides.push(self.speed_states(&reader).await?);
        }
        union(sides, || Ok(Arc::clone(&schema)))
    }

    /// States of everything after the batch cut: panes, gaps and tail.
    async fn speed_states(&self, reader: &Reader<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let snapshot = &self.view;
        let panes = snapshot.pane_files();
        let gaps = snapshot.gaps();
        let mut inputs = Vec::new();
        let mut read = (0, 0);
        if !panes.is_empty() {
            let scan = reader.scan(&panes, None, None)?;
            read = (scan.files, scan.rows);
            inputs.push(scan.plan);
        }
        let mut mapped_files = 0;
        for gap in &gaps {
            let (states, files) = map_gap(snapshot, gap, reader.partitions)?;
            reader.stats.count_files(files, files);
            mapped_files += files;
            inputs.push(filtered(states, &reader.predicate)?);
        }
        let mut open = Vec::new();
        for part in &snapshot.stream.parts {
            open.extend(part.states.states(snapshot, &part.part).await?);
        }
        if !open.is_empty() {
            let schema = Arc::clone(reader.schema);
            let open = MemorySourceConfig::try_new_exec(&[open], schema, None)?;
            inputs.push(filtered(open, &reader.predicate)?);
        }
        let label = format!(
            "speed: {} events since {} in {} panes, {} gaps mapped from the master dataset, \
             {} tail events; {} of {} pane files may match, with {} states; {} master files mapped",
            snapshot.lag_events(),
            snapshot.batch_cut(),
            snapshot.panes.len(),
            gaps.len(),
            snapshot.stream.tail_rows(),
            read.0,
            panes.len(),
            read.1,
            mapped_files
        );
        let side = union(inputs, || Ok(Arc::clone(reader.schema)))?;
        Ok(layer(label, side))
    }
}

fn filtered(
    input: Arc<dyn ExecutionPlan>,
    predicate: &Option<Arc<dyn PhysicalExpr>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    match predicate {
        Some(predicate) => Ok(Arc::new(FilterExec::try_new(Arc::clone(predicate), input)?)),
        None => Ok(input),
    }
}

/// Maps the master rows of a range that has no stored states; also how many files they are in.
fn map_gap(
    snapshot: &ViewSnapshot,
    gap: &CutRange,
    partitions: usize,
) -> Result<(Arc<dyn ExecutionPlan>, usize)> {
    let stream = &snapshot.stream;
    let folder = stream.definition.master_folder();
    let mut whole = Vec::new();
    let mut partial = Vec::new();
    for file in stream
        .state
        .files
        .iter()
        .filter(|file| file.range.overlaps(gap))
    {
        let scan = ScanFile::of_master(&folder, file);
        let part = if gap.contains(&file.range) {
            &mut whole
        } else {
            &mut partial
        };
        part.push(scan);
    }
    let mut inputs = Vec::new();
    if !whole.is_empty() || partial.is_empty() {
        inputs.push(map_files(snapshot, &whole, None, partitions)?);
    }
    if !partial.is_empty() {
        let range = in_range(&stream.schema, gap).map_err(external)?;
        inputs.push(map_files(snapshot, &partial, Some(range), partitions)?);
    }
    let plan = union(inputs, || Ok(snapshot.view.states_schema()))?;
    Ok((plan, whole.len() + partial.len()))
}

fn map_files(
    snapshot: &ViewSnapshot,
    files: &[ScanFile],
    range: Option<ScanPredicate>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let (view, stream) = (&snapshot.view, &snapshot.stream);
    let input = view.input_schema();
    let indices = input
        .fields()
        .iter()
        .map(|field| stream.schema.index_of(field.name()))
        .collect::<Result<Vec<_>, _>>()?;
    let scan = parquet_scan(
        files,
        &stream.schema,
        Some(&indices),
        range,
        None,
        partitions,
    )
    .map_err(external)?;
    let scan = cast_to(scan, &input).map_err(external)?;
    view.map(scan).map_err(external)
}

#[async_trait]
impl TableProvider for FinishedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| match self.view.view.key_filter(filter) {
                Some(_) => TableProviderFilterPushDown::Inexact,
                None => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys: Vec<_> = filters
            .iter()
            .filter_map(|filter| self.view.view.key_filter(filter))
            .collect();
        let predicate = (!keys.is_empty()).then(|| conjunction(keys));
        let states = self
            .states(predicate, state.config().target_partitions())
            .await?;
        let finished = self.view.view.finish(states).map_err(external)?;
        match projection {
            Some(indices) => projected(finished, indices),
            None => Ok(finished),
        }
    }
}

/// These columns of a plan, in this order.
fn projected(input: Arc<dyn ExecutionPlan>, indices: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = input.schema();
    let exprs: Vec<(Arc<dyn PhysicalExpr>, String)> = indices
        .iter()
        .map(|&index| {
            let name = schema.field(index).name();
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, index));
            (column, name.clone())
        })
        .collect();
    Ok(Arc::new(ProjectionExec::try_new(exprs, input)?))
}

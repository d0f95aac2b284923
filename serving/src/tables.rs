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
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use lambdalake_data::CutRange;
use lambdalake_data::scan::{ScanFile, cast_to, in_range, parquet_scan};
use lambdalake_data::schema::adapt;

use crate::engine::{Layer, QueryStats};
use crate::layer_exec::LayerExec;
use crate::snapshot::{StreamSnapshot, ViewSnapshot};

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
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
        if self.layer != Layer::Speed && !stream.state.files.is_empty() {
            self.stats.count_batch(stream.master_rows());
            inputs.push(
                parquet_scan(
                    &stream.master_files(),
                    &stream.schema,
                    projection.map(Vec::as_slice),
                    physical_filter(state, &stream.schema, filters)?,
                    limit,
                    state.config().target_partitions(),
                )
                .map_err(external)?,
            );
        }
        if self.layer != Layer::Batch {
            self.stats.count_speed(stream.tail_rows());
            let tail = tail_batches(stream)?;
            inputs.push(MemorySourceConfig::try_new_exec(
                &[tail],
                Arc::clone(&stream.schema),
                projection.cloned(),
            )?);
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
        let (snapshot, view) = (&self.view, &self.view.view);
        let schema = view.states_schema();
        let stored = |files: &[ScanFile]| {
            parquet_scan(files, &schema, None, predicate.clone(), None, partitions)
                .map_err(external)
        };
        let mut sides: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if self.layer != Layer::Speed {
            self.stats.count_batch(snapshot.batch_cut().events());
            let label = match &snapshot.version {
                Some(version) => format!("batch: version {}, cut {}", version.number, version.cut),
                None => "batch: no version yet".to_owned(),
            };
            sides.push(Arc::new(LayerExec::new(
                label,
                stored(&snapshot.version_files())?,
            )));
        }
        if self.layer != Layer::Batch {
            self.stats.count_speed(snapshot.lag_events());
            let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
            if !snapshot.panes.is_empty() {
                inputs.push(stored(&snapshot.pane_files())?);
            }
            for gap in snapshot.gaps() {
                let states = map_gap(snapshot, &gap, partitions)?;
                inputs.push(filtered(states, &predicate)?);
            }
            let mut open = Vec::new();
            for part in &snapshot.stream.parts {
                open.extend(part.states.states(snapshot, &part.part).await?);
            }
            if !open.is_empty() {
                let open = MemorySourceConfig::try_new_exec(&[open], Arc::clone(&schema), None)?;
                inputs.push(filtered(open, &predicate)?);
            }
            let label = format!(
                "speed: {} events since {} in {} panes, {} gaps mapped from the master dataset, \
                 {} tail events",
                snapshot.lag_events(),
                snapshot.batch_cut(),
                snapshot.panes.len(),
                snapshot.gaps().len(),
                snapshot.stream.tail_rows()
            );
            let side = union(inputs, || Ok(Arc::clone(&schema)))?;
            sides.push(Arc::new(LayerExec::new(label, side)));
        }
        union(sides, || Ok(Arc::clone(&schema)))
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

/// Maps the master rows of a range that has no stored states.
fn map_gap(
    snapshot: &ViewSnapshot,
    gap: &CutRange,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
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
        let scan = ScanFile {
            path: format!("{folder}/{}", file.path),
            bytes: file.bytes,
        };
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
    union(inputs, || Ok(snapshot.view.states_schema()))
}

fn map_files(
    snapshot: &ViewSnapshot,
    files: &[ScanFile],
    range: Option<Arc<dyn PhysicalExpr>>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let (view, stream) = (&snapshot.view, &snapshot.stream);
    let input = view.input_schema();
    let indices = input
        .fields()
        .iter()
        .map(|field| stream.schema.index_of(field.name()))
        .collect::<Result<Vec<_>, _>>()?;
    // The predicate's rows are filtered inside the scan (row filters are on).
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
        let Some(indices) = projection else {
            return Ok(finished);
        };
        let schema = finished.schema();
        let exprs = indices.iter().map(|&index| {
            let name = schema.field(index).name();
            let column: Arc<dyn PhysicalExpr> = Arc::new(
                datafusion::physical_expr::expressions::Column::new(name, index),
            );
            (column, name.clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(
            exprs.collect::<Vec<_>>(),
            finished,
        )?))
    }
}

//! Streams of a pinned snapshot, as DataFusion tables, and what they share with views.
//!
//! ```text
//! stream = Parquet scan of master files  ∪  tail batches
//! ```
//!
//! `layer=batch` keeps only the master files, `speed` everything else.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use lambdalake_data::bounds::may_match;
use lambdalake_data::scan::{ParquetScan, ScanFile, ScanPredicate, cached_readers};
use lambdalake_data::schema::adapt;
use lambdalake_data::through::ThroughExec;

use crate::engine::{Layer, QueryStats};
use crate::snapshot::StreamSnapshot;

pub(crate) fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Names a layer in EXPLAIN.
pub(crate) fn layer(label: String, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(ThroughExec::new("LayerExec", label, input))
}

/// A scan of those files whose bounds do not rule the predicate out.
pub(crate) struct PrunedScan {
    pub plan: Arc<dyn ExecutionPlan>,
    /// The paths of the files.
    pub files: Vec<String>,
    pub rows: u64,
}

/// What all scans of one schema in one table have in common.
pub(crate) struct Reader<'a> {
    pub schema: &'a SchemaRef,
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    pub partitions: usize,
    pub readers: Arc<dyn ParquetFileReaderFactory>,
}

impl Reader<'_> {
    pub fn scan(
        &self,
        files: &[ScanFile],
        projection: Option<&[usize]>,
        limit: Option<usize>,
    ) -> Result<PrunedScan> {
        let kept = may_match(files, self.schema, self.predicate.as_ref());
        let predicate = self.predicate.clone().map(|predicate| ScanPredicate {
            filters_rows: saves_reading(&predicate, self.schema, projection),
            predicate,
        });
        let plan = ParquetScan::of(&kept, self.schema, self.partitions)
            .columns(projection)
            .matching(predicate)
            .limit(limit)
            .readers(&self.readers)
            .plan();
        Ok(PrunedScan {
            plan: plan.map_err(external)?,
            rows: kept.iter().map(|file| file.rows).sum(),
            files: kept.into_iter().map(|file| file.path).collect(),
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
                readers: cached_readers(state.runtime_env())?,
            };
            let files = stream.master_files();
            let scan = reader.scan(&files, projection.map(Vec::as_slice), limit)?;
            self.stats.count_files(files.len(), scan.files.len());
            let label = format!(
                "batch: master version {}, cut {}, {} of {} files may match, with {} of {} rows",
                stream.state.master_version,
                stream.state.cut,
                scan.files.len(),
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

pub(crate) fn union(
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

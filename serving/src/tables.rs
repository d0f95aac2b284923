//! Streams of a pinned snapshot, as DataFusion tables, and what they share with views.
//!
//! ```text
//! stream = Parquet scan of master files  ∪  tail batches
//! ```
//!
//! `layer=batch` keeps only the master files, `speed` everything else.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction, conjunction_opt};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use lambdalake_data::bounds::may_match;
use lambdalake_data::dictionaries::as_dictionaries;
use lambdalake_data::scan::{ParquetScan, ScanFile, ScanPredicate, cached_readers};
use lambdalake_data::schema::adapt;
use lambdalake_data::through::ThroughExec;

use crate::engine::{Layer, QueryStats};
use crate::group_by_codes::GroupedColumns;
use crate::provenance::{Part, RowsRead};
use crate::snapshot::StreamSnapshot;
use crate::text_filters::{TextFilters, as_text, column_of};

pub(crate) fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Names a layer in EXPLAIN.
pub(crate) fn layer(label: String, input: Arc<dyn ExecutionPlan>) -> ThroughExec {
    ThroughExec::new("LayerExec", label, input)
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
    /// Columns of text to be read as dictionaries, which all files must have.
    pub dictionaries: &'a [&'a str],
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
            .dictionaries(self.dictionaries)
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
    rows: Arc<RowsRead>,
}

impl StreamTable {
    pub(crate) fn new(
        stream: Arc<StreamSnapshot>,
        layer: Layer,
        stats: Arc<QueryStats>,
        rows: Arc<RowsRead>,
    ) -> Self {
        Self {
            stream,
            layer,
            stats,
            rows,
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
        let support = |filter: &&Expr| match column_of(filter, &self.stream.schema) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = &self.stream.schema;
        let all: Vec<usize>;
        let wanted = match projection {
            Some(columns) => columns.as_slice(),
            None => {
                all = (0..schema.fields().len()).collect();
                &all
            }
        };
        let text = TextFilters::of(filters, schema, wanted);
        let columns = text.as_ref().map_or(wanted, |text| &text.columns);
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if self.layer != Layer::Speed {
            let others = filters
                .iter()
                .filter(|filter| column_of(filter, schema).is_none());
            let scan = Scan {
                state,
                columns,
                text: text.as_ref(),
                others: others.cloned().collect(),
                limit: limit.filter(|_| text.is_none()),
            };
            inputs.push(self.master(&scan)?);
        }
        if self.layer != Layer::Batch {
            self.stats.count_speed(self.stream.tail_rows());
            let batches = tail_batches(&self.stream)?;
            let (schema, columns) = (Arc::clone(schema), columns.to_vec());
            let tail = MemorySourceConfig::try_new_exec(&[batches], schema, Some(columns))?;
            let label = format!("speed: {} tail rows", self.stream.tail_rows());
            let watch = self.rows.watch(Part::Tail);
            let tail = Arc::new(layer(label, tail).watched_by(watch));
            inputs.push(match &text {
                Some(text) => text.applied(state, tail, &[])?,
                None => tail,
            });
        }
        union(inputs, || Ok(Arc::new(schema.project(wanted)?)))
    }
}

/// One scan of a stream.
struct Scan<'a> {
    state: &'a dyn Session,
    /// What is read.
    columns: &'a [usize],
    text: Option<&'a TextFilters<'a>>,
    /// Filters that are applied again above the scan.
    others: Vec<Expr>,
    limit: Option<usize>,
}

impl StreamTable {
    fn master(&self, scan: &Scan<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let stream = &self.stream;
        self.stats.count_batch(stream.master_rows());
        let dictionaries = self.dictionaries(scan);
        let schema = as_dictionaries(&stream.schema, &dictionaries);
        let reads_dictionary = |filter: &Expr| {
            let columns = filter.column_refs();
            let mut names = columns.iter().map(|column| column.name.as_str());
            names.any(|name| dictionaries.contains(&name))
        };
        let mut others = scan.others.clone();
        others.retain(|filter| !reads_dictionary(filter));
        let mut predicates = match scan.text {
            Some(text) => text.predicates(scan.state, &schema, &dictionaries)?,
            None => Vec::new(),
        };
        predicates.extend(physical_filter(scan.state, &stream.schema, &others)?);
        let reader = Reader {
            schema: &stream.schema,
            predicate: conjunction_opt(predicates),
            partitions: scan.state.config().target_partitions(),
            readers: cached_readers(scan.state.runtime_env())?,
            dictionaries: &dictionaries,
        };
        let files = stream.master_files();
        let pruned = reader.scan(&files, Some(scan.columns), scan.limit)?;
        self.stats.count_files(files.len(), pruned.files.len());
        let label = format!(
            "batch: master version {}, cut {}, {} of {} files may match, with {} of {} rows",
            stream.state.master_version,
            stream.state.cut,
            pruned.files.len(),
            files.len(),
            pruned.rows,
            stream.master_rows()
        );
        let watch = self.rows.watch(Part::Batch);
        let rows = Arc::new(layer(label, pruned.plan).watched_by(watch));
        match scan.text {
            Some(text) => text.applied(scan.state, rows, &dictionaries),
            None if dictionaries.is_empty() => Ok(rows),
            None => as_text(rows, &stream.schema, scan.columns),
        }
    }

    /// The columns of text that are read as dictionaries: what a text filter reads, and what the
    /// query groups by and no other filter reads.
    fn dictionaries<'a>(&'a self, scan: &Scan<'a>) -> Vec<&'a str> {
        let stream = &self.stream;
        let mut names = scan.text.map_or_else(Vec::new, TextFilters::names);
        if let Some(grouped) = scan.state.config().get_extension::<GroupedColumns>() {
            for field in scan.columns.iter().map(|&at| stream.schema.field(at)) {
                let name = field.name().as_str();
                let mut others = scan.others.iter().flat_map(Expr::column_refs);
                if *field.data_type() == DataType::Utf8
                    && grouped.contains(name)
                    && !names.contains(&name)
                    && others.all(|column| column.name != name)
                {
                    names.push(name);
                }
            }
        }
        names.retain(|&name| {
            let mut files = stream.state.files.iter();
            files.all(|file| file.dictionaries.iter().any(|known| known == name))
        });
        names
    }
}

fn tail_batches(stream: &StreamSnapshot) -> Result<Vec<RecordBatch>> {
    let chunks = stream.parts.iter().flat_map(|open| open.part.chunks.iter());
    chunks
        .map(|chunk| adapt(&chunk.events, &stream.schema).map_err(external))
        .collect()
}

/// The filters that can be evaluated on rows of `schema`, as one predicate.
pub(crate) fn physical_filter(
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

//! Views of a pinned snapshot, as DataFusion tables.
//!
//! ```text
//! view   = everything above the Aggregate ( rows ∪ finish ( states ) )
//! rows   = finished rows in version files, of groups that the speed layer has not touched
//! states = version files, of the other groups
//!          ∪ pane files ∪ map(master rows in gaps) ∪ states of tail parts
//! ```
//!
//! `layer=batch` keeps only the version files, `speed` everything else. A filter on group keys
//! reaches the stored rows before anything is merged.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, conjunction, conjunction_opt};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use lambdalake_data::CutRange;
use lambdalake_data::scan::{
    ParquetScan, ScanFile, ScanPredicate, cached_readers, cast_to, in_range,
};
use lambdalake_data::through::ThroughExec;
use lambdalake_views::{FINISHED_LAYOUT, Finished};

use crate::engine::{Layer, QueryStats};
use crate::provenance::{Part, RowsRead};
use crate::snapshot::ViewSnapshot;
use crate::tables::{Reader, external, layer, union};
use crate::touched::{Times, Touched};

/// The finished aggregate of a view in one snapshot; what stands above the aggregate in
/// the view's SQL is planned over this table.
#[derive(Debug)]
pub struct FinishedTable {
    view: Arc<ViewSnapshot>,
    schema: SchemaRef,
    layer: Layer,
    stats: Arc<QueryStats>,
    rows: Arc<RowsRead>,
}

/// One scan of the table.
struct Merge<'a> {
    snapshot: &'a ViewSnapshot,
    layer: Layer,
    stats: &'a QueryStats,
    rows: &'a Arc<RowsRead>,
    session: &'a dyn Session,
    /// A filter on group keys.
    predicate: Option<Arc<dyn PhysicalExpr>>,
    /// States of the tail.
    open: Vec<RecordBatch>,
}

impl FinishedTable {
    pub(crate) fn new(
        view: Arc<ViewSnapshot>,
        layer: Layer,
        stats: Arc<QueryStats>,
        rows: Arc<RowsRead>,
    ) -> Self {
        let schema = view.view.aggregate_schema();
        Self {
            view,
            schema,
            layer,
            stats,
            rows,
        }
    }

    async fn open_states(&self) -> Result<Vec<RecordBatch>> {
        let mut open = Vec::new();
        if self.layer != Layer::Batch {
            for part in &self.view.stream.parts {
                open.extend(part.states.states(&self.view, &part.part).await?);
            }
        }
        Ok(open)
    }
}

impl Merge<'_> {
    fn reader<'a>(
        &self,
        schema: &'a SchemaRef,
        and: Option<Arc<dyn PhysicalExpr>>,
    ) -> Result<Reader<'a>> {
        Ok(Reader {
            schema,
            predicate: conjunction_opt(self.predicate.iter().cloned().chain(and)),
            partitions: self.session.config().target_partitions(),
            readers: cached_readers(self.session.runtime_env())?,
            dictionaries: &[],
        })
    }

    /// What is finished already, and where the groups are that it is not; `None` if that is not
    /// known.
    fn finished(&self) -> Option<(&Finished, Touched)> {
        let version = self.snapshot.version.as_ref()?;
        let finished = self.snapshot.view.finished()?;
        if self.layer == Layer::Speed || version.finished_layout != Some(FINISHED_LAYOUT) {
            return None;
        }
        let (panes, gaps) = match self.layer {
            Layer::Batch => (Vec::new(), false),
            _ => (self.snapshot.pane_files(), !self.snapshot.gaps().is_empty()),
        };
        if gaps {
            return None;
        }
        let states = self.snapshot.view.states_schema();
        let keys = self.snapshot.view.key_columns();
        Some((finished, Touched::by(&states, keys, &panes, &self.open)?))
    }

    /// The `columns` of finished rows.
    fn plan(self, columns: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let mut inputs = Vec::new();
        let mut read = HashSet::new();
        let has_batch = self.layer != Layer::Speed;
        if has_batch {
            self.stats.count_batch(self.snapshot.batch_cut().events());
        }
        if self.layer != Layer::Batch {
            self.stats.count_speed(self.snapshot.lag_events());
        }
        match self.finished() {
            Some((finished, Touched::Nothing)) => {
                inputs.push(self.rows(finished, None, columns, &mut read)?);
            }
            Some((finished, Touched::At(times))) => {
                inputs.push(self.rows(finished, Some(&times), columns, &mut read)?);
                inputs.push(self.merged(Some(&times), columns, &mut read)?);
            }
            None => inputs.push(self.merged(None, columns, &mut read)?),
        }
        if has_batch {
            let files = self.snapshot.version_files().len();
            self.stats.count_files(files, read.len());
        }
        union(inputs, || unreachable!("there is one at least"))
    }

    /// Finished rows of the version, of groups at other than these times.
    fn rows(
        &self,
        finished: &Finished,
        touched: Option<&Times>,
        columns: &[usize],
        read: &mut HashSet<String>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut places: Vec<usize> = columns.iter().map(|&at| finished.places()[at]).collect();
        let schema = finished.stored_schema();
        let reader = self.reader(&schema, touched.map(|times| times.outside(times.key)))?;
        let key = touched.map(|times| {
            places
                .iter()
                .position(|&place| place == times.key)
                .unwrap_or_else(|| {
                    places.push(times.key);
                    places.len() - 1
                })
        });
        let files = self.snapshot.version_files();
        let scan = reader.scan(&files, Some(&places), None)?;
        let label = format!(
            "{}, {} of {} files may match, with {} finished rows",
            self.version(),
            scan.files.len(),
            files.len(),
            scan.rows
        );
        read.extend(scan.files);
        let mut rows = self.batch(label, scan.plan);
        if let (Some(times), Some(key)) = (touched, key) {
            let outside = times.outside(key);
            rows = Arc::new(FilterExec::try_new(outside, rows)?);
            let wanted: Vec<usize> = (0..columns.len()).collect();
            rows = projected(rows, &wanted)?;
        }
        finished.finished_rows(rows, columns)
    }

    /// What a scan of version files gives, named and counted.
    fn batch(&self, label: String, scan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(layer(label, scan).watched_by(self.rows.watch(Part::Batch)))
    }

    /// States of a part of the speed layer, counted.
    fn counted(
        &self,
        part: Part,
        label: &str,
        states: Arc<dyn ExecutionPlan>,
    ) -> Arc<dyn ExecutionPlan> {
        let counted = ThroughExec::new("CountExec", label.to_owned(), states);
        Arc::new(counted.watched_by(self.rows.watch(part)))
    }

    fn version(&self) -> String {
        match &self.snapshot.version {
            Some(version) => format!("batch: version {}, cut {}", version.number, version.cut),
            None => "batch: no version yet".to_owned(),
        }
    }

    /// What is finished now: of groups at these times, or of all.
    fn merged(
        &self,
        touched: Option<&Times>,
        columns: &[usize],
        read: &mut HashSet<String>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.snapshot.view.states_schema();
        let mut sides = Vec::new();
        if self.layer != Layer::Speed {
            let inside = touched.map(|times| times.inside());
            let reader = self.reader(&schema, inside.clone())?;
            let files = self.snapshot.version_files();
            let scan = reader.scan(&files, None, None)?;
            let label = match &self.snapshot.version {
                Some(_) => format!(
                    "{}, {} of {} files may match, with {} states",
                    self.version(),
                    scan.files.len(),
                    files.len(),
                    scan.rows
                ),
                None => self.version(),
            };
            read.extend(scan.files);
            sides.push(filtered(self.batch(label, scan.plan), &inside)?);
        }
        if self.layer != Layer::Batch {
            sides.push(self.speed_states(&self.reader(&schema, None)?)?);
        }
        let states = union(sides, || Ok(Arc::clone(&schema)))?;
        let finished = self.snapshot.view.finish(states).map_err(external)?;
        projected(finished, columns)
    }

    /// States of everything after the batch cut: panes, gaps and tail.
    fn speed_states(&self, reader: &Reader<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let snapshot = self.snapshot;
        let panes = snapshot.pane_files();
        let gaps = snapshot.gaps();
        let mut inputs = Vec::new();
        let mut read = (0, 0);
        if !panes.is_empty() {
            let scan = reader.scan(&panes, None, None)?;
            self.stats.count_files(panes.len(), scan.files.len());
            read = (scan.files.len(), scan.rows);
            inputs.push(self.counted(Part::Panes, "states of panes", scan.plan));
        }
        let mut mapped_files = 0;
        for gap in &gaps {
            let (states, files) = map_gap(snapshot, gap, reader.partitions)?;
            self.stats.count_files(files, files);
            mapped_files += files;
            let states = self.counted(Part::Gaps, "states of a gap", states);
            inputs.push(filtered(states, &reader.predicate)?);
        }
        if !self.open.is_empty() {
            let (open, schema) = (self.open.clone(), Arc::clone(reader.schema));
            let open = MemorySourceConfig::try_new_exec(&[open], schema, None)?;
            let open = self.counted(Part::Tail, "states of the tail", open);
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
        Ok(Arc::new(layer(label, side)))
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
    let scan = ParquetScan::of(files, &stream.schema, partitions)
        .columns(Some(&indices))
        .matching(range)
        .plan()
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
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys: Vec<_> = filters
            .iter()
            .filter_map(|filter| self.view.view.key_filter(filter))
            .collect();
        let merge = Merge {
            snapshot: &self.view,
            layer: self.layer,
            stats: &self.stats,
            rows: &self.rows,
            session,
            predicate: (!keys.is_empty()).then(|| conjunction(keys)),
            open: self.open_states().await?,
        };
        match projection {
            Some(columns) => merge.plan(columns),
            None => merge.plan(&(0..self.schema.fields().len()).collect::<Vec<_>>()),
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

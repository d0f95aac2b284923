//! Plans that read the engine's own Parquet files.
//!
//! All reads go through one object store, registered under [`STORE_URL`] with nothing else
//! beside it, so that no plan can reach a file outside the data root.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::bounds::{ColumnBounds, offset_bounds, statistics};
use crate::cut::CutRange;
use crate::dictionaries::{DictionaryReaders, as_dictionaries};
use crate::error::Result;
use crate::publication::{MasterFile, StatesFile};
use crate::schema::{OFFSET, SHARD};

/// Where the engine's object store is registered.
pub const STORE_URL: &str = "lake://root";

/// A file to read.
#[derive(Clone, Debug)]
pub struct ScanFile {
    /// Below the data root.
    pub path: String,
    pub bytes: u64,
    pub rows: u64,
    /// Of the columns whose bounds are known without opening the file; may be empty.
    pub bounds: Vec<ColumnBounds>,
}

impl ScanFile {
    /// A file of the master dataset in `folder`.
    pub fn of_master(folder: &str, file: &MasterFile) -> Self {
        let mut bounds = file.bounds.clone();
        bounds.extend(offset_bounds(&file.range));
        Self {
            path: format!("{folder}/{}", file.path),
            bytes: file.bytes,
            rows: file.rows,
            bounds,
        }
    }

    /// A file of view states.
    pub fn of_states(file: &StatesFile) -> Self {
        Self {
            path: file.path.clone(),
            bytes: file.bytes,
            rows: file.rows,
            bounds: file.bounds.clone(),
        }
    }

    pub fn bounds_of(&self, column: &str) -> Option<&ColumnBounds> {
        self.bounds.iter().find(|bounds| bounds.column == column)
    }
}

/// What rows a scan looks for, over the whole schema of its files.
pub struct ScanPredicate {
    /// Prunes files, row groups and pages.
    pub predicate: Arc<dyn PhysicalExpr>,
    /// Only rows that match come out. Otherwise others may come too.
    pub filters_rows: bool,
}

/// A plan that reads Parquet files.
pub struct ParquetScan<'a> {
    files: &'a [ScanFile],
    schema: &'a SchemaRef,
    partitions: usize,
    projection: Option<&'a [usize]>,
    predicate: Option<ScanPredicate>,
    limit: Option<usize>,
    readers: Option<Arc<dyn ParquetFileReaderFactory>>,
    dictionaries: &'a [&'a str],
}

impl<'a> ParquetScan<'a> {
    /// Reads all of `files` in `partitions` streams. A column of `schema` that a file lacks reads
    /// as null.
    pub fn of(files: &'a [ScanFile], schema: &'a SchemaRef, partitions: usize) -> Self {
        Self {
            files,
            schema,
            partitions,
            projection: None,
            predicate: None,
            limit: None,
            readers: None,
            dictionaries: &[],
        }
    }

    /// Only these columns of the schema, in this order; `None` for all.
    pub fn columns(mut self, projection: Option<&'a [usize]>) -> Self {
        self.projection = projection;
        self
    }

    pub fn matching(mut self, predicate: Option<ScanPredicate>) -> Self {
        self.predicate = predicate;
        self
    }

    /// So many rows are enough.
    pub fn limit(mut self, limit: Option<usize>) -> Self {
        self.limit = limit;
        self
    }

    /// Opens files by these; see [`cached_readers`]. Otherwise each scan reads each footer.
    pub fn readers(mut self, readers: &Arc<dyn ParquetFileReaderFactory>) -> Self {
        self.readers = Some(Arc::clone(readers));
        self
    }

    /// Gives these columns of text as dictionaries. All files must be able to; needs
    /// [`Self::readers`].
    pub fn dictionaries(mut self, columns: &'a [&'a str]) -> Self {
        self.dictionaries = columns;
        self
    }

    /// Without files the plan is empty.
    pub fn plan(self) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match self.dictionaries {
            [] => Arc::clone(self.schema),
            columns => Arc::new(as_dictionaries(self.schema, columns)),
        };
        if self.files.is_empty() {
            let schema = match self.projection {
                Some(indices) => Arc::new(schema.project(indices)?),
                None => schema,
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let filters_rows = self.predicate.as_ref().is_none_or(|it| it.filters_rows);
        let mut source = ParquetSource::new(Arc::clone(&schema))
            .with_enable_page_index(true)
            // Without a predicate of its own a scan may still get one from a TopK above it.
            .with_pushdown_filters(filters_rows);
        if let Some(predicate) = self.predicate {
            source = source.with_predicate(predicate.predicate);
        }
        if let Some(mut readers) = self.readers {
            if !self.dictionaries.is_empty() {
                let columns = self.dictionaries.iter().map(|&name| name.to_owned());
                readers = Arc::new(DictionaryReaders {
                    readers,
                    columns: columns.collect(),
                });
            }
            source = source.with_parquet_file_reader_factory(readers);
        }
        let store = ObjectStoreUrl::parse(STORE_URL)?;
        let config = FileScanConfigBuilder::new(store, Arc::new(source))
            .with_file_groups(spread(self.files, &schema, self.partitions))
            .with_projection_indices(self.projection.map(<[usize]>::to_vec))?
            .with_limit(self.limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// Opens files of the engine's store, and keeps their footers in the environment's cache. Files
/// never change, so what is kept stays right.
pub fn cached_readers(
    env: &RuntimeEnv,
) -> datafusion::error::Result<Arc<dyn ParquetFileReaderFactory>> {
    let store = env.object_store(ObjectStoreUrl::parse(STORE_URL)?)?;
    let footers = env.cache_manager.get_file_metadata_cache();
    Ok(Arc::new(CachedParquetFileReaderFactory::new(
        store, footers,
    )))
}

/// Puts each file into the group that has the fewest bytes so far.
fn spread(files: &[ScanFile], schema: &SchemaRef, partitions: usize) -> Vec<FileGroup> {
    let groups = partitions.clamp(1, files.len());
    let mut spread: Vec<(u64, Vec<PartitionedFile>)> = vec![(0, Vec::new()); groups];
    for file in files {
        if let Some(group) = spread.iter_mut().min_by_key(|group| group.0) {
            group.0 += file.bytes;
            let mut part = PartitionedFile::new(file.path.clone(), file.bytes);
            if !file.bounds.is_empty() {
                part = part.with_statistics(Arc::new(statistics(file, schema)));
            }
            group.1.push(part);
        }
    }
    spread
        .into_iter()
        .map(|(_, files)| FileGroup::new(files))
        .collect()
}

/// The events of `range` and no others, over a schema with the hidden columns.
pub fn in_range(schema: &SchemaRef, range: &CutRange) -> Result<ScanPredicate> {
    let column = |name: &str| -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Column::new(name, schema.index_of(name)?)))
    };
    let compare = |left, operator, value: ScalarValue| -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(
            left,
            operator,
            Arc::new(Literal::new(value)),
        ))
    };
    let both = |left, operator, right| -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(left, operator, right))
    };
    let mut any: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::Boolean(Some(false))));
    for shard in 0..range.to.shards() {
        let (from, to) = (
            range.from.offset(shard) as i64,
            range.to.offset(shard) as i64,
        );
        if from >= to {
            continue;
        }
        let in_shard = compare(
            column(SHARD)?,
            Operator::Eq,
            ScalarValue::Int32(Some(shard as i32)),
        );
        let after = compare(
            column(OFFSET)?,
            Operator::GtEq,
            ScalarValue::Int64(Some(from)),
        );
        let before = compare(column(OFFSET)?, Operator::Lt, ScalarValue::Int64(Some(to)));
        let all = both(both(in_shard, Operator::And, after), Operator::And, before);
        any = both(any, Operator::Or, all);
    }
    Ok(ScanPredicate {
        predicate: any,
        filters_rows: true,
    })
}

/// Brings a scan to the exact types a view was compiled with (nested fields may have grown).
pub fn cast_to(
    input: Arc<dyn ExecutionPlan>,
    schema: &SchemaRef,
) -> Result<Arc<dyn ExecutionPlan>> {
    let same = |(a, b): (&Arc<arrow::datatypes::Field>, &Arc<arrow::datatypes::Field>)| {
        a.data_type() == b.data_type()
    };
    if input
        .schema()
        .fields()
        .iter()
        .zip(schema.fields())
        .all(same)
    {
        return Ok(input);
    }
    let exprs = schema.fields().iter().enumerate().map(|(index, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        let expr: Arc<dyn PhysicalExpr> =
            Arc::new(CastExpr::new(column, field.data_type().clone(), None));
        (expr, field.name().clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(
        exprs.collect::<Vec<_>>(),
        input,
    )?))
}

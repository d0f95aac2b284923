//! From SQL text to a stream of rows, on one pinned snapshot.
//!
//! Planning and execution run on the query runtime, in a finite memory pool; the answer
//! reaches the I/O runtime through a small bounded channel. Dropping the answer ends the
//! work. The session of a query holds the tables its text names and nothing else: no files,
//! no hosts, no DDL, no settings.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::TableReference;
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder, SessionStateDefaults};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use lambdalake_data::disk::Disk;
use lambdalake_data::scan::STORE_URL;
use lambdalake_data::store::DiskStore;
use object_store::ObjectStore;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;
use url::Url;

use crate::engine::{Answer, EngineError, ErrorKind, Layer, QueryRequest, QueryStats};
use crate::group_by_codes::{GroupByCodes, GroupedColumns};
use crate::params;
use crate::provenance::{Origin, Provenance, RowsRead, stats_of};
use crate::running::RunningQueries;
use crate::scan_stats;
use crate::snapshot::Snapshot;
use crate::system::{self, Source, System};
use crate::tables::StreamTable;
use crate::view_table::FinishedTable;

const CATALOG: &str = "lambdalake";
const SCHEMA: &str = system::PUBLIC;

/// Batches that wait for a slow reader of an answer; the query pauses beyond them.
const ANSWER_BATCHES: usize = 2;

/// The one store that plans can reach: the data root.
#[derive(Debug)]
struct OnlyDataRoot(Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for OnlyDataRoot {
    fn register_store(
        &self,
        _url: &Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        tracing::error!(%store, "refused to register an object store");
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let ours = ObjectStoreUrl::parse(STORE_URL)?;
        if url.scheme() == "lake" && ours.as_str().starts_with(&url[..url::Position::BeforePath]) {
            return Ok(Arc::clone(&self.0));
        }
        Err(DataFusionError::Plan(format!(
            "{url} is outside the engine's data folder"
        )))
    }
}

/// Footers of Parquet files that are kept for the next query, least recently used ones going first.
/// A file of ten columns and two row groups takes some 30 KB.
const FOOTERS_BYTES: usize = 32 << 20;

/// Rows that the operators of a query work on at a time. What is done once for each batch costs a
/// third of a scan of one column with DataFusion's 8,192; beyond this nothing is gained.
const BATCH_ROWS: usize = 32_768;

/// A runtime environment with a finite pool, spilling into `spill`, reading only the data
/// root. Queries, batch and speed each have their own.
pub fn runtime_env(
    disk: &Arc<Disk>,
    pool: Arc<dyn MemoryPool>,
    spill: &std::path::Path,
) -> Result<Arc<RuntimeEnv>> {
    let store: Arc<dyn ObjectStore> = Arc::new(DiskStore::new(Arc::clone(disk), ""));
    RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_temp_file_path(spill)
        .with_metadata_cache_limit(FOOTERS_BYTES)
        .with_object_store_registry(Arc::new(OnlyDataRoot(store)))
        .build_arc()
}

/// The settings every plan of the engine runs under.
pub fn session_config(partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_target_partitions(partitions)
        .with_parquet_pruning(true);
    let options = config.options_mut();
    options.execution.time_zone = Some("+00:00".to_owned());
    options.execution.parquet.schema_force_view_types = false;
    // Each scan says whether it filters rows; `true` here would overrule it.
    options.execution.parquet.pushdown_filters = false;
    options.execution.parquet.reorder_filters = true;
    options
        .execution
        .skip_partial_aggregation_probe_ratio_threshold = 1.0;
    options.sql_parser.map_string_types_to_utf8view = false;
    config
}

/// Answers queries.
pub struct Queries {
    runtime: Handle,
    base: SessionState,
    running: RunningQueries,
}

/// What queries read: one snapshot, and what only the engine knows beside it.
pub struct Moment {
    pub snapshot: Arc<Snapshot>,
    pub system: Arc<dyn System>,
    pub now_micros: i64,
}

impl Queries {
    /// `runtime` is where planning and execution run; `env` carries the queries' pool.
    pub fn new(runtime: Handle, env: Arc<RuntimeEnv>, partitions: usize) -> Self {
        let base = SessionStateBuilder::new()
            .with_config(session_config(partitions).with_batch_size(BATCH_ROWS))
            .with_runtime_env(env)
            .with_scalar_functions(lambdalake_views::scalar_functions())
            .with_aggregate_functions(lambdalake_views::aggregate_functions())
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .with_expr_planners(SessionStateDefaults::default_expr_planners())
            .with_physical_optimizer_rule(Arc::new(GroupByCodes))
            .build();
        Self {
            runtime,
            base,
            running: RunningQueries::default(),
        }
    }

    /// Plans and starts a query. The first error of planning comes back here; errors of
    /// execution come through the stream.
    pub async fn run(
        self: &Arc<Self>,
        moment: Moment,
        request: QueryRequest,
    ) -> Result<Answer, EngineError> {
        let (sender, receiver) = mpsc::channel::<Result<RecordBatch>>(ANSWER_BATCHES);
        let (started, starting) = tokio::sync::oneshot::channel();
        let queries = Arc::clone(self);
        let mut work = JoinSet::new();
        work.spawn_on(
            async move {
                let max_rows = request.max_rows;
                let listed = queries.running.begin(&request, moment.now_micros);
                let stream = queries.start(&moment, &request).await;
                let (mut stream, plan, stats) = match stream {
                    Ok(started) => started,
                    Err(error) => {
                        let error = EngineError::from_datafusion(error);
                        if started.send(Err(error)).is_err() {
                            tracing::debug!("the client left while its query was planned");
                        }
                        return;
                    }
                };
                let head = (stream.schema(), Arc::clone(&stats));
                if started.send(Ok(head)).is_err() {
                    return;
                }
                let mut rows = 0;
                while let Some(batch) = stream.next().await {
                    let batch = batch.and_then(|batch| {
                        rows += batch.num_rows() as u64;
                        listed.count(batch.num_rows() as u64);
                        if rows > max_rows {
                            Err(over_row_limit(max_rows))
                        } else {
                            Ok(batch)
                        }
                    });
                    let failed = batch.is_err();
                    if sender.send(batch).await.is_err() || failed {
                        return;
                    }
                }
                // Before the channel closes: who sees the end of the rows sees the counters.
                scan_stats::add(plan.as_ref(), &stats);
            }
            // The request's span: lines written on this runtime name the request too.
            .in_current_span(),
            &self.runtime,
        );
        let (schema, stats) = starting.await.map_err(|_| {
            EngineError::internal("the query's worker ended without an answer; see the log")
        })??;
        let rows = futures::stream::unfold((receiver, work), |(mut receiver, mut work)| async {
            if let Some(batch) = receiver.recv().await {
                return Some((batch, (receiver, work)));
            }
            // The channel is closed: the worker ended. A panic must not look like the end.
            match work.join_next().await {
                Some(Err(error)) if error.is_panic() => {
                    let error = DataFusionError::Execution("the query panicked".to_owned());
                    Some((Err(error), (receiver, work)))
                }
                _ => None,
            }
        });
        let batches = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows));
        Ok(Answer {
            schema,
            batches,
            stats,
        })
    }

    async fn start(
        &self,
        moment: &Moment,
        request: &QueryRequest,
    ) -> Result<(
        datafusion::execution::SendableRecordBatchStream,
        Arc<dyn ExecutionPlan>,
        Arc<QueryStats>,
    )> {
        let dialect = self.base.config().options().sql_parser.dialect;
        let mut statement = self.base.sql_to_statement(&request.sql, &dialect)?;
        params::bind(&mut statement, &request.params)?;
        let names = self.base.resolve_table_references(&statement)?;
        let origins = origins(&moment.snapshot, &names);
        let publication = moment.snapshot.publication;
        let provenance = origins
            .iter()
            .map(|origin| Provenance::new(origin.clone(), request.layer, publication));
        let stats = Arc::new(stats_of(provenance.collect(), moment.now_micros));
        let tables = Arc::new(MemorySchemaProvider::new());
        for (origin, provenance) in origins.into_iter().zip(&stats.provenance) {
            let name = provenance.name().to_owned();
            let table = table(origin, request.layer, &stats, provenance.rows())?;
            tables.register_table(name, table)?;
        }
        let catalog = Arc::new(MemoryCatalogProvider::new());
        catalog.register_schema(SCHEMA, tables)?;
        self.register_system_tables(moment, &names, &catalog)?;
        let catalogs = Arc::new(MemoryCatalogProviderList::new());
        datafusion::catalog::CatalogProviderList::register_catalog(
            catalogs.as_ref(),
            CATALOG.to_owned(),
            catalog,
        );
        let mut state = SessionStateBuilder::new_from_existing(self.base.clone())
            .with_catalog_list(catalogs)
            .build();
        // Without it the planner leaves now() in the plan, where it cannot run.
        state.mark_start_execution();
        state.execution_props_mut().query_execution_start_time =
            chrono::DateTime::from_timestamp_micros(moment.now_micros);
        let plan = state.statement_to_plan(statement).await?;
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)?;
        let grouped = GroupedColumns::of(&plan)?;
        state.config_mut().set_extension(Arc::new(grouped));
        let context = SessionContext::new_with_state(state.clone());
        let physical = state.create_physical_plan(&plan).await?;
        let stream = execute_stream(Arc::clone(&physical), context.task_ctx())?;
        Ok((stream, physical, stats))
    }

    /// Puts the system tables among `names` into the schemas they belong to.
    fn register_system_tables(
        &self,
        moment: &Moment,
        names: &[TableReference],
        catalog: &MemoryCatalogProvider,
    ) -> Result<()> {
        let running = self.running.rows();
        let source = Source {
            snapshot: &moment.snapshot,
            system: moment.system.as_ref(),
            queries: &running,
            now_micros: moment.now_micros,
        };
        for name in names {
            if name.catalog().is_some_and(|catalog| catalog != CATALOG) {
                continue;
            }
            let Some(table) = name.schema().and_then(|s| system::find(s, name.table())) else {
                continue;
            };
            let schema = match catalog.schema(table.schema) {
                Some(schema) => schema,
                None => {
                    let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
                    catalog.register_schema(table.schema, Arc::clone(&schema))?;
                    schema
                }
            };
            if !schema.table_exist(table.name) {
                let batch = table.batch(&source)?;
                let rows = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
                schema.register_table(table.name.to_owned(), Arc::new(rows))?;
            }
        }
        Ok(())
    }
}

fn over_row_limit(max_rows: u64) -> DataFusionError {
    DataFusionError::External(Box::new(EngineError::new(
        ErrorKind::OutOfMemory,
        "row_limit",
        format!(
            "the result has more than {max_rows} rows; add a LIMIT or an aggregate, or raise \
             max_rows"
        ),
    )))
}

/// The name of a table of ours; other catalogs and schemas do not exist.
fn plain_name(name: &TableReference) -> Option<&str> {
    let catalog = name.catalog().is_none_or(|catalog| catalog == CATALOG);
    let schema = name.schema().is_none_or(|schema| schema == SCHEMA);
    (catalog && schema).then(|| name.table())
}

/// The views and streams of these names, each once, by name.
fn origins(snapshot: &Snapshot, names: &[TableReference]) -> Vec<Origin> {
    let names: BTreeSet<&str> = names.iter().filter_map(plain_name).collect();
    let origin = |name: &str| {
        let stream = || snapshot.streams.get(name).cloned().map(Origin::Stream);
        let view = || snapshot.views.get(name).cloned().map(Origin::View);
        stream().or_else(view)
    };
    names.into_iter().filter_map(origin).collect()
}

fn table(
    origin: Origin,
    layer: Layer,
    stats: &Arc<QueryStats>,
    rows: Arc<RowsRead>,
) -> Result<Arc<dyn TableProvider>> {
    let stats = Arc::clone(stats);
    match origin {
        Origin::Stream(stream) => {
            stream.readable()?;
            Ok(Arc::new(StreamTable::new(stream, layer, stats, rows)))
        }
        Origin::View(view) => {
            view.stream.readable()?;
            let finished = FinishedTable::new(Arc::clone(&view), layer, stats, rows);
            let plan = view
                .view
                .answer_plan(Arc::new(finished))
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(Arc::new(ViewTable::new(
                plan,
                Some(view.state.select.clone()),
            )))
        }
    }
}

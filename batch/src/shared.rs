//! One pass over the master dataset for several views.
//!
//! ```text
//!   scan of all columns that any of them reads -> a queue of batches -> plan of view 1
//!                                              -> a queue of batches -> plan of view 2
//! ```
//!
//! The slowest sets the pace. Who stops to read, because it failed or was cancelled, is left out;
//! the others go on. An error of the scan reaches all of them.

use std::collections::BTreeSet;
use std::fmt::{self, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::future::BoxFuture;
use futures::{StreamExt, future, stream};
use lambdalake_data::scan::{ParquetScan, ScanFile};
use tokio::sync::mpsc;

use crate::counted_files::counted_readers;
use crate::error::BatchError;
use crate::job::RecomputeJob;
use crate::plan;
use crate::progress::Progress;

/// Batches that a partition of the scan may be ahead of a view.
const QUEUED_BATCHES: usize = 2;

type Batches = mpsc::Receiver<Result<RecordBatch>>;

/// One run's part in a scan that several share.
pub struct Share {
    /// The columns of the events that its view reads.
    pub events: Arc<dyn ExecutionPlan>,
    /// Ends when the run may write. They write one after another: so only one at a time needs
    /// memory for it, and what happens on disk has an order.
    pub after: BoxFuture<'static, ()>,
}

/// A scan that is read once for several plans.
pub struct SharedScan {
    scan: Arc<dyn ExecutionPlan>,
    /// For each partition, where its batches go to.
    senders: Vec<Vec<mpsc::Sender<Result<RecordBatch>>>>,
}

impl SharedScan {
    /// Reads these files, of a stream with this schema, once for all these jobs. Gives each its
    /// events, in their order.
    pub fn of(
        files: &[ScanFile],
        schema: &SchemaRef,
        jobs: &[(&RecomputeJob, &Arc<Progress>)],
        task: &TaskContext,
    ) -> Result<(Self, Vec<Arc<dyn ExecutionPlan>>), BatchError> {
        let wanted = jobs.iter().map(|(job, _)| plan::columns(job));
        let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
        let all: Vec<usize> = BTreeSet::from_iter(wanted.concat()).into_iter().collect();
        let progress: Vec<_> = jobs.iter().map(|(_, it)| Arc::clone(it)).collect();
        let partitions = task.session_config().target_partitions();
        let scan = ParquetScan::of(files, schema, partitions)
            .columns(Some(&all))
            .readers(&counted_readers(task, &progress)?)
            .plan()?;
        let partitions = scan.properties().partitioning.partition_count();
        let senders = (0..partitions).map(|_| Vec::new()).collect();
        let mut shared = Self { scan, senders };
        let events = wanted.iter().map(|wanted| {
            let places = wanted.iter().filter_map(|it| all.binary_search(it).ok());
            shared.reader(places.collect())
        });
        let events = events.collect::<Result<Vec<_>>>()?;
        Ok((shared, events))
    }

    /// A leaf that gives these columns of what the scan reads, once.
    fn reader(&mut self, columns: Vec<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = Arc::new(self.scan.schema().project(&columns)?);
        let queues = self.senders.iter_mut().map(|senders| {
            let (sender, receiver) = mpsc::channel(QUEUED_BATCHES);
            senders.push(sender);
            Some(receiver)
        });
        let queues = queues.collect::<Vec<_>>();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(queues.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(SharedScanExec {
            queues: Mutex::new(queues),
            columns,
            properties: Arc::new(properties),
        }))
    }

    /// Reads until the end, an error, or until nobody reads any more. All readers must run at the
    /// same time.
    pub async fn run(self, task: Arc<TaskContext>) {
        let partitions = self.senders.into_iter().enumerate();
        let partitions = partitions.map(|(partition, senders)| {
            let (scan, task) = (Arc::clone(&self.scan), Arc::clone(&task));
            tokio::spawn(feed(scan, partition, task, senders))
        });
        future::join_all(partitions).await;
    }
}

async fn feed(
    scan: Arc<dyn ExecutionPlan>,
    partition: usize,
    task: Arc<TaskContext>,
    mut senders: Vec<mpsc::Sender<Result<RecordBatch>>>,
) {
    let mut batches = match scan.execute(partition, task) {
        Ok(batches) => batches.left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    };
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(Arc::new);
        let sent = senders.iter().map(|sender| {
            // Errors cannot be cloned.
            sender.send(batch.clone().map_err(DataFusionError::Shared))
        });
        let sent = future::join_all(sent).await;
        let mut sent = sent.iter();
        senders.retain(|_| sent.next().is_some_and(Result::is_ok));
        if senders.is_empty() || batch.is_err() {
            return;
        }
    }
}

struct SharedScanExec {
    /// For each partition its queue, until it is executed.
    queues: Mutex<Vec<Option<Batches>>>,
    columns: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for SharedScanExec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "SharedScanExec({:?})", self.properties.partitioning)
    }
}

impl DisplayAs for SharedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "SharedScanExec")
    }
}

impl ExecutionPlan for SharedScanExec {
    fn name(&self) -> &str {
        "SharedScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.get_mut(partition).and_then(Option::take);
        let mut queue = queue.ok_or_else(|| {
            DataFusionError::Internal(format!("partition {partition} is read a second time"))
        })?;
        let columns = self.columns.clone();
        let batches = stream::poll_fn(move |context| queue.poll_recv(context))
            .map(move |batch| Ok(batch?.project(&columns)?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            batches,
        )))
    }
}

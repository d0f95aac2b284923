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
use futures::{Stream, StreamExt, future, stream};
use lambdalake_data::scan::{ParquetScan, ScanFile};
use tokio::sync::mpsc;

use crate::counted_files::counted_readers;
use crate::error::BatchError;
use crate::job::RecomputeJob;
use crate::plan;
use crate::progress::Progress;

/// Batches that a partition of the scan may be ahead of a view.
const QUEUED_BATCHES: usize = 2;

/// What a partition of the scan gives; `None` is its end. A queue that closes without it was cut off:
/// what came until then must not pass for all.
type Sent = Result<Option<RecordBatch>>;

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
    senders: Vec<Vec<mpsc::Sender<Sent>>>,
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
        let mut shared = Self::over(scan);
        let events = wanted.iter().map(|wanted| {
            let places = wanted.iter().filter_map(|it| all.binary_search(it).ok());
            shared.reader(places.collect())
        });
        let events = events.collect::<Result<Vec<_>>>()?;
        Ok((shared, events))
    }

    fn over(scan: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = scan.properties().partitioning.partition_count();
        let senders = (0..partitions).map(|_| Vec::new()).collect();
        Self { scan, senders }
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
    mut senders: Vec<mpsc::Sender<Sent>>,
) {
    let mut batches = match scan.execute(partition, task) {
        Ok(batches) => batches.left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    };
    loop {
        let batch = batches.next().await.transpose().map_err(Arc::new);
        let sent = senders.iter().map(|sender| {
            // Errors cannot be cloned.
            sender.send(batch.clone().map_err(DataFusionError::Shared))
        });
        let sent = future::join_all(sent).await;
        let mut sent = sent.iter();
        senders.retain(|_| sent.next().is_some_and(Result::is_ok));
        if senders.is_empty() || !matches!(batch, Ok(Some(_))) {
            return;
        }
    }
}

/// The batches of a queue up to their end. Errors if there is none.
fn received(queue: mpsc::Receiver<Sent>) -> impl Stream<Item = Result<RecordBatch>> {
    stream::try_unfold(queue, async |mut queue| match queue.recv().await {
        Some(sent) => Ok(sent?.map(|batch| (batch, queue))),
        None => Err(DataFusionError::Execution(
            "the scan that views share was broken off; see the log".to_owned(),
        )),
    })
}

struct SharedScanExec {
    /// For each partition its queue, until it is executed.
    queues: Mutex<Vec<Option<mpsc::Receiver<Sent>>>>,
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
        let queue = queue.ok_or_else(|| {
            DataFusionError::Internal(format!("partition {partition} is read a second time"))
        })?;
        let columns = self.columns.clone();
        let batches = received(queue).map(move |batch| Ok(batch?.project(&columns)?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            batches,
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;
    use lambdalake_data::through::ThroughExec;

    use super::*;

    /// Two partitions of ten batches, each of one row: its number and twice that.
    fn numbers() -> Arc<dyn ExecutionPlan> {
        let field = |name| Field::new(name, DataType::Int64, false);
        let schema = Arc::new(Schema::new(vec![field("n"), field("twice")]));
        let batch = |n: i64| {
            let column = |n| Arc::new(Int64Array::from(vec![n])) as _;
            RecordBatch::try_new(Arc::clone(&schema), vec![column(n), column(2 * n)])
        };
        let batches = (0..20).map(batch).collect::<Result<Vec<_>, _>>();
        let batches = batches.expect("batches");
        let partitions = [batches[..10].to_vec(), batches[10..].to_vec()];
        MemorySourceConfig::try_new_exec(&partitions, schema, None).expect("a plan")
    }

    async fn sum(plan: Arc<dyn ExecutionPlan>) -> Result<i64> {
        let batches = collect(plan, SessionContext::new().task_ctx()).await?;
        let columns = batches
            .iter()
            .map(|it| it.column(0).as_primitive::<Int64Type>());
        Ok(columns.flat_map(|column| column.values().to_vec()).sum())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_reader_gets_its_columns_whatever_the_others_do() -> Result<()> {
        let mut scan = SharedScan::over(numbers());
        let (twice, all) = (scan.reader(vec![1])?, scan.reader(vec![0, 1])?);
        let left = scan.reader(vec![0])?;
        let task = SessionContext::new().task_ctx();
        // One reads a batch and goes.
        let mut first = left.execute(0, Arc::clone(&task))?;
        let (_, taken, of_twice, of_all) = tokio::join!(
            scan.run(task),
            async move {
                let batch = first.next().await;
                drop(left);
                batch
            },
            sum(twice),
            sum(all),
        );
        assert_eq!(taken.expect("a batch")?.num_rows(), 1);
        assert_eq!((of_twice?, of_all?), (380, 190));
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_scan_that_is_broken_off_does_not_pass_for_a_whole_one() -> Result<()> {
        let seen = AtomicUsize::new(0);
        let watch = move |_: &RecordBatch| match seen.fetch_add(1, Ordering::Relaxed) {
            5 => panic!("planted"),
            _ => Ok(()),
        };
        let broken = ThroughExec::new("BrokenExec", String::new(), numbers());
        let mut scan = SharedScan::over(Arc::new(broken.watched_by(Arc::new(watch))));
        let reader = scan.reader(vec![0])?;
        let task = SessionContext::new().task_ctx();
        let (_, sum) = tokio::join!(scan.run(task), sum(reader));
        let error = sum.expect_err("some batches are missing").to_string();
        assert!(error.contains("was broken off"), "{error}");
        Ok(())
    }
}

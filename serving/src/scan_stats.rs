//! What a finished plan read, from the counters of its scans.

use std::sync::atomic::Ordering;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};

use crate::engine::QueryStats;

/// The node that reads files and memory; the name is DataFusion's.
const SCAN: &str = "DataSourceExec";

/// Adds the counters of every scan in the plan. A file that is read in several ranges counts
/// its row groups once, in the range they begin in.
pub(crate) fn add(plan: &dyn ExecutionPlan, stats: &QueryStats) {
    if plan.name() == SCAN
        && let Some(metrics) = plan.metrics()
    {
        add_scan(&metrics, stats);
    }
    for child in plan.children() {
        add(child.as_ref(), stats);
    }
}

fn add_scan(metrics: &MetricsSet, stats: &QueryStats) {
    for metric in metrics.iter() {
        match metric.value() {
            MetricValue::OutputRows(rows) => {
                let rows = rows.value() as u64;
                stats.rows_scanned.fetch_add(rows, Ordering::Relaxed);
            }
            MetricValue::Count { name, count } if name == "pushdown_rows_pruned" => {
                let rows = count.value() as u64;
                stats.rows_scanned.fetch_add(rows, Ordering::Relaxed);
            }
            MetricValue::Count { name, count } if name == "bytes_scanned" => {
                let bytes = count.value() as u64;
                stats.bytes_scanned.fetch_add(bytes, Ordering::Relaxed);
            }
            MetricValue::PruningMetrics {
                name,
                pruning_metrics,
            } if name == "row_groups_pruned_statistics" => {
                let read = pruning_metrics.matched() as u64;
                let all = read + pruning_metrics.pruned() as u64;
                stats.row_groups_read.fetch_add(read, Ordering::Relaxed);
                stats.row_groups_total.fetch_add(all, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

//! The planning state: fixed functions, fixed rules, UTC.
//!
//! Rules are an allow-list. A rule that merges Partial and Final, answers from statistics,
//! rewrites DISTINCT aggregates into two levels or puts a limit into the aggregate would take
//! away the operator that map, combine and finish are made from.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::optimizer::OptimizerRule;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_optimizer::projection_pushdown::ProjectionPushdown;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::prelude::SessionConfig;

use crate::date_trunc::scalar_functions;
use crate::sketches::aggregate_functions;

/// The time zone of every view. Part of the definition hash.
pub(crate) const TIME_ZONE: &str = "UTC";

/// How often a planning future may ask to be polled again before it is called stuck.
/// Planning awaits nothing; futures combinators yield now and then out of fairness.
const MAX_POLLS: usize = 100_000;

/// The state views are planned with: DataFusion's built-in functions, time zone UTC, two
/// target partitions (so that Partial and Final are two operators), strings as `Utf8`, and
/// only the rules that leave the aggregate in place.
///
/// Meant for planning views, not for running queries: most optimizer rules are missing.
pub fn session_state() -> SessionState {
    let mut config = SessionConfig::new()
        .with_target_partitions(2)
        .with_information_schema(false)
        .with_round_robin_repartition(false)
        .with_repartition_file_scans(false);
    let options = config.options_mut();
    options.execution.time_zone = Some(TIME_ZONE.to_string());
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.parquet.schema_force_view_types = false;
    options
        .execution
        .skip_partial_aggregation_probe_ratio_threshold = 1.0;
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let physical: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = vec![
        Arc::new(EnsureRequirements::new()),
        Arc::new(ProjectionPushdown::new()),
        Arc::new(SanityCheckPlan::new()),
    ];
    SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_scalar_functions(scalar_functions())
        .with_aggregate_functions(aggregate_functions())
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(physical)
        .build()
}

/// Drives a future that awaits no I/O to its end, without a runtime and without nesting
/// executors. Errors if it still waits after [`MAX_POLLS`].
pub(crate) fn complete<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..MAX_POLLS {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::yield_now();
    }
    Err(DataFusionError::Internal(
        "planning waited for something outside itself".into(),
    ))
}

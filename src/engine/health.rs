//! Whether the engine may take traffic, and what state its workers are in.

use serde_json::json;

use lambdalake_serving::engine::Health;

use super::{Engine, lock};

impl Engine {
    pub(super) fn describe_health(&self) -> Health {
        let snapshot = self.publisher.snapshot();
        let mut ready = lock(&self.maintenance)
            .as_ref()
            .is_some_and(|m| m.is_alive());
        let maintenance = if ready { "running" } else { "stopped" };
        let mut streams = serde_json::Map::new();
        for runtime in self.all_streams() {
            let failure = runtime.writer.failure();
            ready &= failure.is_none();
            let alive = failure.is_none();
            let trouble = failure.or_else(|| lock(&runtime.trouble).clone());
            streams.insert(
                runtime.definition.name.clone(),
                json!({"writer": if alive { "running" } else { "stopped" }, "error": trouble}),
            );
        }
        let details = json!({
            "status": if ready { "ready" } else { "failed" },
            "version": env!("CARGO_PKG_VERSION"),
            "publication": snapshot.publication,
            "maintenance": maintenance,
            "streams": streams,
            "views": snapshot.views.len(),
            "running_recomputes": lock(&self.running).len(),
        });
        Health { ready, details }
    }
}

//! `GET /openapi.json`: this surface, described for programs.
//!
//! The description is a file that is written by hand. What it says is checked three times: here
//! against the routes, in `tests/it/openapi.rs` against real answers, and by a fuzzer.

use warp::http::{HeaderValue, header};
use warp::reply::Response;

const DESCRIPTION: &str = include_str!("../../openapi.json");

pub(super) fn description() -> Response {
    let mut response = Response::new(DESCRIPTION.into());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::super::Route;
    use super::DESCRIPTION;

    /// A new route is named here, too.
    const ROUTES: [Route; 19] = [
        Route::Unknown,
        Route::Streams,
        Route::Stream(String::new()),
        Route::Events(String::new()),
        Route::Sql,
        Route::Queries,
        Route::Query(String::new()),
        Route::Views,
        Route::View(String::new()),
        Route::Recompute(String::new()),
        Route::Verify(String::new()),
        Route::Runs,
        Route::Run(String::new()),
        Route::RunEvents(String::new()),
        Route::Live,
        Route::Ready,
        Route::Health,
        Route::Metrics,
        Route::OpenApi,
    ];

    #[test]
    fn every_route_is_described_with_its_methods() {
        let description: Value = serde_json::from_str(DESCRIPTION).expect("JSON");
        let described: BTreeMap<&str, BTreeSet<String>> = description["paths"]
            .as_object()
            .expect("paths")
            .iter()
            .map(|(path, item)| {
                let members = item.as_object().expect("an item").keys();
                let methods = members.filter(|name| *name != "parameters");
                (path.as_str(), methods.map(|m| m.to_uppercase()).collect())
            })
            .collect();
        let routed: BTreeMap<&str, BTreeSet<String>> = ROUTES
            .iter()
            .filter(|route| !matches!(route, Route::Unknown))
            .map(|route| {
                let methods = route.allow().split(", ").map(str::to_owned).collect();
                (route.template(), methods)
            })
            .collect();
        assert_eq!(described, routed);
    }
}

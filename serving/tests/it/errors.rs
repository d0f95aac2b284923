//! Every row of the error table, and the one shape they all have.

use lambdalake_serving::Limits;
use lambdalake_serving::error::ErrorKind;

use crate::client::Server;
use crate::fake::KINDS;

#[tokio::test]
async fn each_kind_has_its_status() {
    let server = Server::start().await;
    for (kind, code, status) in KINDS {
        let path = format!("/api/v1/streams/{code}/events");
        let response = server.send("POST", &path, "", b"{}").await;
        assert_eq!(response.status, status, "{kind:?}");
        assert_eq!(response.code(), code);
        let json = response.json();
        assert_eq!(json["error"]["line"], 3);
        assert_eq!(json["error"]["position"], 14);
        assert!(json.get("query_id").is_none());
        let waits = matches!(status, 429 | 503) || kind == ErrorKind::InProgress;
        assert_eq!(
            response.header("retry-after"),
            waits.then_some("1"),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_have_the_same_shape() {
    let server = Server::start().await;
    for path in [
        "/",
        "/api",
        "/api/v1/nothing",
        "/api/v1/streams/a/b",
        "/api/v1/streams/a/b/c",
    ] {
        for method in ["GET", "POST", "DELETE", "BREW"] {
            let response = server.send(method, path, "", b"").await;
            assert_eq!(
                (response.status, response.code()),
                (404, "unknown_route".to_owned())
            );
        }
    }
    for (method, path, allow) in [
        ("GET", "/api/v1/streams/a/events", "HEAD, POST"),
        ("POST", "/api/v1/streams", "GET, HEAD"),
        ("DELETE", "/api/v1/sql", "GET, POST"),
        ("GET", "/api/v1/queries/a", "DELETE"),
        ("GET", "/api/v1/views/a/recompute", "POST"),
        ("PUT", "/health", "GET, HEAD"),
    ] {
        let response = server.send(method, path, "", b"").await;
        assert_eq!(
            (response.status, response.code()),
            (405, "method_not_allowed".to_owned())
        );
        assert_eq!(response.header("allow"), Some(allow));
    }
}

#[tokio::test]
async fn unknown_parameters_are_named() {
    let server = Server::start().await;
    for (method, path) in [
        ("GET", "/api/v1/streams?nope=1"),
        ("GET", "/health?nope=1"),
        ("POST", "/api/v1/streams/s/events?nope=1"),
        ("POST", "/api/v1/sql?nope=1"),
        ("POST", "/api/v1/sql?q=SELECT+1&nope=1"),
    ] {
        let response = server.send(method, path, "", b"").await;
        assert_eq!(
            (response.status, response.code()),
            (400, "unknown_parameter".to_owned())
        );
    }
    let response = server
        .get("/api/v1/sql?q=SELECT+1&layer=batch&layer=speed")
        .await;
    assert_eq!(
        (response.status, response.code()),
        (400, "invalid_parameter".to_owned())
    );
}

#[tokio::test]
async fn requests_for_sql_are_checked() {
    let server = Server::start().await;
    let json = "Content-Type: application/json\r\n";
    for (path, headers, body, status, code) in [
        (
            "/api/v1/sql",
            json,
            r#"{"query": "SELECT 1", "timeout": 1}"#,
            400,
            "invalid_body",
        ),
        (
            "/api/v1/sql",
            json,
            r#"{"max_rows": 1}"#,
            400,
            "invalid_body",
        ),
        ("/api/v1/sql", json, r#"{"query": "#, 400, "invalid_body"),
        (
            "/api/v1/sql",
            json,
            r#"{"query": "SELECT 1", "layer": "x"}"#,
            400,
            "invalid_parameter",
        ),
        (
            "/api/v1/sql?timeout_ms=0",
            "",
            "SELECT 1",
            400,
            "invalid_parameter",
        ),
        (
            "/api/v1/sql?timeout_ms=99999999999",
            "",
            "SELECT 1",
            400,
            "invalid_parameter",
        ),
        (
            "/api/v1/sql?max_rows=many",
            "",
            "SELECT 1",
            400,
            "invalid_parameter",
        ),
        (
            "/api/v1/sql?format=xml",
            "",
            "SELECT 1",
            400,
            "unknown_format",
        ),
        (
            "/api/v1/sql",
            "Accept: image/png\r\n",
            "SELECT 1",
            406,
            "not_acceptable",
        ),
        (
            "/api/v1/sql",
            "Accept-Encoding: identity;q=0\r\n",
            "SELECT 1",
            406,
            "not_acceptable",
        ),
        (
            "/api/v1/sql?width=many",
            "",
            "SELECT 1",
            400,
            "invalid_parameter",
        ),
        (
            "/api/v1/sql?width=10001",
            "",
            "SELECT 1",
            400,
            "invalid_parameter",
        ),
        (
            "/api/v1/sql?params=%5B1",
            "",
            "SELECT $1",
            400,
            "invalid_parameter",
        ),
        (
            "/api/v1/sql?params=%5B1,2%5D",
            "",
            "SELECT $1",
            400,
            "surplus_parameter",
        ),
        ("/api/v1/sql", "", "SELECT $1", 400, "missing_parameter"),
        (
            "/api/v1/sql?params=%5B1%5D",
            "",
            "FLUSH",
            400,
            "surplus_parameter",
        ),
        (
            "/api/v1/sql",
            "Content-Type: image/png\r\n",
            "x",
            415,
            "unsupported_media_type",
        ),
        (
            "/api/v1/sql",
            "Content-Encoding: gzip\r\n",
            "x",
            415,
            "unsupported_media_type",
        ),
        ("/api/v1/sql", "", "", 400, "syntax_error"),
        ("/api/v1/sql", "", "SELECT x", 400, "plan_error"),
        (
            "/api/v1/sql",
            "",
            "SELECT * FROM nowhere",
            400,
            "plan_error",
        ),
        (
            "/api/v1/sql",
            "",
            "SELECT 1 / (1 - 1)",
            400,
            "execution_error",
        ),
        (
            "/api/v1/sql",
            "",
            "SELECT 'fails first'",
            422,
            "memory_limit",
        ),
        (
            "/api/v1/sql",
            "",
            "SELECT 'too many rows'",
            422,
            "row_limit",
        ),
        (
            "/api/v1/sql",
            "",
            "CREATE TABLE taken (a INT)",
            409,
            "stream_exists",
        ),
        (
            "/api/v1/sql",
            "",
            "EXPLAIN RECOMPUTE nope",
            404,
            "unknown_view",
        ),
        (
            "/api/v1/sql",
            "",
            "REFRESH MATERIALIZED VIEW nope",
            404,
            "unknown_view",
        ),
        (
            "/api/v1/sql",
            "",
            "REFRESH MATERIALIZED VIEW broken",
            500,
            "run_failed",
        ),
        ("/api/v1/sql", "", "DESCRIBE nope", 404, "unknown_table"),
    ] {
        let response = server.send("POST", path, headers, body.as_bytes()).await;
        let got = (response.status, response.code());
        assert_eq!(
            got,
            (status, code.to_owned()),
            "{path} {body}: {}",
            response.text()
        );
        let id = response.json()["query_id"].as_str().unwrap().to_owned();
        assert_eq!(response.header("x-query-id"), Some(id.as_str()));
    }
}

#[tokio::test]
async fn get_only_reads() {
    let server = Server::start().await;
    for sql in [
        "DROP+TABLE+t",
        "FLUSH",
        "REFRESH+MATERIALIZED+VIEW+v",
        "CREATE+TABLE+t+(a+INT)",
    ] {
        let response = server.get(&format!("/api/v1/sql?q={sql}")).await;
        assert_eq!(
            (response.status, response.code()),
            (405, "method_not_allowed".to_owned())
        );
        assert_eq!(response.header("allow"), Some("POST"));
    }
    assert!(server.engine.asked.lock().unwrap().is_empty());
    for sql in [
        "SELECT+1",
        "SHOW%20TABLES",
        "DESCRIBE+hits",
        "EXPLAIN+SELECT+1",
        "EXPLAIN+PROVENANCE+SELECT+1",
        "EXPLAIN+RECOMPUTE+hits",
    ] {
        assert_eq!(
            server.get(&format!("/api/v1/sql?q={sql}")).await.status,
            200
        );
    }
    let response = server.get("/api/v1/sql").await;
    assert_eq!(
        (response.status, response.code()),
        (400, "invalid_parameter".to_owned())
    );
}

#[tokio::test]
async fn a_statement_has_a_size() {
    let server = Server::with(Limits {
        sql_bytes: 100,
        ..Limits::default()
    })
    .await;
    let response = server.sql(&format!("SELECT '{}'", "x".repeat(100))).await;
    assert_eq!(
        (response.status, response.code()),
        (413, "body_too_large".to_owned())
    );
}

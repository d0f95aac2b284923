//! Data folders that earlier versions wrote open, answer, take events and recompute.

use std::path::Path;

use serde_json::json;

use crate::server::Server;

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_data_folder_of_version_0_1_0_is_read() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-0.1.0");
    let folder = tempfile::tempdir().expect("a folder");
    copy(&old, folder.path());
    let server = Server::start(folder.path(), &[]);
    // As the old version answered before it was killed.
    let view = "SELECT status, n, took, port, hosts FROM by_status ORDER BY status";
    let row = |status, n, took, port, hosts| json!({"status": status, "n": n, "took": took, "port": port, "hosts": hosts});
    let last = json!({"status": null, "n": 1, "took": null, "port": null, "hosts": 1});
    let expected = vec![
        row(200, 100, 1856.25, 148.5, 5),
        row(404, 100, 1868.75, 149.5, 5),
        row(500, 100, 1881.25, 150.5, 5),
        last,
    ];
    assert_eq!(server.rows(view), expected);
    let stream = "SELECT count(*) AS n, sum(client['port']) AS ports, count(extra) AS extra, \
                  sum(cardinality(tags)) AS tags FROM requests";
    let whole = [json!({"n": 301, "ports": 44_850, "extra": 1, "tags": 300})];
    assert_eq!(server.rows(stream), whole);

    // A request of then, sent again, is recognised; a new one is stored.
    let path = "/api/v1/streams/requests/events?format=ndjson";
    let again = server.post(path, &[("idempotency-key", "two")], b"{\"ts\": 0}");
    assert_eq!(again.json()["accepted"], 41, "{}", again.text);
    assert_eq!(server.rows(stream), whole);

    server.sql("REFRESH MATERIALIZED VIEW by_status");
    let run = server.get("/api/v1/views/by_status").json()["last_run"].clone();
    assert_eq!(run["audit"], "equal", "{run}");
    assert_eq!(server.rows(view), expected);
    let fraction = "{\"ts\": \"2026-03-01T00:00:00Z\", \"status\": 0.5}";
    server.ingest("requests", "ndjson", fraction);
    let statuses = server.rows("SELECT status, n FROM by_status ORDER BY status LIMIT 2");
    assert_eq!(
        statuses,
        [
            json!({"status": 0.5, "n": 1}),
            json!({"status": 200.0, "n": 100})
        ]
    );
    assert_eq!(
        server.value("SELECT count(*) FROM requests WHERE status IS NULL"),
        json!(1)
    );
}

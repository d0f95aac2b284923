//! Input as bad as it gets, on the real binary: a clear answer or exactly stored rows, never a
//! 5xx, and the good rows beside it are kept.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::ipc::writer::StreamWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::server::{Answer, Server};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("packed");
    encoder.finish().expect("packed")
}

fn send(server: &Server, stream: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    server.post(&format!("/api/v1/streams/{stream}/events"), headers, body)
}

fn counts(answer: &Answer) -> (u16, u64, u64) {
    let body = answer.json();
    let count = |name: &str| body[name].as_u64().unwrap_or_default();
    (answer.status, count("accepted"), count("rejected"))
}

fn code(answer: &Answer) -> String {
    let code = &answer.json()["error"]["code"];
    code.as_str().unwrap_or_default().to_owned()
}

#[test]
fn good_rows_beside_bad_ones_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--max-line-bytes", "64KiB"]);
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(5_000_000));
    let bad: [&[u8]; 8] = [
        b"{\"a\":\"\xff\"}",
        b"{\"a\":\"\0\"}",
        b"{\"a\":\"\\ud800\"}",
        b"{\"a\":1,\"a\":2}",
        b"{\"n\":123456789012345678901234567890}",
        deep.as_bytes(),
        long.as_bytes(),
        b"{\"a\":",
    ];
    for (index, bad) in bad.iter().enumerate() {
        let stream = format!("s{index}");
        let lines: [&[u8]; 5] = [
            b"\xEF\xBB\xBF{\"id\":1}\r\n",
            bad,
            b"\n\r\n",
            b"{\"id\":2}\n",
            b"{\"id\":3}",
        ];
        let answer = send(&server, &stream, &[], &lines.concat());
        assert_eq!(counts(&answer), (200, 3, 1), "{index}: {}", answer.text);
        assert_eq!(answer.json()["errors"][0]["line"], 2, "{}", answer.text);
        let sum = server.value(&format!("SELECT sum(id) AS s FROM {stream}"));
        assert_eq!(sum, json!(6));
    }
    let answer = send(&server, "nul", &[], b"{\"t\":\"a\\u0000b\"}");
    assert_eq!(counts(&answer), (200, 1, 0));
    assert_eq!(server.value("SELECT t FROM nul"), json!("a\0b"));
    for empty in ["", " \n\t\r\n", "\u{feff}"] {
        let answer = send(&server, "nul", &[], empty.as_bytes());
        assert_eq!(counts(&answer), (200, 0, 0), "{empty:?}: {}", answer.text);
    }
}

#[test]
fn bodies_that_cannot_be_read_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let good = b"{\"id\":1}\n".repeat(1_000);
    let packed = gzip(&good);
    let cut = &packed[..packed.len() - 9];
    let zstd = zstd::encode_all(&good[..], 3).expect("packed");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);
    let cases: [Case<'_>; 9] = [
        (
            &[("content-type", "image/png")],
            &good,
            415,
            "unsupported_media_type",
        ),
        (
            &[("content-encoding", "br")],
            &good,
            415,
            "unsupported_encoding",
        ),
        (
            &[("content-encoding", "gzip, zstd")],
            &good,
            415,
            "unsupported_encoding",
        ),
        (&[("content-encoding", "gzip")], cut, 400, "invalid_gzip"),
        (&[], cut, 400, "invalid_gzip"),
        (
            &[("content-encoding", "zstd")],
            &zstd[..zstd.len() - 1],
            400,
            "invalid_zstd",
        ),
        (
            &[("content-encoding", "snappy")],
            &good,
            400,
            "invalid_snappy",
        ),
        (
            &[("content-type", "text/csv")],
            b"a,a\n1,2\n",
            400,
            "invalid_csv",
        ),
        (&[], b"PAR1 but no more than that", 400, "invalid_parquet"),
    ];
    for (headers, body, status, expected) in cases {
        let answer = send(&server, "s", headers, body);
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (status, expected),
            "{}",
            answer.text
        );
    }
    for (headers, body) in [
        (&[][..], &packed),
        (&[("content-encoding", "gzip")], &packed),
        (&[("content-encoding", "zstd")], &zstd),
        (
            &[("content-type", "application/x-www-form-urlencoded")],
            &good,
        ),
    ] {
        let answer = send(&server, "s", headers, body);
        assert_eq!(counts(&answer), (200, 1_000, 0), "{}", answer.text);
    }
    assert_eq!(server.value("SELECT count(*) AS c FROM s"), json!(4_000));
}

#[test]
fn a_line_of_100_megabytes_is_rejected_and_its_neighbours_are_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let long = "x".repeat(100_000_000);
    let body = format!("{{\"a\":\"before\"}}\n{{\"a\":\"{long}\"}}\n{{\"a\":\"after\"}}\n");
    let answer = send(&server, "s", &[], body.as_bytes());
    assert_eq!(counts(&answer), (200, 2, 1), "{}", answer.text);
    let error = &answer.json()["errors"][0];
    assert_eq!(
        (&error["line"], &error["code"]),
        (&json!(2), &json!("line_too_long"))
    );
    assert_eq!(
        server.rows("SELECT a FROM s ORDER BY a"),
        [json!({"a": "after"}), json!({"a": "before"})]
    );
}

#[test]
fn tables_without_rows_and_tables_cut_short_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let answer = send(&server, "s", &[("content-type", "text/csv")], b"a,b\n");
    assert_eq!(counts(&answer), (200, 0, 0), "{}", answer.text);

    let numbers = Arc::new(Int64Array::from_iter_values(0..10_000)) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("n", numbers)]).expect("a batch");
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a stream");
    writer.write(&batch).expect("written");
    let whole = writer.into_inner().expect("ended");
    let arrow = [("content-type", "application/vnd.apache.arrow.stream")];
    for cut in [whole.len() / 2, 100] {
        let answer = send(&server, "t", &arrow, &whole[..cut]);
        let found = (answer.status, code(&answer));
        assert_eq!(found, (400, "invalid_arrow".to_owned()), "{}", answer.text);
    }
    let answer = send(&server, "t", &arrow, &whole);
    assert_eq!(counts(&answer), (200, 10_000, 0), "{}", answer.text);
    assert_eq!(server.value("SELECT count(*) AS c FROM t"), json!(10_000));
}

#[test]
fn a_connection_that_breaks_in_the_middle_of_a_body_stores_whole_blocks_or_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--ingest-block-bytes", "64KiB"]);
    server.sql("CREATE TABLE s (ts TIMESTAMP, id BIGINT) WITH (event_time = 'ts')");
    let line = |id: u64| format!("{{\"id\":{id}}}\n");
    for lines in [3, 20_000] {
        let body: String = (0..lines).map(line).collect();
        let mut connection =
            TcpStream::connect(server.address().trim_start_matches("http://")).expect("connected");
        let length = body.len() + 1_000_000;
        let head =
            "POST /api/v1/streams/s/events?format=ndjson HTTP/1.1\r\nhost: s\r\nidempotency-key: k";
        write!(
            connection,
            "{head}{lines}\r\ncontent-length: {length}\r\n\r\n{body}{{\"id\":"
        )
        .expect("sent");
        drop(connection);
    }
    // What was stored of the broken requests is completed, not repeated.
    for lines in [3, 20_000] {
        let body: String = (0..lines).map(line).collect();
        let key = format!("k{lines}");
        let again = || send(&server, "s", &[("idempotency-key", &key)], body.as_bytes());
        let mut answer = again();
        // Until the server has seen that the connection is gone.
        while code(&answer) == "idempotency_key_in_progress" {
            std::thread::sleep(std::time::Duration::from_millis(10));
            answer = again();
        }
        assert_eq!(counts(&answer), (200, lines, 0), "{}", answer.text);
    }
    let found = server.rows("SELECT count(*) AS c, sum(id) AS s FROM s");
    assert_eq!(found, [json!({"c": 20_003, "s": 199_990_003})]);
}

#[test]
fn a_large_body_is_stored_in_blocks_and_completed_when_sent_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--ingest-block-bytes", "64KiB"]);
    let body: String = (0..20_000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    let packed = gzip(body.as_bytes());
    let key = [("idempotency-key", "k")];
    let answer = send(&server, "s", &key, &packed[..packed.len() - 4]);
    let (status, accepted, _) = counts(&answer);
    assert_eq!(
        (status, code(&answer).as_str()),
        (400, "invalid_gzip"),
        "{}",
        answer.text
    );
    assert!(accepted > 0 && accepted < 20_000, "{}", answer.text);
    assert_eq!(server.value("SELECT count(*) AS c FROM s"), json!(accepted));
    for _ in 0..2 {
        let answer = send(&server, "s", &key, &packed);
        assert_eq!(counts(&answer), (200, 20_000, 0), "{}", answer.text);
        let found = server.rows("SELECT count(*) AS c, sum(id) AS s FROM s");
        assert_eq!(found, [json!({"c": 20_000, "s": 199_990_000})]);
    }
}

#[test]
fn options_of_a_stream_say_how_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.sql(
        "CREATE TABLE log (time TIMESTAMP, ip TEXT) WITH (event_time = 'time', \
         event_time_unit = 's', field_names = 'client_ip=ip, ts=time')",
    );
    let line = "::1 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 203 \"-\" \"x\"\n";
    server.ingest("log", "combined", line);
    server.ingest("log", "ndjson", "{\"ip\":\"::1\",\"time\":1431857103}\n");
    let found =
        server.rows("SELECT ip, count(*) AS c, count(DISTINCT time) AS t FROM log GROUP BY ip");
    assert_eq!(found, [json!({"ip": "::1", "c": 2, "t": 1})]);
    let answer = server.try_sql("CREATE TABLE x (a INT) WITH (field_names = 'nothing=a')");
    assert_eq!(code(&answer), "invalid_option", "{}", answer.text);
}

//! What an operator sees of the batch layer with the client, on the real binary: what is wrong and
//! why, what runs, and whether the stored states of views are right.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::audit::{VIEW, body, plant, sums};
use crate::cli::{err, out, run};
use crate::damage::{files_of, flip};
use crate::run_events::{cancel, eventually, newest_run, start};
use crate::server::Server;

fn json_of(url: &str, arguments: &[&str], code: i32) -> Value {
    let said = out(&run(url, arguments, b""), code);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn a_planted_mismatch_is_shown_by_verify_status_and_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let url = server.address();
    server.ingest("s", "ndjson", &body());
    server.sql(&format!("CREATE MATERIALIZED VIEW v AS {VIEW}"));
    server.sql(
        "CREATE MATERIALIZED VIEW w WITH (recompute = '0 3 * * *') AS \
         SELECT k, count(*) AS n FROM s GROUP BY k",
    );
    server.sql("REFRESH MATERIALIZED VIEW v");
    server.sql("REFRESH MATERIALIZED VIEW w");
    let equal = out(&run(&url, &["verify", "--view", "v"], b""), 0);
    assert!(
        equal.starts_with("v: equal, 7 groups compared (run "),
        "{equal}"
    );
    let status = out(&run(&url, &["status"], b""), 0);
    assert!(status.starts_with("health: ok, version "), "{status}");
    assert!(status.contains("VERIFY succeeded "), "{status}");
    assert!(
        status.contains("  in ") && status.contains("  0 3 * * *"),
        "{status}"
    );
    assert!(status.ends_with("\nruns\n  none\n"), "{status}");
    server.kill();
    plant(folder.path(), &sums(folder.path()));

    let server = Server::start(folder.path(), &[]);
    let url = server.address();
    let found = out(
        &run(&url, &["verify", "--view", "v", "--view", "w"], b""),
        4,
    );
    assert!(found.contains("v: the stored states differ"), "{found}");
    assert_eq!(found.matches("mean").count(), 7, "every group: {found}");
    assert!(found.contains("k=k0") && found.contains("49.0"), "{found}");
    assert!(found.contains("w: equal, 7 groups"), "{found}");
    let all = json_of(&url, &["verify", "--all-views", "--output", "json"], 4);
    assert_eq!(all["clean"], false);
    assert_eq!(all["runs"][0]["differences"][0]["key"], "k=k0");
    assert_eq!(all["runs"][1]["audit"], "equal");
    let status = out(&run(&url, &["status"], b""), 0);
    let problem = "\n  view v: VERIFY: the stored states differ from a recompute: k=k0 ";
    assert!(
        status.starts_with("health: 1 problem, ") && status.contains(problem),
        "{status}"
    );

    out(&run(&url, &["recompute", "v"], b""), 1);
    server.sql("ALTER MATERIALIZED VIEW w PAUSE");
    let status = out(&run(&url, &["status"], b""), 0);
    let problem = "\n  view v: recompute failed: the audit found that the stored states differ";
    assert!(status.contains(problem), "{status}");
    assert!(status.contains("  paused  "), "{status}");
    assert!(
        status.contains("  failed ") && status.contains("(differences)"),
        "{status}"
    );
    let status = json_of(&url, &["status", "--json"], 0);
    let failed = newest_run(&server, "v");
    let problem = &status["problems"][0];
    assert_eq!(
        (&problem["kind"], &problem["name"]),
        (&json!("view"), &json!("v"))
    );
    assert_eq!(problem["run_id"], json!(failed));

    let runs = out(&run(&url, &["runs", "--view", "v"], b""), 0);
    assert!(
        runs.contains("\n  the audit found that the stored"),
        "{runs}"
    );
    let one = out(&run(&url, &["runs", &failed], b""), 0);
    for part in [
        "groups_compared  7",
        "on_mismatch = 'publish'",
        "recomputed\nk=k0 ",
    ] {
        assert!(one.contains(part), "{part}: {one}");
    }
    let same = json_of(&url, &["runs", "--json", &failed], 0);
    assert_eq!(same["differences"].as_array().map(Vec::len), Some(7));

    // Repaired as the error says.
    server.sql("ALTER MATERIALIZED VIEW v SET (on_mismatch = 'publish')");
    out(&run(&url, &["recompute", "v"], b""), 0);
    out(&run(&url, &["verify", "--all-views"], b""), 0);
    let status = out(&run(&url, &["status"], b""), 0);
    assert!(status.starts_with("health: ok"), "{status}");
}

#[test]
fn verify_names_stored_states_that_are_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let url = server.address();
    server.ingest("s", "ndjson", &body());
    server.sql(&format!("CREATE MATERIALIZED VIEW v AS {VIEW}"));
    server.sql("REFRESH MATERIALIZED VIEW v");
    let file = files_of(folder.path(), "views", "v", ".parquet").remove(0);
    flip(&file);
    let name = file.file_name().expect("a name").to_string_lossy();
    let verify = ["verify", "--view", "v"];
    let found = out(&run(&url, &verify, b""), 4);
    assert!(
        found.starts_with("v: damaged: views/") && found.contains(&*name),
        "{found}"
    );
    // It is made again by itself.
    eventually("a repair", &server, || {
        let run = server.get("/api/v1/runs").json()["runs"][0].clone();
        run["started_by"] == "damaged_states" && run["status"] == "succeeded"
    });
    assert!(out(&run(&url, &verify, b""), 0).contains("v: equal, 7 groups"));
}

#[test]
fn verify_checks_a_folder_or_asks_a_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let url = server.address();
    server.ingest("s", "ndjson", &body());
    server.sql(&format!("CREATE MATERIALIZED VIEW v AS {VIEW}"));
    for (arguments, reason) in [
        (
            &["--view", "v", "--data-dir", "x"][..],
            "one of them at a time",
        ),
        (&["--view", "v", "--deep"], "one of them at a time"),
        (&["--view", "v", "--all-views"], "cannot be used with"),
        (&["--url", "http://127.0.0.1:1"], "--url needs --view"),
        (&["--view", "nothing"], "unknown_view"),
    ] {
        let output = run(&url, &[&["verify"][..], arguments].concat(), b"");
        out(&output, 2);
        assert!(err(&output).contains(reason), "{}", err(&output));
    }
    // What is set for the server is no contradiction.
    let checked = Command::new(env!("CARGO_BIN_EXE_lambdalake"))
        .args(["verify", "--view", "v"])
        .env("LAMBDALAKE_URL", &url)
        .env("LAMBDALAKE_DATA_DIR", folder.path())
        .output()
        .expect("the binary");
    assert!(out(&checked, 0).starts_with("v: "));
    // One that cannot be checked does not keep the others from it.
    let both = run(&url, &["verify", "--view", "nothing", "--view", "v"], b"");
    assert!(out(&both, 2).starts_with("v: "));
    server.stop();
    out(&run(&url, &["verify", "--view", "v"], b""), 3);
}

fn verifying(url: &str, view: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_lambdalake"))
        .args(["verify", "--view", view, "--url", url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary")
}

#[test]
fn status_shows_what_runs_and_verify_waits_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, slow, quick) = start(folder.path());
    let url = server.address();
    let reading = || json_of(&url, &["status", "--json"], 0)["runs"][0]["phase"] == "reading";
    eventually("the reading", &server, reading);
    let status = out(&run(&url, &["status"], b""), 0);
    let (_, runs) = status.split_once("\nruns\n").expect("runs");
    let lines: Vec<&str> = runs.lines().collect();
    assert_eq!(lines.len(), 3, "{status}");
    assert!(
        lines[1].contains(&slow) && lines[1].contains("  reading "),
        "{status}"
    );
    assert!(
        lines[2].contains(&quick) && lines[2].contains("  queued "),
        "{status}"
    );
    let running = out(&run(&url, &["runs", "--view", "slow"], b""), 0);
    assert!(running.contains("  running  reading "), "{running}");

    // It comes after the run that is in its way, and Ctrl-C leaves it alone.
    let waits = verifying(&url, "slow");
    let open = || server.get("/metrics").text.contains("runs/{id}/events");
    eventually("its stream", &server, open);
    cancel(&server, &quick);
    cancel(&server, &slow);
    eventually("the check", &server, || newest_run(&server, "slow") != slow);
    let check = newest_run(&server, "slow");
    let of_check = || server.get(&format!("/api/v1/runs/{check}")).json();
    assert_eq!(of_check()["kind"], "verify");
    let pid = waits.id().to_string();
    let told = Command::new("kill").args(["-INT", &pid]).status();
    assert!(told.expect("kill runs").success());
    let output = waits.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(130), "{}", err(&output));
    assert_eq!(of_check()["status"], "running");

    // A check that is cancelled has not found anything.
    cancel(&server, &check);
    eventually("its end", &server, || of_check()["status"] == "cancelled");
    let fails = verifying(&url, "slow");
    eventually("the check", &server, || {
        newest_run(&server, "slow") != check
    });
    cancel(&server, &newest_run(&server, "slow"));
    let output = fails.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(
        err(&output).contains("of slow cancelled"),
        "{}",
        err(&output)
    );
}

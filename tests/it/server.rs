//! The real binary on a folder of its own, as a client sees it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// Lines of the log that a failure shows.
const KEPT_LINES: usize = 200;

pub struct Server {
    child: Child,
    base: String,
    log: Arc<Mutex<VecDeque<String>>>,
    agent: ureq::Agent,
}

/// An answer, whatever its status.
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

impl Server {
    /// Starts `serve` on the folder and waits until it may take traffic.
    pub fn start(folder: &Path, flags: &[&str]) -> Self {
        Self::try_start(folder, flags).unwrap_or_else(|log| panic!("no server: {log}"))
    }

    /// The same; what the process said if it ended instead.
    pub fn try_start(folder: &Path, flags: &[&str]) -> Result<Self, String> {
        let folder = folder.to_str().expect("a readable path");
        let mut all = vec!["--listen", "127.0.0.1:0", "--data-dir", folder];
        all.extend(flags);
        Self::launch(&all, &[])
    }

    /// Starts `serve` with these flags and variables and nothing else.
    pub fn launch(flags: &[&str], variables: &[(&str, &str)]) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lambdalake"))
            .arg("serve")
            .args(flags)
            .env("NO_COLOR", "1")
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut said = VecDeque::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                child.wait().expect("it ended");
                return Err(Vec::from(said).join("\n"));
            };
            // In the json form of the log a quote follows the address.
            let address = line
                .split_once("listening on ")
                .map(|(_, url)| url.split('"').next().unwrap_or(url).trim().to_owned());
            said.push_back(line);
            if let Some(address) = address {
                break address;
            }
        };
        let log = Arc::new(Mutex::new(said));
        let kept = Arc::clone(&log);
        std::thread::Builder::new()
            .spawn(move || {
                for line in lines.map_while(Result::ok) {
                    let mut kept = kept.lock().expect("log");
                    kept.push_back(line);
                    if kept.len() > KEPT_LINES {
                        kept.pop_front();
                    }
                }
            })
            .expect("a thread");
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(120)))
            .build();
        let server = Self {
            child,
            base: address,
            log,
            agent: agent.into(),
        };
        assert_eq!(server.get("/health/readyz").status, 200);
        Ok(server)
    }

    pub fn log(&self) -> String {
        Vec::from(self.log.lock().expect("log").clone()).join("\n")
    }

    fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
        let mut response = response.expect("an answer");
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: String::from_utf8_lossy(
                &response.body_mut().read_to_vec().expect("a whole body"),
            )
            .into_owned(),
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        Self::answer(self.agent.get(format!("{}{path}", self.base)).call())
    }

    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::answer(request.call())
    }

    pub fn head(&self, path: &str) -> Answer {
        Self::answer(self.agent.head(format!("{}{path}", self.base)).call())
    }

    pub fn delete(&self, path: &str) -> Answer {
        Self::answer(self.agent.delete(format!("{}{path}", self.base)).call())
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::answer(request.send(body))
    }

    /// Posts SQL text; any status.
    pub fn try_sql(&self, sql: &str) -> Answer {
        self.post("/api/v1/sql?format=json", &[], sql.as_bytes())
    }

    /// The answer to SQL that must succeed.
    pub fn sql(&self, sql: &str) -> Value {
        self.sql_layer(sql, "merged")
    }

    pub fn sql_layer(&self, sql: &str, layer: &str) -> Value {
        let body = json!({"query": sql, "layer": layer}).to_string();
        let headers = [("content-type", "application/json")];
        let answer = self.post("/api/v1/sql?format=json", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{sql}: {}\n{}", answer.text, self.log());
        answer.json()
    }

    /// The rows of an answer that must succeed.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        self.sql(sql)["data"].as_array().expect("rows").clone()
    }

    /// The one value of a query with one row and one column.
    pub fn value(&self, sql: &str) -> Value {
        let rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}");
        rows[0]
            .as_object()
            .and_then(|row| row.values().next())
            .expect("a value")
            .clone()
    }

    /// Ingests a body of which something must be accepted.
    pub fn ingest(&self, stream: &str, format: &str, body: &str) -> Value {
        let path = format!("/api/v1/streams/{stream}/events?format={format}");
        let answer = self.post(&path, &[], body.as_bytes());
        assert_eq!(answer.status, 200, "{}\n{}", answer.text, self.log());
        answer.json()
    }

    /// Posts SQL and gives the body to read piece by piece; the answer must be a success.
    pub fn stream_sql(&self, sql: &str, format: &str) -> impl std::io::Read + use<> {
        let url = format!("{}/api/v1/sql?format={format}", self.base);
        let response = self.agent.post(url).send(sql).expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "{sql}\n{}", self.log());
        response.into_body().into_reader()
    }

    /// The status of a GET that goes away before the body.
    pub fn status_of(&self, path: &str) -> u16 {
        let response = self.agent.get(format!("{}{path}", self.base)).call();
        response.expect("an answer").status().as_u16()
    }

    /// The body of a GET to read piece by piece; the answer must be a success.
    pub fn stream(&self, path: &str) -> impl std::io::Read + use<> {
        let response = self.agent.get(format!("{}{path}", self.base)).call();
        let response = response.expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "{path}\n{}", self.log());
        response.into_body().into_reader()
    }

    /// Bytes of memory that the process has now.
    pub fn resident_bytes(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse::<usize>().ok()).expect("kB") * 1024
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> String {
        self.base.clone()
    }

    /// Ends the process at once, as a power cut would (but for the page cache).
    pub fn kill(self) {
        self.kill_now();
        drop(self);
    }

    /// The same while other threads still hold the server.
    pub fn kill_now(&self) {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill")
            .args(["-KILL", &pid])
            .status()
            .expect("kill runs");
        assert!(killed.success());
    }

    /// Asks the process to stop and waits until it has.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        let told = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        assert!(told.success());
        let status = self.child.wait().expect("ended");
        assert!(status.success(), "{status}\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already after `stop` and `kill`; then there is nothing to kill.
        if self.child.kill().is_ok() {
            self.child.wait().expect("ended");
        }
    }
}

/// The folder of real data, or `None` after saying that the test is skipped.
pub fn real_data(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("LAMBDALAKE_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    if folder.join("truth").is_dir() {
        return Some(folder);
    }
    println!(
        "SKIPPED: {test}: no real data at {} (set LAMBDALAKE_TEST_DATA)",
        folder.display()
    );
    None
}

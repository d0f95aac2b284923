//! The documentation is true: every example in it runs and answers what it shows, every link
//! leads somewhere, and its lists are those of the code.
//!
//! Each file has a fresh server and a fresh folder; its examples run in their order.

mod codes;
mod expected;
mod markdown;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use self::markdown::{Block, blocks};
use super::python::python;
use super::server::Server;

/// Where the documentation's server listens.
const WRITTEN_ADDRESS: &str = "127.0.0.1:7700";

/// Seconds one block may take.
const BLOCK_SECONDS: &str = "60";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README and everything in docs but the decisions, which are of their day.
fn files() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md")];
    for entry in std::fs::read_dir(root().join("docs")).expect("the folder docs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

#[test]
fn every_example_answers_what_it_shows() {
    let files = files();
    assert!(files.len() > 5, "only found {files:?}");
    let failures: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = files
            .iter()
            .map(|path| scope.spawn(move || run_file(path)))
            .collect();
        let ended = runs.into_iter().map(|run| run.join().expect("a file ran"));
        ended.flatten().collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

/// What is wrong in a file: an example that fails ends its file, as later ones rest on it.
fn run_file(path: &Path) -> Option<String> {
    let file = shown(path);
    let blocks = match blocks(&read(path)) {
        Ok(blocks) => blocks,
        Err(reason) => return Some(format!("{file}:{reason}")),
    };
    if !blocks.iter().any(|block| block.is_run && is_code(block)) {
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place {
        server: Server::start(&folder.path().join("lambdalake-data"), &[]),
        folder: folder.path(),
        file: &file,
    };
    // Without this, curl is content with an error answer.
    let written = std::fs::write(folder.path().join(".curlrc"), "fail-with-body\n");
    written.expect("a file is written");
    let mut last = None;
    for (index, block) in blocks.iter().enumerate() {
        let next = blocks.get(index + 1).filter(|next| next.is_output);
        if let Err(reason) = place.run(block, next, &mut last) {
            return Some(format!("{file}:{}: {reason}", block.line));
        }
    }
    None
}

fn is_code(block: &Block) -> bool {
    ["sh", "sql", "python"].contains(&block.language.as_str())
}

/// Where the examples of one file run.
struct Place<'a> {
    server: Server,
    folder: &'a Path,
    file: &'a str,
}

impl Place<'_> {
    /// Runs a block, or compares it with the answer of the one before it.
    fn run(
        &self,
        block: &Block,
        output: Option<&Block>,
        last: &mut Option<String>,
    ) -> Result<(), String> {
        for command in &block.run_first {
            self.shell(command, None)?;
        }
        match block.language.as_str() {
            _ if block.is_output => {
                let found = last.take().ok_or("no example is before this output")?;
                return compare(block, &found);
            }
            _ if !block.is_run => {}
            "sh" => *last = Some(self.shell(&block.text, block.fails.as_deref())?),
            "sql" => {
                let is_json = output.is_some_and(|output| output.language == "json");
                *last = Some(self.sql(block, if is_json { "json" } else { "table" })?);
            }
            "python" => match python(self.file) {
                Some(python) => {
                    *last = Some(self.command(python.as_os_str(), &block.text, None)?);
                }
                None => *last = None,
            },
            "text" | "json" | "toml" => {}
            other => return Err(format!("blocks of the language {other:?} are not known")),
        }
        Ok(())
    }

    fn shell(&self, script: &str, fails: Option<&str>) -> Result<String, String> {
        let script = format!("set -euo pipefail\n{script}");
        self.command("bash".as_ref(), &script, fails)
    }

    fn command(
        &self,
        program: &std::ffi::OsStr,
        script: &str,
        fails: Option<&str>,
    ) -> Result<String, String> {
        let address = self.server.address();
        let authority = address.strip_prefix("http://").unwrap_or(&address);
        let binary = Path::new(env!("CARGO_BIN_EXE_lambdalake"));
        let binary = binary.parent().expect("the binary is in a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("timeout")
            .arg(BLOCK_SECONDS)
            .arg(program)
            .args(["-c", &script.replace(WRITTEN_ADDRESS, authority)])
            .current_dir(self.folder)
            .env("PATH", format!("{}:{path}", binary.display()))
            .env("CURL_HOME", self.folder)
            .env("LAMBDALAKE_URL", &address)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{program:?} does not run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).replace(authority, WRITTEN_ADDRESS);
        let complained = String::from_utf8_lossy(&output.stderr);
        let Some(code) = fails else {
            let is_right = output.status.success();
            return is_right
                .then(|| said.clone())
                .ok_or_else(|| format!("{}\n{said}{complained}", output.status));
        };
        let is_named = said.contains(&format!("\"code\":\"{code}\""))
            || complained.contains(&format!("[{code}]"));
        match output.status.success() {
            false if is_named => Ok(said),
            _ => Err(format!("it should fail with {code}:\n{said}{complained}")),
        }
    }

    /// The answer to the last statement of a block.
    fn sql(&self, block: &Block, format: &str) -> Result<String, String> {
        let statements =
            lambdalake_serving::statement::split(&block.text).map_err(|e| e.to_string())?;
        let path = format!("/api/v1/sql?format={format}");
        let mut last = String::new();
        for statement in statements {
            let answer = self.server.post(&path, &[], statement.as_bytes());
            let code = (answer.status != 200).then(|| answer.json()["error"]["code"].clone());
            let expected = block.fails.as_deref().map(Value::from);
            if code != expected {
                return Err(format!("{statement}\nanswers {}", answer.text));
            }
            last = answer.text;
        }
        Ok(last)
    }
}

fn compare(output: &Block, found: &str) -> Result<(), String> {
    let is_same = match output.language.as_str() {
        "json" => {
            expected::same_json(&output.text, found).map_err(|e| format!("{e}, found\n{found}"))?
        }
        _ => expected::same_text(&output.text, found),
    };
    if is_same {
        return Ok(());
    }
    Err(format!("the answer is another one:\n{found}"))
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = String::new();
    for path in files() {
        for (line, target) in markdown::links(&read(&path)) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let there = if file.is_empty() {
                path.clone()
            } else {
                path.parent().expect("a folder").join(file)
            };
            let is_found = there.exists()
                && (anchor.is_empty()
                    || markdown::anchors(&read(&there)).contains(&anchor.to_owned()));
            if !is_found {
                writeln!(broken, "{}:{line}: {target}", shown(&path)).expect("a string grows");
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{broken}");
}

#[test]
fn the_guide_lists_every_aggregate_of_views() {
    let guide = read(&root().join("docs/sql.md"));
    for rule in lambdalake_views::aggregate_table() {
        let name = format!("`{}`", rule.name);
        assert!(guide.contains(&name), "docs/sql.md does not list {name}");
    }
}

#[test]
fn the_guide_lists_every_endpoint() {
    let guide = read(&root().join("docs/http.md"));
    let description: Value =
        serde_json::from_str(&read(&root().join("serving/openapi.json"))).expect("JSON");
    for path in description["paths"].as_object().expect("paths").keys() {
        assert!(guide.contains(path), "docs/http.md does not name {path}");
    }
}

#[test]
fn the_guide_lists_every_metric() {
    let guide = read(&root().join("docs/http.md"));
    for metric in lambdalake_serving::metrics::ALL {
        let (name, help) = (format!("| `{}` |", metric.name), metric.help);
        let line = guide.lines().find(|line| line.starts_with(&name));
        let line = line.unwrap_or_else(|| panic!("docs/http.md does not list {name}"));
        assert!(line.contains(help), "{line}\nshould say {help}");
        for label in metric.labels {
            assert!(line.contains(&format!("`{label}`")), "{line}: {label}");
        }
    }
}

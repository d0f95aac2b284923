//! A sequence of statements and backslash commands with the settings they share: what the
//! shell, a script and a single query have in common.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use lambdalake_data::{Clock, SystemClock};
use serde_json::Value;
use ureq::Body;
use ureq::http::Response;
use url::Url;

use super::answer;
use super::args::{SqlArgs, SqlFormat};
use super::caret::located;
use super::client::Client;
use super::meta::{HELP, Meta};
use super::output::{CopyError, Output, copy};
use super::query::{self, QueryOptions};
use super::render::{DrawnTable, Expanded, timing};
use super::shell::interrupt::Interrupt;
use super::statements::{MAX_STATEMENT_BYTES, Statement, Statements};
use super::table::terminal_width;
use super::{ClientError, describe};

/// Scripts that include scripts; more is a circle.
const MAX_INCLUDED: u32 = 16;

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// Asked for, or nobody reads the answers any more.
    Quit,
}

/// Who gives the statements; it decides how errors are located and tables drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Typed, or one argument.
    Person,
    Script,
}

pub struct Session {
    url: Url,
    client: Client,
    options: QueryOptions,
    format: Option<SqlFormat>,
    is_expanded: bool,
    has_timing: bool,
    output: Output,
    /// Answers in the present output.
    answers: u64,
    included: u32,
    interrupt: Option<Arc<Interrupt>>,
    clock: SystemClock,
    /// A statement has made or dropped something since this was last taken.
    pub has_new_names: bool,
}

impl Session {
    pub fn new(args: &SqlArgs) -> Result<Session, ClientError> {
        let options = QueryOptions {
            layer: args.layer,
            params: query::params(&args.params)?,
            timeout: args.timeout,
        };
        let output = match &args.output {
            Some(path) => Output::to_file(path)?,
            None => Output::stdout(),
        };
        Ok(Session {
            url: args.server.url.clone(),
            client: client(&args.server.url, &options),
            options,
            format: args.format,
            is_expanded: false,
            has_timing: false,
            output,
            answers: 0,
            included: 0,
            interrupt: None,
            clock: SystemClock::default(),
            has_new_names: true,
        })
    }

    /// From now on Ctrl-C cancels the running query, and tables are drawn on this side, because
    /// only then are their statistics known.
    pub fn make_interactive(&mut self, interrupt: Arc<Interrupt>) {
        self.interrupt = Some(interrupt);
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Puts the output into its place.
    pub fn finish(self) -> Result<(), ClientError> {
        self.output.finish()
    }

    /// Runs the lines of a script until one fails. The last statement may lack its semicolon.
    pub fn script(&mut self, mut lines: impl BufRead, from: Origin) -> anyhow::Result<Flow> {
        let mut statements = Statements::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = MAX_STATEMENT_BYTES as u64 + 1;
            let read = lines.by_ref().take(limit).read_until(b'\n', &mut line);
            let read = read.map_err(|error| {
                ClientError::BadInput(format!("cannot read the script: {error}"))
            })?;
            if read == 0 {
                break;
            }
            let text = std::str::from_utf8(&line).map_err(|_| {
                let line = statements.line() + 1;
                ClientError::BadInput(format!("line {line} of the script is not UTF-8"))
            })?;
            if statements.is_between() && text.trim_start().starts_with('\\') {
                statements.skip_line();
                let line = statements.line();
                let ran = self.command(text).map_err(|error| at_line(error, line))?;
                if ran == Flow::Quit {
                    return Ok(ran);
                }
                continue;
            }
            for statement in statements.push(text)? {
                if self.statement(&statement, from)? == Flow::Quit {
                    return Ok(Flow::Quit);
                }
            }
        }
        match statements.finish() {
            Some(statement) => self.statement(&statement, from),
            None => Ok(Flow::Continue),
        }
    }

    /// Runs one statement and shows its answer.
    pub fn statement(&mut self, statement: &Statement, from: Origin) -> anyhow::Result<Flow> {
        let is_script = from == Origin::Script;
        let cancel = self.interrupt.as_ref().map(Arc::clone);
        let watch = cancel.as_ref().map(|it| it.watch(self.client.canceller()));
        let outcome = self.show(&statement.text);
        drop(watch);
        if cancel.is_some_and(|it| it.take_raised()) {
            // The connections of this client are closed for good.
            self.client = client(&self.url, &self.options);
            if outcome.is_err() {
                return Err(ClientError::BadInput("the query was cancelled".to_owned()).into());
            }
        }
        self.has_new_names |= changes_names(&statement.text);
        match outcome {
            Ok(()) => Ok(Flow::Continue),
            Err(ShowError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(Flow::Quit),
            Err(ShowError::Write(error)) => {
                Err(anyhow::Error::new(error).context("cannot write the answer"))
            }
            Err(ShowError::Client(error)) => Err(located(error, statement, is_script).into()),
        }
    }

    fn show(&mut self, sql: &str) -> Result<(), ShowError> {
        let is_terminal = self.output.is_terminal();
        let format = self.format.unwrap_or(match is_terminal {
            true => SqlFormat::Table,
            false => SqlFormat::Ndjson,
        });
        self.refuse_binary(format, is_terminal)?;
        let started = self.clock.monotonic();
        let width = is_terminal.then(terminal_width).flatten();
        let is_interactive = self.interrupt.is_some();
        let is_expanded = self.is_expanded && matches!(self.format, None | Some(SqlFormat::Table));
        let is_drawn_here = format == SqlFormat::Table && (is_interactive || self.has_timing);
        self.answers += 1;
        let (stats, headers) = if is_expanded || is_drawn_here {
            let response = self.send(sql, SqlFormat::Json, None)?;
            let headers = response.headers().clone();
            let reader = response.into_body().into_reader();
            let stats = match is_expanded {
                true => self.expanded(reader),
                false => self.drawn(reader, width),
            };
            (stats.map_err(|error| self.broken(error))?, headers)
        } else {
            let width = width.filter(|_| format == SqlFormat::Table);
            let response = self.send(sql, format, width)?;
            let headers = response.headers().clone();
            copy(response.into_body().into_reader(), &mut self.output)
                .map_err(|error| self.broken(error))?;
            (Value::Null, headers)
        };
        if self.has_timing {
            // Not among the answers, which a program may read.
            let elapsed = self.clock.monotonic() - started;
            eprintln!("{}", timing(elapsed, &stats, &headers));
        }
        Ok(())
    }

    fn refuse_binary(&self, format: SqlFormat, is_terminal: bool) -> Result<(), ClientError> {
        if !format.is_binary() {
            return Ok(());
        }
        let name = query::name(format);
        if is_terminal {
            return Err(ClientError::BadInput(format!(
                "{name} is binary and this is a terminal; send it to a file (--output FILE, or \
                 \\o FILE in the shell) or a pipe"
            )));
        }
        if self.answers > 0 {
            return Err(ClientError::BadInput(format!(
                "an answer in {name} is a file of its own; run one statement for each file"
            )));
        }
        Ok(())
    }

    fn send(
        &self,
        sql: &str,
        format: SqlFormat,
        width: Option<u16>,
    ) -> Result<Response<Body>, ClientError> {
        query::send(&self.client, sql, format, width, &self.options)
    }

    fn expanded(&mut self, reader: impl Read) -> Result<Value, CopyError> {
        // Stdout writes line by line, which is most of the time of a long answer.
        let mut out = io::BufWriter::new(&mut self.output);
        let mut rows = Expanded::new(&mut out);
        let stats = answer::read(reader, &mut rows)?;
        rows.finish().map_err(CopyError::Write)?;
        Ok(stats)
    }

    fn drawn(&mut self, reader: impl Read, width: Option<u16>) -> Result<Value, CopyError> {
        let mut table = DrawnTable::default();
        let stats = answer::read(reader, &mut table)?;
        let drawn = table.draw(width);
        let written = self.output.write_all(drawn.as_bytes());
        written
            .and_then(|()| self.output.flush())
            .map_err(CopyError::Write)?;
        Ok(stats)
    }

    fn broken(&self, error: CopyError) -> ShowError {
        match error {
            CopyError::Write(error) => ShowError::Write(error),
            CopyError::Read(error) => ShowError::Client(ClientError::UnexpectedAnswer {
                url: self.url.to_string(),
                reason: format!("the rows above are not all of them, it broke off: {error}"),
            }),
        }
    }

    /// Runs a backslash command.
    pub fn command(&mut self, line: &str) -> anyhow::Result<Flow> {
        match Meta::parse(line)? {
            Meta::Quit => return Ok(Flow::Quit),
            Meta::Help => self.print(&[HELP.trim_end().to_owned()])?,
            Meta::Tables => self.print(&describe::tables(&self.client)?)?,
            Meta::Streams => self.print(&describe::streams(&self.client)?)?,
            Meta::Views => self.print(&describe::views(&self.client)?)?,
            Meta::Describe(name) => return self.describe(&name),
            Meta::Timing(on) => {
                self.has_timing = on.unwrap_or(!self.has_timing);
                say("timing", if self.has_timing { "on" } else { "off" });
            }
            Meta::Expanded(on) => {
                self.is_expanded = on.unwrap_or(!self.is_expanded);
                say(
                    "expanded display",
                    if self.is_expanded { "on" } else { "off" },
                );
            }
            Meta::Format(format) => {
                self.format = format.or(self.format);
                let shown = self.format.map(query::name);
                say("format", shown.as_deref().unwrap_or("the default"));
            }
            Meta::Layer(layer) => {
                self.options.layer = layer.or(self.options.layer);
                let shown = self.options.layer.map(query::name);
                say("layer", shown.as_deref().unwrap_or("merged"));
            }
            Meta::Output(path) => {
                let next = match &path {
                    Some(path) => Output::to_file(path)?,
                    None => Output::stdout(),
                };
                self.answers = 0;
                std::mem::replace(&mut self.output, next).finish()?;
            }
            Meta::Include(path) => return self.include(&path),
        }
        Ok(Flow::Continue)
    }

    fn describe(&mut self, name: &str) -> anyhow::Result<Flow> {
        if let Some(lines) = describe::table(&self.client, name)? {
            self.print(&lines)?;
            return Ok(Flow::Continue);
        }
        // System tables are known to SQL only; and it says best that there is no such table.
        let parts: Vec<String> = name
            .split('.')
            .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
            .collect();
        let statement = Statement {
            text: format!("DESCRIBE {}", parts.join(".")),
            first_line: 1,
        };
        self.statement(&statement, Origin::Person)
    }

    fn include(&mut self, path: &Path) -> anyhow::Result<Flow> {
        let bad = |what: String| ClientError::BadInput(format!("{}: {what}", path.display()));
        if self.included == MAX_INCLUDED {
            return Err(bad(format!("more than {MAX_INCLUDED} files include each other")).into());
        }
        let file = std::fs::File::open(path).map_err(|error| bad(error.to_string()))?;
        self.included += 1;
        let outcome = self.script(io::BufReader::new(file), Origin::Script);
        self.included -= 1;
        outcome
    }

    fn print(&mut self, lines: &[String]) -> io::Result<()> {
        for line in lines {
            writeln!(self.output, "{line}")?;
        }
        self.output.flush()
    }
}

enum ShowError {
    Client(ClientError),
    Write(io::Error),
}

impl From<ClientError> for ShowError {
    fn from(error: ClientError) -> ShowError {
        ShowError::Client(error)
    }
}

fn client(url: &Url, options: &QueryOptions) -> Client {
    Client::with_timeout(url, options.timeout.unwrap_or_default())
}

/// A setting's new value, where it does not get among the answers.
fn say(what: &str, value: &str) {
    eprintln!("{what} is {value}");
}

fn at_line(error: anyhow::Error, line: u64) -> anyhow::Error {
    match error.downcast::<ClientError>() {
        Ok(ClientError::BadInput(message)) => {
            ClientError::BadInput(format!("line {line}: {message}")).into()
        }
        Ok(other) => other.into(),
        Err(error) => error,
    }
}

/// Whether the statement may make, change or drop a stream, a view or a column.
fn changes_names(sql: &str) -> bool {
    let mut words = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .flat_map(str::split_whitespace);
    words.next().is_some_and(|word| {
        ["create", "drop", "alter"]
            .iter()
            .any(|change| word.eq_ignore_ascii_case(change))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_about_tables_change_names() {
        assert!(changes_names("-- a\n Create TABLE t (a INT)"));
        assert!(changes_names("DROP VIEW v"));
        assert!(!changes_names("SELECT 'create'"));
        assert!(!changes_names(""));
    }
}

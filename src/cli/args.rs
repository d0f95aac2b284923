//! The arguments of every command. Each flag can be set by an environment variable too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use url::Url;

use super::ClientError;
use crate::settings::{self, Settings, SettingsFlags};

/// A Lambda Architecture data engine: exact SQL over HTTP on live and historical events.
#[derive(Debug, Parser)]
#[command(version, about, after_help = OVERVIEW, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line; one that is wrong ends the process, as `--help` does.
    pub fn read() -> Self {
        let mut command = Self::command();
        let given = command.get_matches_mut();
        let cli = Self::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
        if let (Command::Verify(args), Some((_, given))) = (&cli.command, given.subcommand())
            && let Some(reason) = args.contradiction(given)
        {
            let verify = command.find_subcommand("verify").cloned();
            let mut command = verify.unwrap_or(command);
            command.error(ErrorKind::ArgumentConflict, reason).exit();
        }
        cli
    }
}

const OVERVIEW: &str = "\
Begin here:
  lambdalake demo                                  see it work, nothing to prepare
  lambdalake serve                                 run the engine on ./lambdalake-data
  lambdalake ingest access_log access.log          send a file to the stream access_log
  lambdalake sql 'SELECT count(*) FROM access_log'

Exit codes: 0 done, 1 failed, 2 bad input, 3 server unreachable or still busy after retries,
4 damage found by verify, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(Box<ServeArgs>),
    Ingest(IngestArgs),
    Sql(SqlArgs),
    Recompute(RecomputeArgs),
    Runs(RunsArgs),
    Status(StatusArgs),
    Verify(VerifyArgs),
    Demo(DemoArgs),
    Generate(GenerateArgs),
    Settings(SettingsArgs),
    Selftest(SelftestArgs),
}

/// Run the engine and serve it over HTTP.
#[derive(Debug, Args)]
#[command(
    long_about = "Run the engine on a data folder and serve it over HTTP.\n\n\
    Each setting can come from a flag, from its environment variable or from a TOML file \
    (--config); a flag wins over the environment, the environment over the file. Sizes are \
    written like 64MiB, durations like 10s. One process per data folder: a second one is \
    refused.",
    after_help = "\
Examples:
  lambdalake serve
  lambdalake serve --data-dir /var/lib/lambdalake --listen 0.0.0.0:7700
  lambdalake serve --config lambdalake.toml --init views.sql
  LAMBDALAKE_FLUSH_AGE=10s lambdalake serve

A lambdalake.toml:
  data_dir = \"/var/lib/lambdalake\"
  flush_bytes = \"128MiB\"
  query_timeout = \"30s\""
)]
pub struct ServeArgs {
    /// TOML file with settings; an unknown key in it is an error.
    #[arg(long, env = "LAMBDALAKE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub flags: SettingsFlags,
}

impl ServeArgs {
    /// Reads the settings file, if there is one, and resolves everything.
    pub fn settings(self) -> anyhow::Result<Settings> {
        let Some(path) = self.config else {
            return Settings::resolve(self.flags, None);
        };
        let text = std::fs::read_to_string(&path).map_err(|error| {
            ClientError::BadInput(format!("cannot read {}: {error}", path.display()))
        })?;
        Settings::resolve(self.flags, Some(&text)).with_context(|| path.display().to_string())
    }
}

/// Where a server is that was not told where to be.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7700";

/// Where the server is.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of the server.
    #[arg(
        long,
        env = "LAMBDALAKE_URL",
        default_value = DEFAULT_URL,
        value_parser = server_url
    )]
    pub url: Url,
}

/// Send files or stdin to a stream.
#[derive(Debug, Args)]
#[command(
    long_about = "Send files or stdin to a stream.\n\n\
    Line formats and CSV are cut into chunks at line ends, so a file of any size goes through; \
    JSON documents, Parquet and Arrow are streamed as one request. gzip, zstd and framed snappy \
    are decompressed on the way, whatever the file is called. Rejected lines are reported on \
    stderr as FILE:LINE with the reason, and the good ones around them are kept. A request that \
    the server cannot take yet (429, 503) is sent again after the time it asks for; each one \
    carries an idempotency key, so a repeated one is not stored twice. The same goes for the \
    command: killed and run again on the same file, it stores what is missing. A file that has \
    changed since is refused. To store a file twice, use --no-idempotency-key.",
    after_help = "\
Examples:
  lambdalake ingest access_log access.log access.log.1.gz
  lambdalake ingest access_log --format combined /var/log/nginx/access.log
  lambdalake ingest events events.ndjson.zst more.csv archive.parquet
  kubectl logs app | lambdalake ingest events -
  zcat *.gz | lambdalake ingest events --idempotency-key load-7 -   may be run again as well
  lambdalake ingest events --json big.csv | jq .accepted

Exit code 2 means that lines were rejected; everything else has been stored."
)]
pub struct IngestArgs {
    /// Stream to send to. The server creates it if it may.
    pub stream: String,
    /// Files to send, in this order; - is stdin.
    #[arg(value_name = "FILE", default_value = "-")]
    pub files: Vec<PathBuf>,
    /// Format of the input; auto looks at the beginning of each file.
    #[arg(long, env = "LAMBDALAKE_INGEST_FORMAT", default_value = "auto")]
    pub format: IngestFormat,
    /// Size of one request [default: 4MiB]. Only for stdin and with --no-idempotency-key. JSON
    /// documents, Parquet and Arrow are always one request.
    #[arg(
        long,
        env = "LAMBDALAKE_INGEST_BATCH_BYTES",
        value_name = "SIZE",
        value_parser = settings::size::<usize>
    )]
    pub batch_bytes: Option<usize>,
    /// Prefix of the requests' keys: makes stdin repeatable, and files with the same path and
    /// first line, of another machine say, other ones.
    #[arg(
        long,
        env = "LAMBDALAKE_INGEST_IDEMPOTENCY_KEY",
        value_name = "PREFIX",
        value_parser = key_prefix
    )]
    pub idempotency_key: Option<String>,
    /// Store the input even if it was sent before.
    #[arg(
        long,
        env = "LAMBDALAKE_INGEST_NO_IDEMPOTENCY_KEY",
        conflicts_with = "idempotency_key"
    )]
    pub no_idempotency_key: bool,
    /// Print the summary as one JSON object.
    #[arg(long, env = "LAMBDALAKE_INGEST_JSON")]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Formats that `ingest` can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IngestFormat {
    /// Look at the beginning of each file.
    Auto,
    /// One JSON object per line.
    Ndjson,
    /// One JSON array of objects, or one object, however many lines it takes.
    Json,
    /// Access log, Combined Log Format (Apache, nginx).
    Combined,
    /// Access log, Common Log Format.
    Common,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow IPC, file or stream.
    Arrow,
}

/// Run SQL and print the answer; without SQL, an interactive shell or a script from stdin.
#[derive(Debug, Args)]
#[command(
    long_about = "Run SQL and print the answer.\n\n\
    Without SQL on a terminal this is an interactive shell: statements end with a semicolon, \
    \\? lists its commands, Ctrl-C cancels the running query. With - or without a terminal it \
    reads a script from stdin: statements that end with a semicolon, run one after the other \
    until one fails; backslash commands work there too. Answers are written as they come; one \
    that breaks off is an error, never a shorter answer.",
    after_help = "\
Examples:
  lambdalake sql                                            the shell
  lambdalake sql 'SELECT status, count(*) FROM access_log GROUP BY status'
  lambdalake sql --format csv 'SELECT * FROM by_status' > by_status.csv
  lambdalake sql --output by_status.parquet --format parquet 'SELECT * FROM by_status'
  lambdalake sql --param 1=404 'SELECT count(*) FROM access_log WHERE status = $1'
  lambdalake sql --param from=2026-01-01 'SELECT count(*) FROM access_log WHERE ts >= $from'
  lambdalake sql --timeout 5min 'SELECT count(DISTINCT path) FROM access_log'
  lambdalake sql < views.sql
  lambdalake sql --layer batch 'SELECT sum(n) FROM by_status'

Both layers must agree at every moment, in one query:
  lambdalake sql 'SELECT (SELECT coalesce(sum(n), 0) FROM by_status)
                       = (SELECT count(*) FROM access_log) AS exact'

Exit code 2 means that a statement was refused, 1 that an answer broke off."
)]
pub struct SqlArgs {
    /// The SQL text; - reads a script from stdin. Without it: the shell, or stdin.
    pub query: Option<String>,
    /// Format of the answer. Default: table on a terminal, ndjson in a pipe or file.
    #[arg(long, env = "LAMBDALAKE_SQL_FORMAT")]
    pub format: Option<SqlFormat>,
    /// File to write the answer to. It is replaced when the answer is complete.
    #[arg(long, short, env = "LAMBDALAKE_SQL_OUTPUT", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Value of $1 or $name in the SQL; repeatable. Numbers, true, false and null are taken
    /// as such, everything else as text; \"quotes\" make text of a number.
    #[arg(
        long = "param",
        short,
        env = "LAMBDALAKE_SQL_PARAM",
        value_name = "NAME=VALUE"
    )]
    pub params: Vec<String>,
    /// Longest time for each statement. Default: the server's.
    #[arg(
        long,
        env = "LAMBDALAKE_SQL_TIMEOUT",
        value_name = "DURATION",
        value_parser = settings::duration
    )]
    pub timeout: Option<Duration>,
    /// Layer that views are read from. Default: merged, which is the exact answer.
    #[arg(long, env = "LAMBDALAKE_SQL_LAYER")]
    pub layer: Option<Layer>,
    /// History of the shell. Default: $XDG_STATE_HOME/lambdalake/history if that is set,
    /// otherwise ~/.lambdalake_history.
    #[arg(long, env = "LAMBDALAKE_HISTORY", value_name = "FILE")]
    pub history: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Formats of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SqlFormat {
    /// Aligned columns, for reading.
    Table,
    /// One JSON document with types, rows and statistics.
    Json,
    /// One JSON object per row.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Arrow IPC stream.
    Arrow,
    /// Apache Parquet file, compressed with zstd.
    Parquet,
}

impl SqlFormat {
    /// Bytes that a terminal must not see, and of which each file holds one answer.
    pub fn is_binary(self) -> bool {
        matches!(self, SqlFormat::Arrow | SqlFormat::Parquet)
    }
}

/// The layer that views are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layer {
    /// Only what the last recompute covered.
    Batch,
    /// Only what came after it.
    Speed,
    /// Both, which is every event.
    Merged,
}

/// Recompute a view from the master dataset.
#[derive(Debug, Args)]
#[command(
    long_about = "Recompute a view from the master dataset and wait for the result.\n\n\
    The view stays readable and exact meanwhile. Before the new version is published it is \
    audited against the old version and the speed layer. Ctrl-C ends this command and \
    not the run, and says how to cancel it.",
    after_help = "\
Examples:
  lambdalake recompute by_status
  lambdalake recompute by_status --no-wait     prints the run id and returns
  lambdalake recompute --all                   every view, one after the other

Exit code 1 means that a run failed, for example because its audit found a difference."
)]
pub struct RecomputeArgs {
    /// View to recompute.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub view: Option<String>,
    /// Recompute every view; one that fails does not keep the others from it.
    #[arg(long, env = "LAMBDALAKE_RECOMPUTE_ALL")]
    pub all: bool,
    /// Start the run, print its id and return.
    #[arg(long, env = "LAMBDALAKE_RECOMPUTE_NO_WAIT")]
    pub no_wait: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Show what recomputes did and do, or cancel one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lambdalake runs
  lambdalake runs --view by_status --limit 5
  lambdalake runs 1764000000000000-by_status   all that is known of one
  lambdalake runs --follow                     goes on with a line for each change
  lambdalake runs --cancel 1764000000000000-by_status

started by is the trigger that was due, or request, new_view, new_columns or
damaged_states.")]
pub struct RunsArgs {
    /// Show all of this run; why it failed is not shortened.
    #[arg(value_name = "RUN", conflicts_with_all = ["view", "follow", "cancel"])]
    pub run: Option<String>,
    /// Only runs of this view.
    #[arg(long, value_name = "VIEW", env = "LAMBDALAKE_RUNS_VIEW")]
    pub view: Option<String>,
    /// Show so many runs, the newest.
    #[arg(
        long,
        value_name = "RUNS",
        default_value_t = 20,
        env = "LAMBDALAKE_RUNS_LIMIT"
    )]
    pub limit: usize,
    /// Go on with a line for each run that begins or ends, until interrupted; on a terminal with a
    /// bar for each that runs.
    #[arg(long, env = "LAMBDALAKE_RUNS_FOLLOW")]
    pub follow: bool,
    /// Print each run as a JSON object.
    #[arg(long, env = "LAMBDALAKE_RUNS_JSON")]
    pub json: bool,
    /// Cancel this run; the version before it stays.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["view", "follow", "json"],
        env = "LAMBDALAKE_RUNS_CANCEL")]
    pub cancel: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Show what is wrong, what is fresh and what runs on a server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lambdalake status
  lambdalake status --url http://lake.internal:7700
  lambdalake status --json | jq '.problems[]'
  lambdalake status --json | jq '.views[] | {name, lag_events}'

First what is wrong: streams that stopped, workers that fail, views whose newest recompute failed,
and why. Then streams, views with their last run, and runs that go on or wait. lag events are those
that the last flush or recompute has not covered (answers have them), freshness is the age of the
newest event that a query sees, made the age of the version.
Exit code 1 means that the server answers and takes no traffic; problems alone are 0.")]
pub struct StatusArgs {
    /// Print everything the server tells as one JSON object.
    #[arg(long, env = "LAMBDALAKE_STATUS_JSON")]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Check a data folder that no server uses, or views of a server, for damage.
#[derive(Debug, Args)]
#[command(
    long_about = "Check a data folder for damage, and change nothing in it.\n\n\
    It takes the folder's lock, so a server that runs there has to be stopped first; a copy of the \
    folder can be checked at any time. Checked are the publications, each file that the newest one \
    names (length and checksum), the events of every master file (each offset once), the log, the \
    states of views, and the Delta tables. With --deep, every view is also computed from scratch \
    and compared with its stored states. What a crash left behind is no damage; the next start \
    removes it.\n\n\
    With --view or --all-views it has a running server compare the stored states of views with \
    a recompute instead (VERIFY MATERIALIZED VIEW), which publishes nothing. It waits for a run of \
    the view before. Ctrl-C ends this command and not the run.",
    after_help = "\
Examples:
  lambdalake verify --data-dir /var/lib/lambdalake
  lambdalake verify --deep
  lambdalake verify --output json | jq '.checks[].findings[]'
  lambdalake verify --view by_status --view by_path
  lambdalake verify --all-views --output json | jq '.runs[].differences[]'

Exit codes: 0 all is well, 4 damage was found, 1 something could not be checked, 2 bad arguments."
)]
pub struct VerifyArgs {
    /// The data folder.
    #[arg(
        long,
        env = "LAMBDALAKE_DATA_DIR",
        value_name = "DIR",
        default_value = "./lambdalake-data"
    )]
    pub data_dir: PathBuf,
    /// Compute every view from scratch as well, and compare.
    #[arg(long, env = "LAMBDALAKE_VERIFY_DEEP")]
    pub deep: bool,
    /// Form of the report.
    #[arg(long, env = "LAMBDALAKE_VERIFY_OUTPUT", default_value = "text")]
    pub output: VerifyOutput,
    /// Have the server check this view; repeatable.
    #[arg(long = "view", value_name = "VIEW", env = "LAMBDALAKE_VERIFY_VIEW")]
    pub views: Vec<String>,
    /// Have the server check every view.
    #[arg(long, conflicts_with = "views", env = "LAMBDALAKE_VERIFY_ALL_VIEWS")]
    pub all_views: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

impl VerifyArgs {
    /// Whether a server is asked, and no folder is looked at.
    pub fn asks_a_server(&self) -> bool {
        self.all_views || !self.views.is_empty()
    }

    /// Says what is wrong with flags of the other of the two. Variables may be set for other
    /// commands: they are no contradiction.
    fn contradiction(&self, given: &ArgMatches) -> Option<&'static str> {
        let is_written = |id| given.value_source(id) == Some(ValueSource::CommandLine);
        match self.asks_a_server() {
            true if is_written("data_dir") || is_written("deep") => Some(
                "--data-dir and --deep check a folder, --view and --all-views ask a server: \
                 one of them at a time",
            ),
            false if is_written("url") => Some("--url needs --view or --all-views"),
            _ => None,
        }
    }
}

/// Forms of the report of `verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerifyOutput {
    /// A line for each check, and below it what was found.
    Text,
    /// One JSON object.
    Json,
}

/// Start an engine on a temporary folder, feed it and show exact answers.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lambdalake demo                              made-up access log, keeps serving until Ctrl-C
  lambdalake demo --once --events 100000       ends by itself
  lambdalake demo --input /var/log/nginx/access.log")]
pub struct DemoArgs {
    /// Events to use instead of made-up ones: an access log or NDJSON, .gz as well.
    #[arg(long, env = "LAMBDALAKE_DEMO_INPUT", value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// End after the last step instead of serving until Ctrl-C.
    #[arg(long, env = "LAMBDALAKE_DEMO_ONCE")]
    pub once: bool,
    /// Number of made-up events.
    #[arg(long, env = "LAMBDALAKE_DEMO_EVENTS", default_value_t = 200_000)]
    pub events: u64,
    /// Address and port of the demo's HTTP server.
    #[arg(
        long,
        env = "LAMBDALAKE_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7700"
    )]
    pub listen: SocketAddr,
}

/// Put the engine through random steps and faults in a simulated world.
///
/// Power cuts that lose what was not synced, torn and short writes, failed syncs and a full disk,
/// between and in the middle of ingest, flushes, recomputes and starts. After every step everything
/// acknowledged must be there exactly once, and every view must equal a plain pass over it. Nothing
/// on this machine is touched except for temporary files. A failure prints the seed and the shortest
/// list of steps that was found.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lambdalake selftest                          a random seed, about a minute
  lambdalake selftest --seed 7                 the same run every time
  lambdalake selftest --minutes 60             seed after seed for an hour")]
pub struct SelftestArgs {
    /// The first seed; the next ones count up. Random if it is not given.
    #[arg(long, env = "LAMBDALAKE_SELFTEST_SEED")]
    pub seed: Option<u64>,
    /// Begin further runs until so many minutes are over; at least one run is done.
    #[arg(long, env = "LAMBDALAKE_SELFTEST_MINUTES", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub minutes: u64,
    /// Steps of one run. A flush and a recompute may have more within them.
    #[arg(long, env = "LAMBDALAKE_SELFTEST_STEPS", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub steps: u32,
}

/// Print every setting of the engine, for a file or a page.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lambdalake settings > lambdalake.toml        an example file, all defaults
  lambdalake settings --markdown               the page of the documentation")]
pub struct SettingsArgs {
    /// A TOML file with every setting commented out. The default.
    #[arg(long, env = "LAMBDALAKE_SETTINGS_TOML", conflicts_with = "markdown")]
    pub toml: bool,
    /// The page of the documentation.
    #[arg(long, env = "LAMBDALAKE_SETTINGS_MARKDOWN")]
    pub markdown: bool,
}

/// Write made-up events to stdout.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(subcommand)]
    pub kind: GenerateKind,
}

#[derive(Debug, Subcommand)]
pub enum GenerateKind {
    AccessLog(AccessLogArgs),
}

/// A web server's access log. The same seed writes the same bytes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lambdalake generate access-log --events 1000000 --seed 7 > access.log
  lambdalake generate access-log --format ndjson | lambdalake ingest access_log -")]
pub struct AccessLogArgs {
    /// Number of events.
    #[arg(long, env = "LAMBDALAKE_GENERATE_EVENTS", default_value_t = 100_000)]
    pub events: u64,
    /// Start of the random numbers.
    #[arg(long, env = "LAMBDALAKE_GENERATE_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Format of the events.
    #[arg(long, env = "LAMBDALAKE_GENERATE_FORMAT", default_value = "combined")]
    pub format: GenerateFormat,
}

/// Formats that `generate` can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GenerateFormat {
    /// Combined Log Format.
    Combined,
    /// One JSON object per line.
    Ndjson,
}

/// Longest prefix of idempotency keys: a server takes keys of 255 characters.
const MAX_KEY_PREFIX_CHARS: usize = 128;

fn key_prefix(text: &str) -> Result<String, String> {
    let is_printable = text.chars().all(|c| c.is_ascii_graphic());
    if text.is_empty() || text.len() > MAX_KEY_PREFIX_CHARS || !is_printable {
        return Err(format!(
            "use 1 to {MAX_KEY_PREFIX_CHARS} ASCII characters without blanks"
        ));
    }
    Ok(text.to_owned())
}

fn server_url(text: &str) -> Result<Url, String> {
    let url: Url = text
        .parse()
        .map_err(|error| format!("{error}; write for example http://127.0.0.1:7700"))?;
    match (url.scheme(), url.host_str()) {
        ("http", Some(_)) => Ok(url),
        (scheme, _) => Err(format!(
            "only http:// is supported, not {scheme}://; put a proxy in front for TLS"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let built_in = ["help", "version"].contains(&argument.get_id().as_str());
                if argument.is_positional() || built_in {
                    continue;
                }
                let env = argument.get_env().and_then(|env| env.to_str());
                assert!(
                    env.is_some_and(|env| env.starts_with("LAMBDALAKE_")),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn only_http_servers_are_accepted() {
        assert!(server_url("http://lake:7700/prefix").is_ok());
        assert!(server_url("https://lake").is_err());
        assert!(server_url("lake:7700").is_err());
        assert!(server_url("7700").is_err());
    }
}

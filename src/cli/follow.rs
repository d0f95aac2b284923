//! Follows a run to its end, by the events that the server sends of it, with a bar on a terminal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::args::DEFAULT_URL;
use super::client::Client;
use super::interrupt::on_interrupt;
use super::{ClientError, table};

/// Streams in a row that tell nothing before the server is given up.
const SILENT_STREAMS: u32 = 4;

/// Pause before the next stream, if one was broken off.
const PAUSE: Duration = Duration::from_millis(200);

/// The code of a process that Ctrl-C has ended.
const INTERRUPTED: i32 = 128 + 2;

/// What the server tells of a run. A field that is missing is not known yet.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Run {
    pub status: String,
    pub phase: Option<String>,
    pub rows_read: u64,
    pub rows_total: u64,
    pub bytes_read: u64,
    pub bytes_total: u64,
    pub files_read: u64,
    pub files_total: u64,
    pub eta_ms: Option<u64>,
    pub duration_ms: u64,
    pub audit: Value,
    pub groups_compared: u64,
    pub differences: Vec<Value>,
    /// Stored states that it found damaged.
    pub damaged: Vec<String>,
    pub error: Value,
}

impl Run {
    /// As the server describes it; what cannot be read of it is not known.
    pub fn of(run: &Value) -> Self {
        Self::deserialize(run).unwrap_or_default()
    }

    /// What it does now and how long it may take: `reading 25%, 3.4 s left`. Empty once it has ended.
    pub fn briefly(&self) -> String {
        let mut doing = self.phase.clone().unwrap_or_default();
        if doing == "reading"
            && let Some(percent) = (self.rows_read * 100).checked_div(self.rows_total)
        {
            doing = format!("{doing} {percent}%");
        }
        let left = self.left().map(|left| format!(", {left}"));
        doing + &left.unwrap_or_default()
    }

    fn left(&self) -> Option<String> {
        let left = Duration::from_millis(self.eta_ms?);
        Some(format!("{} left", table::age(left)))
    }

    /// What it does now, how far it is and how long it may take.
    fn doing(&self) -> String {
        let mut doing = vec![self.phase.clone().unwrap_or_default()];
        if self.files_total > 0 {
            doing.push(format!("{}/{} files", self.files_read, self.files_total));
            let (read, total) = (HumanBytes(self.bytes_read), HumanBytes(self.bytes_total));
            doing.push(format!("{read}/{total}"));
        }
        doing.extend(self.left());
        doing.join(", ")
    }
}

/// Looks at the run until it is over. A server that is gone ends that, too.
pub fn follow(
    client: &Client,
    run_id: &str,
    on_progress: impl Fn(&Run),
) -> Result<Run, ClientError> {
    let url = client.url(&["api", "v1", "runs", run_id, "events"], &[]);
    let unexpected = |reason: String| ClientError::UnexpectedAnswer {
        url: url.to_string(),
        reason,
    };
    let mut silent = 0;
    while silent < SILENT_STREAMS {
        silent += 1;
        // What breaks off is begun again: each event tells all there is.
        for event in client.events(&url)?.map_while(Result::ok) {
            let run: Run =
                serde_json::from_str(&event.data).map_err(|error| unexpected(error.to_string()))?;
            match event.name.as_str() {
                "end" => return Ok(run),
                "progress" => on_progress(&run),
                _ => {}
            }
            silent = 0;
        }
        std::thread::sleep(PAUSE);
    }
    Err(unexpected("it ends without telling anything".to_owned()))
}

/// How far a run is, on stderr; hidden by itself when that is not a terminal.
#[derive(Clone)]
pub struct RunBar(ProgressBar);

impl RunBar {
    pub fn new(view: &str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3}% {msg}");
        let bar = ProgressBar::new(1).with_prefix(view.to_owned());
        Self(bar.with_style(style.unwrap_or(ProgressStyle::default_bar())))
    }

    /// The same as one of several.
    pub fn among(self, bars: &indicatif::MultiProgress) -> Self {
        Self(bars.add(self.0))
    }

    pub fn show(&self, run: &Run) {
        // Before it is known what there is to read, nothing of it is; of nothing, all would be.
        self.0.set_length(run.rows_total.max(1));
        self.0.set_position(run.rows_read);
        self.0.set_message(run.doing());
    }

    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Follows one run after the other. Ctrl-C ends the process, not the run, and says so.
pub struct Follower<'a> {
    client: &'a Client,
    /// A plain mutex: held for a moment, also by the thread that Ctrl-C wakes.
    followed: Arc<Mutex<Option<Followed>>>,
}

struct Followed {
    view: String,
    run_id: String,
    /// What waits for its end.
    to_start: Option<String>,
    bar: RunBar,
}

impl<'a> Follower<'a> {
    /// Takes Ctrl-C over for the rest of this process. `url` is the address of the server.
    pub fn begin(client: &'a Client, url: &Url) -> anyhow::Result<Self> {
        let followed = Arc::default();
        let (interrupted, url) = (Arc::clone(&followed), url.clone());
        on_interrupt(move || {
            if let Some(followed) = lock(&interrupted).take() {
                followed.bar.clear();
                eprintln!("{}", goes_on(&followed, &url));
            }
            std::process::exit(INTERRUPTED);
        })?;
        Ok(Self { client, followed })
    }

    pub fn follow(&self, view: &str, run_id: &str) -> Result<Run, ClientError> {
        self.follow_to_start(view, run_id, None)
    }

    /// Follows a run that is in the way of another, a `recompute` or `verify`.
    pub fn follow_to_start(
        &self,
        view: &str,
        run_id: &str,
        to_start: Option<&str>,
    ) -> Result<Run, ClientError> {
        let bar = RunBar::new(view);
        *lock(&self.followed) = Some(Followed {
            view: view.to_owned(),
            run_id: run_id.to_owned(),
            to_start: to_start.map(str::to_owned),
            bar: bar.clone(),
        });
        let run = follow(self.client, run_id, |run| bar.show(run));
        *lock(&self.followed) = None;
        bar.clear();
        run
    }
}

fn lock(followed: &Mutex<Option<Followed>>) -> MutexGuard<'_, Option<Followed>> {
    // An Option is whole whatever panicked while it was locked.
    followed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of a run that nobody follows any more.
fn goes_on(followed: &Followed, url: &Url) -> String {
    let Followed { view, run_id, .. } = followed;
    if let Some(what) = &followed.to_start {
        return format!(
            "no {what} of {view} was started; run {run_id}, which it waited for, goes on"
        );
    }
    let server = match url.as_str().trim_end_matches('/') {
        DEFAULT_URL => String::new(),
        other => format!(" --url {other}"),
    };
    format!(
        "run {run_id} of {view} goes on; to cancel it: lambdalake runs{server} --cancel {run_id}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_a_line() {
        let mut run = Run {
            phase: Some("queued".to_owned()),
            ..Run::default()
        };
        assert_eq!(run.doing(), "queued");
        run = Run {
            phase: Some("reading".to_owned()),
            files_read: 3,
            files_total: 12,
            bytes_read: 1 << 20,
            bytes_total: 4 << 20,
            ..run
        };
        assert_eq!(run.doing(), "reading, 3/12 files, 1.00 MiB/4.00 MiB");
        run.eta_ms = Some(12_345);
        assert_eq!(
            run.doing(),
            "reading, 3/12 files, 1.00 MiB/4.00 MiB, 12.3 s left"
        );
        (run.rows_read, run.rows_total) = (1, 4);
        assert_eq!(run.briefly(), "reading 25%, 12.3 s left");
        run.phase = Some("sorting".to_owned());
        assert_eq!(run.briefly(), "sorting, 12.3 s left");
        assert_eq!(Run::default().briefly(), "");
    }

    #[test]
    fn the_command_that_cancels_names_the_server_if_it_must() {
        let mut followed = Followed {
            view: "v".to_owned(),
            run_id: "7-v".to_owned(),
            to_start: None,
            bar: RunBar::new("v"),
        };
        let said = |url: &str| goes_on(&followed, &url.parse().expect("an address"));
        assert_eq!(
            said(DEFAULT_URL),
            "run 7-v of v goes on; to cancel it: lambdalake runs --cancel 7-v"
        );
        let other = said("http://lake:7700/x/");
        assert!(
            other.ends_with("lambdalake runs --url http://lake:7700/x --cancel 7-v"),
            "{other}"
        );
        followed.to_start = Some("verify".to_owned());
        let waited = goes_on(&followed, &DEFAULT_URL.parse().expect("an address"));
        assert_eq!(
            waited,
            "no verify of v was started; run 7-v, which it waited for, goes on"
        );
    }
}

//! The interactive shell: what is typed, its history and completion. What it does with a line
//! is the session's business.

pub mod complete;
pub mod interrupt;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context as _;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use self::complete::Names;
use self::interrupt::Interrupt;
use super::Exit;
use super::session::{Flow, Origin, Session};
use super::statements::is_whole;

/// Statements kept in the history.
const HISTORY_STATEMENTS: usize = 10_000;
const PROMPT: &str = "lambdalake> ";

/// Reads and runs until `\q` or Ctrl-D.
pub fn run(mut session: Session, history: Option<&Path>) -> anyhow::Result<Exit> {
    let names = Rc::new(RefCell::new(Names::default()));
    // A server that is not there is told before anything is typed.
    *names.borrow_mut() = Names::fetch(session.client())?;
    session.has_new_names = false;
    session.make_interactive(Interrupt::install().context("cannot watch for Ctrl-C")?);
    let config = Config::builder()
        .max_history_size(HISTORY_STATEMENTS)?
        .history_ignore_dups(true)?
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<ShellHelper, DefaultHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(ShellHelper(Rc::clone(&names))));
    let history = history.map(Path::to_path_buf).or_else(default_history);
    if let Some(history) = &history
        && history.exists()
        && let Err(error) = editor.load_history(history)
    {
        eprintln!("warning: cannot read {}: {error}", history.display());
    }
    println!("Statements end with a semicolon; \\? shows help, \\q leaves.");
    loop {
        let input = match editor.readline(PROMPT) {
            Ok(input) => input,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        if input.trim().is_empty() {
            continue;
        }
        remember(&mut editor, history.as_deref(), &input);
        match session.script(input.as_bytes(), Origin::Person) {
            Ok(Flow::Continue) => {}
            Ok(Flow::Quit) => break,
            Err(error) => drop(Exit::report(Err(error))),
        }
        if session.has_new_names {
            session.has_new_names = false;
            // Completion with old names is better than an error about it.
            if let Ok(fresh) = Names::fetch(session.client()) {
                *names.borrow_mut() = fresh;
            }
        }
    }
    session.finish()?;
    Ok(Exit::Ok)
}

/// At once, so that a crash loses nothing. A history that cannot be written is said once.
fn remember(editor: &mut Editor<ShellHelper, DefaultHistory>, history: Option<&Path>, input: &str) {
    let is_new = editor.add_history_entry(input.trim_end()).unwrap_or(false);
    let Some(path) = history.filter(|_| is_new) else {
        return;
    };
    let written = match path.parent() {
        Some(folder) if !folder.exists() => std::fs::create_dir_all(folder).map_err(Into::into),
        _ => Ok(()),
    }
    .and_then(|()| editor.append_history(path));
    if let Err(error) = written {
        eprintln!("warning: cannot write {}: {error}", path.display());
    }
}

/// `$XDG_STATE_HOME/lambdalake/history` if the variable is set, else `~/.lambdalake_history`.
fn default_history() -> Option<PathBuf> {
    let folder = |name: &str| {
        let folder = std::env::var_os(name).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    match folder("XDG_STATE_HOME") {
        Some(state) => Some(state.join("lambdalake").join("history")),
        None => folder("HOME").map(|home| home.join(".lambdalake_history")),
    }
}

/// What the line editor asks while somebody types.
struct ShellHelper(Rc<RefCell<Names>>);

impl Helper for ShellHelper {}
impl Highlighter for ShellHelper {}

impl Hinter for ShellHelper {
    type Hint = String;
}

impl Validator for ShellHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let input = context.input();
        let is_command = input.trim_start().starts_with('\\');
        Ok(match is_command || is_whole(input) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for ShellHelper {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.0.borrow().complete(&line[..position]))
    }
}

//! The backslash commands of the shell and of scripts.

use std::path::PathBuf;

use clap::ValueEnum;

use super::ClientError;
use super::args::{Layer, SqlFormat};
use super::query::name;

/// Shown by `\?`.
pub const HELP: &str = r"Statements end with a semicolon and may take many lines. Tab completes names.

  \d            streams and views
  \d NAME       columns, definition and comment of a stream or view
  \l, \ds       streams
  \dv           views
  \timing [on|off]   time, events read from batch and speed, freshness
  \x [on|off]   one block for each row instead of a table
  \format [FORMAT]   table, json, ndjson, csv, arrow or parquet
  \layer [LAYER]     read views from batch, speed or merged (both)
  \o [FILE]     write answers to a file; without a name, to the terminal again
  \i FILE       run the statements of a file
  \?            this help
  \q            leave (Ctrl-D too)

Ctrl-C cancels the running query or the line that is being typed.
";

/// Every command, for completion.
pub const NAMES: &[&str] = &[
    "\\?", "\\d", "\\ds", "\\dv", "\\format", "\\i", "\\l", "\\layer", "\\o", "\\q", "\\timing",
    "\\x",
];

/// A backslash command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meta {
    Tables,
    Describe(String),
    Streams,
    Views,
    /// None turns it over.
    Timing(Option<bool>),
    Expanded(Option<bool>),
    /// None only shows it.
    Format(Option<SqlFormat>),
    Layer(Option<Layer>),
    /// None is stdout.
    Output(Option<PathBuf>),
    Include(PathBuf),
    Help,
    Quit,
}

impl Meta {
    /// Parses a line that begins with a backslash.
    pub fn parse(line: &str) -> Result<Meta, ClientError> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (command, argument) = match line.split_once(char::is_whitespace) {
            Some((command, argument)) => (command, Some(argument.trim())),
            None => (line, None),
        };
        let required = || argument.ok_or_else(|| bad(format!("{command} needs a file name")));
        let meta = match command {
            "\\d" => match argument {
                Some(name) => return Ok(Meta::Describe(folded(name))),
                None => Meta::Tables,
            },
            "\\timing" => return Ok(Meta::Timing(switch(command, argument)?)),
            "\\x" => return Ok(Meta::Expanded(switch(command, argument)?)),
            "\\format" => return Ok(Meta::Format(one_of(command, argument)?)),
            "\\layer" => return Ok(Meta::Layer(one_of(command, argument)?)),
            "\\o" => return Ok(Meta::Output(argument.map(PathBuf::from))),
            "\\i" => return Ok(Meta::Include(PathBuf::from(required()?))),
            "\\l" | "\\ds" => Meta::Streams,
            "\\dv" => Meta::Views,
            "\\?" | "\\h" => Meta::Help,
            "\\q" => Meta::Quit,
            _ => return Err(bad(format!("there is no command {command}; \\? shows all"))),
        };
        match argument {
            None => Ok(meta),
            Some(_) => Err(bad(format!("{command} takes nothing after it"))),
        }
    }
}

fn bad(message: String) -> ClientError {
    ClientError::BadInput(message)
}

fn switch(command: &str, argument: Option<&str>) -> Result<Option<bool>, ClientError> {
    match argument {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(other) => Err(bad(format!("{command} is on or off, not {other}"))),
    }
}

fn one_of<T: ValueEnum>(command: &str, argument: Option<&str>) -> Result<Option<T>, ClientError> {
    let Some(argument) = argument else {
        return Ok(None);
    };
    match T::from_str(argument, true) {
        Ok(value) => Ok(Some(value)),
        Err(_) => {
            let all: Vec<String> = T::value_variants()
                .iter()
                .map(|value| name(value.clone()))
                .collect();
            Err(bad(format!("{command} takes one of {}", all.join(", "))))
        }
    }
}

/// A name as SQL means it: lower case unless quoted.
fn folded(name: &str) -> String {
    match name.strip_prefix('"').and_then(|it| it.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        for (line, meta) in [
            ("\\d", Meta::Tables),
            ("\\d Logs;", Meta::Describe("logs".to_owned())),
            ("\\d \"Logs\"", Meta::Describe("Logs".to_owned())),
            ("  \\l ", Meta::Streams),
            ("\\timing", Meta::Timing(None)),
            ("\\timing on", Meta::Timing(Some(true))),
            ("\\x off", Meta::Expanded(Some(false))),
            ("\\format CSV", Meta::Format(Some(SqlFormat::Csv))),
            ("\\layer batch", Meta::Layer(Some(Layer::Batch))),
            ("\\o a b.csv", Meta::Output(Some(PathBuf::from("a b.csv")))),
            ("\\o", Meta::Output(None)),
            ("\\i\tviews.sql", Meta::Include(PathBuf::from("views.sql"))),
            ("\\q", Meta::Quit),
        ] {
            assert_eq!(Meta::parse(line).unwrap(), meta, "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_explained() {
        for (line, reason) in [
            ("\\nope", "there is no command \\nope; \\? shows all"),
            ("\\x maybe", "\\x is on or off, not maybe"),
            ("\\layer all", "\\layer takes one of batch, speed, merged"),
            ("\\i", "\\i needs a file name"),
            ("\\q now", "\\q takes nothing after it"),
        ] {
            assert_eq!(Meta::parse(line).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn the_help_names_every_command() {
        for name in NAMES {
            assert!(HELP.contains(name), "{name}");
            assert!(!Meta::parse(name).is_err_and(|e| e.to_string().contains("no command")));
        }
    }
}

//! Completion of keywords, tables, columns and backslash commands.

use std::collections::BTreeMap;

use clap::ValueEnum;

use crate::cli::ClientError;
use crate::cli::args::{Layer, SqlFormat};
use crate::cli::client::Client;
use crate::cli::describe::catalog;
use crate::cli::meta;
use crate::cli::query::name;

/// Words of the SQL that the server understands.
const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "AS",
    "ASC",
    "avg",
    "BETWEEN",
    "BIGINT",
    "BOOLEAN",
    "BY",
    "CASE",
    "CAST",
    "coalesce",
    "COMMENT",
    "count",
    "CREATE",
    "date_trunc",
    "DATE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DOUBLE",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FALSE",
    "FILTER",
    "FLUSH",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IF",
    "IN",
    "INNER",
    "INSERT",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MATERIALIZED",
    "max",
    "min",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "PROVENANCE",
    "RECOMPUTE",
    "REFRESH",
    "RIGHT",
    "SELECT",
    "SHOW",
    "sum",
    "TABLE",
    "TABLES",
    "TEXT",
    "THEN",
    "TIMESTAMP",
    "TRUE",
    "UNION",
    "USING",
    "VALUES",
    "VARCHAR",
    "VIEW",
    "WHEN",
    "WHERE",
    "WITH",
];

/// What the server has, by name.
#[derive(Debug, Default)]
pub struct Names {
    /// Columns of each stream and view.
    tables: BTreeMap<String, Vec<String>>,
}

impl Names {
    /// Asks the server.
    pub fn fetch(client: &Client) -> Result<Names, ClientError> {
        let mut tables = BTreeMap::new();
        for kind in ["streams", "views"] {
            for table in catalog(client, kind)? {
                let Some(name) = table["name"].as_str() else {
                    continue;
                };
                let columns = table["schema"].as_array().map_or(&[][..], Vec::as_slice);
                let columns = columns
                    .iter()
                    .filter(|column| column["hidden"] != true)
                    .filter_map(|column| column["name"].as_str().map(str::to_owned));
                tables.insert(name.to_owned(), columns.collect());
            }
        }
        Ok(Names { tables })
    }

    /// Where the word before the cursor begins, and what it may become.
    pub fn complete(&self, before: &str) -> (usize, Vec<String>) {
        let line = before.trim_start();
        if line.starts_with('\\') {
            return self.complete_command(before, line);
        }
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let start = before.trim_end_matches(is_part).len();
        let word = &before[start..];
        if let Some(owner) = before[..start].strip_suffix('.') {
            let table = &owner[owner.trim_end_matches(is_part).len()..];
            let columns = self.tables.get(&table.to_lowercase());
            return (start, matching(columns.into_iter().flatten(), word));
        }
        if word.is_empty() {
            return (start, Vec::new());
        }
        let mut found = matching(self.tables.keys(), word);
        found.extend(matching(self.tables.values().flatten(), word));
        found.extend(keywords(word));
        found.sort();
        found.dedup();
        (start, found)
    }

    fn complete_command(&self, before: &str, line: &str) -> (usize, Vec<String>) {
        let Some((command, _)) = line.split_once(char::is_whitespace) else {
            let start = before.len() - line.len();
            let names = meta::NAMES.iter().filter(|name| name.starts_with(line));
            return (start, names.map(|name| (*name).to_owned()).collect());
        };
        let start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let word = &before[start..];
        let switch = || vec!["on".to_owned(), "off".to_owned()];
        let all = match command {
            "\\d" => self.tables.keys().cloned().collect(),
            "\\timing" | "\\x" => switch(),
            "\\format" => values::<SqlFormat>(),
            "\\layer" => values::<Layer>(),
            _ => Vec::new(),
        };
        (start, matching(all.iter(), word))
    }
}

fn values<T: ValueEnum>() -> Vec<String> {
    T::value_variants()
        .iter()
        .map(|value| name(value.clone()))
        .collect()
}

/// The names that begin with the word, in quotes where SQL needs them.
fn matching<'a>(names: impl Iterator<Item = &'a String>, word: &str) -> Vec<String> {
    names
        .filter(|name| starts_with(name, word))
        .map(|name| quoted(name))
        .collect()
}

fn starts_with(name: &str, word: &str) -> bool {
    name.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
}

fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    match is_plain {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// Keywords that begin with the word, in the case in which it was begun.
fn keywords(word: &str) -> Vec<String> {
    let is_upper = word.chars().all(|c| c.is_uppercase() || c == '_');
    KEYWORDS
        .iter()
        .filter(|keyword| starts_with(keyword, word))
        .map(|keyword| match is_upper {
            true => keyword.to_uppercase(),
            false => keyword.to_lowercase(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(before: &str) -> (usize, Vec<String>) {
        let tables = [
            ("access_log", vec!["status", "Path", "ts"]),
            ("by_status", vec!["status", "n"]),
        ]
        .into_iter()
        .map(|(name, columns)| {
            let columns = columns.into_iter().map(str::to_owned).collect();
            (name.to_owned(), columns)
        });
        Names {
            tables: tables.collect(),
        }
        .complete(before)
    }

    #[test]
    fn words_become_tables_columns_and_keywords() {
        for (before, start, expected) in [
            ("SELECT * FROM acc", 14, vec!["access_log"]),
            ("SELECT sta", 7, vec!["status"]),
            ("sele", 0, vec!["select"]),
            ("SELE", 0, vec!["SELECT"]),
            ("select by_status.", 17, vec!["status", "n"]),
            ("select access_log.p", 18, vec!["\"Path\""]),
            ("select access_log.STA", 18, vec!["status"]),
            ("select nobody.x", 14, vec![]),
            ("SELECT ", 7, vec![]),
        ] {
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(completed(before), (start, expected), "{before}");
        }
    }

    #[test]
    fn commands_and_their_arguments_are_completed() {
        for (before, start, expected) in [
            ("\\ti", 0, vec!["\\timing"]),
            ("\\d acc", 3, vec!["access_log"]),
            ("\\layer ", 7, vec!["batch", "speed", "merged"]),
            ("\\format par", 8, vec!["parquet"]),
            ("\\x o", 3, vec!["on", "off"]),
            ("\\i fi", 3, vec![]),
        ] {
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(completed(before), (start, expected), "{before}");
        }
    }
}

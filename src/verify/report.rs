//! What was checked and what was found, for people line by line, for programs as one object.

use std::path::Path;

use bytesize::ByteSize;
use lambdalake_data::DataError;
use serde::Serialize;
use serde_json::json;

use crate::cli::Exit;
use crate::cli::args::VerifyOutput;

/// What to do about what cannot be made again.
pub const RESTORE: &str = "put it back from a backup";
/// What to do about what the next start of the server mends.
pub const MENDED: &str = "start the server: it makes this again from the master dataset";

/// How much a check looked at.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Amount {
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// One damaged thing.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Inside the data folder.
    pub path: String,
    pub problem: String,
    pub action: String,
}

/// One line of the report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    /// The kind of check, for programs.
    pub check: &'static str,
    /// The stream or view that was checked; empty for the folder.
    pub subject: String,
    #[serde(flatten)]
    pub amount: Amount,
    /// Damage.
    pub findings: Vec<Finding>,
    /// Why it could not be checked.
    pub unchecked: Vec<String>,
    /// What is worth knowing and no damage.
    pub notes: Vec<String>,
}

impl Check {
    pub fn new(check: &'static str, subject: &str) -> Self {
        Self {
            check,
            subject: subject.to_owned(),
            ..Self::default()
        }
    }

    pub fn found(&mut self, path: &str, problem: impl Into<String>, action: &str) {
        self.findings.push(Finding {
            path: path.to_owned(),
            problem: problem.into(),
            action: action.to_owned(),
        });
    }

    /// Sorts an error of reading: damage is found, everything else kept us from looking.
    pub fn failed(&mut self, path: &str, error: &DataError, action: &str) {
        match DataError::damage_in(error) {
            Some((path, reason)) => self.found(&path.to_string_lossy(), reason, action),
            None => self.unchecked.push(format!("{path}: {error}")),
        }
    }

    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.unchecked.is_empty()
    }

    fn print(&self) {
        let mark = match (self.findings.is_empty(), self.unchecked.is_empty()) {
            (false, _) => "DAMAGED",
            (true, false) => "UNKNOWN",
            (true, true) => "ok",
        };
        let Amount { files, rows, bytes } = self.amount;
        let bytes = ByteSize(bytes);
        let title = format!("{} {}", self.check, self.subject);
        println!("{mark:<8} {title:<32} files {files}, rows {rows}, {bytes}");
        for finding in &self.findings {
            println!("         {}: {}", finding.path, finding.problem);
            println!("           -> {}", finding.action);
        }
        for reason in &self.unchecked {
            println!("         not checked: {reason}");
        }
        for note in &self.notes {
            println!("         note: {note}");
        }
    }
}

/// All checks so far.
pub struct Report {
    output: VerifyOutput,
    checks: Vec<Check>,
}

impl Report {
    pub fn new(output: VerifyOutput) -> Self {
        Self {
            output,
            checks: Vec::new(),
        }
    }

    /// Adds a check that has ended; true if nothing was found in it.
    pub fn add(&mut self, check: Check) -> bool {
        if self.output == VerifyOutput::Text {
            check.print();
        }
        let is_sound = check.is_sound();
        self.checks.push(check);
        is_sound
    }

    /// Prints the end, and says how to exit.
    pub fn finish(self, folder: &Path) -> anyhow::Result<Exit> {
        let damage: usize = self.checks.iter().map(|check| check.findings.len()).sum();
        let unchecked: usize = self.checks.iter().map(|check| check.unchecked.len()).sum();
        match self.output {
            VerifyOutput::Json => {
                let report = json!({
                    "data_dir": folder,
                    "clean": damage == 0 && unchecked == 0,
                    "damaged": damage,
                    "unchecked": unchecked,
                    "checks": self.checks,
                });
                println!("{report}");
            }
            VerifyOutput::Text if damage + unchecked == 0 => {
                println!("{} checks: all is well", self.checks.len());
            }
            VerifyOutput::Text => println!(
                "{} checks: {damage} damaged, {unchecked} not checked",
                self.checks.len()
            ),
        }
        Ok(match (damage, unchecked) {
            (0, 0) => Exit::Ok,
            (0, _) => Exit::Other,
            _ => Exit::Damaged,
        })
    }
}

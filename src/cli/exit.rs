//! How a command ends: the error a client command can meet and its exit code.

use std::process::ExitCode;

use crate::settings::SettingsError;

/// How a command ended. Scripts rely on the numbers; they never change meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything asked for was done.
    Ok,
    /// 1: it failed for another reason: a failed run, an error inside the server.
    Other,
    /// 2: the input is at fault: arguments, settings, SQL, or rejected events.
    BadInput,
    /// 3: the server could not be reached, or was still busy after all retries.
    Unreachable,
    /// 4: `verify` found damage.
    Damaged,
}

/// What a client command may run into.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The input is wrong. Correct it; trying again will not help.
    #[error("{0}")]
    BadInput(String),
    /// No answer. Check the address, or try again later.
    #[error("cannot reach {url}: {source}")]
    Unreachable {
        url: String,
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server said no, and why.
    #[error("{0}")]
    Refused(Refusal),
    /// The server's answer is not what its interface promises.
    #[error("{url} gave an unexpected answer: {reason}")]
    UnexpectedAnswer { url: String, reason: String },
}

/// A server's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
    /// Where in the SQL or body, from 1, if the server knows.
    pub line: Option<u64>,
    pub column: Option<u64>,
    /// The place, ready to be shown under the message.
    pub excerpt: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)?;
        match &self.excerpt {
            Some(excerpt) => write!(f, "\n{excerpt}"),
            None => Ok(()),
        }
    }
}

impl Exit {
    /// Prints the error, if there is one, and says how to end.
    pub fn report(outcome: anyhow::Result<Exit>) -> Exit {
        outcome.unwrap_or_else(|error| {
            eprintln!("error: {}", message(&error));
            Exit::of(&error)
        })
    }

    /// The one place that turns errors into exit codes.
    pub(super) fn of(error: &anyhow::Error) -> Exit {
        if error.downcast_ref::<SettingsError>().is_some() {
            return Exit::BadInput;
        }
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::BadInput(_)) => Exit::BadInput,
            Some(ClientError::Unreachable { .. }) => Exit::Unreachable,
            Some(ClientError::Refused(refusal)) => match refusal.status {
                409 if refusal.code == "idempotency_key_in_progress" => Exit::Unreachable,
                429 | 502..=504 => Exit::Unreachable,
                408 => Exit::Other, // Query time-out: the query may be good.
                409 if refusal.code == "run_failed" => Exit::Other,
                400..=499 => Exit::BadInput,
                _ => Exit::Other,
            },
            Some(ClientError::UnexpectedAnswer { .. }) | None => Exit::Other,
        }
    }
}

/// The error with its causes. A client error already tells its cause.
fn message(error: &anyhow::Error) -> String {
    match error.downcast_ref::<ClientError>() {
        Some(_) => error.to_string(),
        None => format!("{error:#}"),
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Ok => 0,
            Exit::Other => 1,
            Exit::BadInput => 2,
            Exit::Unreachable => 3,
            Exit::Damaged => 4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> anyhow::Error {
        refused_with(status, "code")
    }

    fn refused_with(status: u16, code: &str) -> anyhow::Error {
        ClientError::Refused(Refusal {
            status,
            code: code.to_owned(),
            message: "message".to_owned(),
            line: None,
            column: None,
            excerpt: None,
        })
        .into()
    }

    #[test]
    fn errors_map_to_exit_codes_also_under_context() {
        for (status, exit) in [
            (400, Exit::BadInput),
            (404, Exit::BadInput),
            (408, Exit::Other),
            (413, Exit::BadInput),
            (422, Exit::BadInput),
            (429, Exit::Unreachable),
            (500, Exit::Other),
            (503, Exit::Unreachable),
        ] {
            assert_eq!(Exit::of(&refused(status)), exit, "{status}");
            assert_eq!(Exit::of(&refused(status).context("while")), exit);
        }
        assert_eq!(Exit::of(&refused_with(409, "run_failed")), Exit::Other);
        assert_eq!(Exit::of(&refused_with(409, "run_ended")), Exit::BadInput);
        assert_eq!(Exit::of(&anyhow::anyhow!("any")), Exit::Other);
        let settings = SettingsError::NotToml("x".to_owned());
        assert_eq!(Exit::of(&settings.into()), Exit::BadInput);
    }
}

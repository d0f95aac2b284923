//! `lambdalake sql`: one query, a script, or the shell.

use std::io::{self, IsTerminal};

use super::args::SqlArgs;
use super::session::{Origin, Session};
use super::statements::split;
use super::{Exit, shell};

/// Runs the SQL that is given, or else what is typed or comes from stdin.
pub fn run(args: SqlArgs) -> anyhow::Result<Exit> {
    let mut session = Session::new(&args)?;
    match args.query.as_deref() {
        Some(query) if query != "-" => argument(&mut session, query)?,
        None if io::stdin().is_terminal() => return shell::run(session, args.history.as_deref()),
        _ => drop(session.script(io::stdin().lock(), Origin::Script)?),
    }
    session.finish()?;
    Ok(Exit::Ok)
}

/// One statement as it is; several as a script.
fn argument(session: &mut Session, query: &str) -> anyhow::Result<()> {
    let statements = split(query)?;
    let from = match statements.len() {
        0 | 1 => Origin::Person,
        _ => Origin::Script,
    };
    if statements.is_empty() {
        anyhow::bail!(super::ClientError::BadInput(
            "there is no statement in the SQL".to_owned()
        ));
    }
    session.script(query.as_bytes(), from).map(drop)
}

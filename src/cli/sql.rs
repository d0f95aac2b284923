//! `lambdalake sql`: one query or statement, its answer streamed to stdout.

use std::io::{self, ErrorKind, IsTerminal, Read};

use clap::ValueEnum;
use serde_json::json;

use super::args::{SqlArgs, SqlFormat};
use super::client::{Answer, Client, Repeat};
use super::{ClientError, Exit};

/// Sends the SQL and prints the answer as it arrives.
pub fn run(args: SqlArgs) -> anyhow::Result<Exit> {
    let to_terminal = io::stdout().is_terminal();
    let format = args.format.unwrap_or(match to_terminal {
        true => SqlFormat::Table,
        false => SqlFormat::Ndjson,
    });
    if to_terminal && matches!(format, SqlFormat::Arrow | SqlFormat::Parquet) {
        let message = format!(
            "{} is binary and stdout is a terminal; send it to a file or a pipe",
            name(format)
        );
        return Err(ClientError::BadInput(message).into());
    }
    let mut body = json!({ "query": query_text(args.query)? });
    if let Some(layer) = args.layer {
        body["layer"] = json!(name(layer));
    }

    let client = Client::new(&args.server.url);
    let url = client.url(&["api", "v1", "sql"], &[("format", &name(format))]);
    let headers = [("content-type", "application/json")];
    let response = client.post_streamed(
        &url,
        &headers,
        body.to_string().as_bytes(),
        Repeat::Harmful,
        &|wait| {
            let seconds = wait.as_secs_f32();
            eprintln!("the server is busy, trying again in {seconds:.1} s");
        },
    )?;
    if !response.status().is_success() {
        return Err(Answer::read(&url, response)?.into_error().into());
    }
    match copy(response.into_body().into_reader(), io::stdout().lock()) {
        Ok(()) => Ok(Exit::Ok),
        // The reader, `head` for one, has seen enough.
        Err(CopyError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(CopyError::Write(error)) => Err(anyhow::Error::new(error).context("stdout")),
        Err(CopyError::Read(error)) => Err(ClientError::UnexpectedAnswer {
            url: url.to_string(),
            reason: format!("the rows above are not all of them, it broke off: {error}"),
        }
        .into()),
    }
}

fn query_text(query: String) -> Result<String, ClientError> {
    if query != "-" {
        return Ok(query);
    }
    io::read_to_string(io::stdin())
        .map_err(|error| ClientError::BadInput(format!("cannot read SQL from stdin: {error}")))
}

/// The value as the server spells it, which is as the command line spells it.
fn name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Like [`io::copy`], but tells which side failed and gives out each piece at once.
fn copy(mut from: impl Read, mut to: impl io::Write) -> Result<(), CopyError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.flush().map_err(CopyError::Write),
            Ok(read) => to.write_all(&buffer[..read]).map_err(CopyError::Write)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    }
}

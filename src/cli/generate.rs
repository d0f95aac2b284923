//! `lambdalake generate`: made-up but realistic events on stdout, the same for the same seed.

use std::io::{BufWriter, ErrorKind, Write};

use super::args::{GenerateArgs, GenerateFormat, GenerateKind};
use crate::generate::AccessLog;

/// Writes the events. A reader that leaves early (`| head`) is not an error.
pub fn run(args: GenerateArgs) -> anyhow::Result<()> {
    let GenerateKind::AccessLog(log) = args.kind;
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    for event in AccessLog::new(log.seed).take(log.events as usize) {
        let line = match log.format {
            GenerateFormat::Combined => event.combined(),
            GenerateFormat::Ndjson => event.ndjson(),
        };
        match writeln!(out, "{line}") {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

//! What makes two blocks the same: their format, their place in the body, and their bytes.

use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;

use super::block::{Block, CsvRecords, Documents, Lines, Table};
use super::cut::Skipped;
use super::{Format, InputError};
use crate::digest::{Digest, Digester};

impl Block {
    /// The digest of the block as it was sent, decompressed; how it will be read, under which
    /// columns, has no part in it.
    ///
    /// # Errors
    ///
    /// [`InputError::Invalid`] for a table that Arrow cannot write, which no stream could hold.
    pub fn digest(&self) -> Result<Digest, InputError> {
        let mut digester = Digester::default();
        match self {
            Block::Lines(Lines {
                format,
                bytes,
                first,
                skipped,
            }) => text(&mut digester, *format, *first, skipped, bytes),
            Block::Documents(Documents {
                bytes,
                first,
                skipped,
                ..
            }) => text(&mut digester, Format::Json, *first, skipped, bytes),
            Block::Csv(CsvRecords {
                header,
                bytes,
                first,
                skipped,
            }) => {
                for name in header.names() {
                    digester.part(name.as_bytes());
                }
                text(&mut digester, Format::Csv, *first, skipped, bytes);
            }
            Block::Table(block) => table(&mut digester, block).map_err(|error| {
                InputError::invalid("invalid_arrow", format!("the table is not valid: {error}"))
            })?,
        }
        Ok(digester.finish())
    }
}

fn text(digester: &mut Digester, format: Format, first: u64, skipped: &[Skipped], bytes: &[u8]) {
    begin(digester, format, first);
    for record in skipped {
        digester.add(&(record.at as u64).to_le_bytes());
        digester.add(&record.bytes.to_le_bytes());
    }
    digester.part(bytes);
}

fn table(digester: &mut Digester, table: &Table) -> Result<(), ArrowError> {
    begin(digester, table.format, table.first);
    for batch in &table.batches {
        let mut writer = StreamWriter::try_new(&mut *digester, batch.schema_ref())?;
        writer.write(batch)?;
        writer.finish()?;
    }
    Ok(())
}

fn begin(digester: &mut Digester, format: Format, first: u64) {
    digester.part(format.to_string().as_bytes());
    digester.add(&first.to_le_bytes());
}

//! Blocks into batches: row by row for text, columns at once for tables.

use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use super::block::{CsvRecords, Documents, Lines, Place, Table, Target};
use super::cut::Skipped;
use super::decoder::{Decoder, DecoderOptions, Piece};
use super::direct::DirectRows;
use super::shape::Shape;
use super::text::{Row, column, lines};
use super::value::{Flaw, Value};
use super::{
    Block, Encoding, EpochUnit, Format, InputError, InputOptions, Limits, MAX_CELLS, ParquetBlocks,
    Parsed, Rejection, access_log, build, csv, json, rest, table,
};
use crate::schema::adapt;

/// Bytes of text in one block: offsets into a column's text have 31 bits.
const MAX_BLOCK_BYTES: usize = i32::MAX as usize;

/// Reads the rows of a body that is there as a whole, as one block.
///
/// # Errors
///
/// As those of [`Decoder`] and [`Block::parse`].
pub fn parse(
    body: &[u8],
    format: Format,
    schema: &SchemaRef,
    limits: &Limits,
) -> Result<Parsed, InputError> {
    let mut decoder = Decoder::new(DecoderOptions {
        encoding: Encoding::Identity,
        format: Some(format),
        content_type: None,
        block_bytes: usize::MAX,
        max_line_bytes: limits.max_line_bytes,
        max_bytes: usize::MAX,
    });
    let target = Target {
        schema,
        event_time: None,
        options: &InputOptions::default(),
    };
    let mut rest = body;
    let mut pieces = Vec::new();
    while let Some(piece) = decoder.push(&mut rest)? {
        pieces.push(piece);
    }
    while let Some(piece) = decoder.finish()? {
        pieces.push(piece);
    }
    let mut file = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Block(block) => return block.parse(&target, limits),
            Piece::Parquet(bytes) => file.extend(bytes),
        }
    }
    if decoder.is_parquet() {
        let mut blocks = ParquetBlocks::open(Bytes::from(file), usize::MAX)?;
        if let Some(block) = blocks.next_block()? {
            return block.parse(&target, limits);
        }
    }
    Rows::new(0).finish(
        &Shape::new(&schema.fields, limits.max_fields)?,
        schema,
        format,
    )
}

impl Block {
    /// Reads the rows of the block into a batch.
    ///
    /// The batch has the stream's columns, in their order and with their nullability and
    /// metadata, then the new ones by first appearance, all nullable. An access log brings all
    /// columns of its format as soon as it has a good line. Without a good row the batch has
    /// the stream's schema.
    ///
    /// # Errors
    ///
    /// Only when no row can be told: [`InputError::Syntax`] for a broken JSON document (the
    /// client should mend it, or send NDJSON), [`InputError::Invalid`] for a table that no
    /// stream can hold, [`InputError::TooLarge`] (send less at once),
    /// [`InputError::UnsupportedColumn`] (the stream takes no events). Everything else is a
    /// rejection of one row.
    pub fn parse(&self, target: &Target<'_>, limits: &Limits) -> Result<Parsed, InputError> {
        if self.text_bytes() > MAX_BLOCK_BYTES {
            return Err(InputError::TooLarge {
                what: "a block of the body",
                limit: MAX_BLOCK_BYTES,
            });
        }
        match self {
            Block::Lines(block) => parse_lines(block, target, limits),
            Block::Documents(block) => parse_documents(block, target, limits),
            Block::Csv(block) => parse_csv(block, target, limits),
            Block::Table(block) => table::parse(block, target, limits),
        }
    }

    fn text_bytes(&self) -> usize {
        match self {
            Block::Lines(Lines { bytes, .. })
            | Block::Documents(Documents { bytes, .. })
            | Block::Csv(CsvRecords { bytes, .. }) => bytes.len(),
            Block::Table(Table { .. }) => 0,
        }
    }
}

fn parse_lines(block: &Lines, target: &Target<'_>, limits: &Limits) -> Result<Parsed, InputError> {
    let format = block.format;
    let names = access_log::names(target.options);
    let mut shape = Shape::new(&target.schema.fields, limits.max_fields)?;
    if format != Format::Ndjson {
        shape.pin(&access_log::fields(format == Format::Combined, &names))?;
    }
    let mut rows = Rows::new(limits.max_rejections);
    if format == Format::Ndjson {
        let count = memchr::memchr_iter(b'\n', &block.bytes).count() + 1;
        rows.read_directly(DirectRows::new(target, &shape, limits, count));
    }
    let text = std::str::from_utf8(&block.bytes).ok();
    let mut skipped = Passed::new(&block.skipped);
    for row in lines(&block.bytes) {
        skipped.pass(row.start, &mut rows, limits);
        if rows.push(&row, text) {
            continue;
        }
        let value = read(&row, format, &names, limits);
        let number = block.first + row.number - 1 + skipped.count;
        let raw = (format == Format::Ndjson).then_some(row.bytes);
        rows.add(number, value, raw, target, &mut shape);
    }
    skipped.pass(usize::MAX, &mut rows, limits);
    rows.finish(&shape, target.schema, format)
}

fn parse_documents(
    block: &Documents,
    target: &Target<'_>,
    limits: &Limits,
) -> Result<Parsed, InputError> {
    let mut shape = Shape::new(&target.schema.fields, limits.max_fields)?;
    let mut rows = Rows::new(limits.max_rejections);
    rows.read_directly(DirectRows::new(target, &shape, limits, block.rows.len()));
    let text = std::str::from_utf8(&block.bytes).ok();
    let mut skipped = Passed::new(&block.skipped);
    for (number, range) in (block.first..).zip(&block.rows) {
        skipped.pass(range.start, &mut rows, limits);
        let row = Row {
            number: number + skipped.count,
            start: range.start,
            bytes: &block.bytes[range.clone()],
        };
        if rows.push(&row, text) {
            continue;
        }
        let value = read(&row, Format::Json, &[], limits);
        if let Err(flaw) = &value
            && let (true, Some(offset)) = (flaw.is_syntax, flaw.offset)
        {
            let place = block.place.after(&block.bytes[..row.start + offset]);
            let line = place.line + skipped.lines;
            return Err(Place { line, ..place }.syntax(&flaw.message));
        }
        rows.add(row.number, value, Some(row.bytes), target, &mut shape);
    }
    skipped.pass(usize::MAX, &mut rows, limits);
    rows.finish(&shape, target.schema, Format::Json)
}

fn parse_csv(
    block: &CsvRecords,
    target: &Target<'_>,
    limits: &Limits,
) -> Result<Parsed, InputError> {
    let records = csv::records(&block.bytes, &block.header, limits);
    let reader = csv::Reader::new(&block.header, target.schema, &records);
    let mut shape = Shape::new(&target.schema.fields, limits.max_fields)?;
    let mut rows = Rows::new(limits.max_rejections);
    let mut skipped = Passed::new(&block.skipped);
    for record in &records {
        skipped.pass(record.start, &mut rows, limits);
        let line = block.first + record.line - 1 + skipped.lines;
        rows.add(line, reader.read(record, limits), None, target, &mut shape);
    }
    skipped.pass(usize::MAX, &mut rows, limits);
    rows.finish(&shape, target.schema, Format::Csv)
}

/// The records of a block that were too long, passed while its rows are read.
struct Passed<'a> {
    rest: std::slice::Iter<'a, Skipped>,
    /// Those passed.
    count: u64,
    /// Line ends in these.
    lines: u64,
}

impl<'a> Passed<'a> {
    fn new(skipped: &'a [Skipped]) -> Self {
        Passed {
            rest: skipped.iter(),
            count: 0,
            lines: 0,
        }
    }

    /// Rejects those before a place of the block.
    fn pass(&mut self, place: usize, rows: &mut Rows<'_>, limits: &Limits) {
        while let Some(skipped) = self.rest.as_slice().first()
            && skipped.at <= place
        {
            self.rest.next();
            self.count += 1;
            self.lines += skipped.lines;
            let message = format!("{} bytes, at most {}", skipped.bytes, limits.max_line_bytes);
            rows.reject(skipped.number, Flaw::new("line_too_long", message));
        }
    }
}

/// The rows of a block while they are read, each with its number.
pub(super) struct Rows<'a> {
    direct: Option<DirectRows>,
    good: Vec<Good<'a>>,
    /// The first of the rejected ones only, as a body can have very many.
    bad: Vec<(u64, Flaw)>,
    max_bad: usize,
    rejected: u64,
}

/// A good row that was not read directly.
struct Good<'a> {
    number: u64,
    /// So many rows before it were.
    direct_before: usize,
    value: Value<'a>,
}

impl<'a> Rows<'a> {
    pub fn new(max_bad: usize) -> Self {
        Rows {
            direct: None,
            good: Vec::new(),
            bad: Vec::new(),
            max_bad,
            rejected: 0,
        }
    }

    pub fn read_directly(&mut self, direct: DirectRows) {
        self.direct = Some(direct);
    }

    /// Reads a row of JSON directly. False: it must be read as a value. `text` is the whole
    /// block, if that is UTF-8.
    fn push(&mut self, row: &Row<'_>, text: Option<&str>) -> bool {
        let Some(direct) = &mut self.direct else {
            return false;
        };
        let text = match text {
            Some(text) => text.get(row.start..row.start + row.bytes.len()),
            None => std::str::from_utf8(row.bytes).ok(),
        };
        text.is_some_and(|text| direct.push(text))
    }

    /// `raw` is the row's text, if that is JSON.
    pub fn add(
        &mut self,
        number: u64,
        value: Result<Value<'a>, Flaw>,
        raw: Option<&'a [u8]>,
        target: &Target<'_>,
        shape: &mut Shape,
    ) {
        let merged = match value.and_then(|value| with_time(value, target)) {
            Ok(value) => match shape.merge(&value) {
                Ok(()) => Ok(value),
                Err(flaw) => rest::keep(Some(value), flaw, raw, shape),
            },
            Err(flaw) => rest::keep(None, flaw, raw, shape),
        };
        match merged {
            Ok(value) => {
                if let Some(direct) = &mut self.direct {
                    direct.learn(shape);
                }
                self.good.push(Good {
                    number,
                    direct_before: self.direct.as_ref().map_or(0, DirectRows::count),
                    value,
                });
            }
            Err(flaw) => self.reject(number, flaw),
        }
    }

    pub fn reject(&mut self, number: u64, flaw: Flaw) {
        self.rejected += 1;
        if self.bad.len() < self.max_bad {
            self.bad.push((number, flaw));
        }
    }

    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// The count of the rejected rows, and the first of them.
    pub fn into_rejected(self) -> (u64, Vec<(u64, Flaw)>) {
        (self.rejected, self.bad)
    }

    /// The good rows as a batch.
    pub fn finish(
        mut self,
        shape: &Shape,
        schema: &SchemaRef,
        format: Format,
    ) -> Result<Parsed, InputError> {
        if shape.progress.recheck {
            self.recheck(shape);
        }
        let batch = self.batch(shape, schema)?;
        Ok(Parsed {
            new_fields: batch.schema_ref().fields != schema.fields,
            batch,
            rejected: self.rejected,
            rejections: rejections(self.bad, format),
        })
    }

    fn batch(&mut self, shape: &Shape, schema: &SchemaRef) -> Result<RecordBatch, InputError> {
        let values = self.good.iter().map(|good| &good.value);
        let direct = self.direct.take().filter(|direct| direct.count() > 0);
        let Some(direct) = direct else {
            return build::batch(&shape.members, schema, values);
        };
        let cells = (direct.count() + values.len()).saturating_mul(shape.members.columns.len());
        if cells > MAX_CELLS {
            return Err(InputError::TooLarge {
                what: "rows times columns",
                limit: MAX_CELLS,
            });
        }
        let count = direct.count();
        let direct = direct.finish(schema)?;
        if self.good.is_empty() {
            return Ok(direct);
        }
        let others = build::batch(&shape.members, schema, values)?;
        let adapted = adapt(&direct, others.schema_ref());
        let direct = adapted.map_err(|error| ArrowError::from_external_error(error.into()))?;
        let mut order = Vec::with_capacity(count + self.good.len());
        for (index, good) in self.good.iter().enumerate() {
            let next = order.len() - index;
            order.extend((next..good.direct_before).map(|row| (0, row)));
            order.push((1, index));
        }
        order.extend((order.len() - self.good.len()..count).map(|row| (0, row)));
        Ok(interleave_record_batch(&[&direct, &others], &order)?)
    }

    /// Rejects rows that fitted when they were merged, but not the columns of the end.
    fn recheck(&mut self, shape: &Shape) {
        let mut found = Vec::new();
        self.good.retain_mut(|Good { number, value, .. }| {
            let Value::Object(members) = value else {
                return true;
            };
            let Err(flaw) = shape.members.fits(members) else {
                return true;
            };
            if let Some(kept) = rest::keep_merged(value, shape) {
                *value = kept;
                return true;
            }
            self.rejected += 1;
            if found.len() < self.max_bad {
                found.push((*number, flaw));
            }
            false
        });
        self.bad.append(&mut found);
        self.bad.sort_by_key(|(number, _)| *number);
        self.bad.truncate(self.max_bad);
    }
}

/// What the numbers of rejections count.
fn place(format: Format) -> &'static str {
    match format {
        Format::Json => "object",
        Format::Arrow | Format::Parquet => "row",
        _ => "line",
    }
}

pub(super) fn rejections(bad: Vec<(u64, Flaw)>, format: Format) -> Vec<Rejection> {
    let place = place(format);
    let rejection = |(line, flaw): (u64, Flaw)| {
        let field = flaw.field();
        let within = field
            .as_ref()
            .map(|field| format!(", field {field}"))
            .unwrap_or_default();
        let message = format!("{place} {line}{within}: {}", flaw.message);
        Rejection {
            line,
            code: flaw.code,
            field,
            message,
        }
    };
    bad.into_iter().map(rejection).collect()
}

/// A row of text; `names` are those of an access log's columns.
fn read<'a>(
    row: &Row<'a>,
    format: Format,
    names: &'a [String],
    limits: &Limits,
) -> Result<Value<'a>, Flaw> {
    if row.bytes.len() > limits.max_line_bytes {
        let message = format!(
            "{} bytes, at most {}",
            row.bytes.len(),
            limits.max_line_bytes
        );
        return Err(Flaw::new("line_too_long", message));
    }
    let text = std::str::from_utf8(row.bytes).map_err(|error| {
        let column = column(&row.bytes[..error.valid_up_to()]);
        Flaw::new("invalid_utf8", format!("column {column}: not UTF-8"))
    })?;
    match format {
        Format::Ndjson => json::parse(text, limits).map_err(|flaw| with_column(flaw, text)),
        Format::Common => access_log::parse(text, false, names),
        Format::Combined => access_log::parse(text, true, names),
        _ => json::parse(text, limits),
    }
}

fn with_column(mut flaw: Flaw, line: &str) -> Flaw {
    if let Some(offset) = flaw.offset {
        let column = column(&line.as_bytes()[..offset]);
        flaw.message = format!("column {column}: {}", flaw.message);
    }
    flaw
}

/// Reads a number in the event-time column in the stream's unit.
fn with_time<'a>(value: Value<'a>, target: &Target<'_>) -> Result<Value<'a>, Flaw> {
    let unit = target.options.event_time_unit;
    let Some(column) = target.event_time.filter(|_| unit != EpochUnit::Auto) else {
        return Ok(value);
    };
    let Value::Object(mut members) = value else {
        return Ok(value);
    };
    if let Some((_, value)) = members.iter_mut().find(|(name, _)| name == column) {
        let micros = match value {
            Value::Int(number) => unit.micros(*number),
            Value::Float(number) => unit.micros_of_float(*number),
            _ => return Ok(Value::Object(members)),
        };
        let Some(micros) = micros else {
            let message = format!("expected timestamp, found {value} beyond the times there are");
            return Err(Flaw::new("out_of_range", message).in_member(column));
        };
        *value = Value::Micros(micros);
    }
    Ok(Value::Object(members))
}

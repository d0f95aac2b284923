use arrow::datatypes::SchemaRef;

use super::documents::{Row, column, documents, lines, syntax, without_mark};
use super::shape::Shape;
use super::value::{Flaw, Value};
use super::{Format, InputError, Limits, Parsed, Rejection, access_log, build, json, rest};

/// Reads the rows of a body into a batch.
///
/// `schema` has the stream's columns without the engine's hidden ones; it is empty for a
/// stream that does not exist yet. The batch has these columns, in their order and with
/// their nullability and metadata, then the new ones by first appearance, all nullable. An
/// access log brings all columns of its format as soon as it has a good line. Without a good
/// row the batch has the stream's schema.
///
/// # Errors
///
/// Only when no row can be told: [`InputError::Syntax`] for a broken JSON document (the
/// client should mend it, or send NDJSON), [`InputError::TooLarge`] (send less at once),
/// [`InputError::UnsupportedColumn`] (the stream takes no events). Everything else is a
/// rejection of one row.
pub fn parse(
    body: &[u8],
    format: Format,
    schema: &SchemaRef,
    limits: &Limits,
) -> Result<Parsed, InputError> {
    if body.len() > i32::MAX as usize {
        return Err(InputError::TooLarge {
            what: "the body",
            limit: i32::MAX as usize,
        });
    }
    let body = without_mark(body);
    let mut shape = Shape::new(&schema.fields, limits.max_fields)?;
    let mut rows = Rows::new(limits.max_rejections);
    match format {
        Format::Json => documents(body, |row| {
            let value = read(&row, format, limits);
            if let Err(flaw) = &value
                && let (true, Some(offset)) = (flaw.is_syntax, flaw.offset)
            {
                return Err(syntax(body, row.start + offset, flaw.message.clone()));
            }
            rows.add(row.number, value, Some(row.bytes), &mut shape);
            Ok(())
        })?,
        Format::Ndjson => {
            lines(body).for_each(|row| {
                let value = read(&row, format, limits);
                rows.add(row.number, value, Some(row.bytes), &mut shape);
            });
        }
        Format::Combined | Format::Common => {
            shape.pin(&access_log::fields(format == Format::Combined))?;
            lines(body).for_each(|row| {
                rows.add(row.number, read(&row, format, limits), None, &mut shape);
            });
        }
    }
    if shape.progress.recheck {
        rows.recheck(&shape);
    }
    let batch = build::batch(
        &shape.members,
        schema,
        rows.good.iter().map(|(_, value)| value),
    )?;
    Ok(Parsed {
        new_fields: batch.schema_ref().fields != schema.fields,
        batch,
        rejected: rows.rejected,
        rejections: rejections(rows.bad, format),
    })
}

/// The rows of a body while they are read, each with its number.
struct Rows<'a> {
    good: Vec<(u64, Value<'a>)>,
    /// The first of the rejected ones only, as a body can have very many.
    bad: Vec<(u64, Flaw)>,
    max_bad: usize,
    rejected: u64,
}

impl<'a> Rows<'a> {
    fn new(max_bad: usize) -> Self {
        Rows {
            good: Vec::new(),
            bad: Vec::new(),
            max_bad,
            rejected: 0,
        }
    }

    /// `raw` is the row's text, if that is JSON.
    fn add(
        &mut self,
        number: u64,
        value: Result<Value<'a>, Flaw>,
        raw: Option<&'a [u8]>,
        shape: &mut Shape,
    ) {
        let merged = match value {
            Ok(value) => match shape.merge(&value) {
                Ok(()) => Ok(value),
                Err(flaw) => rest::keep(Some(value), flaw, raw, shape),
            },
            Err(flaw) => rest::keep(None, flaw, raw, shape),
        };
        match merged {
            Ok(value) => self.good.push((number, value)),
            Err(flaw) => {
                self.rejected += 1;
                if self.bad.len() < self.max_bad {
                    self.bad.push((number, flaw));
                }
            }
        }
    }

    /// Rejects rows that fitted when they were merged, but not the columns of the end.
    fn recheck(&mut self, shape: &Shape) {
        let mut found = Vec::new();
        self.good.retain_mut(|(number, value)| {
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

fn rejections(bad: Vec<(u64, Flaw)>, format: Format) -> Vec<Rejection> {
    let place = if format == Format::Json {
        "object"
    } else {
        "line"
    };
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

fn read<'a>(row: &Row<'a>, format: Format, limits: &Limits) -> Result<Value<'a>, Flaw> {
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
        Format::Json => json::parse(text, limits),
        Format::Combined => access_log::parse(text, true),
        Format::Common => access_log::parse(text, false),
    }
}

fn with_column(mut flaw: Flaw, line: &str) -> Flaw {
    if let Some(offset) = flaw.offset {
        let column = column(&line.as_bytes()[..offset]);
        flaw.message = format!("column {column}: {}", flaw.message);
    }
    flaw
}

//! `WITH (name = value, ...)` of streams and views. An unknown name is an error: a typo in an
//! option must not silently leave a default.

use arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::ast::{Expr, Ident, SqlOption, Value};
use lambdalake_data::input::{EpochUnit, InputOptions};

use super::fold;
use crate::engine::{ViewChange, ViewOptions};
use crate::error::EngineError;

/// The options of a stream.
#[derive(Debug, Default)]
pub(super) struct StreamOptions {
    pub(super) event_time: Option<String>,
    pub(super) shard_key: Option<String>,
    pub(super) shards: Option<u32>,
    pub(super) keeps_rest: bool,
    pub(super) input: InputOptions,
}

impl StreamOptions {
    /// The named columns must exist, if columns are listed at all.
    pub(super) fn check_against(&self, fields: &[Field]) -> Result<(), EngineError> {
        if fields.is_empty() {
            return Ok(());
        }
        let find = |option: &str, name: &str| {
            fields
                .iter()
                .find(|field| field.name() == name)
                .ok_or_else(|| {
                    invalid(format!(
                        "the option {option} names the column {name:?}, which is not listed"
                    ))
                })
        };
        if let Some(name) = &self.event_time {
            let field = find("event_time", name)?;
            if !matches!(field.data_type(), DataType::Timestamp(..)) {
                return Err(invalid(format!(
                    "the option event_time names the column {name}, which is not a TIMESTAMP"
                )));
            }
        }
        if let Some(name) = &self.shard_key {
            find("shard_key", name)?;
        }
        Ok(())
    }
}

/// Reads the options of `CREATE TABLE`.
pub(super) fn stream_options(options: Vec<SqlOption>) -> Result<StreamOptions, EngineError> {
    let mut found = StreamOptions::default();
    for (name, value) in pairs(options)? {
        match name.as_str() {
            "event_time" => found.event_time = Some(value),
            "shard_key" => found.shard_key = Some(value),
            "shards" => {
                let shards = value.parse().ok().filter(|shards| *shards > 0);
                found.shards = Some(shards.ok_or_else(|| {
                    invalid(format!(
                        "the option shards is {value:?}, not a number from 1"
                    ))
                })?);
            }
            "on_conflict" => found.keeps_rest = keeps_rest(&value)?,
            "event_time_unit" => {
                found.input.event_time_unit = EpochUnit::parse(&value).ok_or_else(|| {
                    invalid(format!(
                        "the option event_time_unit is {value:?}, not s, ms, us, ns or auto"
                    ))
                })?;
            }
            "field_names" => {
                found.input.field_names = InputOptions::parse_field_names(&value)
                    .map_err(|reason| invalid(format!("the option field_names: {reason}")))?;
            }
            _ => {
                let allowed =
                    "event_time, event_time_unit, field_names, shard_key, shards and on_conflict";
                return Err(unknown(&name, allowed));
            }
        }
    }
    if found.event_time.is_none() && found.input.event_time_unit != EpochUnit::Auto {
        return Err(invalid(
            "the option event_time_unit needs event_time, the column it is about".to_owned(),
        ));
    }
    Ok(found)
}

/// Reads the options of `ALTER TABLE ... SET (...)`.
pub(super) fn set_options(options: Vec<SqlOption>) -> Result<(), EngineError> {
    for (name, value) in pairs(options)? {
        match name.as_str() {
            "on_conflict" if keeps_rest(&value)? => {}
            "on_conflict" => {
                return Err(invalid(
                    "the option on_conflict cannot go back to 'reject': the stream has rows in \
                     _rest"
                        .to_owned(),
                ));
            }
            _ => return Err(unknown(&name, "on_conflict")),
        }
    }
    Ok(())
}

fn keeps_rest(value: &str) -> Result<bool, EngineError> {
    match value.to_ascii_lowercase().as_str() {
        "reject" => Ok(false),
        "rest" => Ok(true),
        _ => Err(invalid(format!(
            "the option on_conflict is {value:?}, neither 'reject' nor 'rest'"
        ))),
    }
}

/// The options of a view, in their order in messages.
const OF_VIEWS: &str = "recompute, recompute_time_zone and on_mismatch";

/// Reads the options of `CREATE MATERIALIZED VIEW` and of `ALTER MATERIALIZED VIEW ... SET`. What
/// they say is read by the engine.
pub(super) fn view_options(options: Vec<SqlOption>) -> Result<ViewOptions, EngineError> {
    let mut found = ViewOptions::default();
    for (name, value) in pairs(options)? {
        match name.as_str() {
            "recompute" => found.recompute = Some(value),
            "recompute_time_zone" => found.time_zone = Some(value),
            "on_mismatch" => found.on_mismatch = Some(value),
            _ => return Err(unknown(&name, OF_VIEWS)),
        }
    }
    Ok(found)
}

/// Reads the names in `ALTER MATERIALIZED VIEW ... RESET (...)`.
pub(super) fn reset_view_options(names: &[Ident]) -> Result<ViewChange, EngineError> {
    let (mut recompute, mut time_zone, mut on_mismatch) = (false, false, false);
    for name in names.iter().map(fold) {
        match name.as_str() {
            "recompute" => recompute = true,
            "recompute_time_zone" => time_zone = true,
            "on_mismatch" => on_mismatch = true,
            _ => return Err(unknown(&name, OF_VIEWS)),
        }
    }
    Ok(ViewChange::Reset {
        recompute,
        time_zone,
        on_mismatch,
    })
}

/// Names (lower case) and values; strings, numbers and bare words are values.
fn pairs(options: Vec<SqlOption>) -> Result<Vec<(String, String)>, EngineError> {
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(options.len());
    for option in options {
        let (name, value) = match &option {
            SqlOption::KeyValue { key, value } => (key.value.to_lowercase(), value),
            _ => {
                return Err(invalid(format!(
                    "the option {option} is not written name = value"
                )));
            }
        };
        let value = match value {
            Expr::Identifier(ident) => fold(ident),
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) | Value::Number(text, _) => text.clone(),
                other => return Err(invalid(format!("the option {name} has the value {other}"))),
            },
            other => return Err(invalid(format!("the option {name} has the value {other}"))),
        };
        if pairs.iter().any(|(other, _)| *other == name) {
            return Err(invalid(format!("the option {name} is given twice")));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn unknown(name: &str, allowed: &str) -> EngineError {
    invalid(format!(
        "the option {name} does not exist: allowed is {allowed}"
    ))
}

fn invalid(message: String) -> EngineError {
    EngineError::bad_request("invalid_option", message)
}

//! Column definitions of `CREATE TABLE`: SQL types to the types events are stored in.
//!
//! Few types on purpose: they are the ones that JSON, CSV and log lines turn into without loss,
//! and that Delta readers share.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, ColumnDef, ColumnOption, DataType as SqlType, ExactNumberInfo, TimezoneInfo,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::fold;
use crate::error::EngineError;

/// For the message of every refused type.
const ALLOWED: &str = "allowed are BOOLEAN, BIGINT, DOUBLE, TEXT, TIMESTAMP, arrays of these such \
     as BIGINT[], and STRUCT<name TYPE, ...>";

/// Stored with every event by the engine itself.
const RESERVED: [&str; 5] = ["_shard", "_offset", "_ingested_at", "_producer", "_rest"];

/// The tokens of a statement that defines columns, with each `>>` as two `>`.
///
/// The parser takes `>>` as one token and, having closed the inner type with it, looks for `[]`
/// before it closes the outer one: `STRUCT<a STRUCT<b BIGINT>>[]` would be a struct of a list.
/// Nothing else in such a statement is a shift.
pub(super) fn closing_one_by_one(words: &[&str], tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    if !matches!(words, ["CREATE" | "ALTER", "TABLE", ..]) {
        return tokens.to_vec();
    }
    let mut split = Vec::with_capacity(tokens.len());
    for token in tokens {
        if token.token == Token::ShiftRight {
            let mut first = token.clone();
            first.token = Token::Gt;
            let mut second = first.clone();
            second.span.start.column += 1;
            split.extend([first, second]);
        } else {
            split.push(token.clone());
        }
    }
    split
}

/// The fields of a column list, in order.
pub(super) fn fields(columns: &[ColumnDef]) -> Result<Vec<Field>, EngineError> {
    let mut fields: Vec<Field> = Vec::with_capacity(columns.len());
    for column in columns {
        let name = fold(&column.name);
        check_name(&name)?;
        if fields
            .iter()
            .any(|field| field.name().eq_ignore_ascii_case(&name))
        {
            return Err(EngineError::bad_request(
                "invalid_name",
                format!("the column {name} is defined twice (case does not tell columns apart)"),
            ));
        }
        let data_type = data_type(&name, &column.data_type)?;
        fields.push(Field::new(&name, data_type, is_nullable(&name, column)?));
    }
    Ok(fields)
}

fn check_name(name: &str) -> Result<(), EngineError> {
    // The master dataset is a Delta table, and Delta refuses these.
    const REFUSED: [char; 11] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '\r', '='];
    let why = if RESERVED.contains(&name) {
        "it is stored with every event already"
    } else if name.is_empty() || name.contains(REFUSED) {
        "it may not be empty or hold blanks, commas, semicolons, brackets or ="
    } else if name.len() > super::MAX_NAME_CHARS {
        "it is longer than 128 bytes"
    } else {
        return Ok(());
    };
    Err(EngineError::bad_request(
        "invalid_name",
        format!("the column name {name:?}: {why}"),
    ))
}

fn is_nullable(name: &str, column: &ColumnDef) -> Result<bool, EngineError> {
    let mut is_nullable = true;
    for option in &column.options {
        match option.option {
            ColumnOption::Null => is_nullable = true,
            ColumnOption::NotNull => is_nullable = false,
            ColumnOption::Comment(_) => {}
            _ => {
                return Err(EngineError::bad_request(
                    "invalid_option",
                    format!(
                        "the column {name} has the option {option}; only NOT NULL and COMMENT are allowed"
                    ),
                ));
            }
        }
    }
    Ok(is_nullable)
}

pub(super) fn data_type(column: &str, sql: &SqlType) -> Result<DataType, EngineError> {
    let refused = || {
        EngineError::bad_request(
            "invalid_type",
            format!("the column {column} has the type {sql}, which does not exist here: {ALLOWED}"),
        )
    };
    Ok(match sql {
        SqlType::Bool | SqlType::Boolean => DataType::Boolean,
        SqlType::BigInt(None)
        | SqlType::Int8(None)
        | SqlType::Int(None)
        | SqlType::Integer(None)
        | SqlType::Int4(None)
        | SqlType::Int2(None)
        | SqlType::SmallInt(None)
        | SqlType::TinyInt(None)
        | SqlType::Int16
        | SqlType::Int32
        | SqlType::Int64 => DataType::Int64,
        SqlType::Double(ExactNumberInfo::None)
        | SqlType::Float(ExactNumberInfo::None)
        | SqlType::DoublePrecision
        | SqlType::Real
        | SqlType::Float4
        | SqlType::Float8
        | SqlType::Float32
        | SqlType::Float64 => DataType::Float64,
        SqlType::Text | SqlType::Varchar(None) | SqlType::String(None) => DataType::Utf8,
        SqlType::CharacterVarying(None) | SqlType::CharVarying(None) => DataType::Utf8,
        // A timestamp without a zone is taken as UTC: the session's time zone is always UTC.
        SqlType::Timestamp(None | Some(0..=6), zone) => match zone {
            TimezoneInfo::None
            | TimezoneInfo::WithTimeZone
            | TimezoneInfo::WithoutTimeZone
            | TimezoneInfo::Tz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        },
        SqlType::Array(
            ArrayElemTypeDef::SquareBracket(item, None)
            | ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => DataType::new_list(data_type(column, item)?, true),
        SqlType::Struct(parts, _) if !parts.is_empty() => {
            let mut fields = Vec::with_capacity(parts.len());
            for part in parts {
                let name = fold(part.field_name.as_ref().ok_or_else(refused)?);
                check_name(&name)?;
                let inner = data_type(&format!("{column}.{name}"), &part.field_type)?;
                fields.push(Arc::new(Field::new(name, inner, true)));
            }
            DataType::Struct(Fields::from(fields))
        }
        _ => return Err(refused()),
    })
}

//! `INSERT INTO stream [(columns)] VALUES ... | SELECT ...`.

use datafusion::sql::sqlparser::ast::{Insert, ObjectName, TableObject};

use super::{fold, name_parts, refuse_writes, table_name, unsupported};
use crate::engine::InsertSpec;
use crate::error::EngineError;
use crate::system::{PUBLIC, is_system_schema};

/// Reads an INSERT, or says what it must not ask for.
pub(super) fn insert(insert: Insert) -> Result<InsertSpec, EngineError> {
    let refused = [
        (
            insert.on.is_some(),
            "ON CONFLICT: events are added, never updated",
        ),
        (insert.overwrite, "OVERWRITE: events are immutable"),
        (
            insert.replace_into || insert.or.is_some() || insert.ignore,
            "OR REPLACE or IGNORE: events are added, never updated",
        ),
        (
            insert.returning.is_some() || insert.output.is_some(),
            "RETURNING: the answer is the number of events",
        ),
        (
            insert.partitioned.is_some() || !insert.after_columns.is_empty(),
            "PARTITION",
        ),
        (
            !insert.assignments.is_empty(),
            "SET: write INSERT INTO stream (columns) VALUES (...)",
        ),
        (
            insert.settings.is_some() || insert.format_clause.is_some(),
            "FORMAT or SETTINGS: send such data to POST /api/v1/streams/{stream}/events",
        ),
        (
            insert.multi_table_insert_type.is_some(),
            "several tables: write one INSERT for each",
        ),
    ];
    if let Some((_, what)) = refused.iter().find(|(present, _)| *present) {
        return Err(unsupported(&format!("INSERT does not take {what}")));
    }
    let TableObject::TableName(name) = &insert.table else {
        return Err(unsupported("INSERT takes the name of a stream"));
    };
    let stream = stream_name(name)?;
    let Some(source) = insert.source else {
        return Err(unsupported(
            "INSERT without VALUES or SELECT is not supported: there are no defaults",
        ));
    };
    refuse_writes(&source)?;
    let columns = insert.columns.iter().map(column_name);
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(InsertSpec {
        stream,
        columns: (!columns.is_empty()).then_some(columns),
        source: source.to_string(),
    })
}

fn stream_name(name: &ObjectName) -> Result<String, EngineError> {
    let parts = name_parts(name)?;
    match &parts[..] {
        [.., schema, table] if is_system_schema(schema) => Err(unsupported(&format!(
            "{schema}.{table} is a system table: it cannot be written"
        ))),
        [schema, table] if schema == PUBLIC => {
            super::check_name(table)?;
            Ok(table.clone())
        }
        _ => table_name(name),
    }
}

fn column_name(name: &ObjectName) -> Result<String, EngineError> {
    match &name.0[..] {
        [part] if part.as_ident().is_some() => Ok(part.as_ident().map(fold).unwrap_or_default()),
        _ => Err(EngineError::bad_request(
            "invalid_name",
            format!("{name} is not a column: only whole columns can be written"),
        )),
    }
}

//! `ALTER TABLE`: new columns, BIGINT columns that become DOUBLE, and the option on_conflict.

use datafusion::sql::sqlparser::ast::{AlterColumnOperation, AlterTable, AlterTableOperation};

use super::options::set_options;
use super::{columns, comment, fold, table_name, unsupported};
use crate::engine::{AlterSpec, ColumnChange};
use crate::error::EngineError;

/// Reads the operations; at least one.
pub(super) fn alter_stream(alter: AlterTable) -> Result<AlterSpec, EngineError> {
    if alter.if_exists || alter.only || alter.on_cluster.is_some() || alter.table_type.is_some() {
        return Err(unsupported(
            "ALTER TABLE takes no IF EXISTS, ONLY or ON CLUSTER",
        ));
    }
    Ok(AlterSpec {
        stream: table_name(&alter.name)?,
        changes: alter
            .operations
            .into_iter()
            .map(change)
            .collect::<Result<_, _>>()?,
    })
}

fn change(operation: AlterTableOperation) -> Result<ColumnChange, EngineError> {
    match operation {
        AlterTableOperation::AddColumn {
            if_not_exists,
            column_def,
            column_position: None,
            ..
        } => {
            let column_def = std::slice::from_ref(&column_def);
            if !comment::of_columns(column_def)?.is_empty() {
                return Err(unsupported(
                    "ADD COLUMN takes no COMMENT: write COMMENT ON COLUMN afterwards",
                ));
            }
            let field = columns::fields(column_def)?.remove(0);
            if !field.is_nullable() {
                return Err(EngineError::bad_request(
                    "invalid_option",
                    format!(
                        "the column {} cannot be NOT NULL: the events that are there have no \
                         value for it",
                        field.name()
                    ),
                ));
            }
            Ok(ColumnChange::Add {
                field,
                if_not_exists,
            })
        }
        AlterTableOperation::AlterColumn {
            column_name,
            op:
                AlterColumnOperation::SetDataType {
                    data_type,
                    using: None,
                    ..
                },
        } => {
            let name = fold(&column_name);
            let data_type = columns::data_type(&name, &data_type)?;
            Ok(ColumnChange::SetType { name, data_type })
        }
        AlterTableOperation::SetOptionsParens { options } => {
            set_options(options)?;
            Ok(ColumnChange::KeepRest)
        }
        AlterTableOperation::DropColumn { .. } => Err(unsupported(
            "columns cannot be dropped, because events are immutable: leave the column out of \
             your queries",
        )),
        AlterTableOperation::RenameColumn { .. } => Err(unsupported(
            "columns cannot be renamed, because events are immutable: name the column in your \
             queries with AS",
        )),
        other => Err(unsupported(&format!(
            "ALTER TABLE knows ADD COLUMN, ALTER COLUMN ... TYPE and SET (...), not {other}"
        ))),
    }
}

//! `ALTER TABLE`: new columns, BIGINT columns that become DOUBLE, and the option on_conflict.
//! `ALTER MATERIALIZED VIEW`: its options, and whether its schedule works.

use datafusion::sql::sqlparser::ast::{
    self, AlterColumnOperation, AlterTable, AlterTableOperation,
};

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{IsOptional, Parser, ParserError};

use super::options::{self, set_options};
use super::{columns, comment, fold, table_name, unsupported};
use crate::engine::{AlterSpec, AlterViewSpec, ColumnChange, ViewChange};
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

/// `ALTER MATERIALIZED VIEW v SET (...)`, `RESET (...)`, `PAUSE` or `RESUME`, none of which the
/// parser knows.
pub(super) fn parse_alter_view(parser: &mut Parser<'_>) -> Result<AlterViewSpec, EngineError> {
    let (name, change) = alter_view(parser).map_err(EngineError::from_parser)?;
    Ok(AlterViewSpec {
        view: table_name(&name)?,
        change: change?,
    })
}

type ParsedChange = Result<ViewChange, EngineError>;

fn alter_view(parser: &mut Parser<'_>) -> Result<(ast::ObjectName, ParsedChange), ParserError> {
    parser.expect_keywords(&[Keyword::ALTER, Keyword::MATERIALIZED, Keyword::VIEW])?;
    let name = parser.parse_object_name(false)?;
    let options = parser.parse_options(Keyword::SET)?;
    if !options.is_empty() {
        return Ok((name, options::view_options(options).map(ViewChange::Set)));
    }
    if parser.parse_keyword(Keyword::RESET) {
        let names = parser.parse_parenthesized_column_list(IsOptional::Mandatory, false)?;
        return Ok((name, options::reset_view_options(&names)));
    }
    let change = parser.parse_identifier()?;
    let change = match fold(&change).as_str() {
        "pause" => Ok(ViewChange::Pause),
        "resume" => Ok(ViewChange::Resume),
        _ => Err(unsupported(
            "ALTER MATERIALIZED VIEW knows SET (...), RESET (...), PAUSE and RESUME: to change what \
             it selects, drop it and create it again",
        )),
    };
    Ok((name, change))
}

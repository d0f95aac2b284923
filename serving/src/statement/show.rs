//! `SHOW TABLES [LIKE '...']` and `SHOW COLUMNS FROM t`.

use datafusion::sql::sqlparser::ast::{
    ShowStatementFilter, ShowStatementFilterPosition, ShowStatementOptions,
};

use super::{Statement, qualified_name, unsupported};
use crate::error::EngineError;

/// A pattern of names, with `%` and `_` as in SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub text: String,
    /// ILIKE.
    pub ignores_case: bool,
}

pub(super) fn show_tables(options: ShowStatementOptions) -> Result<Statement, EngineError> {
    if options.show_in.is_some() {
        return Err(unsupported(
            "SHOW TABLES takes no IN or FROM; ask information_schema.tables for all schemas",
        ));
    }
    only_filter(&options)?;
    let pattern = match options.filter_position {
        None => None,
        Some(
            ShowStatementFilterPosition::Infix(filter)
            | ShowStatementFilterPosition::Suffix(filter),
        ) => Some(pattern(filter)?),
    };
    Ok(Statement::ShowTables(pattern))
}

pub(super) fn show_columns(options: ShowStatementOptions) -> Result<Statement, EngineError> {
    only_filter(&options)?;
    if options.filter_position.is_some() {
        return Err(unsupported(
            "SHOW COLUMNS takes no LIKE or WHERE; ask lambdalake.columns",
        ));
    }
    let name = options.show_in.and_then(|place| place.parent_name);
    match name {
        Some(name) => Ok(Statement::Describe(qualified_name(&name)?)),
        None => Err(unsupported(
            "SHOW COLUMNS is written SHOW COLUMNS FROM table",
        )),
    }
}

fn only_filter(options: &ShowStatementOptions) -> Result<(), EngineError> {
    if options.starts_with.is_some() || options.limit.is_some() || options.limit_from.is_some() {
        return Err(unsupported("SHOW takes no STARTS WITH or LIMIT"));
    }
    Ok(())
}

fn pattern(filter: ShowStatementFilter) -> Result<Pattern, EngineError> {
    match filter {
        ShowStatementFilter::Like(text) => Ok(Pattern {
            text,
            ignores_case: false,
        }),
        ShowStatementFilter::ILike(text) => Ok(Pattern {
            text,
            ignores_case: true,
        }),
        ShowStatementFilter::Where(_) | ShowStatementFilter::NoKeyword(_) => Err(unsupported(
            "SHOW TABLES takes LIKE or ILIKE; ask information_schema.tables for other filters",
        )),
    }
}

//! `EXPLAIN PROVENANCE query` and `EXPLAIN RECOMPUTE v`, which the parser does not know.

use datafusion::sql::sqlparser::ast::Statement as Parsed;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{byte_offset, complexity, refuse_writes, table_name, text_of, unsupported, word};
use crate::error::EngineError;

/// What begins statements of ours that the parser does not know, or knows as something else.
const NO_QUERIES: [&str; 3] = ["FLUSH", "REFRESH", "VERIFY"];

/// The text of the query.
pub(super) fn parse_provenance(parser: &mut Parser<'_>, sql: &str) -> Result<String, EngineError> {
    let no_query = || {
        unsupported("EXPLAIN PROVENANCE takes a query: only of queries can be said what they read")
    };
    skip_words(parser);
    let first = parser.peek_token();
    if is_end(&first.token) || NO_QUERIES.contains(&word(&first.token).as_str()) {
        return Err(no_query());
    }
    let parsed = parser.parse_statement().map_err(EngineError::from_parser)?;
    let Parsed::Query(query) = &parsed else {
        return Err(no_query());
    };
    refuse_writes(query)?;
    complexity::check_relations(&parsed)?;
    let text = byte_offset(sql, first.span.start).and_then(|start| sql.get(start..));
    text.map(text_of).ok_or_else(no_query)
}

/// The view.
pub(super) fn parse_recompute(parser: &mut Parser<'_>) -> Result<String, EngineError> {
    skip_words(parser);
    if is_end(&parser.peek_token().token) {
        return Err(unsupported("EXPLAIN RECOMPUTE takes the name of a view"));
    }
    let name = parser
        .parse_object_name(false)
        .map_err(EngineError::from_parser)?;
    table_name(&name)
}

/// Both words of the statement.
fn skip_words(parser: &mut Parser<'_>) {
    parser.next_token();
    parser.next_token();
}

fn is_end(token: &Token) -> bool {
    matches!(token, Token::EOF | Token::SemiColon)
}

//! Bounds on the shape of a statement, so that none ends the process or holds a core for minutes.
//!
//! `1 + 1 + 1 ...` makes a tree as deep as it is long, and the planner goes through trees by
//! calling itself: a few thousand terms use up a thread's stack, though nothing in them is
//! nested. The depth is therefore bounded by the tokens, before there is a tree. Planning time
//! grows with the square of the tables, or worse.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Query, Statement, TableFactor, Visit, Visitor};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::EngineError;

/// Operators and keywords between two commas, with those around the parentheses they are in.
/// [`lambdalake_views::PLANNING_STACK_BYTES`] is enough for a tree of that depth.
const MAX_CHAIN: usize = 2_000;
/// Tables of a statement, subqueries of it, and set operations such as UNION.
const MAX_RELATIONS: usize = 256;
const SET_OPERATORS: [Keyword; 4] = [
    Keyword::UNION,
    Keyword::INTERSECT,
    Keyword::EXCEPT,
    Keyword::MINUS,
];

/// # Errors
///
/// `statement_too_complex` if the tree of the statement could be too deep.
pub(super) fn check_tokens(tokens: &[TokenWithSpan]) -> Result<(), EngineError> {
    // A chain for each parenthesis that is open: it ends with a comma.
    let mut chains = vec![0];
    let mut depth = 0;
    let mut set_operations = 0;
    for token in tokens {
        match &token.token {
            Token::LParen => chains.push(0),
            Token::RParen | Token::RBracket if chains.len() > 1 => {
                depth -= chains.pop().unwrap_or(0);
            }
            Token::Comma => depth -= chains.last_mut().map_or(0, std::mem::take),
            other if may_chain(other) => {
                *chains.last_mut().expect("the outermost chain stays") += 1;
                depth += 1;
                if *other == Token::LBracket {
                    chains.push(0);
                }
            }
            _ => {}
        }
        if let Token::Word(word) = &token.token
            && SET_OPERATORS.contains(&word.keyword)
        {
            set_operations += 1;
        }
        let start = token.span.start;
        if set_operations > MAX_RELATIONS {
            let message = format!("the statement has more than {MAX_RELATIONS} set operations");
            return Err(too_complex(message).at(start.line, start.column));
        }
        if depth > MAX_CHAIN {
            let message = format!(
                "the statement chains more than {MAX_CHAIN} operators and keywords without a \
                 comma: a list such as x IN (1, 2, 3) has no such limit"
            );
            return Err(too_complex(message).at(start.line, start.column));
        }
    }
    Ok(())
}

/// # Errors
///
/// `statement_too_complex` if the statement has too many tables or subqueries.
pub(super) fn check_relations(statement: &Statement) -> Result<(), EngineError> {
    let mut relations = Relations::default();
    match statement.visit(&mut relations) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(too_complex(format!(
            "the statement has more than {MAX_RELATIONS} tables or subqueries"
        ))),
    }
}

fn too_complex(message: impl Into<String>) -> EngineError {
    EngineError::bad_request("statement_too_complex", message)
}

/// Names and values stand beside each other only with something of the rest between them.
fn may_chain(token: &Token) -> bool {
    match token {
        Token::Word(word) => word.keyword != Keyword::NoKeyword,
        Token::Whitespace(_)
        | Token::EOF
        | Token::RParen
        | Token::RBracket
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Placeholder(_) => false,
        _ => true,
    }
}

#[derive(Default)]
struct Relations {
    tables: usize,
    queries: usize,
}

fn one_more(count: &mut usize) -> ControlFlow<()> {
    *count += 1;
    if *count > MAX_RELATIONS {
        return ControlFlow::Break(());
    }
    ControlFlow::Continue(())
}

impl Visitor for Relations {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        one_more(&mut self.queries)
    }

    fn pre_visit_table_factor(&mut self, _: &TableFactor) -> ControlFlow<()> {
        one_more(&mut self.tables)
    }
}

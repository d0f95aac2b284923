//! What a SQL text asks for.
//!
//! Everything that is not listed in [`Statement`] is refused here, before any planner sees it:
//! DataFusion's own dialect can read and write files (`COPY`, `CREATE EXTERNAL TABLE`) and
//! change settings of a shared session, and none of that may come in over the network.
//!
//! Identifiers follow PostgreSQL: unquoted ones fold to lower case, quoted ones keep their case.

mod alter;
mod columns;
mod comment;
mod complexity;
mod explain;
mod insert;
mod options;
mod show;

use datafusion::sql::sqlparser::ast::{
    self, CreateTable, CreateTableOptions, CreateView, DescribeAlias, Ident, ObjectName,
    ObjectNamePart, ObjectType, Query, SetExpr, Statement as Parsed,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{
    Location, Token, TokenWithSpan, Tokenizer, Whitespace,
};

use lambdalake_data::publication::Comments;

pub use self::show::Pattern;
use crate::engine::{AlterSpec, AlterViewSpec, CommentSpec, InsertSpec, StreamSpec, ViewSpec};
use crate::error::EngineError;

/// Characters of a stream's or view's name: names become folders and metric labels.
const MAX_NAME_CHARS: usize = 128;

/// How deep expressions and subqueries may nest; the parser recurses.
const MAX_DEPTH: usize = 64;

/// What this engine understands, for the hint of every refusal.
const UNDERSTOOD: &str = "understood are SELECT, WITH, VALUES, EXPLAIN, EXPLAIN PROVENANCE, \
     EXPLAIN RECOMPUTE, SHOW TABLES, DESCRIBE, INSERT, COMMENT ON, CREATE TABLE, ALTER TABLE, CREATE MATERIALIZED VIEW, \
     ALTER MATERIALIZED VIEW, REFRESH MATERIALIZED VIEW, VERIFY MATERIALIZED VIEW, \
     DROP and FLUSH";

/// One statement that this engine carries out.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `CREATE TABLE`.
    CreateStream(StreamSpec),
    /// `ALTER TABLE`.
    AlterStream(AlterSpec),
    /// `CREATE MATERIALIZED VIEW`.
    CreateView(ViewSpec),
    /// `ALTER MATERIALIZED VIEW`.
    AlterView(AlterViewSpec),
    /// `DROP TABLE` or `DROP [MATERIALIZED] VIEW`.
    Drop {
        /// What kind of thing goes.
        target: DropTarget,
        /// Its name.
        name: String,
        /// A missing thing is fine.
        if_exists: bool,
    },
    /// `REFRESH MATERIALIZED VIEW v`.
    Refresh(String),
    /// `VERIFY MATERIALIZED VIEW v`.
    Verify(String),
    /// `INSERT INTO stream ...`.
    Insert(InsertSpec),
    /// `COMMENT ON ... IS ...`.
    Comment(CommentSpec),
    /// `SHOW TABLES`, of all names or of those like a pattern.
    ShowTables(Option<Pattern>),
    /// `DESCRIBE t` or `SHOW COLUMNS FROM t`; a qualified name such as `lambdalake.runs` keeps its dot.
    Describe(String),
    /// `FLUSH` (all) or `FLUSH stream`.
    Flush(Option<String>),
    /// `EXPLAIN PROVENANCE query`, the query as text for the planner.
    ExplainProvenance(String),
    /// `EXPLAIN RECOMPUTE v`.
    ExplainRecompute(String),
    /// A read-only query or its EXPLAIN, as text for the planner.
    Query(String),
}

/// What a DROP removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropTarget {
    /// A stream with all its events.
    Stream,
    /// A view with all its versions.
    View,
}

impl Statement {
    /// Reads exactly one statement; a semicolon at its end is fine.
    ///
    /// Errors are all BadRequest: `syntax_error` with line and column, `unsupported_statement`
    /// with what to do instead, `invalid_name`, `invalid_type`, `invalid_option`.
    pub fn parse(sql: &str) -> Result<Self, EngineError> {
        let dialect = GenericDialect {};
        let tokens = Tokenizer::new(&dialect, sql)
            .tokenize_with_location()
            .map_err(|error| {
                EngineError::bad_request("syntax_error", error.message.clone())
                    .at(error.location.line, error.location.column)
                    .because(error)
            })?;
        let words: Vec<String> = significant(&tokens).take(4).map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        refuse_by_first_words(&words)?;
        complexity::check_tokens(&tokens)?;

        let mut parser = Parser::new(&dialect)
            .with_recursion_limit(MAX_DEPTH)
            .with_tokens_with_locations(columns::closing_one_by_one(&words, &tokens));
        while parser.consume_token(&Token::SemiColon) {}
        let statement = match words[..] {
            ["FLUSH", ..] => parse_flush(&mut parser)?,
            ["REFRESH", ..] => Statement::Refresh(parse_view_after_word(&mut parser)?),
            ["VERIFY", ..] => Statement::Verify(parse_view_after_word(&mut parser)?),
            ["EXPLAIN", "PROVENANCE", ..] => {
                Statement::ExplainProvenance(explain::parse_provenance(&mut parser, sql)?)
            }
            ["EXPLAIN", "RECOMPUTE", ..] => {
                Statement::ExplainRecompute(explain::parse_recompute(&mut parser)?)
            }
            ["ALTER", "MATERIALIZED", ..] => {
                Statement::AlterView(alter::parse_alter_view(&mut parser)?)
            }
            _ => {
                let parsed = parser.parse_statement().map_err(EngineError::from_parser)?;
                complexity::check_relations(&parsed)?;
                let statement = classify(parsed, sql, &tokens)?;
                with_table_comment(statement, &mut parser)?
            }
        };
        expect_end(&mut parser)?;
        Ok(statement)
    }

    /// Whether a GET may run it.
    pub fn is_read_only(&self) -> bool {
        matches!(
            self,
            Self::Query(_)
                | Self::ShowTables(_)
                | Self::Describe(_)
                | Self::ExplainProvenance(_)
                | Self::ExplainRecompute(_)
        )
    }
}

fn classify(parsed: Parsed, sql: &str, tokens: &[TokenWithSpan]) -> Result<Statement, EngineError> {
    match parsed {
        Parsed::Query(query) => {
            refuse_writes(&query)?;
            Ok(Statement::Query(text_of(sql)))
        }
        Parsed::Explain {
            describe_alias: DescribeAlias::Explain,
            statement,
            ..
        } => match *statement {
            Parsed::Query(query) => {
                refuse_writes(&query)?;
                Ok(Statement::Query(text_of(sql)))
            }
            _ => Err(unsupported("only queries can be explained")),
        },
        Parsed::Explain { .. } => Err(unsupported(
            "DESCRIBE takes the name of a stream or view; use EXPLAIN for queries",
        )),
        Parsed::ExplainTable {
            describe_alias: DescribeAlias::Explain,
            ..
        } => Err(unsupported(
            "EXPLAIN takes a query; use DESCRIBE for the columns of a table",
        )),
        Parsed::ExplainTable { table_name, .. } => {
            Ok(Statement::Describe(qualified_name(&table_name)?))
        }
        Parsed::ShowTables { show_options, .. } => show::show_tables(show_options),
        Parsed::ShowColumns { show_options, .. } => show::show_columns(show_options),
        Parsed::Insert(asked) => insert::insert(asked).map(Statement::Insert),
        Parsed::Comment {
            object_type,
            object_name,
            comment,
            if_exists: false,
        } => comment::comment_on(object_type, &object_name, comment).map(Statement::Comment),
        Parsed::AlterTable(alter) => alter::alter_stream(alter).map(Statement::AlterStream),
        Parsed::CreateTable(create) => create_stream(create).map(Statement::CreateStream),
        Parsed::CreateView(create) => {
            create_view(create, select_text(sql, tokens)?).map(Statement::CreateView)
        }
        Parsed::Drop {
            object_type,
            if_exists,
            names,
            cascade,
            purge,
            temporary,
            ..
        } => {
            if cascade || purge || temporary {
                return Err(unsupported("DROP takes no CASCADE, PURGE or TEMPORARY"));
            }
            drop_one(object_type, if_exists, &names)
        }
        _ => Err(unsupported("this statement is not supported")),
    }
}

fn create_stream(create: CreateTable) -> Result<StreamSpec, EngineError> {
    let refused = [
        (create.or_replace, "OR REPLACE: drop the stream first"),
        (create.external, "EXTERNAL: streams hold their own events"),
        (
            create.temporary || create.transient || create.volatile,
            "TEMPORARY",
        ),
        (
            create.query.is_some(),
            "AS SELECT: use CREATE MATERIALIZED VIEW",
        ),
        (
            create.like.is_some() || create.clone.is_some(),
            "LIKE or CLONE: list the columns",
        ),
        (
            !create.constraints.is_empty(),
            "table constraints: events are kept as they come",
        ),
        (
            create.partition_by.is_some() || create.partition_of.is_some(),
            "PARTITION",
        ),
        (
            create.location.is_some() || create.file_format.is_some(),
            "LOCATION or STORED AS",
        ),
    ];
    if let Some((_, what)) = refused.iter().find(|(present, _)| *present) {
        return Err(unsupported(&format!("CREATE TABLE does not take {what}")));
    }
    let name = table_name(&create.name)?;
    let fields = columns::fields(&create.columns)?;
    let (options, table_comment) = table_options(create.table_options)?;
    let options = options::stream_options(options)?;
    options.check_against(&fields)?;
    Ok(StreamSpec {
        name,
        if_not_exists: create.if_not_exists,
        fields,
        event_time: options.event_time,
        shard_key: options.shard_key,
        shards: options.shards,
        keeps_rest: options.keeps_rest,
        input: options.input,
        comments: Comments {
            table: table_comment,
            columns: comment::of_columns(&create.columns)?,
        },
    })
}

/// The options of a table, and its comment if that stands alone.
fn table_options(
    options: CreateTableOptions,
) -> Result<(Vec<ast::SqlOption>, Option<String>), EngineError> {
    if let CreateTableOptions::Plain(plain) = &options
        && let [ast::SqlOption::Comment(text)] = &plain[..]
    {
        return Ok((Vec::new(), Some(comment::of_table(text.clone())?)));
    }
    Ok((with_options(options)?, None))
}

/// `COMMENT 'text'` after the WITH of a CREATE TABLE, which the parser leaves over.
fn with_table_comment(
    mut statement: Statement,
    parser: &mut Parser<'_>,
) -> Result<Statement, EngineError> {
    if let Statement::CreateStream(spec) = &mut statement
        && let Some(text) = parser
            .parse_optional_inline_comment()
            .map_err(EngineError::from_parser)?
    {
        spec.comments.table = Some(comment::of_table(text)?);
    }
    Ok(statement)
}

fn create_view(create: CreateView, select: String) -> Result<ViewSpec, EngineError> {
    if !create.materialized {
        return Err(unsupported(
            "plain views do not exist here: use CREATE MATERIALIZED VIEW",
        ));
    }
    let refused = [
        (
            create.or_replace || create.or_alter,
            "OR REPLACE: drop the view first",
        ),
        (create.temporary, "TEMPORARY"),
        (
            !create.columns.is_empty(),
            "a list of columns: name them in the SELECT with AS",
        ),
        (
            create.to.is_some() || !create.cluster_by.is_empty(),
            "TO or CLUSTER BY",
        ),
        (
            create.comment.is_some(),
            "COMMENT: write COMMENT ON MATERIALIZED VIEW afterwards",
        ),
    ];
    if let Some((_, what)) = refused.iter().find(|(present, _)| *present) {
        return Err(unsupported(&format!(
            "CREATE MATERIALIZED VIEW does not take {what}"
        )));
    }
    refuse_writes(&create.query)?;
    Ok(ViewSpec {
        name: table_name(&create.name)?,
        if_not_exists: create.if_not_exists,
        select,
        options: options::view_options(with_options(create.options)?)?,
    })
}

fn with_options(options: CreateTableOptions) -> Result<Vec<ast::SqlOption>, EngineError> {
    match options {
        CreateTableOptions::None => Ok(Vec::new()),
        CreateTableOptions::With(options) => Ok(options),
        _ => Err(unsupported("options are written WITH (name = value, ...)")),
    }
}

fn drop_one(
    object_type: ObjectType,
    if_exists: bool,
    names: &[ObjectName],
) -> Result<Statement, EngineError> {
    let target = match object_type {
        ObjectType::Table | ObjectType::Stream => DropTarget::Stream,
        ObjectType::View | ObjectType::MaterializedView => DropTarget::View,
        other => return Err(unsupported(&format!("DROP {other} is not supported"))),
    };
    match names {
        [name] => Ok(Statement::Drop {
            target,
            name: table_name(name)?,
            if_exists,
        }),
        _ => Err(unsupported("DROP takes one name")),
    }
}

/// `FLUSH` and `FLUSH stream`; the parser's own FLUSH is MySQL's.
fn parse_flush(parser: &mut Parser<'_>) -> Result<Statement, EngineError> {
    parser
        .expect_keyword_is(Keyword::FLUSH)
        .map_err(EngineError::from_parser)?;
    if matches!(parser.peek_token().token, Token::EOF | Token::SemiColon) {
        return Ok(Statement::Flush(None));
    }
    let name = parser
        .parse_object_name(false)
        .map_err(EngineError::from_parser)?;
    Ok(Statement::Flush(Some(table_name(&name)?)))
}

/// The view of `REFRESH MATERIALIZED VIEW v` or `VERIFY MATERIALIZED VIEW v`, which the parser
/// does not know.
fn parse_view_after_word(parser: &mut Parser<'_>) -> Result<String, EngineError> {
    parser.next_token();
    parser
        .expect_keywords(&[Keyword::MATERIALIZED, Keyword::VIEW])
        .map_err(EngineError::from_parser)?;
    let name = parser
        .parse_object_name(false)
        .map_err(EngineError::from_parser)?;
    table_name(&name)
}

fn expect_end(parser: &mut Parser<'_>) -> Result<(), EngineError> {
    let mut ended = false;
    while parser.consume_token(&Token::SemiColon) {
        ended = true;
    }
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(());
    }
    let Location { line, column } = next.span.start;
    let error = if ended {
        unsupported("one statement per request")
    } else {
        EngineError::bad_request(
            "syntax_error",
            format!("Expected: end of statement, found: {}", next.token),
        )
    };
    Err(error.at(line, column))
}

/// Refuses what may not even parse here, so that the answer names the statement and not a token.
fn refuse_by_first_words(words: &[&str]) -> Result<(), EngineError> {
    let Some(first) = words.first() else {
        return Err(EngineError::bad_request(
            "syntax_error",
            "the statement is empty",
        ));
    };
    let hint = match (*first, &words[1..]) {
        ("REPLACE", _) => "send rows to POST /api/v1/streams/{stream}/events",
        ("UPDATE" | "DELETE" | "MERGE" | "TRUNCATE", _) => "events are immutable",
        ("COPY" | "UNLOAD" | "EXPORT" | "IMPORT", _) => {
            "SQL cannot read or write files here; use the format parameter of a query"
        }
        ("CREATE", ["EXTERNAL" | "UNBOUNDED", ..]) | ("CREATE", ["OR", "REPLACE", "EXTERNAL"]) => {
            "SQL cannot read files here; make a stream with CREATE TABLE and send it events"
        }
        ("SET" | "RESET" | "USE" | "PRAGMA", _) => {
            "there are no sessions: set what you need in the request's parameters"
        }
        ("BEGIN" | "START" | "COMMIT" | "ROLLBACK" | "SAVEPOINT", _) => {
            "there are no transactions: each query sees one consistent snapshot"
        }
        ("ALTER", [other, ..]) if !["TABLE", "MATERIALIZED"].contains(other) => {
            "only ALTER TABLE and ALTER MATERIALIZED VIEW are: drop it and create it again"
        }
        (
            "ATTACH" | "DETACH" | "GRANT" | "REVOKE" | "PREPARE" | "EXECUTE" | "DEALLOCATE"
            | "ANALYZE" | "VACUUM" | "CALL" | "LOAD" | "INSTALL" | "DECLARE" | "FETCH" | "CLOSE"
            | "LOCK" | "CACHE" | "UNCACHE" | "MSCK" | "KILL" | "OPTIMIZE" | "LISTEN" | "NOTIFY"
            | "DO" | "RENAME" | "UNLOCK" | "ASSERT",
            _,
        ) => UNDERSTOOD,
        _ => return Ok(()),
    };
    Err(EngineError::bad_request(
        "unsupported_statement",
        format!("{first} is not supported: {hint}"),
    ))
}

fn unsupported(message: &str) -> EngineError {
    EngineError::bad_request("unsupported_statement", format!("{message}; {UNDERSTOOD}"))
}

/// Refuses data-changing bodies, which the grammar allows inside WITH, and SELECT INTO.
fn refuse_writes(query: &Query) -> Result<(), EngineError> {
    for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
        refuse_writes(&cte.query)?;
    }
    refuse_writes_in(&query.body)
}

fn refuse_writes_in(body: &SetExpr) -> Result<(), EngineError> {
    match body {
        SetExpr::Select(select) if select.into.is_some() => {
            Err(unsupported("SELECT INTO is not supported"))
        }
        SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Table(_) => Ok(()),
        SetExpr::Query(query) => refuse_writes(query),
        SetExpr::SetOperation { left, right, .. } => {
            refuse_writes_in(left)?;
            refuse_writes_in(right)
        }
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            Err(unsupported("queries cannot change data"))
        }
    }
}

/// The text of the view's query: what follows the first AS outside parentheses.
fn select_text(sql: &str, tokens: &[TokenWithSpan]) -> Result<String, EngineError> {
    let mut depth = 0_u32;
    let start = tokens.iter().find(|token| {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Word(word) => return depth == 0 && word.keyword == Keyword::AS,
            _ => {}
        }
        false
    });
    let end = tokens.iter().rev().find(|token| {
        !matches!(
            token.token,
            Token::Whitespace(_) | Token::SemiColon | Token::EOF
        )
    });
    let text = start.zip(end).and_then(|(start, end)| {
        let from = byte_offset(sql, start.span.end)?;
        let to = byte_offset(sql, end.span.end)?;
        sql.get(from..to)
    });
    match text {
        Some(text) => Ok(text.trim().to_owned()),
        None => Err(EngineError::bad_request(
            "syntax_error",
            "the view has no query after AS",
        )),
    }
}

/// The byte at a tokenizer's location, whose lines and character columns count from 1.
fn byte_offset(sql: &str, location: Location) -> Option<usize> {
    let line_start = match location.line {
        0 => return None,
        1 => 0,
        line => {
            sql.match_indices('\n')
                .nth(usize::try_from(line).ok()? - 2)?
                .0
                + 1
        }
    };
    let column = usize::try_from(location.column).ok()?.checked_sub(1)?;
    let rest = &sql[line_start..];
    let inside = rest
        .char_indices()
        .nth(column)
        .map_or(rest.len(), |(offset, _)| offset);
    Some(line_start + inside)
}

fn text_of(sql: &str) -> String {
    sql.trim_matches(|c: char| c.is_whitespace() || c == ';')
        .to_owned()
}

fn significant(tokens: &[TokenWithSpan]) -> impl Iterator<Item = &Token> {
    tokens.iter().map(|token| &token.token).filter(|token| {
        !matches!(
            token,
            Token::Whitespace(
                Whitespace::Space
                    | Whitespace::Newline
                    | Whitespace::Tab
                    | Whitespace::SingleLineComment { .. }
                    | Whitespace::MultiLineComment(_)
            ) | Token::SemiColon
                | Token::EOF
        )
    })
}

/// An unquoted word in upper case; nothing for any other token.
fn word(token: &Token) -> String {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
        _ => String::new(),
    }
}

/// An identifier's meaning: folded unless quoted.
fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn qualified_name(name: &ObjectName) -> Result<String, EngineError> {
    Ok(name_parts(name)?.join("."))
}

/// The folded parts of a name, at least one.
fn name_parts(name: &ObjectName) -> Result<Vec<String>, EngineError> {
    let parts: Vec<String> = name
        .0
        .iter()
        .filter_map(ObjectNamePart::as_ident)
        .map(fold)
        .collect();
    if parts.is_empty() || parts.len() != name.0.len() {
        return Err(EngineError::bad_request(
            "invalid_name",
            format!("{name} is not a name"),
        ));
    }
    Ok(parts)
}

/// The name of a stream or view: one part, a letter first, at most 128 characters.
fn table_name(name: &ObjectName) -> Result<String, EngineError> {
    let invalid = |why: &str| {
        EngineError::bad_request(
            "invalid_name",
            format!("the name {name} is not valid: {why}"),
        )
    };
    let [part] = &name.0[..] else {
        return Err(invalid(
            "streams and views live in one place, without a schema before them",
        ));
    };
    let Some(ident) = part.as_ident() else {
        return Err(invalid("it is not an identifier"));
    };
    let folded = fold(ident);
    check_name(&folded)?;
    Ok(folded)
}

/// Checks the name of a stream or view as a path or a statement gives it.
pub fn check_name(name: &str) -> Result<(), EngineError> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let why = if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        "use a letter, then letters, digits and underscores"
    } else if name.len() > MAX_NAME_CHARS {
        "at most 128 characters"
    } else {
        return Ok(());
    };
    let message = format!("the name {name} is not valid: {why}");
    Err(EngineError::bad_request("invalid_name", message))
}

/// The statements of a script: split at the semicolons that are tokens, not at those in
/// strings or comments. Empty ones are left out.
pub fn split(script: &str) -> Result<Vec<String>, EngineError> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, script)
        .tokenize()
        .map_err(|error| {
            EngineError::bad_request("syntax_error", error.message.clone())
                .at(error.location.line, error.location.column)
                .because(error)
        })?;
    let statements = tokens
        .split(|token| *token == Token::SemiColon)
        .filter(|tokens| {
            tokens
                .iter()
                .any(|token| !matches!(token, Token::Whitespace(_)))
        })
        .map(|tokens| {
            tokens
                .iter()
                .map(ToString::to_string)
                .collect::<String>()
                .trim()
                .to_owned()
        });
    Ok(statements.collect())
}

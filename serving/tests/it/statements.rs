//! What each SQL text means, as a table.
use arrow::datatypes::{DataType, Field, TimeUnit};
use lambdalake_data::publication::Comments;
use lambdalake_serving::engine::{
    CommentSpec, CommentTarget, InsertSpec, StreamSpec, ViewChange, ViewOptions, ViewSpec,
};
use lambdalake_serving::statement::{DropTarget, Pattern, Statement};

fn parsed(sql: &str) -> Statement {
    Statement::parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[track_caller]
fn refused(sql: &str, code: &str, hint: &str) {
    match Statement::parse(sql) {
        Ok(statement) => panic!("{sql} was taken as {statement:?}"),
        Err(error) => {
            assert_eq!(error.code, code, "{sql}: {error}");
            assert!(error.message.contains(hint), "{sql}: {error}");
        }
    }
}

#[test]
fn queries_stay_text() {
    for sql in [
        "SELECT 1",
        "select * from t where a = ';'",
        "WITH a AS (SELECT 1 AS x) SELECT x FROM a",
        "VALUES (1, 'a')",
        "(SELECT 1) UNION ALL SELECT 2",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN VERBOSE SELECT 1",
        "-- why\nSELECT 1",
        "SELECT x FROM lambdalake.runs",
    ] {
        assert_eq!(parsed(sql), Statement::Query(sql.to_owned()));
    }
    assert_eq!(
        parsed(" SELECT 1 ;\n"),
        Statement::Query("SELECT 1".to_owned())
    );
}

#[test]
fn what_is_explained_is_known() {
    for sql in [
        "EXPLAIN PROVENANCE SELECT x FROM t",
        "explain  provenance\n SELECT x FROM t ;",
        "-- why\nEXPLAIN /* how */ Provenance /* \u{e9} */ SELECT x FROM t;;",
    ] {
        let query = "SELECT x FROM t".to_owned();
        assert_eq!(parsed(sql), Statement::ExplainProvenance(query), "{sql}");
    }
    let recompute = Statement::ExplainRecompute("v".to_owned());
    assert_eq!(parsed("EXPLAIN RECOMPUTE V;"), recompute);
    assert!(recompute.is_read_only());
    // A quoted word is a name.
    let refused = Statement::parse("EXPLAIN \"PROVENANCE\" SELECT 1");
    assert!(refused.is_err());
}

#[test]
fn streams_are_created() {
    let sql = "CREATE TABLE IF NOT EXISTS Access_Log (
        ts TIMESTAMP, at TIMESTAMP WITH TIME ZONE NOT NULL, IP TEXT NOT NULL, \"Path\" VARCHAR,
        status INT, bytes BIGINT, ratio DOUBLE, load FLOAT, ok BOOLEAN, tags BIGINT[],
        geo STRUCT<lat DOUBLE, names TEXT[]>
    ) WITH (event_time = 'ts', shard_key = ip, shards = 2)";
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let geo = vec![
        Field::new("lat", DataType::Float64, true),
        Field::new("names", DataType::new_list(DataType::Utf8, true), true),
    ];
    let expected = StreamSpec {
        name: "access_log".to_owned(),
        if_not_exists: true,
        fields: vec![
            Field::new("ts", time.clone(), true),
            Field::new("at", time, false),
            Field::new("ip", DataType::Utf8, false),
            Field::new("Path", DataType::Utf8, true),
            Field::new("status", DataType::Int64, true),
            Field::new("bytes", DataType::Int64, true),
            Field::new("ratio", DataType::Float64, true),
            Field::new("load", DataType::Float64, true),
            Field::new("ok", DataType::Boolean, true),
            Field::new("tags", DataType::new_list(DataType::Int64, true), true),
            Field::new("geo", DataType::Struct(geo.into()), true),
        ],
        event_time: Some("ts".to_owned()),
        shard_key: Some("ip".to_owned()),
        shards: Some(2),
        keeps_rest: false,
        input: Default::default(),
        comments: Comments::default(),
    };
    assert_eq!(parsed(sql), Statement::CreateStream(expected));

    let Statement::CreateStream(spec) = parsed("CREATE TABLE s WITH (event_time = 'when')") else {
        panic!("not a stream");
    };
    assert!(spec.fields.is_empty());
    assert_eq!(spec.event_time.as_deref(), Some("when"));
}

#[test]
fn brackets_of_nested_types_close_one_by_one() {
    let a_struct = |name: &str, inner| DataType::Struct(vec![Field::new(name, inner, true)].into());
    let expected = DataType::new_list(a_struct("a", a_struct("b", DataType::Int64)), true);
    for sql in [
        "CREATE TABLE s (x STRUCT<a STRUCT<b BIGINT>>[])",
        "CREATE TABLE s (x STRUCT<a STRUCT<b BIGINT> >[])",
    ] {
        let Statement::CreateStream(spec) = parsed(sql) else {
            panic!("not a stream");
        };
        assert_eq!(spec.fields[0].data_type(), &expected, "{sql}");
    }
}

#[test]
fn views_keep_the_text_of_their_query() {
    let query = "SELECT \"Ip\", count(*) AS n -- né\n  FROM   access_log\nGROUP BY \"Ip\"";
    let sql = format!(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS hits\nWITH (recompute = '10 minutes') AS\n {query} ;"
    );
    let expected = ViewSpec {
        name: "hits".to_owned(),
        if_not_exists: true,
        select: query.to_owned(),
        options: ViewOptions {
            recompute: Some("10 minutes".to_owned()),
            ..ViewOptions::default()
        },
    };
    assert_eq!(parsed(&sql), Statement::CreateView(expected));

    let Statement::CreateView(spec) =
        parsed("CREATE MATERIALIZED VIEW v AS WITH a AS (SELECT 1 AS x) SELECT x FROM a")
    else {
        panic!("not a view");
    };
    assert_eq!(spec.select, "WITH a AS (SELECT 1 AS x) SELECT x FROM a");
    assert_eq!(spec.options, ViewOptions::default());
}

#[test]
fn options_of_views_change_by_statement() {
    let change = |rest: &str| match parsed(&format!("ALTER MATERIALIZED VIEW Hits {rest};")) {
        Statement::AlterView(spec) if spec.view == "hits" => spec.change,
        other => panic!("{other:?}"),
    };
    let spec = ViewOptions {
        recompute: Some("0 3 * * *".to_owned()),
        time_zone: Some("Europe/Zurich".to_owned()),
        on_mismatch: Some("publish".to_owned()),
    };
    let set = "SET (recompute = '0 3 * * *', recompute_time_zone = 'Europe/Zurich', \
        on_mismatch = publish)";
    assert_eq!(change(set), ViewChange::Set(spec));
    let both = ViewChange::Reset {
        recompute: true,
        time_zone: true,
        on_mismatch: false,
    };
    assert_eq!(change("RESET (recompute_time_zone, recompute)"), both);
    assert_eq!(change("pause"), ViewChange::Pause);
    assert_eq!(change("RESUME"), ViewChange::Resume);
}

#[test]
fn the_rest_is_small() {
    let drop = |target, name: &str, if_exists| Statement::Drop {
        target,
        name: name.to_owned(),
        if_exists,
    };
    assert_eq!(
        parsed("DROP TABLE Foo"),
        drop(DropTarget::Stream, "foo", false)
    );
    assert_eq!(
        parsed("DROP TABLE IF EXISTS \"Foo\""),
        drop(DropTarget::Stream, "Foo", true)
    );
    assert_eq!(
        parsed("DROP MATERIALIZED VIEW v;"),
        drop(DropTarget::View, "v", false)
    );
    assert_eq!(parsed("DROP VIEW v"), drop(DropTarget::View, "v", false));
    assert_eq!(
        parsed("REFRESH MATERIALIZED VIEW V"),
        Statement::Refresh("v".to_owned())
    );
    assert_eq!(parsed("show tables"), Statement::ShowTables(None));
    let pattern = |text: &str, ignores_case| {
        Statement::ShowTables(Some(Pattern {
            text: text.to_owned(),
            ignores_case,
        }))
    };
    assert_eq!(parsed("SHOW TABLES LIKE 'a%'"), pattern("a%", false));
    assert_eq!(parsed("SHOW TABLES ILIKE 'A_'"), pattern("A_", true));
    for sql in ["SHOW COLUMNS FROM Access_Log", "SHOW COLUMNS IN access_log"] {
        assert_eq!(parsed(sql), Statement::Describe("access_log".to_owned()));
    }
    assert_eq!(
        parsed("DESCRIBE Access_Log"),
        Statement::Describe("access_log".to_owned())
    );
    assert_eq!(
        parsed("DESC lambdalake.runs"),
        Statement::Describe("lambdalake.runs".to_owned())
    );
    assert_eq!(parsed("flush"), Statement::Flush(None));
    assert_eq!(
        parsed("/* now */ FLUSH S ;"),
        Statement::Flush(Some("s".to_owned()))
    );
}

#[test]
fn everything_else_is_refused_with_a_hint() {
    for (sql, hint) in [
        ("REPLACE INTO t VALUES (1)", "/events"),
        (
            "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
            "never updated",
        ),
        ("INSERT OVERWRITE TABLE t VALUES (1)", "immutable"),
        ("INSERT INTO t VALUES (1) RETURNING a", "RETURNING"),
        ("INSERT INTO t DEFAULT VALUES", "no defaults"),
        ("INSERT INTO lambdalake.runs VALUES (1)", "system table"),
        (
            "INSERT INTO lambdalake.lambdalake.runs VALUES (1)",
            "system table",
        ),
        (
            "INSERT INTO information_schema.tables VALUES (1)",
            "system table",
        ),
        (
            "INSERT INTO t WITH a AS (DELETE FROM u RETURNING x) SELECT x FROM a",
            "cannot change data",
        ),
        ("COMMENT ON ROLE r IS 'x'", "only TABLE"),
        (
            "ALTER TABLE t ADD COLUMN a INT COMMENT 'x'",
            "COMMENT ON COLUMN",
        ),
        ("COMMENT ON INDEX i IS 'x'", "only TABLE"),
        ("UPDATE t SET a = 1", "immutable"),
        ("DELETE FROM t", "immutable"),
        (
            "COPY t TO '/tmp/x' STORED AS CSV",
            "cannot read or write files",
        ),
        (
            "COPY (SELECT 1) TO 'x.parquet'",
            "cannot read or write files",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "cannot read files",
        ),
        (
            "CREATE OR REPLACE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'",
            "cannot read files",
        ),
        (
            "create unbounded external table t stored as csv location 'x'",
            "cannot read files",
        ),
        ("SET datafusion.execution.batch_size = 1", "parameters"),
        ("BEGIN", "snapshot"),
        ("ATTACH DATABASE 'x' AS y", "understood are"),
        ("GRANT ALL ON t TO me", "understood are"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("FLUSH; DROP TABLE t", "one statement"),
        ("EXPLAIN DROP TABLE t", "only queries"),
        ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "only queries"),
        ("EXPLAIN t", "DESCRIBE"),
        ("EXPLAIN PROVENANCE", "takes a query"),
        ("EXPLAIN PROVENANCE FLUSH", "takes a query"),
        (
            "EXPLAIN PROVENANCE refresh MATERIALIZED VIEW v",
            "takes a query",
        ),
        ("EXPLAIN PROVENANCE DROP TABLE t", "takes a query"),
        ("EXPLAIN PROVENANCE EXPLAIN SELECT 1", "takes a query"),
        ("EXPLAIN PROVENANCE SELECT 1 INTO t", "SELECT INTO"),
        ("EXPLAIN RECOMPUTE;", "name of a view"),
        ("DESCRIBE SELECT 1", "EXPLAIN"),
        (
            "WITH a AS (DELETE FROM t RETURNING x) SELECT x FROM a",
            "cannot change data",
        ),
        (
            "WITH a AS (SELECT 1) INSERT INTO t SELECT 1",
            "cannot change data",
        ),
        ("SELECT 1 INTO t", "SELECT INTO"),
        ("CREATE TABLE t AS SELECT 1", "MATERIALIZED VIEW"),
        ("CREATE OR REPLACE TABLE t (a INT)", "drop the stream"),
        ("CREATE TEMPORARY TABLE t (a INT)", "TEMPORARY"),
        ("CREATE TABLE t (a INT, PRIMARY KEY (a))", "constraints"),
        ("CREATE VIEW v AS SELECT 1", "MATERIALIZED"),
        (
            "CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT 1",
            "drop the view",
        ),
        ("CREATE MATERIALIZED VIEW v (a) AS SELECT 1", "AS"),
        ("CREATE SCHEMA s", "understood are"),
        ("CREATE DATABASE s", "understood are"),
        ("CREATE FUNCTION f() RETURNS INT RETURN 1", "understood are"),
        ("DROP TABLE a, b", "one name"),
        ("DROP TABLE a CASCADE", "CASCADE"),
        ("DROP SCHEMA s", "understood are"),
        ("SHOW TABLES FROM lambdalake", "information_schema"),
        ("SHOW TABLES WHERE name = 'a'", "LIKE"),
        ("SHOW COLUMNS FROM t LIKE 'a'", "lambdalake.columns"),
        ("SHOW ALL", "understood are"),
    ] {
        refused(sql, "unsupported_statement", hint);
    }
}

#[test]
fn names_types_and_options_are_checked() {
    let long = format!("CREATE TABLE {} (a INT)", "x".repeat(129));
    for (sql, code, hint) in [
        ("CREATE TABLE _t (a INT)", "invalid_name", "a letter"),
        (
            "CREATE TABLE \"a b\" (a INT)",
            "invalid_name",
            "underscores",
        ),
        (
            "CREATE TABLE \"../x\" (a INT)",
            "invalid_name",
            "underscores",
        ),
        (
            "CREATE TABLE public.t (a INT)",
            "invalid_name",
            "without a schema",
        ),
        (long.as_str(), "invalid_name", "128"),
        (
            "CREATE TABLE t (_offset INT)",
            "invalid_name",
            "stored with every event",
        ),
        ("CREATE TABLE t (\"a b\" INT)", "invalid_name", "blanks"),
        ("CREATE TABLE t (a INT, A TEXT)", "invalid_name", "twice"),
        (
            "CREATE TABLE t (a INT, \"A\" TEXT)",
            "invalid_name",
            "twice",
        ),
        (
            "CREATE TABLE t (a DECIMAL(10, 2))",
            "invalid_type",
            "DECIMAL(10,2)",
        ),
        (
            "CREATE TABLE t (a VARCHAR(10))",
            "invalid_type",
            "allowed are",
        ),
        (
            "CREATE TABLE t (a INT UNSIGNED)",
            "invalid_type",
            "allowed are",
        ),
        (
            "CREATE TABLE t (a TIMESTAMP(9))",
            "invalid_type",
            "allowed are",
        ),
        ("CREATE TABLE t (a INT[3])", "invalid_type", "allowed are"),
        ("CREATE TABLE t (a STRUCT<x DATE>)", "invalid_type", "a.x"),
        (
            "CREATE TABLE t (a INT DEFAULT 1)",
            "invalid_option",
            "only NOT NULL and COMMENT",
        ),
        (
            "CREATE TABLE t (a INT PRIMARY KEY)",
            "invalid_option",
            "only NOT NULL and COMMENT",
        ),
        (
            "CREATE TABLE t (a INT) WITH (shard = 'a')",
            "invalid_option",
            "shard_key",
        ),
        (
            "CREATE TABLE t (a INT) WITH (shards = 0)",
            "invalid_option",
            "from 1",
        ),
        (
            "CREATE TABLE t (a INT) WITH (shards = 2, SHARDS = 3)",
            "invalid_option",
            "twice",
        ),
        (
            "CREATE TABLE t (a INT) WITH (event_time = 'a')",
            "invalid_option",
            "not a TIMESTAMP",
        ),
        (
            "CREATE TABLE t (a INT) WITH (shard_key = 'b')",
            "invalid_option",
            "not listed",
        ),
        (
            "CREATE MATERIALIZED VIEW v WITH (every = '1s') AS SELECT 1",
            "invalid_option",
            "recompute",
        ),
        (
            "ALTER MATERIALIZED VIEW v SET (every = '1s')",
            "invalid_option",
            "recompute_time_zone",
        ),
        (
            "ALTER MATERIALIZED VIEW v RESET (every)",
            "invalid_option",
            "recompute_time_zone",
        ),
        (
            "ALTER MATERIALIZED VIEW v RENAME TO w",
            "unsupported_statement",
            "PAUSE",
        ),
        (
            "ALTER MATERIALIZED VIEW v PAUSE now",
            "syntax_error",
            "end of statement",
        ),
        (
            "ALTER VIEW v PAUSE",
            "unsupported_statement",
            "ALTER MATERIALIZED VIEW",
        ),
    ] {
        refused(sql, code, hint);
    }
}

#[test]
fn syntax_errors_say_where() {
    for (sql, line, position) in [
        ("SELECT 1\n  FROM )", 2, 8),
        ("SELEKT 1", 1, 1),
        ("SELECT 'open", 1, 8),
        ("SELECT 1 FROM t t2 t3", 1, 20),
        ("REFRESH VIEW v", 1, 9),
        ("FLUSH a b", 1, 9),
    ] {
        let error = Statement::parse(sql).unwrap_err();
        assert_eq!(error.code, "syntax_error", "{sql}: {error}");
        assert_eq!(
            (error.line, error.position),
            (Some(line), Some(position)),
            "{sql}: {error}"
        );
        assert!(!error.message.contains("Line:"), "{error}");
    }
    refused("", "syntax_error", "empty");
    refused(" -- nothing\n;", "syntax_error", "empty");
    let deep = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    refused(&deep, "statement_too_complex", "nested");
}

#[test]
fn comments_are_part_of_a_table_or_come_later() {
    let comments = |sql: &str| match parsed(sql) {
        Statement::CreateStream(spec) => spec.comments,
        other => panic!("{other:?}"),
    };
    let both = comments(
        "CREATE TABLE t (a INT COMMENT 'an ''a''' NOT NULL, B TEXT COMMENT 'b') \
         WITH (shards = 1) COMMENT 'all of it'",
    );
    assert_eq!(both.table.as_deref(), Some("all of it"));
    let columns: Vec<(&str, &str)> = both
        .columns
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    assert_eq!(columns, [("a", "an 'a'"), ("b", "b")]);
    for sql in [
        "CREATE TABLE t (a INT) COMMENT 'x'",
        "CREATE TABLE t (a INT) COMMENT = 'x';",
    ] {
        assert_eq!(comments(sql).table.as_deref(), Some("x"), "{sql}");
    }
    let comment = |target, text: Option<&str>| {
        Statement::Comment(CommentSpec {
            target,
            text: text.map(str::to_owned),
        })
    };
    let column = CommentTarget::Column {
        table: "s".to_owned(),
        column: "C".to_owned(),
    };
    let view = CommentTarget::View("v".to_owned());
    for (sql, expected) in [
        (
            "COMMENT ON TABLE S IS 'it''s'",
            comment(CommentTarget::Stream("s".to_owned()), Some("it's")),
        ),
        ("COMMENT ON VIEW v IS ''", comment(view.clone(), None)),
        (
            "COMMENT ON MATERIALIZED VIEW v IS NULL",
            comment(view, None),
        ),
        (
            "comment on column s.\"C\" is 'c'",
            comment(column, Some("c")),
        ),
    ] {
        assert_eq!(parsed(sql), expected);
    }
    refused(
        "COMMENT ON COLUMN c IS 'x'",
        "invalid_name",
        "stream.column",
    );
    let long = format!("COMMENT ON TABLE t IS '{}'", "x".repeat(4_097));
    refused(&long, "invalid_comment", "4096");
}

#[test]
fn an_insert_is_a_stream_columns_and_a_query() {
    let insert = |columns: Option<&[&str]>, source: &str| {
        Statement::Insert(InsertSpec {
            stream: "s".to_owned(),
            columns: columns.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
            source: source.to_owned(),
        })
    };
    assert_eq!(
        parsed("INSERT INTO S VALUES (1, 'a'), (2, NULL);"),
        insert(None, "VALUES (1, 'a'), (2, NULL)")
    );
    assert_eq!(
        parsed("INSERT INTO public.s (A, \"B\") SELECT x, y FROM t WHERE z = ';'"),
        insert(Some(&["a", "B"]), "SELECT x, y FROM t WHERE z = ';'")
    );
    let statement = parsed("INSERT INTO s WITH a AS (SELECT 1 AS x) SELECT x FROM a");
    assert!(!statement.is_read_only());
    assert_eq!(
        statement,
        insert(None, "WITH a AS (SELECT 1 AS x) SELECT x FROM a")
    );
    refused("INSERT INTO \"../x\" VALUES (1)", "invalid_name", "letter");
    refused(
        "INSERT INTO s (a.b) VALUES (1)",
        "invalid_name",
        "whole columns",
    );
}

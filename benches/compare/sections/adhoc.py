"""4: ten questions about the raw stream that nobody prepared for."""

import duckdb as reference

from answers import compare, normalised
from context import Context, Section
from data import NAMES, Events
from load import line_offset, send
from measure import Measure, timed
from peers import DuckDb, Peer
from server import Server
from views import CREATE_STREAM

TARGET = 1.0
# The rest is not flushed yet: we merge it, DuckDB has it as one more Parquet file.
TAIL_SHARE = 0.05
# More would be flushed by itself.
MAX_TAIL_EVENTS = 250_000

# Each is the same SQL for both. Rows are in a total order, or sorted by all columns to compare.
QUERIES = {
    "count of a status": "SELECT count(*) AS n FROM events WHERE status = 404",
    "group by status": "SELECT status, count(*) AS n, CAST(sum(bytes) AS BIGINT) AS bytes FROM events GROUP BY status",
    "top ten paths": "SELECT path, count(*) AS n FROM events GROUP BY path ORDER BY n DESC, path LIMIT 10",
    "one hour": "SELECT count(*) AS n, max(latency) AS slowest FROM events "
    "WHERE ts >= TIMESTAMP '2026-01-01 12:00:00' AND ts < TIMESTAMP '2026-01-01 13:00:00'",
    "LIKE": "SELECT count(*) AS n FROM events WHERE path LIKE '%items/1%' AND agent LIKE '%Firefox%'",
    "distinct addresses": "SELECT count(DISTINCT ip) AS n FROM events",
    "one address": "SELECT ts, path, status, bytes FROM events WHERE ip = '{ip}' ORDER BY ts, path, status, bytes",
    "slowest requests": "SELECT latency, ts, ip, path FROM events ORDER BY latency DESC, ts, ip, path LIMIT 20",
    "errors by hour": "SELECT date_trunc('hour', ts) AS h, count(*) AS n, avg(latency) AS mean FROM events "
    "WHERE status >= 500 GROUP BY 1",
    "top addresses by bytes": "SELECT ip, CAST(sum(bytes) AS BIGINT) AS bytes, count(*) AS n FROM events "
    "GROUP BY ip ORDER BY bytes DESC, ip LIMIT 10",
}


def run(context: Context) -> Section:
    events = context.data()
    section = Section("adhoc", "Ad-hoc SQL on the raw stream, at most 5% of it not flushed")
    tail_share = min(TAIL_SHARE, MAX_TAIL_EVENTS / events.count)
    with (
        Server(context.binary, context.folder("adhoc"), flush_age="1h") as server,
        Peer(DuckDb, context.folder("duckdb")) as duckdb,
    ):
        offset, before = line_offset(events.ndjson, 1 - tail_share)
        server.execute(CREATE_STREAM)
        send(server, "events", events.ndjson, (0, offset))
        server.execute("FLUSH events")
        send(server, "events", events.ndjson, (offset, events.ndjson.stat().st_size))
        stream = server.get("/api/v1/streams/events")
        section.facts["events in the tail"] = stream["tail_rows"]
        if stream["tail_rows"] != events.count - before:
            raise RuntimeError("the tail was flushed, or the rest was not")
        tail = context.folder("tail") / "tail.parquet"
        _write_tail(events, before, tail)
        files = ", ".join(f"'{file}'" for file in [*server.master_files("events"), tail])
        duckdb.execute(
            f"CREATE VIEW events AS SELECT {NAMES} FROM read_parquet([{files}], union_by_name = true)"
        )
        for name, sql in QUERIES.items():
            section.measures.append(_measure(context, name, sql, events, server, duckdb))
    ratios = [measure.ratio("duckdb") for measure in section.measures]
    section.facts["median of the ratios"] = sorted(ratios)[len(ratios) // 2]
    section.facts["queries that reach the target"] = sum(ratio >= TARGET for ratio in ratios)
    return section


def _write_tail(events: Events, before: int, tail) -> None:
    with reference.connect() as connection:
        connection.execute(
            f"COPY (SELECT ts::TIMESTAMPTZ AS ts, * EXCLUDE (ts) FROM '{events.parquet}' OFFSET {before}) "
            f"TO '{tail}' (FORMAT parquet)"
        )


def _measure(
    context: Context, name: str, sql: str, events: Events, server: Server, duckdb: Peer
) -> Measure:
    with reference.connect() as connection:
        someone = f"SELECT ip FROM '{events.parquet}' LIMIT 1"
        sql = sql.format(ip=connection.sql(someone).fetchall()[0][0])
    expected = context.truth().query(sql.replace("FROM events", "FROM {source}"))
    keys = expected.column_names
    expected = normalised(expected, keys)
    for engine, table in (("lambdalake", server.table(sql)), ("duckdb", duckdb.table(sql))):
        compare(f"{engine}, {name}", expected, normalised(table, keys), keys)
    operations = {
        "lambdalake": lambda: timed(lambda: server.arrow(sql)),
        "duckdb": lambda: duckdb.seconds(sql),
    }
    # Milliseconds each: more rounds cost little and calm the medians.
    repeat = 1 if context.smoke else context.rounds.repeat * 3
    return Measure(
        name, "s", context.rounds.interleaved(operations, repeat=repeat), {"duckdb": TARGET}
    )

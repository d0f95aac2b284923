"""The views and what they are in each engine's words."""

from dataclasses import dataclass

CREATE_STREAM = "CREATE TABLE events ({columns}) WITH (event_time = 'ts')"

KEYS = ["m", "status"]


@dataclass(frozen=True)
class View:
    """One question, asked of events: `exact` columns must agree, `sketches` be near."""

    name: str
    ours: str
    clickhouse: str
    duckdb: str
    exact: list[str]
    has_sketches: bool = False


def create(view: View) -> str:
    return f"CREATE MATERIALIZED VIEW {view.name} AS {view.ours.format(source='events')}"


_FROM = "FROM {source} GROUP BY 1, 2"

COUNTS = View(
    "counts",
    ours="SELECT date_trunc('minute', ts) AS m, status, count(*) AS n, sum(bytes) AS bytes, "
    f"min(latency) AS fastest, max(latency) AS slowest {_FROM}",
    clickhouse="SELECT toStartOfMinute(ts) AS m, status, count() AS n, sum(bytes) AS bytes, "
    "min(latency) AS fastest, max(latency) AS slowest FROM {source} GROUP BY m, status",
    duckdb="SELECT date_trunc('minute', ts) AS m, status, count(*) AS n, sum(bytes)::BIGINT AS bytes, "
    f"min(latency) AS fastest, max(latency) AS slowest {_FROM}",
    exact=["n", "bytes", "fastest", "slowest"],
)

SKETCHES = View(
    "sketches",
    ours="SELECT date_trunc('minute', ts) AS m, status, count(*) AS n, sum(bytes) AS bytes, "
    f"approx_distinct(ip) AS ips, approx_percentile_cont(latency, 0.9) AS p90 {_FROM}",
    clickhouse="SELECT toStartOfMinute(ts) AS m, status, count() AS n, sum(bytes) AS bytes, "
    "uniq(ip) AS ips, quantileTDigest(0.9)(latency) AS p90 FROM {source} GROUP BY m, status",
    duckdb="SELECT date_trunc('minute', ts) AS m, status, count(*) AS n, sum(bytes)::BIGINT AS bytes, "
    f"approx_count_distinct(ip) AS ips, approx_quantile(latency, 0.9) AS p90 {_FROM}",
    exact=["n", "bytes"],
    has_sketches=True,
)

# The sketch view as ClickHouse keeps it: states in an AggregatingMergeTree, made at each INSERT.
CLICKHOUSE_STATES = (
    "CREATE TABLE {view} (m DateTime('UTC'), status Int64, n AggregateFunction(count), "
    "bytes AggregateFunction(sum, Int64), ips AggregateFunction(uniq, String), "
    "p90 AggregateFunction(quantileTDigest(0.9), Float64)) "
    "ENGINE = AggregatingMergeTree ORDER BY (m, status) SETTINGS {settings}"
)
CLICKHOUSE_STATES_FROM = (
    "CREATE MATERIALIZED VIEW {view}_from_{table} TO {view} AS SELECT toStartOfMinute(ts) AS m, "
    "status, countState() AS n, sumState(bytes) AS bytes, uniqState(ip) AS ips, "
    "quantileTDigestState(0.9)(latency) AS p90 FROM {table} GROUP BY m, status"
)
CLICKHOUSE_MERGE = (
    "SELECT m, status, countMerge(n) AS n, sumMerge(bytes) AS bytes, uniqMerge(ips) AS ips, "
    "quantileTDigestMerge(0.9)(p90) AS p90 FROM {view} {where} GROUP BY m, status"
)
CLICKHOUSE_EVENTS = (
    "CREATE TABLE {table} ({columns}) ENGINE = MergeTree ORDER BY ts SETTINGS {settings}"
)
# What a ClickHouse server does by default, and what makes an INSERT as durable as our answer.
UNSYNCED = "fsync_after_insert = 0"
SYNCED = "fsync_after_insert = 1, fsync_part_directory = 1"

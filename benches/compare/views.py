"""The views and what they are in each engine's words."""

from dataclasses import dataclass
from pathlib import Path

from data import CLICKHOUSE_COLUMNS, NAMES, SQL_COLUMNS
from peers import Peer

CREATE_STREAM = f"CREATE TABLE events ({SQL_COLUMNS}) WITH (event_time = 'ts')"

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

# What a ClickHouse server does by default, and what makes an INSERT as durable as our answer.
UNSYNCED = "fsync_after_insert = 0"
SYNCED = "fsync_after_insert = 1, fsync_part_directory = 1"


@dataclass(frozen=True)
class ClickHouseTables:
    """Events, and their sketch view as ClickHouse keeps it: states that each INSERT adds to."""

    events: str = "events"
    view: str = "sketches"
    settings: str = UNSYNCED
    keeps_events: bool = True

    def create(self, clickhouse: Peer) -> None:
        """Makes them anew; tables of the same names are dropped."""
        feed = f"{self.view}_feed"
        for name in (feed, self.view, self.events):
            clickhouse.execute(f"DROP TABLE IF EXISTS {name} SYNC")
        engine = f"MergeTree ORDER BY ts SETTINGS {self.settings}" if self.keeps_events else "Null"
        clickhouse.execute(f"CREATE TABLE {self.events} ({CLICKHOUSE_COLUMNS}) ENGINE = {engine}")
        clickhouse.execute(
            f"CREATE TABLE {self.view} (m DateTime('UTC'), status Int64, "
            "n AggregateFunction(count), bytes AggregateFunction(sum, Int64), "
            "ips AggregateFunction(uniq, String), "
            "p90 AggregateFunction(quantileTDigest(0.9), Float64)) "
            f"ENGINE = AggregatingMergeTree ORDER BY (m, status) SETTINGS {self.settings}"
        )
        clickhouse.execute(
            f"CREATE MATERIALIZED VIEW {feed} TO {self.view} AS SELECT toStartOfMinute(ts) AS m, "
            "status, countState() AS n, sumState(bytes) AS bytes, uniqState(ip) AS ips, "
            f"quantileTDigestState(0.9)(latency) AS p90 FROM {self.events} GROUP BY m, status"
        )

    def insert(self, ndjson: Path) -> str:
        structure = CLICKHOUSE_COLUMNS.replace("'", "\\'")
        return f"INSERT INTO {self.events} SELECT {NAMES} FROM file('{ndjson}', JSONEachRow, '{structure}')"

    def merge(self, where: str = "") -> str:
        return (
            "SELECT m, status, countMerge(n) AS n, sumMerge(bytes) AS bytes, uniqMerge(ips) AS ips, "
            f"quantileTDigestMerge(0.9)(p90) AS p90 FROM {self.view} {where} GROUP BY m, status"
        )

    def bytes_on_disk(self, clickhouse: Peer, table: str) -> int:
        sql = f"SELECT sum(bytes_on_disk) AS bytes FROM system.parts WHERE active AND table = '{table}'"
        return clickhouse.table(sql)["bytes"][0].as_py()

"""Holds answers against each other. A comparison of wrong answers is worthless."""

import math
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from views import KEYS, View

# Sketches of distinct values, as share of the true number: some standard errors of each engine's
# sketch, as the worst of thousands of groups is looked at.
DISTINCT_ERROR = {"lambdalake": 0.06, "clickhouse": 0.06, "duckdb": 0.25}
# Where in its group an estimated quantile may lie, as share of the group.
RANK_ERROR = 0.05


class WrongAnswer(Exception):
    pass


@dataclass(frozen=True)
class Truth:
    """Exact answers, by DuckDB from the generator's own file, which no engine under test reads."""

    events: Path

    def query(self, sql: str) -> pa.Table:
        with _reference() as connection:
            return connection.sql(sql.format(source=f"'{self.events}'")).to_arrow_table()

    def check_view(self, engine: str, view: View, answer: pa.Table) -> None:
        source = f"'{self.events}'"
        answer = normalised(answer, KEYS)
        with _reference() as connection:
            expected = connection.sql(view.duckdb.format(source=source)).to_arrow_table()
            compare(
                f"{engine}, view {view.name}", normalised(expected, KEYS), answer, KEYS + view.exact
            )
            if view.has_sketches:
                connection.register("answer", answer)
                self._check_sketches(connection, engine, source)

    def _check_sketches(self, connection, engine: str, source: str) -> None:
        worst = connection.execute(
            f"""
            WITH groups AS (
                SELECT m, status, count(*) AS n, count(DISTINCT ip) AS ips,
                       any_value(a.ips) AS estimate,
                       count(*) FILTER (latency < a.p90) / count(*) AS below,
                       count(*) FILTER (latency <= a.p90) / count(*) AS up_to
                FROM (SELECT epoch_us(date_trunc('minute', ts)) AS m, * FROM {source}) e
                JOIN answer a USING (m, status) GROUP BY ALL)
            SELECT max(greatest(abs(estimate - ips) - 2, 0) / ips),
                   max(greatest(below - 0.9, 0.9 - up_to, 0) - 1.5 / n)
            FROM groups
            """
        ).fetchone()
        if worst[0] > DISTINCT_ERROR[engine] or worst[1] > RANK_ERROR:
            raise WrongAnswer(
                f"{engine}: sketches are off: distinct values by {worst[0]:.3f} of their number, "
                f"quantiles by {worst[1]:.3f} of their group"
            )


def _reference() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    return connection


def normalised(table: pa.Table, keys: list[str]) -> pa.Table:
    """Sorted by its keys; times as microseconds since 1970, integers and floats in one width."""
    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_timestamp(field.type):
            column = column.cast(pa.timestamp("us", field.type.tz), safe=False).cast(pa.int64())
        elif field.type == pa.uint32():
            # ClickHouse's DateTime: seconds.
            column = pc.multiply(column.cast(pa.int64()), 1_000_000)
        elif pa.types.is_integer(field.type):
            column = column.cast(pa.int64())
        elif pa.types.is_floating(field.type) or pa.types.is_decimal(field.type):
            column = column.cast(pa.float64())
        elif not pa.types.is_boolean(field.type):
            column = column.cast(pa.string())
        columns[field.name] = column
    return pa.table(columns).sort_by([(key, "ascending") for key in keys])


def compare(what: str, expected: pa.Table, found: pa.Table, columns: list[str]) -> None:
    """Fails unless both tables, normalised, have equal values; floats up to rounding."""
    if expected.num_rows != found.num_rows:
        raise WrongAnswer(f"{what}: {found.num_rows} rows instead of {expected.num_rows}")
    for column in columns:
        left, right = expected[column].to_pylist(), found[column].to_pylist()
        for row, (a, b) in enumerate(zip(left, right, strict=True)):
            near = (
                isinstance(a, float)
                and isinstance(b, (int, float))
                and math.isclose(a, b, rel_tol=1e-9)
            )
            if a != b and not near:
                raise WrongAnswer(f"{what}: {column} of row {row} is {b!r} instead of {a!r}")

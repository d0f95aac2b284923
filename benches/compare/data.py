"""The events that everyone gets: an access log, made up from a seed, kept on disk.

One set of events is two files: NDJSON, which is ingested, and Parquet of the same rows, which
only the reference answers are computed from. The hours that the events cover are fixed, so more
events mean more of them per minute and not more minutes.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Part of the file names: a change of the generator must not meet files of the old one.
GENERATION = 1
HOURS = 24
FIRST_MICROS = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
CHUNK = 500_000
LATE_SHARE = 0.02
LATE_MEAN_MICROS = 120e6
ADDRESSES = 50_000

METHODS = (["GET", "POST", "PUT", "DELETE"], [0.86, 0.10, 0.03, 0.01])
STATUSES = ([200, 304, 404, 301, 403, 500, 503], [0.84, 0.06, 0.05, 0.02, 0.01, 0.01, 0.01])
SECTIONS = ["products", "articles", "users", "orders", "search", "assets", "api/v2/items", "tags"]
AGENTS = (
    [
        "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
        "Mozilla/5.0 (Windows NT 10.0; Win64) Edge/139.0",
        "Mozilla/5.0 (Macintosh) Safari/18.5",
        "Mozilla/5.0 (iPhone; iOS 19) Safari/19.0",
        "Mozilla/5.0 (Android 16) Chrome/141.0",
        "curl/8.9.1",
        "Googlebot/2.1",
    ],
    [0.22, 0.18, 0.14, 0.16, 0.2, 0.04, 0.06],
)

# Name and type of each column, in the words of each engine.
COLUMNS = [
    ("ts", "TIMESTAMP", "DateTime64(6, 'UTC')"),
    ("ip", "VARCHAR", "String"),
    ("method", "VARCHAR", "String"),
    ("path", "VARCHAR", "String"),
    ("status", "BIGINT", "Int64"),
    ("bytes", "BIGINT", "Int64"),
    ("latency", "DOUBLE", "Float64"),
    ("agent", "VARCHAR", "String"),
]
SQL_COLUMNS = ", ".join(f"{name} {sql}" for name, sql, _ in COLUMNS)
CLICKHOUSE_COLUMNS = ", ".join(f"{name} {clickhouse}" for name, _, clickhouse in COLUMNS)
NAMES = ", ".join(name for name, _, _ in COLUMNS)


@dataclass(frozen=True)
class Events:
    count: int
    ndjson: Path
    parquet: Path


def events(cache: Path, seed: int, count: int) -> Events:
    """The events of a seed and a count; made if the cache does not have them."""
    stem = cache / f"events-g{GENERATION}-s{seed}-n{count}"
    found = Events(count, stem.with_suffix(".ndjson"), stem.with_suffix(".parquet"))
    # The Parquet file is renamed last: where it is, both are whole.
    if not found.parquet.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _write(found, seed)
    return found


def _write(target: Events, seed: int) -> None:
    starts = range(0, target.count, CHUNK)
    sizes = (min(CHUNK, target.count - start) for start in starts)
    chunks = (
        _chunk(seed, start, size, target.count) for start, size in zip(starts, sizes, strict=True)
    )
    # In the cache's own file system, so that whole files can be renamed.
    with tempfile.TemporaryDirectory(dir=target.parquet.parent) as folder:
        whole, part, parquet = (Path(folder) / name for name in ("lines", "part", "parquet"))
        with duckdb.connect() as connection, whole.open("wb") as out, _writer(parquet) as writer:
            connection.execute("SET enable_progress_bar = false")
            for rows in chunks:
                writer.write_table(rows)
                connection.register("rows", rows)
                stamp = "strftime(ts, '%Y-%m-%dT%H:%M:%S.%gZ') AS ts"
                connection.execute(
                    f"COPY (SELECT * REPLACE ({stamp}) FROM rows) TO '{part}' (FORMAT json)"
                )
                out.write(part.read_bytes())
        whole.rename(target.ndjson)
        parquet.rename(target.parquet)


def _writer(path: Path) -> pq.ParquetWriter:
    schema = _chunk(seed=0, start=0, rows=0, count=1).schema
    return pq.ParquetWriter(path, schema, compression="zstd")


def _chunk(seed: int, start: int, rows: int, count: int) -> pa.Table:
    random = np.random.default_rng([seed, GENERATION, start, count])
    span = HOURS * 3_600_000_000
    micros = (np.arange(start, start + rows) + random.random(rows)) * (span / count)
    late = random.random(rows) < LATE_SHARE
    micros[late] -= random.exponential(LATE_MEAN_MICROS, int(late.sum()))
    # Milliseconds, as servers write them.
    micros = FIRST_MICROS + np.maximum(micros, 0).astype(np.int64) // 1000 * 1000

    # Powers of a uniform number: few are frequent, many are rare.
    address = (ADDRESSES * random.random(rows) ** 2).astype(np.uint64) * 2_654_435_761 % 2**32
    octets = [(address >> shift & 255).astype(str) for shift in (24, 16, 8, 0)]
    item = (2_000 * random.random(rows) ** 3).astype(np.int64)
    section = np.asarray(SECTIONS)[item % len(SECTIONS)]
    size = np.exp(random.normal(8.0, 1.6, rows)).astype(np.int64)
    latency = np.round(np.exp(random.normal(2.5, 0.9, rows)), 3)
    return pa.table(
        {
            "ts": pa.array(micros, pa.timestamp("us")),
            "ip": pa.array(_join(octets, ".")),
            "method": _pick(random, rows, METHODS),
            "path": pa.array(_join(["", section, item.astype(str)], "/")),
            "status": _pick(random, rows, STATUSES),
            "bytes": pa.array(size),
            "latency": pa.array(latency),
            "agent": _pick(random, rows, AGENTS),
        }
    )


def _pick(random: np.random.Generator, rows: int, choice: tuple[list, list]) -> pa.Array:
    values, weights = choice
    return pa.array(np.asarray(values)[random.choice(len(values), rows, p=weights)])


def _join(parts: list, separator: str) -> np.ndarray:
    joined = parts[0]
    for part in parts[1:]:
        joined = np.strings.add(np.strings.add(joined, separator), part)
    return joined

"""Is a stream still quick after ten thousand flushes of a few events each?

One server, one stream, two views. A batch, a FLUSH, and again; now and then the loop pauses and
measures: the flush itself, queries, memory, files, and starting again, cleanly and after kill -9.
At the end both views are recomputed and everything is measured once more. Each answer is held
against what was sent: a figure for a wrong answer is worthless.

It needs Linux and the standard library of Python. With `deltalake` installed, the Delta table is
opened, too.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "compare"))

from http_client import HttpConnection, HttpError  # noqa: E402
from process import Usage  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
MEASURED_AT = [10, 100, 1_000, 3_000, 10_000]
START_SECONDS = 120
BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
# Between two batches; ten thousand of them are 28 hours.
STEP = timedelta(seconds=10)
FOLDERS = ["publications", "streams", "_delta_log", "views", "log"]

STATEMENTS = [
    "CREATE TABLE hits (ts TIMESTAMP, path VARCHAR, visitor VARCHAR, ms BIGINT) "
    "WITH (event_time = 'ts')",
    "CREATE MATERIALIZED VIEW counts AS SELECT date_trunc('minute', ts) AS minute, path, "
    "count(*) AS n, sum(ms) AS ms FROM hits GROUP BY date_trunc('minute', ts), path",
    "CREATE MATERIALIZED VIEW visitors AS SELECT date_trunc('hour', ts) AS hour, count(*) AS n, "
    "approx_distinct(visitor) AS visitors FROM hits GROUP BY date_trunc('hour', ts)",
]


class Server:
    def __init__(self, binary: Path, folder: Path):
        self.binary = binary
        self.folder = folder
        self.process: subprocess.Popen | None = None

    def start(self) -> float:
        """Returns the milliseconds until it takes traffic."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # Nothing is flushed that was not asked for.
        command = [self.binary, "serve", "--data-dir", self.folder / "data"]
        command += ["--listen", f"127.0.0.1:{self.port}", "--flush-age", "24h"]
        with (self.folder / "log.txt").open("ab") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while time.perf_counter() - began < START_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError("the server ended: " + self.log())
            try:
                self.connection = HttpConnection(self.port)
                if self.connection.request("GET", "/health/readyz")[0] == 200:
                    return 1000 * (time.perf_counter() - began)
            except OSError:
                pass
            time.sleep(0.002)
        raise RuntimeError("the server is not ready: " + self.log())

    def stop(self, how: signal.Signals) -> None:
        if self.process:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-2000:]

    def call(self, path: str, body: bytes) -> dict:
        status, _, answer = self.connection.request("POST", path, body)
        if status >= 300:
            raise HttpError(status, answer)
        return json.loads(answer)

    def sql(self, statement: str) -> dict:
        return self.call("/api/v1/sql?timeout_ms=600000", statement.encode())


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="lambdalake-flushes-", dir=arguments.work))
    server = Server(arguments.binary.resolve(), folder)
    try:
        columns = _run(server, arguments)
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(columns, indent=1))
    print(table(columns))
    return 0


def _run(server: Server, arguments: argparse.Namespace) -> list[dict]:
    server.start()
    for statement in STATEMENTS:
        server.sql(statement)
    columns = []
    flushes: list[float] = []
    sent = 0
    for number in range(1, arguments.flushes + 1):
        server.call("/api/v1/streams/hits/events?format=ndjson", _batch(number, arguments.events))
        sent += arguments.events
        began = time.perf_counter()
        server.sql("FLUSH hits")
        flushes.append(1000 * (time.perf_counter() - began))
        if number in MEASURED_AT or number == arguments.flushes:
            column = {"when": f"{number:,} flushes", "flush": _times(flushes[-50:])}
            columns.append(column | _measure(server, number, sent, arguments))
            print(json.dumps(columns[-1]), file=sys.stderr, flush=True)
    column = {"when": "recomputed"}
    for view in ["counts", "visitors"]:
        began = time.perf_counter()
        server.sql(f"REFRESH MATERIALIZED VIEW {view}")
        column[f"recompute {view}"] = 1000 * (time.perf_counter() - began)
    columns.append(column | _measure(server, arguments.flushes, sent, arguments))
    print(json.dumps(columns[-1]), file=sys.stderr, flush=True)
    return columns


def _batch(number: int, events: int) -> bytes:
    begin = BEGIN + number * STEP
    lines = []
    for at in range(events):
        event = {
            "ts": (begin + at * STEP / events).isoformat(),
            "path": f"/{(number * 7 + at) % 10}",
            "visitor": f"192.0.2.{(number * 31 + at * 17) % 251}",
            "ms": (number + at) % 997,
        }
        lines.append(json.dumps(event))
    return "\n".join(lines).encode()


def _measure(server: Server, number: int, sent: int, arguments: argparse.Namespace) -> dict:
    hour = (BEGIN + (number + 1) * STEP - timedelta(hours=1)).isoformat()
    queries = {
        "count of the stream": ("SELECT count(*) FROM hits", sent),
        "stream, grouped": ("SELECT sum(n) FROM (SELECT path, count(*) AS n, avg(ms) AS ms "
                            "FROM hits GROUP BY path)", sent),
        "stream, last hour": (f"SELECT count(*) FROM hits WHERE ts >= '{hour}'", None),
        "counts, whole": ("SELECT sum(n) FROM counts", sent),
        "counts, last hour": (f"SELECT count(*) FROM counts WHERE minute >= '{hour}'", None),
        "visitors, whole": ("SELECT sum(n) FROM visitors", sent),
    }
    column = {}
    for name, (query, expected) in queries.items():
        began = time.perf_counter()
        _answer(server, query, expected)
        column[name + ", first"] = 1000 * (time.perf_counter() - began)
        times = []
        # A slow one is not asked for minutes.
        while len(times) < arguments.queries and sum(times) < 10_000:
            began = time.perf_counter()
            _answer(server, query, expected)
            times.append(1000 * (time.perf_counter() - began))
        column[name] = _times(times)
    column["memory"] = Usage.of(server.process.pid).rss_bytes
    data = server.folder / "data"
    for name in FOLDERS:
        column[f"files in {name}"] = len(_files(data, name))
    newest = max(_files(data, "publications"))
    column["newest publication"] = newest.stat().st_size
    column["bytes in streams"] = sum(path.stat().st_size for path in _files(data, "streams"))
    column["delta opened"] = _delta(data, sent)
    server.stop(signal.SIGKILL)
    column["start after kill"] = server.start()
    _answer(server, "SELECT count(*) FROM hits", sent)
    server.stop(signal.SIGTERM)
    column["start"] = server.start()
    for query in ["SELECT sum(ms) FROM hits", "SELECT sum(n) FROM counts"]:
        began = time.perf_counter()
        _answer(server, query, None)
        column[f"{query.split()[-1]}, first after a start"] = 1000 * (time.perf_counter() - began)
    column["memory after a start"] = Usage.of(server.process.pid).rss_bytes
    return column


def _files(data: Path, name: str) -> list[Path]:
    match name:
        case "streams":
            return [path for path in (data / name).glob("*/*.parquet")]
        case "_delta_log":
            return [path for path in (data / "streams").glob("*/_delta_log/*")]
        case _:
            return [path for path in (data / name).rglob("*") if path.is_file()]


def _answer(server: Server, query: str, expected: int | None) -> None:
    (row,) = server.sql(query)["data"]
    if expected is not None and int(*row.values()) != expected:
        raise RuntimeError(f"{query}: {row} instead of {expected}")


def _delta(data: Path, sent: int) -> float | None:
    try:
        import deltalake
    except ImportError:
        return None
    (folder,) = (data / "streams").iterdir()
    began = time.perf_counter()
    table = deltalake.DeltaTable(folder)
    took = 1000 * (time.perf_counter() - began)
    records = table.get_add_actions(flatten=True).column("num_records")
    rows = sum(records.to_pylist())
    if rows != sent:
        raise RuntimeError(f"the Delta table has {rows} rows instead of {sent}")
    return took


def _times(times: list[float]) -> list[float]:
    """Median and 99th percentile."""
    ordered = sorted(times)
    return [statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]]


def table(columns: list[dict]) -> str:
    """Markdown: one row for each measure, one column for each moment."""
    names = dict.fromkeys(name for column in columns for name in column if name != "when")
    lines = [["", *(column["when"] for column in columns)], ["---"] * (len(columns) + 1)]
    for name in names:
        lines.append([name, *(_cell(name, column.get(name)) for column in columns)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(name: str, value: float | list[float] | None) -> str:
    match value:
        case None:
            return ""
        case [median, p99]:
            return f"{median:.1f} / {p99:.1f} ms"
        case _ if name.startswith("files"):
            return f"{value:,}"
        case _ if name.startswith(("memory", "bytes")) or name.endswith("publication"):
            return f"{value / 1024:,.0f} KiB"
        case _:
            return f"{value:,.0f} ms"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/lambdalake")
    parser.add_argument("--flushes", type=int, default=MEASURED_AT[-1])
    parser.add_argument("--events", type=int, default=20, help="events of a batch")
    parser.add_argument("--queries", type=int, default=50, help="times that each query is asked")
    parser.add_argument("--work", type=Path, default=os.environ.get("TMPDIR"))
    parser.add_argument("--out", type=Path, default=ROOT / "target/many_flushes.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

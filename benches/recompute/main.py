"""What does a recompute of everything cost, and what do others notice of it?

One stream of random visits, then three questions:

memory   a view of millions of groups with states of fixed size, recomputed from scratch under
         `batch_memory_bytes`: time, most memory of the process, most bytes spilled
shared   four views that are due together, in one pass and each by itself
beside   the time of small ingest requests and of queries of a view, with and without a recompute

Each answer is held against what was sent: a figure for a wrong answer is worthless.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "compare"))

import duckdb  # noqa: E402
from server import Server  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
CHUNK = 1_000_000
POLL_SECONDS = 0.2
BESIDE_SECONDS = 30

STREAM = (
    "CREATE TABLE visits (ts TIMESTAMP, user_id TEXT, bytes BIGINT, ms DOUBLE) "
    "WITH (event_time = 'ts')"
)
PER_USER = (
    "SELECT user_id, count(*) AS n, sum(bytes) AS bytes, min(ms) AS fastest, max(ms) AS slowest, "
    "avg(ms) AS mean FROM visits GROUP BY user_id"
)
SMALL = {
    "per_minute": "SELECT date_trunc('minute', ts) AS minute, count(*) AS n, sum(bytes) AS bytes "
    "FROM visits GROUP BY date_trunc('minute', ts)",
    "per_size": "SELECT bytes / 1000 AS kb, count(*) AS n, avg(ms) AS ms FROM visits "
    "GROUP BY bytes / 1000",
    "per_hour": "SELECT date_trunc('hour', ts) AS hour, count(*) AS n, max(ms) AS ms "
    "FROM visits GROUP BY date_trunc('hour', ts)",
    "total": "SELECT count(*) AS n, sum(bytes) AS bytes, avg(ms) AS ms FROM visits",
}


def chunk(database: duckdb.DuckDBPyConnection, begin: int, groups: int, path: Path) -> bytes:
    """A million events as Parquet."""
    database.execute(
        f"""COPY (SELECT make_timestamp((1760000000000000 + ({begin} + range) * 1000)::BIGINT)
            AS ts, format('user-{{:07}}', (random() * {groups})::BIGINT % {groups}) AS user_id,
            (random() * 100000)::BIGINT AS bytes, round(random() * 200, 1) AS ms
            FROM range({CHUNK})) TO '{path}' (FORMAT parquet, COMPRESSION snappy)"""
    )
    return path.read_bytes()


def load(server: Server, events: int, groups: int, folder: Path) -> None:
    server.execute(STREAM)
    database = duckdb.connect()
    database.execute("SELECT setseed(0.5)")
    for begin in range(0, events, CHUNK):
        body = chunk(database, begin, groups, folder / "chunk.parquet")
        server.call("POST", "/api/v1/streams/visits/events?format=parquet", body)
    server.execute("FLUSH visits")


class Watch:
    """The most anonymous memory of the server, and the most bytes that it had spilled."""

    def __init__(self, server: Server):
        self.status = Path(f"/proc/{server.process.pid}/status")
        self.spill = server.folder / "data" / "staging" / "spill"
        self.memory = self.spilled = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        while not self.ended.wait(POLL_SECONDS):
            lines = self.status.read_text().splitlines()
            anonymous = next(line for line in lines if line.startswith("RssAnon:"))
            self.memory = max(self.memory, int(anonymous.split()[1]) * 1024)
            self.spilled = max(self.spilled, spilled(self.spill))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def spilled(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            pass
    return total


def ended(server: Server, views: list[str]) -> list[dict]:
    """The newest run of each view, once none goes on."""
    while True:
        runs = server.get("/api/v1/runs")["runs"]
        if all(run["status"] not in ("queued", "running") for run in runs):
            return [next(run for run in runs if run["view"] == view) for view in views]
        time.sleep(POLL_SECONDS)


def expect_all(server: Server, view: str, events: int) -> None:
    total = server.execute(f"SELECT sum(n) AS n FROM {view}")["data"][0]["n"]
    if total != events:
        raise RuntimeError(f"{view} counts {total} of {events} events")


def memory(server: Server, events: int) -> None:
    server.execute(f"CREATE MATERIALIZED VIEW per_user AS {PER_USER}")
    for what in ("first", "audited"):
        with Watch(server) as watch:
            if what == "audited":
                server.recompute("per_user")
            (run,) = ended(server, ["per_user"])
        if run["status"] != "succeeded":
            raise RuntimeError(json.dumps(run))
        expect_all(server, "per_user", events)
        print(
            f"memory, {what}: {run['states']:,} groups of {run['rows_read']:,} events in "
            f"{run['duration_ms'] / 1000:.1f} s; audit {run['audit']}; batch memory "
            f"{run['memory_bytes'] >> 20} MiB, process {watch.memory >> 20} MiB, spilled "
            f"{watch.spilled >> 20} MiB",
            flush=True,
        )


def shared(binary: Path, folder: Path, events: int, settings: dict) -> None:
    for limit, what in ((16, "in one pass"), (1, "each by itself")):
        with Server(binary, folder, recompute_shared_views=limit, **settings) as server:
            # The first run holds the queue until all of them wait.
            views = list(SMALL)
            for view in views:
                server.call("POST", f"/api/v1/views/{view}/recompute")
            ended(server, views)
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                server.call("POST", "/api/v1/views/per_user/recompute")
                for view in views:
                    server.call("POST", f"/api/v1/views/{view}/recompute")
                first = server.get("/api/v1/runs")["runs"]
                blocker = next(run for run in first if run["view"] == "per_user")
                server.call("DELETE", f"/api/v1/runs/{blocker['run_id']}")
                runs = ended(server, views)
                seconds.append(time.perf_counter() - began)
                if any(run["status"] != "succeeded" for run in runs):
                    raise RuntimeError(json.dumps(runs))
            for view in views:
                expect_all(server, view, events)
            together = 1 + max(len(run["shared_with"]) for run in runs)
            print(
                f"shared, four views {what} (at most {together} together): "
                f"{statistics.median(seconds):.1f} s",
                flush=True,
            )


def ask(server: Server, sent: int, times: dict[str, list[float]]) -> int:
    lines = [json.dumps({"n": i, "t": f"t{i % 50}"}) for i in range(100)]
    body = "\n".join(lines).encode()
    until = time.monotonic() + BESIDE_SECONDS
    while time.monotonic() < until:
        began = time.perf_counter()
        server.call("POST", "/api/v1/streams/live/events?format=ndjson", body)
        times["ingest"].append(1000 * (time.perf_counter() - began))
        sent += 100
        began = time.perf_counter()
        answer = server.execute("SELECT sum(n) AS n FROM live_n")
        times["query"].append(1000 * (time.perf_counter() - began))
        if answer["data"][0]["n"] != sent:
            raise RuntimeError(f"{answer['data']} of {sent} events")
        time.sleep(random.uniform(0.02, 0.06))
    return sent


def beside(server: Server) -> None:
    """Ten small requests and ten queries a second, alone and during recomputes."""
    server.execute("CREATE TABLE live (n BIGINT, t TEXT)")
    server.execute("CREATE MATERIALIZED VIEW live_n AS SELECT t, count(*) AS n FROM live GROUP BY t")
    sent = 0
    for what in ("alone", "during recomputes"):
        ended_now = threading.Event()

        def recompute():
            while not ended_now.is_set():
                server.recompute("per_user")

        runner = threading.Thread(target=recompute)
        if what != "alone":
            runner.start()
            time.sleep(2)
        times: dict[str, list[float]] = {"ingest": [], "query": []}
        try:
            sent = ask(server, sent, times)
        finally:
            ended_now.set()
            if what != "alone":
                runner.join()
        for kind, values in times.items():
            values.sort()
            p99 = values[int(len(values) * 0.99)]
            print(
                f"beside, {kind} {what}: median {statistics.median(values):.2f} ms, "
                f"p99 {p99:.2f} ms of {len(values)}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "lambdalake")
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--groups", type=int, default=5_000_000)
    parser.add_argument("--memory", default="1GiB", help="batch_memory_bytes")
    parser.add_argument("--work", type=Path, help="where the data folder goes")
    arguments = parser.parse_args()
    events = max(CHUNK, arguments.events // CHUNK * CHUNK)
    folder = Path(tempfile.mkdtemp(prefix="lambdalake-recompute-", dir=arguments.work))
    settings = {"batch_memory_bytes": arguments.memory}
    try:
        with Server(arguments.binary, folder, **settings) as server:
            began = time.perf_counter()
            load(server, events, arguments.groups, folder)
            print(f"loaded {events:,} events in {time.perf_counter() - began:.0f} s", flush=True)
            memory(server, events)
            for view, select in SMALL.items():
                server.execute(f"CREATE MATERIALIZED VIEW {view} AS {select}")
            ended(server, list(SMALL))
            beside(server)
        shared(arguments.binary, folder, events, settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

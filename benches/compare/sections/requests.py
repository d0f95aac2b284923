"""5: one event per request: what group commit makes of the disk's syncs."""

import os
import time

from context import Context, Section
from many_requests import Requests, send_singly
from measure import Measure, percentile
from server import Server
from views import CREATE_STREAM, SKETCHES, create

# How many times the rate that one sync per request would give.
TARGET = 20.0
CONNECTIONS = 64
SECONDS = 5.0
RECORD_BYTES = 200


def run(context: Context) -> Section:
    events = context.data()
    section = Section("requests", "One event per request, 64 connections, each synced")
    seconds = 0.5 if context.smoke else SECONDS
    done: list[Requests] = []
    with Server(context.binary, context.folder("requests")) as server:
        server.execute(CREATE_STREAM)
        server.execute(create(SKETCHES))

        def ours() -> float:
            before = server.usage().cpu_seconds
            requests = send_singly(server.port, "events", events.ndjson, CONNECTIONS, seconds)
            used.append(server.usage().cpu_seconds - before)
            done.append(requests)
            return len(requests.latencies) / requests.seconds

        used: list[float] = []
        syncs = context.folder("syncs") / "file"
        rates = context.rounds.interleaved(
            {"lambdalake": ours, "one sync each": lambda: _syncs_per_second(syncs, seconds)},
            warm=False,
        )
        idle = send_singly(server.port, None, events.ndjson, CONNECTIONS, seconds)
        acknowledged = sum(len(requests.latencies) for requests in done)
        seen = server.table("SELECT sum(n) AS n FROM sketches")["n"][0].as_py()
        if seen != acknowledged:
            raise RuntimeError(f"{seen} events are seen, {acknowledged} were acknowledged")
    section.measures.append(
        Measure(
            "acknowledged requests",
            "requests/s",
            rates,
            {"one sync each": TARGET},
            more_is_better=True,
        )
    )
    for share, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p999")):
        samples = [percentile(requests.latencies, share) for requests in done]
        section.measures.append(Measure(f"latency, {name}", "s", {"lambdalake": samples}))
    last = done[-1]
    section.facts |= {
        "requests/s that ask for nothing (GET /health/livez), the same client": len(idle.latencies)
        / idle.seconds,
        "server CPU microseconds per request": used[-1] / len(last.latencies) * 1e6,
        "client CPU microseconds per request": last.client_cpu_seconds / len(last.latencies) * 1e6,
        "cores busy with server and client": (used[-1] + last.client_cpu_seconds) / last.seconds,
    }
    return section


def _syncs_per_second(path, seconds: float) -> float:
    """Records appended to a file one by one, each synced before the next."""
    record = bytes(RECORD_BYTES)
    count = 0
    began = time.perf_counter()
    with path.open("ab", buffering=0) as file:
        while time.perf_counter() - began < seconds:
            file.write(record)
            os.fdatasync(file.fileno())
            count += 1
    return count / (time.perf_counter() - began)

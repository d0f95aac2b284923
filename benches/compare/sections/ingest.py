"""1: events per second, each acknowledged as durable and seen by a view."""

import time

import pyarrow as pa

from context import Context, Section
from data import Events
from load import send
from measure import Measure
from peers import ClickHouse, Peer
from server import Server
from views import CREATE_STREAM, SKETCHES, SYNCED, UNSYNCED, ClickHouseTables, create

TARGET = 1.5


def run(context: Context) -> Section:
    events = context.data()
    loads = []
    answers = {}

    def ours() -> float:
        with Server(context.binary, context.folder("ingest")) as server:
            server.execute(CREATE_STREAM)
            server.execute(create(SKETCHES))
            began = time.perf_counter()
            load = send(server, "events", events.ndjson)
            answers["lambdalake"] = server.table("SELECT * FROM sketches")
            seconds = time.perf_counter() - began
            query = seconds - load.seconds
            loads.append((load, query))
            return seconds

    with Peer(ClickHouse, context.folder("clickhouse")) as clickhouse:
        operations = {
            "lambdalake": ours,
            "clickhouse": lambda: _insert(clickhouse, "synced", SYNCED, events, answers),
            "clickhouse, no fsync": lambda: _insert(clickhouse, "unsynced", UNSYNCED, events, answers),
        }
        # Not warmed: each round is a new table and a new stream.
        samples = context.rounds.interleaved(operations, warm=False)
    for engine, answer in answers.items():
        context.truth().check_view(engine.split(",")[0], SKETCHES, answer)

    rates = {name: [events.count / s for s in seconds] for name, seconds in samples.items()}
    load, query = loads[-1]
    section = Section("ingest", "Durable ingest with one view")
    section.measures.append(
        Measure("NDJSON, 4 connections, until a view shows all", "events/s", rates,
                {"clickhouse": TARGET}, more_is_better=True)
    )
    section.facts |= {
        "seconds until the last acknowledgement": load.seconds,
        "seconds of the first query of the view": query,
        "server CPU seconds while loading": load.server_cpu_seconds,
        "client CPU seconds while loading": load.client_cpu_seconds,
        "bodies refused with 429": sum(load.refused.values()),
        "NDJSON bytes per event": events.ndjson.stat().st_size / events.count,
    }
    return section


def _insert(clickhouse: Peer, name: str, settings: str, events: Events, answers: dict) -> float:
    tables = ClickHouseTables(f"events_{name}", f"sketches_{name}", settings)
    tables.create(clickhouse)
    seconds = clickhouse.seconds(tables.insert(events.ndjson))
    asked, answer = clickhouse.timed(tables.merge())
    answers[f"clickhouse, {name}"] = pa.ipc.open_stream(answer).read_all()
    return seconds + asked

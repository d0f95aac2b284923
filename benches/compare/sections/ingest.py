"""1: events per second, each acknowledged as durable and seen by a view."""

from collections.abc import Callable

import pyarrow as pa

from context import Context, Section
from data import Events
from load import Load, send
from measure import Measure, timed, with_cpu
from peers import ClickHouse, Peer
from server import Server
from views import CREATE_STREAM, SKETCHES, SYNCED, UNSYNCED, ClickHouseTables, create

TARGET = 1.5
UNSYNCED_NAME = "clickhouse, no fsync"


def run(context: Context) -> Section:
    events = context.data()
    loads: list[Load] = []
    query_seconds: list[float] = []
    used: dict[str, list[float]] = {
        name: [] for name in ("lambdalake", "clickhouse", UNSYNCED_NAME)
    }
    answers = {}

    with (
        Server(context.binary, context.folder("ingest")) as server,
        Peer(ClickHouse, context.folder("clickhouse")) as clickhouse,
    ):

        def ours() -> float:
            server.execute("DROP VIEW IF EXISTS sketches")
            server.execute("DROP TABLE IF EXISTS events")
            server.execute(CREATE_STREAM)
            server.execute(create(SKETCHES))
            return with_cpu(server, load_and_ask, used["lambdalake"])()

        def load_and_ask() -> float:
            load = send(server, "events", events.ndjson)
            loads.append(load)
            query_seconds.append(
                timed(lambda: answers.update(lambdalake=server.arrow("SELECT * FROM sketches")))
            )
            return load.seconds + query_seconds[-1]

        def theirs(name: str, tables: ClickHouseTables) -> Callable[[], float]:
            def insert() -> float:
                tables.create(clickhouse)
                return with_cpu(
                    clickhouse,
                    lambda: _insert(clickhouse, name, tables, events, answers),
                    used[name],
                )()

            return insert

        operations = {
            "lambdalake": ours,
            "clickhouse": theirs("clickhouse", ClickHouseTables("synced", "synced_view", SYNCED)),
            UNSYNCED_NAME: theirs(
                UNSYNCED_NAME, ClickHouseTables("unsynced", "unsynced_view", UNSYNCED)
            ),
        }
        # Not warmed: each round is a new table and a new stream.
        samples = context.rounds.interleaved(operations, warm=False)
    for engine, answer in answers.items():
        table = pa.ipc.open_stream(answer).read_all()
        context.truth().check_view(engine.split(",")[0], SKETCHES, table)

    rates = {name: [events.count / s for s in seconds] for name, seconds in samples.items()}
    cpu = {name: [s / events.count * 1e6 for s in seconds] for name, seconds in used.items()}
    section = Section("ingest", "Durable ingest with one view")
    section.measures += [
        Measure(
            "NDJSON, 4 connections, until a view shows all",
            "events/s",
            rates,
            {"clickhouse": TARGET},
            more_is_better=True,
        ),
        Measure("CPU of the engine, HTTP included for us", "µs/event", cpu),
    ]
    load = loads[-1]
    section.facts |= {
        "seconds until the last acknowledgement": load.seconds,
        "seconds of the first query of the view": query_seconds[-1],
        "cores busy with the server while loading": load.server_cpu_seconds / load.seconds,
        "client CPU seconds while loading": load.client_cpu_seconds,
        "bodies refused with 429": load.refused,
        "NDJSON bytes per event": events.ndjson.stat().st_size / events.count,
    }
    return section


def _insert(
    clickhouse: Peer, name: str, tables: ClickHouseTables, events: Events, answers: dict
) -> float:
    seconds = clickhouse.seconds(tables.insert(events.ndjson))
    asked, answers[name] = clickhouse.timed(tables.merge())
    return seconds + asked

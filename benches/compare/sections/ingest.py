"""1: events per second, each acknowledged as durable and seen by a view."""

import time

from answers import normalised
from context import Context, Section
from data import CLICKHOUSE_COLUMNS, NAMES, SQL_COLUMNS
from load import send
from measure import Measure
from peers import ClickHouse, Peer
from server import Server
from views import (
    CLICKHOUSE_EVENTS, CLICKHOUSE_MERGE, CLICKHOUSE_STATES, CLICKHOUSE_STATES_FROM, CREATE_STREAM,
    SKETCHES, SYNCED, UNSYNCED, create,
)

TARGET = 1.5


def run(context: Context) -> Section:
    events = context.data()
    loads = []
    answers = {}

    def ours() -> float:
        with Server(context.binary, context.folder("ingest")) as server:
            server.execute(CREATE_STREAM.format(columns=SQL_COLUMNS))
            server.execute(create(SKETCHES))
            began = time.perf_counter()
            load = send(server, "events", events.ndjson)
            answers["lambdalake"] = server.table("SELECT * FROM sketches")
            seconds = time.perf_counter() - began
            query = seconds - load.seconds
            loads.append((load, query))
            return seconds

    with Peer(ClickHouse, context.folder("clickhouse")) as clickhouse:
        clickhouse.execute("CREATE DATABASE compare ENGINE = Atomic")
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


def _insert(clickhouse: Peer, name: str, settings: str, events, answers: dict) -> float:
    table, view = f"compare.events_{name}", f"compare.sketches_{name}"
    for old in (f"{view}_from_events_{name}", view, table):
        clickhouse.execute(f"DROP TABLE IF EXISTS {old} SYNC")
    clickhouse.execute(
        CLICKHOUSE_EVENTS.format(table=table, columns=CLICKHOUSE_COLUMNS, settings=settings)
    )
    clickhouse.execute(CLICKHOUSE_STATES.format(view=view, settings=settings))
    clickhouse.execute(
        CLICKHOUSE_STATES_FROM.format(view=view, table=table).replace("_from_compare.", "_from_")
    )
    structure = CLICKHOUSE_COLUMNS.replace("'", "\\'")
    seconds = clickhouse.seconds(
        f"INSERT INTO {table} SELECT {NAMES} FROM file('{events.ndjson}', JSONEachRow, '{structure}')"
    )
    answered = clickhouse.seconds(CLICKHOUSE_MERGE.format(view=view, where=""))
    answers[f"clickhouse, {name}"] = clickhouse.table(CLICKHOUSE_MERGE.format(view=view, where=""))
    return seconds + answered

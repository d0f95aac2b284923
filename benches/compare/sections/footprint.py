"""6: what events take on disk and in memory, and how soon a killed server is back."""

from context import Context, Section
from data import Events
from load import send
from measure import Measure, timed
from peers import ClickHouse, NoEngine, Peer
from process import Usage, size_on_disk
from server import Server
from views import CREATE_STREAM, SKETCHES, ClickHouseTables, create

MIB = 1 << 20
# Nothing is flushed: the whole stream is in the log and in memory.
UNFLUSHED = {
    "flush_age": "24h",
    "flush_rows": 10**9,
    "flush_bytes": "64GiB",
    "tail_limit_bytes": "64GiB",
}


def run(context: Context) -> Section:
    events = context.data()
    section = Section("footprint", "Bytes on disk, memory, start after kill -9")
    ours, our_memory = _ours(context, section, events)
    theirs, their_memory = _clickhouse(context, section, events)
    for name in ours:
        samples = {
            "lambdalake": [ours[name] / events.count],
            "clickhouse": [theirs[name] / events.count],
        }
        section.measures.append(Measure(f"{name} on disk", "bytes/event", samples))
    for name in our_memory:
        samples = {"lambdalake": [our_memory[name] / MIB], "clickhouse": [their_memory[name] / MIB]}
        section.measures.append(Measure(name, "MiB", samples))
    _start_after_kill(context, section, events)
    return section


def _ours(context: Context, section: Section, events: Events) -> tuple[dict, dict]:
    with Server(context.binary, context.folder("footprint")) as server:
        server.execute(CREATE_STREAM)
        server.execute(create(SKETCHES))
        rest = server.usage()
        send(server, "events", events.ndjson)
        loaded = server.usage()
        server.recompute("sketches")
        data = server.folder / "data"
        section.facts["log bytes per event when all is flushed"] = (
            size_on_disk(data / "log") / events.count
        )
        # Files that the last recompute replaced are still there; the version names those that count.
        version = server.get("/api/v1/views/sketches")["versions"][-1]
        sizes = {"events": size_on_disk(data / "streams"), "states of the view": version["bytes"]}
        section.facts["peak RSS after the recompute, MiB"] = server.usage().peak_rss_bytes / MIB
        return sizes, _memory(rest, loaded)


def _clickhouse(context: Context, section: Section, events: Events) -> tuple[dict, dict]:
    tables = ClickHouseTables()
    with Peer(ClickHouse, context.folder("clickhouse")) as clickhouse:
        tables.create(clickhouse)
        rest = clickhouse.usage()
        clickhouse.execute(tables.insert(events.ndjson))
        loaded = clickhouse.usage()
        for table in (tables.events, tables.view):
            clickhouse.execute(f"OPTIMIZE TABLE {table} FINAL")
        sizes = {
            "events": tables.bytes_on_disk(clickhouse, tables.events),
            "states of the view": tables.bytes_on_disk(clickhouse, tables.view),
        }
    with Peer(NoEngine, context.folder("none")) as python:
        section.facts["of a peer's RSS, MiB of Python alone"] = python.usage().rss_bytes / MIB
    return sizes, _memory(rest, loaded)


def _memory(rest: Usage, loaded: Usage) -> dict:
    return {"RSS at rest": rest.rss_bytes, "peak RSS while loading": loaded.peak_rss_bytes}


def _start_after_kill(context: Context, section: Section, events: Events) -> None:
    with Server(context.binary, context.folder("killed"), **UNFLUSHED) as server:
        server.execute(CREATE_STREAM)
        server.execute(create(SKETCHES))
        send(server, "events", events.ndjson)
        stream = server.get("/api/v1/streams/events")
        if stream["tail_rows"] != events.count:
            raise RuntimeError(f"only {stream['tail_rows']} events are unflushed")
        log = size_on_disk(server.folder / "data" / "log")
        held = server.usage().rss_bytes
        started, answered = [], []
        for _ in range(context.rounds.repeat):
            server.stop()
            started.append(server.start())
            # The first answer maps what was read: a start that left all work to it is no start.
            answered.append(started[-1] + timed(lambda: server.arrow("SELECT * FROM sketches")))
        context.truth().check_view("lambdalake", SKETCHES, server.table("SELECT * FROM sketches"))
    section.measures += [
        Measure("start after kill -9, all events unflushed", "s", {"lambdalake": started}),
        Measure("the same until a view has answered", "s", {"lambdalake": answered}),
    ]
    section.facts |= {
        "log bytes per event when nothing is flushed": log / events.count,
        "RSS with all events unflushed, MiB": held / MIB,
    }

"""3: a view of which half is in its batch version and half in the speed layer."""

import shutil

from background import Background
from context import Context, Section
from data import Events
from load import line_offset, send
from measure import Measure, percentile, timed
from peers import ClickHouse, Peer
from server import Server
from views import CREATE_STREAM, SKETCHES, ClickHouseTables, create

TARGET = 1.5
# Under load the slowest queries may take this many times what they take on an idle server.
SLOWER_UNDER_LOAD = 3
# Of each kind, or fewer if they take longer than this.
QUERIES = 200
MOST_SECONDS = 45

WHOLE = "whole view"
LAST_HOUR = "last hour"
OURS = {
    WHOLE: "SELECT * FROM sketches",
    LAST_HOUR: "SELECT * FROM sketches WHERE m >= '2026-01-01T23:00:00Z'",
}
# Only the states are asked here: ClickHouse need not keep the events themselves.
TABLES = ClickHouseTables(keeps_events=False)
CLICKHOUSE = {WHOLE: TABLES.merge(), LAST_HOUR: TABLES.merge("WHERE m >= '2026-01-01 23:00:00'")}


def run(context: Context) -> Section:
    events = context.data()
    section = Section("merged", "Merged view, half batch and half speed")
    queries = 5 if context.smoke else QUERIES
    with (
        # By age alone a flush would change what is measured, somewhere in the middle.
        Server(context.binary, context.folder("merged"), flush_age="1h") as server,
        Peer(ClickHouse, context.folder("clickhouse")) as clickhouse,
    ):
        middle, _ = line_offset(events.ndjson, 0.5)
        _fill_ours(server, events, middle)
        _fill_clickhouse(context, clickhouse, events, middle)
        truth = context.truth()
        truth.check_view("lambdalake", SKETCHES, server.table(OURS[WHOLE]))
        truth.check_view("clickhouse", SKETCHES, clickhouse.table(CLICKHOUSE[WHOLE]))
        view = server.get("/api/v1/views/sketches")
        section.facts |= {
            "panes": len(view["panes"]),
            "events in panes": sum(pane["events"] for pane in view["panes"]),
            "events in the tail": view["tail_events"],
            "bytes of states": sum(
                file["bytes"] for file in [view["versions"][-1], *view["panes"]]
            ),
        }
        idle = {
            name: context.rounds.interleaved(
                {
                    "lambdalake": lambda name=name: timed(lambda: server.arrow(OURS[name])),
                    "clickhouse": lambda name=name: clickhouse.seconds(CLICKHOUSE[name]),
                },
                repeat=queries,
                most_seconds=MOST_SECONDS,
            )
            for name in OURS
        }
        for name, samples in idle.items():
            section.facts[f"queries of the {name}"] = len(samples["lambdalake"])
        busy = _under_load(context, section, server, events, queries)
    for name, samples in idle.items():
        tails = {engine: [percentile(seconds, 0.99)] for engine, seconds in samples.items()}
        section.measures += [
            Measure(f"{name}, p50", "s", samples, {"clickhouse": TARGET}),
            Measure(f"{name}, p99", "s", tails, {"clickhouse": TARGET}),
            Measure(
                f"{name}, p99 with ingest and recomputes",
                "s",
                {
                    "lambdalake": [percentile(busy[name], 0.99)],
                    "lambdalake, idle": tails["lambdalake"],
                },
                {"lambdalake, idle": 1 / SLOWER_UNDER_LOAD},
            ),
        ]
    return section


def _fill_ours(server: Server, events: Events, middle: int) -> None:
    server.execute(CREATE_STREAM)
    server.execute(create(SKETCHES))
    send(server, "events", events.ndjson, (0, middle))
    server.recompute("sketches")
    send(server, "events", events.ndjson, (middle, events.ndjson.stat().st_size))


def _fill_clickhouse(context: Context, clickhouse: Peer, events: Events, middle: int) -> None:
    TABLES.create(clickhouse)
    halves = context.folder("halves")
    with events.ndjson.open("rb") as lines:
        for name in ("first", "second"):
            half = halves / f"{name}.ndjson"
            with half.open("wb") as out:
                if name == "first":
                    out.write(lines.read(middle))
                else:
                    shutil.copyfileobj(lines, out)
            clickhouse.execute(TABLES.insert(half))
            if name == "first":
                # As our batch version is: one state per group.
                clickhouse.execute("OPTIMIZE TABLE sketches FINAL")


def _under_load(
    context: Context, section: Section, server: Server, events: Events, queries: int
) -> dict[str, list[float]]:
    background = Background(server.port, "events", "sketches", events.ndjson)
    operations = {
        name: lambda sql=sql: timed(lambda: server.arrow(sql)) for name, sql in OURS.items()
    }
    samples = context.rounds.interleaved(operations, repeat=queries, most_seconds=MOST_SECONDS)
    done = background.stop()
    section.facts |= {
        "queries of each kind while loaded": len(samples[WHOLE]),
        "events per second while loaded": done["events"] / done["seconds"],
        "recomputes while loaded": done["recomputes"],
    }
    sent = server.table("SELECT sum(n) AS n FROM sketches")["n"][0].as_py()
    if sent != events.count + done["events"]:
        raise RuntimeError(
            f"{sent} events are seen, {events.count + done['events']} were acknowledged"
        )
    return samples

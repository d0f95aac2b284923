"""7: what grows with the history, and with the number of groups."""

from functools import partial
from statistics import median

from answers import compare, normalised
from context import Context, Section
from http_client import HttpError
from load import line_offset, send
from measure import timed
from peers import ClickHouse, DuckDb, Peer
from server import RunFailed, Server
from views import CREATE_STREAM, SKETCHES, create

# The middle one is the number of events of the other sections, up to a number that disks bear.
HISTORY = {"1x": 1, "5x": 5, "25x": 25}
GROUPS = [10**power for power in range(3, 8)]
QUERIES = 20
MOST_EVENTS = 2_000_000

ASKED = {
    "whole view": "SELECT * FROM sketches",
    "one hour": "SELECT * FROM sketches "
    "WHERE m >= '2026-01-01T12:00:00Z' AND m < '2026-01-01T13:00:00Z'",
}

PER_EVENT = "ingest, wall µs per event, by events in the stream"
CPU_PER_EVENT = "ingest, server CPU µs per event, by events in the stream"
QUERY = "view query after a recompute, s, by events"
RECOMPUTE = "recompute from scratch, s, by events"
BY_GROUPS = "recompute, s, by groups"
ASKED_GROUPS = "query of all groups of the view, s, by groups"

GROUPED = "SELECT _offset % {groups} AS k, count(*) AS n, sum(bytes) AS b FROM {source} GROUP BY 1"
CHECK = "SELECT count(*) AS groups, sum(n) AS events, sum(b) AS total, max(n) AS most FROM {source}"


def run(context: Context) -> Section:
    section = Section("growth", "Growth of history and of groups")
    for title in (PER_EVENT, CPU_PER_EVENT, QUERY, RECOMPUTE, BY_GROUPS, ASKED_GROUPS):
        section.curves[title] = []
    base = min(context.count, MOST_EVENTS) // HISTORY["5x"]
    for name, factor in HISTORY.items():
        count = base * factor
        # Half of the smallest history is what each stream is given last.
        added = 0.5 / factor
        with Server(context.binary, context.folder("growth")) as server:
            _history(context, section, server, count, added)
            if name == "25x":
                _groups(context, section, server, count)
    for title in (PER_EVENT, CPU_PER_EVENT, QUERY, RECOMPUTE):
        points = [p for p in section.curves[title] if p["line"] != "one hour"]
        # CPU is counted in ticks of 10 ms: of few events it may be none. A failure has no point.
        if len(points) == len(HISTORY) and points[0]["y"]:
            section.facts[f"25x by 1x: {title}"] = points[-1]["y"] / points[0]["y"]
    return section


def _history(context: Context, section: Section, server: Server, count: int, added: float) -> None:
    events = context.data(count)
    server.execute(CREATE_STREAM)
    server.execute(create(SKETCHES))
    offset, before = line_offset(events.ndjson, 1 - added)
    send(server, "events", events.ndjson, (0, offset))
    # Or the last events would pay for the flush of those before them.
    server.execute("FLUSH events")
    load = send(server, "events", events.ndjson, (offset, events.ndjson.stat().st_size))
    rows = count - before
    _point(section, PER_EVENT, "wall", count, load.seconds / rows * 1e6)
    _point(section, CPU_PER_EVENT, "CPU", count, load.server_cpu_seconds / rows * 1e6)
    try:
        runs = [server.recompute("sketches")["wall_seconds"] for _ in range(context.rounds.repeat)]
        _point(section, RECOMPUTE, "sketch view", count, median(runs))
        _ask(section, server, count)
        answer = server.table(ASKED["whole view"])
        context.truth(count).check_view("lambdalake", SKETCHES, answer)
    except (RunFailed, HttpError) as error:
        section.failures.append(f"sketch view of {count:,} events: {error}")


def _ask(section: Section, server: Server, count: int) -> None:
    for line, sql in ASKED.items():
        queries = [timed(partial(server.arrow, sql)) for _ in range(QUERIES)]
        _point(section, QUERY, line, count, median(queries))


def _groups(context: Context, section: Section, server: Server, count: int) -> None:
    server.execute("FLUSH events")
    files = server.master_files("events")
    listed = ", ".join(f"'{file}'" for file in files)
    pattern = f"{files[0].parent}/{{{','.join(file.name for file in files)}}}"
    with (
        Peer(ClickHouse, context.folder("clickhouse")) as clickhouse,
        Peer(DuckDb, context.folder("duckdb")) as duckdb,
    ):
        peers = {
            "clickhouse": (clickhouse, f"file('{pattern}', Parquet)"),
            "duckdb": (duckdb, f"read_parquet([{listed}])"),
        }
        for groups in (groups for groups in GROUPS if groups <= count):
            expected = None
            for name, (peer, source) in peers.items():
                # The groups are made and counted, not sent: 10^7 rows would time the pipe.
                sql = CHECK.format(source=f"({GROUPED.format(groups=groups, source=source)})")
                answer = normalised(peer.table(sql), ["groups"])
                _point(section, BY_GROUPS, name, groups, peer.seconds(sql))
                if expected is not None:
                    compare(f"{name}, {groups} groups", expected, answer, answer.column_names)
                expected = answer
            _our_groups(context, section, server, groups, expected)


def _our_groups(context: Context, section: Section, server: Server, groups: int, expected) -> None:
    # Names are not used twice, so that a view's runs are its own.
    view = f"grouped_{groups}"
    server.execute(
        f"CREATE MATERIALIZED VIEW {view} AS {GROUPED.format(groups=groups, source='events')}"
    )
    try:
        first = server.first_run(view)
        _point(section, BY_GROUPS, "lambdalake, first run", groups, first["duration_ms"] / 1000)
        again = server.recompute(view)
        _point(section, BY_GROUPS, "lambdalake, audited", groups, again["wall_seconds"])
        sql = CHECK.format(source=view)
        answer = normalised(server.table(sql), ["groups"])
        compare(f"lambdalake, {groups} groups", expected, answer, expected.column_names)
        seconds = [timed(lambda: server.arrow(sql)) for _ in range(context.rounds.repeat)]
        _point(section, ASKED_GROUPS, "lambdalake", groups, median(seconds))
        size = server.get(f"/api/v1/views/{view}")["versions"][-1]["bytes"]
        section.facts[f"{groups:,} groups: bytes of states per group"] = size / groups
    except (RunFailed, HttpError) as error:
        section.failures.append(f"view of {groups:,} groups: {error}")
    finally:
        server.execute(f"DROP MATERIALIZED VIEW {view}")


def _point(section: Section, title: str, line: str, x: float, y: float) -> None:
    section.curves[title].append({"line": line, "x": x, "y": y})

"""2: a view computed from scratch, from the master dataset's own Parquet files."""

from functools import partial
from statistics import median

from context import Context, Section
from load import send
from measure import Measure, with_cpu
from peers import ClickHouse, DuckDb, Peer
from server import Server
from views import COUNTS, CREATE_STREAM, SKETCHES, View, create

TARGETS = {"clickhouse": 1.0, "duckdb": 1.3}


def run(context: Context) -> Section:
    events = context.data()
    section = Section("recompute", "Recompute from scratch, of the same Parquet files")
    with (
        Server(context.binary, context.folder("recompute")) as server,
        Peer(ClickHouse, context.folder("clickhouse")) as clickhouse,
        Peer(DuckDb, context.folder("duckdb")) as duckdb,
    ):
        server.execute(CREATE_STREAM)
        send(server, "events", events.ndjson)
        server.execute("FLUSH events")
        files = server.master_files("events")
        section.facts["Parquet files"] = len(files)
        section.facts["Parquet bytes per event"] = (
            sum(file.stat().st_size for file in files) / events.count
        )
        listed = ", ".join(f"'{file}'" for file in files)
        # A pattern, as file() takes no list.
        pattern = f"{files[0].parent}/{{{','.join(file.name for file in files)}}}"
        for view in (COUNTS, SKETCHES):
            server.execute(create(view))
            first = server.first_run(view.name)
            statements = {
                "clickhouse": view.clickhouse.format(source=f"file('{pattern}', Parquet)"),
                "duckdb": view.duckdb.format(source=f"read_parquet([{listed}])"),
            }
            peers = {"clickhouse": clickhouse, "duckdb": duckdb}
            _measure(context, section, server, view, first, statements, peers)
    return section


def _measure(
    context: Context,
    section: Section,
    server: Server,
    view: View,
    first: dict,
    statements: dict[str, str],
    peers: dict[str, Peer],
) -> None:
    runs = []
    used: dict[str, list[float]] = {name: [] for name in ("lambdalake", *peers)}

    def ours() -> float:
        runs.append(server.recompute(view.name))
        return runs[-1]["wall_seconds"]

    operations = {"lambdalake": with_cpu(server, ours, used["lambdalake"])}
    for name, peer in peers.items():
        operations[name] = with_cpu(peer, partial(peer.seconds, statements[name]), used[name])
    samples = context.rounds.interleaved(operations)
    # The first round only warmed.
    cpu = {name: seconds[1:] for name, seconds in used.items()}

    truth = context.truth()
    truth.check_view("lambdalake", view, server.table(f"SELECT * FROM {view.name}"))
    for name, peer in peers.items():
        truth.check_view(name, view, peer.table(statements[name]))
    section.measures += [
        Measure(f"view {view.name}", "s", samples, TARGETS),
        Measure(f"view {view.name}, CPU", "s", cpu),
    ]
    section.facts |= {
        f"{view.name}: seconds by the run itself": median(run["duration_ms"] for run in runs[1:])
        / 1000,
        f"{view.name}: seconds of its first run, which has no version to be audited against": first[
            "duration_ms"
        ]
        / 1000,
        f"{view.name}: groups": runs[-1]["states"],
    }

"""2: a view computed from scratch, from the master dataset's own Parquet files."""

from context import Context, Section
from load import send
from measure import Measure
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
            server.settle()
            statements = {
                "clickhouse": view.clickhouse.format(source=f"file('{pattern}', Parquet)"),
                "duckdb": view.duckdb.format(source=f"read_parquet([{listed}])"),
            }
            _measure(context, section, server, view, statements, {"clickhouse": clickhouse, "duckdb": duckdb})
    return section


def _measure(
    context: Context, section: Section, server: Server, view: View,
    statements: dict[str, str], peers: dict[str, Peer],
) -> None:
    runs = []

    def ours() -> float:
        before = server.usage().cpu_seconds
        run = server.recompute(view.name)
        run["cpu_seconds"] = server.usage().cpu_seconds - before
        runs.append(run)
        return run["wall_seconds"]

    operations = {"lambdalake": ours}
    for name, peer in peers.items():
        operations[name] = lambda peer=peer, name=name: peer.seconds(statements[name])
    samples = context.rounds.interleaved(operations)

    truth = context.truth()
    truth.check_view("lambdalake", view, server.table(f"SELECT * FROM {view.name}"))
    for name, peer in peers.items():
        truth.check_view(name, view, peer.table(statements[name]))
    section.measures.append(Measure(f"view {view.name}", "s", samples, TARGETS))
    last = runs[-1]
    section.facts |= {
        f"{view.name}: seconds by the run itself": last["duration_ms"] / 1000,
        f"{view.name}: server CPU seconds": last["cpu_seconds"],
        f"{view.name}: groups": last["states"],
    }

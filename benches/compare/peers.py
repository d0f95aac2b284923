"""ClickHouse and DuckDB, each in a process of its own.

The process is opened beforehand and takes statements over a pipe; seconds are counted inside,
around the statement alone. So neither the start of Python nor the pipe is part of a figure, and
what a peer holds in memory is its own.
"""

import multiprocessing
import time
from pathlib import Path

import pyarrow as pa

from process import Usage

THREADS = 2


class ClickHouse:
    """A persistent chDB session. Answers are Arrow streams, uncompressed like ours."""

    def __init__(self, folder: str):
        from chdb import session

        self.session = session.Session(folder)
        self.session.query(f"SET max_threads = {THREADS}")
        self.session.query("SET output_format_arrow_compression_method = 'none'")

    def run(self, sql: str) -> bytes:
        return self.session.query(sql, "ArrowStream").bytes()


class DuckDb:
    """An in-memory database that reads files. Answers are Arrow tables."""

    def __init__(self, _folder: str):
        import duckdb

        self.connection = duckdb.connect()
        self.connection.execute(f"SET threads = {THREADS}")
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute("SET enable_progress_bar = false")

    def run(self, sql: str) -> bytes:
        found = self.connection.sql(sql)
        if found is None:
            return b""
        table = found.to_arrow_table()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()


class NoEngine:
    """Nothing: what the process itself takes."""

    def __init__(self, _folder: str):
        pass


class Peer:
    """The process of an engine, seen from outside."""

    def __init__(self, engine: type, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        # Spawned, not forked: a copy of our memory would be part of its memory.
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(engine, str(folder), theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._answer()

    def timed(self, sql: str) -> tuple[float, bytes]:
        """Seconds of a statement and its answer."""
        self.pipe.send(sql)
        return self._answer()

    def seconds(self, sql: str) -> float:
        return self.timed(sql)[0]

    def execute(self, sql: str) -> None:
        self.timed(sql)

    def table(self, sql: str) -> pa.Table:
        return pa.ipc.open_stream(self.timed(sql)[1]).read_all()

    def usage(self) -> Usage:
        return Usage.of(self.process.pid)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _answer(self) -> tuple[float, bytes]:
        try:
            outcome = self.pipe.recv()
        except EOFError:
            raise RuntimeError("the peer's process ended") from None
        if isinstance(outcome, str):
            raise RuntimeError(outcome)
        return outcome


def _serve(engine: type, folder: str, pipe) -> None:
    opened = engine(folder)
    pipe.send((0.0, b""))
    while True:
        try:
            sql = pipe.recv()
        except EOFError:
            return
        try:
            began = time.perf_counter()
            answer = opened.run(sql)
            pipe.send((time.perf_counter() - began, answer))
        except Exception as error:  # whatever it is, it belongs to who asked
            pipe.send(f"{engine.__name__}: {error}\n{sql}")

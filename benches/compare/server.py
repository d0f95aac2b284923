"""A Lambdalake server of our own: its process, its folder, and requests to it."""

import json
import socket
import subprocess
import threading
import time
from pathlib import Path

import pyarrow as pa

from http_client import HttpConnection, HttpError
from process import Usage

START_SECONDS = 300
RUN_SECONDS = 1800
# The server closes connections that are idle for 30 seconds.
IDLE_SECONDS = 15


class RunFailed(Exception):
    """A recompute ended without a new version; the message is the server's."""


class Server:
    """`settings` are flags of `lambdalake serve` without their dashes, such as `flush-age`."""

    def __init__(self, binary: Path, folder: Path, **settings):
        self.binary = binary
        self.folder = folder
        self.settings = {name.replace("_", "-"): str(value) for name, value in settings.items()}
        self.local = threading.local()
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> float:
        """Starts the process; returns the seconds until it takes traffic."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        self.local = threading.local()
        command = [self.binary, "serve", "--data-dir", self.folder / "data"]
        command += ["--listen", f"127.0.0.1:{self.port}"]
        for name, value in self.settings.items():
            command += [f"--{name}", value]
        log = (self.folder / "log.txt").open("ab")
        began = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        while time.perf_counter() - began < START_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.log()}")
            try:
                if self.connection().request("GET", "/health/readyz")[0] == 200:
                    return time.perf_counter() - began
            except OSError:
                pass
            self.local = threading.local()
            time.sleep(0.005)
        raise RuntimeError(f"the server is not ready after {START_SECONDS} s: {self.log()}")

    def stop(self) -> None:
        """Ends the process at once: what follows is durable or is not looked at."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-2000:]

    def usage(self) -> Usage:
        return Usage.of(self.process.pid)

    def connection(self) -> HttpConnection:
        """The calling thread's kept-alive connection; a new one if the server may have left it."""
        idle = time.monotonic() - getattr(self.local, "used_at", float("-inf"))
        if idle >= IDLE_SECONDS:
            self.local.connection = HttpConnection(self.port)
        self.local.used_at = time.monotonic()
        return self.local.connection

    def call(self, method: str, path: str, body: bytes = b"") -> bytes:
        status, _, answer = self.connection().request(method, path, body)
        if status >= 300:
            raise HttpError(status, answer)
        return answer

    def get(self, path: str) -> dict:
        return json.loads(self.call("GET", path))

    def execute(self, sql: str) -> dict:
        return json.loads(self.call("POST", "/api/v1/sql?timeout_ms=3600000", sql.encode()))

    def arrow(self, sql: str) -> bytes:
        """The answer as an Arrow stream, not parsed yet."""
        return self.call("POST", "/api/v1/sql?format=arrow&timeout_ms=3600000", sql.encode())

    def table(self, sql: str) -> pa.Table:
        return pa.ipc.open_stream(self.arrow(sql)).read_all()

    def recompute(self, view: str) -> dict:
        """Recomputes a view and returns its run, with the seconds of the wall added."""
        while True:
            began = time.perf_counter()
            try:
                started = self.call("POST", f"/api/v1/views/{view}/recompute")
            except HttpError as error:
                # A run is told as ended a moment before the next one may begin.
                if b"already_running" not in error.body:
                    raise
                time.sleep(0.002)
                continue
            run = self._finished(json.loads(started)["run_id"])
            return run | {"wall_seconds": time.perf_counter() - began}

    def first_run(self, view: str) -> dict:
        """The run that CREATE MATERIALIZED VIEW starts over old events, when it has ended."""
        runs = [run for run in self.get("/api/v1/runs")["runs"] if run["view"] == view]
        return self._finished(runs[-1]["run_id"])

    def _finished(self, run_id: str) -> dict:
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            run = self.get(f"/api/v1/runs/{run_id}")
            if run["status"] == "succeeded":
                return run
            if run["status"] == "failed":
                raise RunFailed(run["error"])
            time.sleep(0.002)
        raise RuntimeError(f"run {run_id} does not end")

    def master_files(self, stream: str) -> list[Path]:
        """The Parquet files of a stream's master dataset."""
        table = self.folder / "data" / self.get(f"/api/v1/streams/{stream}")["delta_table"]
        return sorted(table.rglob("*.parquet"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

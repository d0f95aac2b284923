"""Keeps a server busy, from a process of its own: threads would slow the client that measures."""

import json
import multiprocessing
import threading
import time
from itertools import islice
from pathlib import Path

from http_client import HttpConnection, HttpError

BODY_EVENTS = 1_000
EVENTS_PER_SECOND = 20_000
STOP_SECONDS = 60


class Background:
    """Ingest at a fixed pace, and recomputes of a view one after the other, while it is open."""

    def __init__(self, port: int, stream: str, view: str, ndjson: Path):
        spawn = multiprocessing.get_context("spawn")
        self.stopping = spawn.Event()
        self.counts, theirs = spawn.Pipe(duplex=False)
        arguments = (port, stream, view, ndjson, self.stopping, theirs)
        self.process = spawn.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.counts.recv()

    def stop(self) -> dict:
        """What was done: events, recomputes and seconds."""
        self.stopping.set()
        if not self.counts.poll(STOP_SECONDS):
            raise RuntimeError("the load in the background does not end")
        counts = self.counts.recv()
        self.process.join()
        if "error" in counts:
            raise RuntimeError(counts["error"])
        return counts


def _work(port: int, stream: str, view: str, ndjson: Path, stopping, answers) -> None:
    counts = {"events": 0, "recomputes": 0}
    threads = [
        threading.Thread(target=_guarded, args=(counts, _ingest, port, stream, ndjson, stopping)),
        threading.Thread(target=_guarded, args=(counts, _recompute, port, view, stopping)),
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    answers.send(None)
    for thread in threads:
        thread.join()
    answers.send(counts | {"seconds": time.monotonic() - began})


def _guarded(counts: dict, work, *arguments) -> None:
    try:
        work(counts, *arguments)
    except Exception as error:  # told to whoever stops us
        counts["error"] = repr(error)


def _ingest(counts: dict, port: int, stream: str, ndjson: Path, stopping) -> None:
    connection = HttpConnection(port)
    due = time.monotonic()
    while not stopping.is_set():
        with ndjson.open("rb") as lines:
            while body := b"".join(islice(lines, BODY_EVENTS)):
                if stopping.is_set():
                    return
                time.sleep(max(0.0, due - time.monotonic()))
                due += BODY_EVENTS / EVENTS_PER_SECOND
                target = f"/api/v1/streams/{stream}/events?format=ndjson"
                status, _, answer = connection.request("POST", target, body)
                if status == 200:
                    counts["events"] += BODY_EVENTS
                elif status != 429:
                    raise HttpError(status, answer)


def _recompute(counts: dict, port: int, view: str, stopping) -> None:
    connection = HttpConnection(port)
    while not stopping.is_set():
        status, _, answer = connection.request("POST", f"/api/v1/views/{view}/recompute")
        if status == 409:
            # A run is told as ended a moment before the next one may begin.
            time.sleep(0.02)
            continue
        if status != 202:
            raise HttpError(status, answer)
        run = f"/api/v1/runs/{json.loads(answer)['run_id']}"
        while (state := json.loads(connection.request("GET", run)[2]))["status"] == "running":
            time.sleep(0.02)
        if state["status"] != "succeeded":
            raise RuntimeError(f"recompute: {state['error']}")
        counts["recomputes"] += 1

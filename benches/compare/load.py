"""Sends events over HTTP, as fast as a few connections can."""

import mmap
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from http_client import HttpConnection, HttpError
from server import Server

CONNECTIONS = 4
BODY_BYTES = 4 << 20
# How long a refused body waits, at most, before it is sent again.
LONGEST_WAIT_SECONDS = 0.05


@dataclass(frozen=True)
class Load:
    seconds: float
    client_cpu_seconds: float
    server_cpu_seconds: float
    # Bodies that were answered with 429 and sent again, each time counted.
    refused: int


def send(server: Server, stream: str, path: Path, part: tuple[int, int] | None = None) -> Load:
    """Sends an NDJSON file, or the lines in a range of its bytes, in bodies of `BODY_BYTES`."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines:
        bodies = cut(lines, *(part or (0, len(lines))))
        with memoryview(lines) as view:
            return _send_all(server, stream, [view[start:end] for start, end in bodies])


def cut(lines, start: int, end: int, size: int = BODY_BYTES) -> list[tuple[int, int]]:
    """Ranges of whole lines of about `size` bytes."""
    bodies = []
    while start < end:
        stop = min(start + size, end)
        if stop < end:
            stop = lines.rfind(b"\n", start, stop) + 1
        bodies.append((start, stop))
        start = stop
    return bodies


def line_offset(path: Path, share: float) -> tuple[int, int]:
    """Where a line begins at about this share of the file, and how many lines are before it."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines:
        offset = lines.rfind(b"\n", 0, int(len(lines) * share)) + 1
        before = 0
        for start, end in cut(lines, 0, offset, 64 << 20):
            before += lines[start:end].count(b"\n")
        return offset, before


def _send_all(server: Server, stream: str, bodies: list) -> Load:
    turn = iter(bodies)
    lock = threading.Lock()
    refused: list[bytes] = []
    failures: list[Exception] = []
    target = f"/api/v1/streams/{stream}/events?format=ndjson"

    def work() -> None:
        connection = HttpConnection(server.port)
        try:
            while not failures:
                with lock:
                    body = next(turn, None)
                if body is None:
                    return
                _send_one(connection, target, body, refused)
        except Exception as error:  # raised again by whoever waits for this thread
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    server_before = server.usage().cpu_seconds
    client_before = _cpu_seconds()
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    for body in bodies:
        body.release()
    if failures:
        raise failures[0]
    used = server.usage().cpu_seconds - server_before
    return Load(seconds, _cpu_seconds() - client_before, used, len(refused))


def _send_one(connection: HttpConnection, target: str, body, refused: list[bytes]) -> None:
    wait = 0.002
    while True:
        status, _, answer = connection.request("POST", target, body)
        if status == 200:
            if b'"rejected":0' not in answer.replace(b" ", b""):
                raise HttpError(status, answer)
            return
        if status != 429:
            raise HttpError(status, answer)
        # Retry-After counts whole seconds; what is full here is often free much sooner.
        refused.append(answer)
        time.sleep(wait)
        wait = min(wait * 2, LONGEST_WAIT_SECONDS)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

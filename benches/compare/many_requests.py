"""One event per request over many connections, from processes of their own.

Each process drives its sockets with one epoll loop and does per request no more than a send, a
receive and two looks at the clock: the client shares the cores with the server that it measures.
"""

import multiprocessing
import resource
import select
import socket
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

PROCESSES = 2
ANSWER_BYTES = 1 << 16
STUCK_SECONDS = 30
DIFFERENT_EVENTS = 10_000


@dataclass(frozen=True)
class Requests:
    seconds: float
    latencies: list[float]
    client_cpu_seconds: float


def send_singly(
    port: int, stream: str | None, ndjson: Path, connections: int, seconds: float
) -> Requests:
    """Sends events to a stream, or, without one, requests that ask for nothing."""
    spawn = multiprocessing.get_context("spawn")
    share = connections // PROCESSES
    workers = []
    for _ in range(PROCESSES):
        ours, theirs = spawn.Pipe()
        arguments = (theirs, port, stream, ndjson, share, seconds)
        process = spawn.Process(target=_drive, args=arguments, daemon=True)
        process.start()
        theirs.close()
        workers.append((process, ours))
    for _, pipe in workers:
        pipe.recv()
    for _, pipe in workers:
        pipe.send("go")
    parts = [pipe.recv() for _, pipe in workers]
    for process, _ in workers:
        process.join()
    for part in parts:
        if isinstance(part, Exception):
            raise part
    return Requests(
        max(part.seconds for part in parts),
        [latency for part in parts for latency in part.latencies],
        sum(part.client_cpu_seconds for part in parts),
    )


def _drive(
    pipe, port: int, stream: str | None, ndjson: Path, connections: int, seconds: float
) -> None:
    try:
        messages, wanted = _messages(stream, ndjson)
        sockets = {}
        poll = select.epoll()
        for _ in range(connections):
            opened = socket.create_connection(("127.0.0.1", port))
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(opened.fileno(), select.EPOLLIN)
            sockets[opened.fileno()] = opened
        pipe.send("ready")
        pipe.recv()
        pipe.send(_loop(poll, sockets, messages, wanted, seconds))
    except Exception as error:  # raised again in the process that started this one
        pipe.send(error)


def _messages(stream: str | None, ndjson: Path) -> tuple[list[bytes], bytes]:
    """Requests made beforehand, which are sent over and over, and what each answer must hold."""
    if stream is None:
        return [b"GET /health/livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"], b""
    with ndjson.open("rb") as lines:
        bodies = [line.rstrip() for line in islice(lines, DIFFERENT_EVENTS)]
    head = f"POST /api/v1/streams/{stream}/events?format=ndjson HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    messages = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    return messages, b'"accepted":1,'


def _loop(
    poll: select.epoll, sockets: dict, messages: list[bytes], wanted: bytes, seconds: float
) -> Requests:
    clock = time.perf_counter
    latencies: list[float] = []
    sent_at = {}
    turn = 0
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = clock()
    end = began + seconds
    for number, opened in sockets.items():
        sent_at[number] = clock()
        opened.send(messages[turn % len(messages)])
        turn += 1
    while sent_at:
        ready = poll.poll(STUCK_SECONDS)
        if not ready:
            raise TimeoutError(f"no answer for {STUCK_SECONDS} s")
        for number, _ in ready:
            opened = sockets[number]
            answer = opened.recv(ANSWER_BYTES)
            # Answers are a few hundred bytes and come in one piece; if not, this fails loudly.
            if not answer.startswith(b"HTTP/1.1 200") or wanted not in answer:
                raise ValueError(f"not an acknowledgement: {answer[:300]!r}")
            now = clock()
            latencies.append(now - sent_at[number])
            if now < end:
                sent_at[number] = now
                opened.send(messages[turn % len(messages)])
                turn += 1
            else:
                del sent_at[number]
    took = clock() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Requests(took, latencies, cpu)

"""HTTP/1.1 over one kept-alive socket, with as little work per request as Python allows.

The standard library parses headers with the e-mail parser; at a few hundred microseconds a
request that would be part of what is measured.
"""

import socket


class HttpError(Exception):
    def __init__(self, status: int, body: bytes):
        super().__init__(f"HTTP {status}: {body[:500].decode(errors='replace')}")
        self.status = status
        self.body = body


class HttpConnection:
    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def request(self, method: str, path: str, body=b"") -> tuple[int, dict, bytes]:
        """Sends `body` (bytes or a memoryview) and returns status, headers and the whole body."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        if len(body) < 65_536:
            self.socket.sendall(head + bytes(body))
        else:
            self.socket.sendall(head)
            self.socket.sendall(body)
        return self._answer()

    def close(self) -> None:
        self.socket.close()

    def _answer(self) -> tuple[int, dict, bytes]:
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            self._receive()
        lines = self._take(end + 4).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, self._chunks()
        length = int(headers.get("content-length", 0))
        self._fill(length)
        return status, headers, self._take(length)

    def _chunks(self) -> bytes:
        parts = []
        while True:
            while (end := self.buffer.find(b"\r\n")) < 0:
                self._receive()
            size = int(self._take(end + 2), 16)
            self._fill(size + 2)
            parts.append(self._take(size + 2)[:-2])
            if size == 0:
                return b"".join(parts)

    def _fill(self, size: int) -> None:
        while len(self.buffer) < size:
            self._receive()

    def _receive(self) -> None:
        received = self.socket.recv(1 << 18)
        if not received:
            raise ConnectionError("the server closed the connection")
        self.buffer += received

    def _take(self, size: int) -> bytes:
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

"""One client connection: HTTP/1.1 with keep-alive and Content-Length, and the faults of the network."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from .faults import FaultPlan
from .http_response import http_response
from .injection import ClientGoneError
from .limits import MAX_MESSAGE
from .recorder import Call

if TYPE_CHECKING:
    from .server import Server

MAX_HEAD = 64 * 1024
MAX_REQUEST = 16 * MAX_MESSAGE  # bytes of HTTP body: far more than 1 MiB with every byte escaped six-fold
CONTROL_PATH = "/_control/"

A = TypeVar("A")
B = TypeVar("B")


class Connection:
    """Served by a thread of its own."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server, self._service, self._socket = server, server.service, sock
        self._buffer = bytearray()
        self.counted = False  # it has carried a request: it is not the control connection
        self.reading = False

    def serve(self) -> None:
        """Answer requests until either side ends the connection."""
        try:
            while self._serve_request():
                pass
        except (OSError, ValueError, ClientGoneError):
            pass  # the client has left, or it does not speak HTTP
        finally:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._server.forget(self)

    def reset(self) -> None:
        """Close with a TCP reset."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.shutdown(socket.SHUT_RD)  # wakes the reading thread, which then closes the socket
        with contextlib.suppress(OSError):
            self._socket.close()

    def is_alive(self) -> bool:
        """Whether the client still waits; bytes of a further request count as waiting."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    # -- reading

    def _read(self, read: Callable[[A], B], what: A) -> B:
        """Read from the socket; `reading` shows that a reset has to wait for this thread to let go of it."""
        self.reading = True
        try:
            return read(what)
        finally:
            self.reading = False

    def _read_head(self) -> tuple[str, str, dict[str, str]] | None:
        """(method, path, lower-case headers) of the next request, or None at the end of the connection."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                return None
            data = self._read(self._socket.recv, 256 * 1024)
            if not data:
                return None
            self._buffer += data
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        method, path, _ = lines[0].split(" ", 2)
        pairs = (line.partition(":") for line in lines[1:])
        return method, path, {name.lower(): value.strip() for name, _, value in pairs}

    def _read_body(self, headers: Mapping[str, str]) -> bytearray | None:
        """The request's body; None if the client ends before it is complete."""
        length = int(headers.get("content-length", "0"))
        if length > MAX_REQUEST or "transfer-encoding" in headers:
            return None
        if headers.get("expect", "").lower() == "100-continue" and len(self._buffer) < length:
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, got = self._buffer[:length], min(len(self._buffer), length)
        del self._buffer[:got]
        body.extend(bytes(length - got))
        view = memoryview(body)
        while got < length:
            read = self._read(self._socket.recv_into, view[got:])
            if not read:
                return None
            got += read
        return body

    # -- answering

    def _serve_request(self) -> bool:
        """Serve one request; whether the connection goes on."""
        head = self._read_head()
        if head is None:
            return False
        method, path, headers = head
        if path.startswith(CONTROL_PATH):
            return self._serve_control(path.removeprefix(CONTROL_PATH), headers)
        recorder = self._service.recorder
        if not self.counted:
            self.counted = True
            recorder.connection_opened()
        operation = self._service.operation(method, path, headers)
        recorder.request_started()
        try:
            return self._serve_call(Call(operation, "", "", "", self.is_alive), path, headers)
        finally:
            recorder.request_ended()

    def _serve_control(self, verb: str, headers: Mapping[str, str]) -> bool:
        body = self._read_body(headers)
        if body is None:
            return False
        self._socket.sendall(http_response(*self._server.control(verb, bytes(body))))
        return True

    def _serve_call(self, call: Call, path: str, headers: Mapping[str, str]) -> bool:
        """Serve one request to the service under the faults in force; whether the connection goes on."""
        service, faults, plan = self._service, self._service.faults, self._service.faults.plan
        if plan.refuse or faults.strikes("reset", plan.reset, call.operation):
            self.reset()
            return False
        if plan.black_hole == "unread":
            faults.wait_in_black_hole(lambda: True)
        body = self._read_body(headers)
        if body is None:
            return False
        if plan.black_hole == "before":
            faults.wait_in_black_hole(self.is_alive)
        time.sleep(plan.latency / 2)
        response = service.respond(call, headers, path, body)
        time.sleep(plan.latency / 2)
        if plan.black_hole == "after":
            faults.wait_in_black_hole(self.is_alive)
        keep = headers.get("connection", "").lower() != "close"
        return self._send(call.operation, response, plan) and keep

    def _send(self, operation: str, response: bytes, plan: FaultPlan) -> bool:
        """Send an answer, spoilt by the faults that strike; whether the connection goes on."""
        for name, trigger in plan.answers:
            if not self._service.faults.strikes(name, trigger, operation):
                continue
            if name == "garbage":
                page = b"<html><body>It works!</body></html>"
                response = http_response(200, page, content_type=trigger.fields.get("type", "text/html"))
            elif name == "slow":
                self._trickle(response, float(trigger.fields.get("seconds", 5.0)))
                return True
            else:
                body = response.find(b"\r\n\r\n") + 4
                end = (body + len(response)) // 2 if body < len(response) else body // 2
                self._socket.sendall(response[:end] if name == "truncated" else b"")
                return False
        self._socket.sendall(response)
        return True

    def _trickle(self, response: bytes, seconds: float) -> None:
        """Send an answer in twenty pieces over the given time."""
        step = -(-len(response) // 20)
        for start in range(0, len(response), step):
            time.sleep(seconds / 20)
            self._socket.sendall(response[start : start + step])

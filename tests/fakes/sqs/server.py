"""Listening on 127.0.0.1, and refusing connections when the faults demand it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

from .connection import Connection
from .service import Service

Control = Callable[[str, bytes], tuple[int, bytes]]


def _no_control(verb: str, body: bytes) -> tuple[int, bytes]:
    return 404, b'{"error": "no control channel"}'


class Server:
    """Serves a service in threads of this process, one per connection."""

    def __init__(self, service: Service, port: int = 0, control: Control = _no_control) -> None:
        self.service = service
        self.control = control
        self._reserved = _bound(port)  # never listens: it keeps the port while connections are refused
        self.port: int = self._reserved.getsockname()[1]
        service.endpoint = f"http://127.0.0.1:{self.port}"
        service.faults.on_change = self._listen_or_refuse
        self._connections: set[Connection] = set()
        self._listener: socket.socket | None = None
        self._listening = threading.Condition(service.lock)
        self.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def listen(self) -> None:
        """Accept connections."""
        with self.service.lock:
            if self._listener is None:
                self._listener = _bound(self.port)
                self._listener.listen(1024)
                self._listening.notify_all()

    def refuse(self) -> None:
        """Stop listening, and reset every connection but the control channel."""
        with self.service.lock:
            listener, self._listener = self._listener, None
            counted = [connection for connection in self._connections if connection.counted]
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            listener.close()
        for connection in counted:
            connection.reset()
        # The kernel sends a reset once the thread that reads the connection has let go of it.
        deadline = time.monotonic() + 20
        while any(connection.reading for connection in counted) and time.monotonic() < deadline:
            time.sleep(0.001)

    def close(self) -> None:
        """Refuse connections for good, and free the port."""
        self.refuse()
        self._reserved.close()

    def forget(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        with self.service.lock:
            self._connections.discard(connection)
            self.service.recorder.open -= connection.counted

    def _listen_or_refuse(self) -> None:
        (self.refuse if self.service.faults.plan.refuse else self.listen)()

    def _accept(self) -> None:
        while True:
            with self.service.lock:
                while self._listener is None:
                    self._listening.wait()
                listener = self._listener
            try:
                sock, _ = listener.accept()
            except OSError:
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, sock)
            with self.service.lock:
                self._connections.add(connection)
            threading.Thread(target=connection.serve, daemon=True).start()


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock

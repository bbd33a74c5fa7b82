"""The control channel: JSON over HTTP at /_control/<verb>, on the server's port. It is neither counted nor faulted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .errors import SqsError
from .message_rules import check_message
from .queues import Queue
from .recorder import Call
from .signature import ACCESS_KEY
from .sqs_service import SqsService


class ControlChannel:
    """The verbs that `client.FakeSqs` calls."""

    def __init__(self, service: SqsService) -> None:
        self._service = service
        self._account = service.account
        self._verbs: dict[str, Callable[..., Any]] = {
            "queue": self.create_queue,
            "put": self._put,
            "messages": self._messages,
            "sent": self._sent,
            "ranges": self._ranges,
            "deliveries": self._deliveries,
            "requests": self._requests,
            "counters": self._account.report,
            "reset_counters": service.recorder.reset,
            "faults": lambda **changes: service.faults.update(changes),
            "clear_faults": service.faults.clear,
            "release": service.faults.release,
            "advance": self._account.advance,
        }

    def answer(self, verb: str, body: bytes) -> tuple[int, bytes]:
        """(HTTP status, JSON) of a control request; status 400 with the reason if it is refused."""
        action = self._verbs.get(verb)
        if action is None:
            return 404, b'{"error": "no such control verb"}'
        try:
            return 200, json.dumps(action(**json.loads(body or b"{}"))).encode()
        except (ValueError, TypeError, KeyError, SqsError) as error:
            return 400, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()

    def create_queue(self, name: str, region: str, attributes: dict[str, str]) -> dict[str, Any]:
        """Create a queue."""
        call = Call("CreateQueue", region, ACCESS_KEY, "", lambda: True)
        return self._service.create_queue({"QueueName": name, "Attributes": attributes}, call)

    def _queue(self, queue: str) -> Queue:
        """A queue by its name or URL, in any region."""
        return self._account.queues[queue.rpartition("/")[2]]

    def _put(self, queue: str, entries: list[dict[str, Any]]) -> list[str]:
        """Store messages, given as SendMessage requests without QueueUrl, after the usual checks; their ids."""
        target = self._queue(queue)
        limit = target.number("MaximumMessageSize")
        drafts = [
            check_message(entry, limit=limit, fifo=target.fifo, by_content=target.by_content) for entry in entries
        ]
        with self._account.lock:
            ids = [target.store(draft, self._account.now(), ACCESS_KEY)[0] for draft in drafts]
            self._account.changed.notify_all()
        return ids

    def _messages(self, queue: str) -> list[dict[str, Any]]:
        """The messages in a queue, in order of arrival, in flight or not."""
        with self._account.lock:
            found = self._queue(queue)
            found.expire_timeouts(self._account.now())
            return [message.report() for message in found.live.values() if not message.is_injected]

    def _sent(self, queue: str) -> list[dict[str, Any]]:
        """All messages that a queue has accepted."""
        with self._account.lock:
            return [message.report() for message in self._queue(queue).sent]

    def _ranges(self, queue: str) -> list[tuple[str, str]]:
        """The `run` and `seq` attributes of discarded messages."""
        with self._account.lock:
            return list(self._queue(queue).ranges)

    def _deliveries(self, queue: str) -> list[tuple[str, float, int, bool]]:
        """All deliveries of a queue: message id, time, receive count, injected."""
        with self._account.lock:
            return list(self._queue(queue).deliveries)

    def _requests(self) -> list[dict[str, Any]]:
        """The latest finished requests."""
        with self._account.lock:
            return list(self._service.recorder.requests)

"""The operations on queues: create, find, list, configure, purge and delete."""

from __future__ import annotations

from typing import Any

from .account import Account
from .errors import SqsError
from .limits import ACCOUNT
from .parameters import names, optional_text, text
from .queue_rules import FIFO_ATTRIBUTES, READABLE, check_queue_attributes, check_queue_name
from .queues import DELAYED, IN_FLIGHT, READY
from .recorder import Call


class QueueOperations:
    """Each public method is an operation: it maps a request to an answer."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def create_queue(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """CreateQueue; for an existing queue with the same attributes it answers the URL."""
        name = text(request, "QueueName")
        raw = request.get("Attributes") or {}
        fifo = isinstance(raw, dict) and raw.get("FifoQueue") == "true"
        check_queue_name(name, fifo)
        attributes = check_queue_attributes(raw, fifo=fifo, creating=True)
        with self._account.lock:
            known = self._account.queues.get(name)
            if known is None:
                self._account.add_queue(name, call.region, attributes)
            for key in attributes if known else ():
                if known and known.attributes.get(key) != attributes[key]:
                    words = "A queue already exists with the same name and a different value for attribute"
                    raise SqsError("QueueNameExists", f"{words} {key}")
        return {"QueueUrl": self._account.url(name)}

    def delete_queue(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """DeleteQueue."""
        with self._account.lock:
            del self._account.queues[self._account.queue(request, call).name]
            self._account.changed.notify_all()
        return {}

    def list_queues(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """ListQueues by prefix, at most 1000."""
        prefix = optional_text(request, "QueueNamePrefix") or ""
        with self._account.lock:
            here = [queue.name for queue in self._account.queues.values() if queue.region == call.region]
        found = sorted(name for name in here if name.startswith(prefix))
        return {"QueueUrls": [self._account.url(name) for name in found[:1000]]} if found else {}

    def get_queue_url(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """GetQueueUrl."""
        owner = optional_text(request, "QueueOwnerAWSAccountId") or ACCOUNT
        with self._account.lock:
            name = text(request, "QueueName")
            return {"QueueUrl": self._account.url(self._account.named(name if owner == ACCOUNT else "", call).name)}

    def purge_queue(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """PurgeQueue, at most once in 60 s."""
        with self._account.lock:
            queue, now = self._account.queue(request, call), self._account.now()
            if now - queue.purged_at < 60:
                words = f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds."
                raise SqsError("PurgeQueueInProgress", words)
            queue.purged_at = now
            for message in list(queue.live.values()):
                queue.delete(message)
        return {}

    def get_queue_attributes(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """GetQueueAttributes: All or by name; a FIFO attribute of a standard queue is InvalidAttributeName."""
        asked = names(request, "AttributeNames")
        with self._account.lock:
            queue = self._account.queue(request, call)
            for name in asked:
                if name not in READABLE | {"All"} or (name in FIFO_ATTRIBUTES and not queue.fifo):
                    raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
            queue.expire_timeouts(self._account.now())
            everything = queue.attributes | {
                "QueueArn": queue.arn,
                "ApproximateNumberOfMessages": str(queue.states[READY]),
                "ApproximateNumberOfMessagesNotVisible": str(queue.states[IN_FLIGHT]),
                "ApproximateNumberOfMessagesDelayed": str(queue.states[DELAYED]),
                "CreatedTimestamp": str(int(queue.created)),
                "LastModifiedTimestamp": str(int(queue.modified)),
            }
        chosen = everything if "All" in asked else {n: everything[n] for n in asked if n in everything}
        return {"Attributes": chosen} if chosen else {}

    def set_queue_attributes(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """SetQueueAttributes; an empty value removes the attribute."""
        with self._account.lock:
            queue = self._account.queue(request, call)
            changes = check_queue_attributes(request.get("Attributes"), fifo=queue.fifo, creating=False)
            queue.attributes.update(changes)
            for name in [n for n, value in queue.attributes.items() if value == ""]:
                del queue.attributes[name]
            queue.modified = self._account.now()
        return {}

"""ReceiveMessage: long polls, visibility timeouts, redrive to the dead-letter queue, injected duplicates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .account import Account
from .attributes import md5_of_attributes, wanted
from .errors import SqsError
from .injection import ClientGoneError
from .limits import MAX_ENTRIES, MAX_VISIBILITY, MAX_WAIT
from .parameters import integer, names
from .queues import IN_FLIGHT, Message, Queue
from .recorder import Call


class ReceiveOperations:
    """Its public method is an operation: it maps a request to an answer."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def receive_message(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """ReceiveMessage: up to ten messages; it waits for the first one up to WaitTimeSeconds."""
        most = integer(request, "MaxNumberOfMessages", 1, MAX_ENTRIES, "Must be between 1 and 10, if provided.")
        wait = integer(request, "WaitTimeSeconds", 0, MAX_WAIT, "Must be >= 0 and <= 20, if provided.")
        reason = f"Must be >= 0 and <= {MAX_VISIBILITY}, if provided."
        timeout = integer(request, "VisibilityTimeout", 0, MAX_VISIBILITY, reason)
        system = set(names(request, "AttributeNames", "MessageSystemAttributeNames"))
        patterns = names(request, "MessageAttributeNames")
        with self._account.lock:
            queue = self._account.queue(request, call)
            wait = queue.number("ReceiveMessageWaitTimeSeconds") if wait is None else wait
            timeout = queue.number("VisibilityTimeout") if timeout is None else timeout
            received = self._wait_for_messages(queue, most or 1, timeout, wait, call)
            answers = [_describe(queue, message, system, patterns) for message in received]
            for message in received:
                if message.visible_at <= self._account.now():
                    queue.expire_timeouts(self._account.now())
        call.payload = sum(message.draft.size for message in received)
        call.entries = len(received)
        for answer, message in zip(answers, received, strict=True):
            answer["Body"] = message.draft.body.decode()
        return {"Messages": answers} if answers else {}

    def _wait_for_messages(self, queue: Queue, most: int, timeout: int, wait: int, call: Call) -> list[Message]:
        """Receive, or wait for a change while there is nothing.

        A client that has left receives nothing: the message would be in flight without a receiver.
        """
        account = self._account
        deadline = time.monotonic() + wait
        while True:
            if not call.alive():
                raise ClientGoneError
            if account.queues.get(queue.name) is not queue:
                raise SqsError("QueueDoesNotExist", "The specified queue does not exist.")
            due = queue.expire_timeouts(account.now())
            limit = account.faults.plan.in_flight_limit
            if queue.states[IN_FLIGHT] >= limit and not queue.fifo:
                words = f"Too many messages in flight in queue {queue.name} (the limit is"
                raise SqsError("OverLimit", f"{words} {limit}).")
            received = self._receive(queue, most, timeout)
            left = deadline - time.monotonic()
            if received or left <= 0:
                return received
            account.changed.wait(left if due is None else max(0.001, min(left, due - account.now())))

    def _receive(self, queue: Queue, most: int, timeout: int) -> list[Message]:
        """Receive up to `most` messages; move those received too often to the dead-letter queue."""
        dead_letters, limit = queue.redrive_policy or ("", 0)
        dead = self._account.queues.get(dead_letters)
        received: list[Message] = []
        now = self._account.now()
        for message in queue.receivable():
            if dead is not None and message.receives >= limit:
                dead.move_dead_letter(message, queue)
                self._account.changed.notify_all()
                continue
            queue.mark_received(message, now, timeout)
            received.append(message)
            if not queue.fifo and not message.is_injected:
                self._maybe_duplicate(queue, message, now)
            if len(received) == most:
                break
        return received

    def _maybe_duplicate(self, queue: Queue, message: Message, now: float) -> None:
        """If the faults demand it, deliver the message once more, even if it is deleted by then."""
        delay = self._account.faults.duplicate_delay()
        if delay is not None:
            twin = Message(next(queue.order), message.id, message.draft, message.sent_at, message.sender)
            twin.original = message
            queue.add(twin, now + delay if delay else 0.0)


def _describe(queue: Queue, message: Message, system: set[str], patterns: Sequence[str]) -> dict[str, Any]:
    """A Message of the answer, without its body: the caller decodes that after the lock is released."""
    draft = message.draft
    facts = {
        "SenderId": f"AIDAFAKE:{message.sender}",
        "SentTimestamp": str(int(message.sent_at * 1000)),
        "ApproximateReceiveCount": str(message.receives),
        "ApproximateFirstReceiveTimestamp": str(int(message.first_receive * 1000)),
        "SequenceNumber": message.sequence,
        "MessageDeduplicationId": draft.dedup,
        "MessageGroupId": draft.group,
        "AWSTraceHeader": draft.trace,
        "DeadLetterQueueSourceArn": message.source_arn,
    }
    chosen = {n: v for n, v in facts.items() if v and ("All" in system or n in system)}
    attributes = wanted(draft.attributes, patterns)
    answer: dict[str, Any] = {"MessageId": message.id, "ReceiptHandle": queue.new_handle(message)}
    answer["MD5OfBody"] = draft.md5
    if chosen:
        answer["Attributes"] = chosen
    if attributes:
        answer["MessageAttributes"] = {name: a.wire() for name, a in attributes.items()}
        answer["MD5OfMessageAttributes"] = md5_of_attributes(attributes)
    return answer

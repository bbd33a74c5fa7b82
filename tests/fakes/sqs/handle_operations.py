"""The operations on receipt handles: delete a message, and change its visibility timeout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .account import Account
from .batch_rules import check_entries
from .batches import attempt, failed_entry
from .errors import SqsError, invalid, missing
from .limits import MAX_VISIBILITY
from .parameters import integer, text
from .queues import IN_FLIGHT, Queue
from .recorder import Call


class HandleOperations:
    """Each public method is an operation: it maps a request to an answer."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def delete_message(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """DeleteMessage."""
        with self._account.lock:
            self._delete(self._account.queue(request, call), request)
        return {}

    def delete_message_batch(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """DeleteMessageBatch."""
        return self._for_each(request, call, "DeleteMessageBatchRequestEntry", self._delete)

    def change_visibility(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """ChangeMessageVisibility."""
        with self._account.lock:
            self._change_visibility(self._account.queue(request, call), request)
        return {}

    def change_visibility_batch(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """ChangeMessageVisibilityBatch."""
        return self._for_each(request, call, "ChangeMessageVisibilityBatchRequestEntry", self._change_visibility)

    def _delete(self, queue: Queue, entry: Mapping[str, Any]) -> None:
        """Delete by any handle of the message; a FIFO queue refuses a handle that has expired."""
        handle = text(entry, "ReceiptHandle")
        queue.expire_timeouts(self._account.now())
        delivery, message, until = queue.by_handle(handle)
        if message is None:
            return
        if not queue.handle_is_valid(message, delivery, until, self._account.now()):
            words = "for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
            invalid(f"Value {handle} {words}")
        queue.delete(message)
        if message.original is not None:
            queue.delete(message.original)
        self._account.changed.notify_all()  # a FIFO group may have become receivable

    def _change_visibility(self, queue: Queue, entry: Mapping[str, Any]) -> None:
        """Change the timeout of a message in flight; 0 makes it visible at once."""
        handle = text(entry, "ReceiptHandle")
        reason = f"Must be between 0 and {MAX_VISIBILITY}, if provided."
        timeout = integer(entry, "VisibilityTimeout", 0, MAX_VISIBILITY, reason)
        if timeout is None:
            missing("VisibilityTimeout")
        queue.expire_timeouts(self._account.now())
        _, message, _ = queue.by_handle(handle)
        if message is None:
            invalid(
                f"Value {handle} for parameter ReceiptHandle is invalid. Reason: Message does not exist or "
                "is not available for visibility timeout change."
            )
        if message.state != IN_FLIGHT:
            raise SqsError("MessageNotInflight", "The specified message isn't in flight.")
        if timeout == 0:
            queue.make_visible(message)
        else:
            queue.extend_timeout(message, self._account.now() + timeout)
        self._account.changed.notify_all()

    def _for_each(
        self, request: dict[str, Any], call: Call, kind: str, action: Callable[[Queue, Mapping[str, Any]], None]
    ) -> dict[str, Any]:
        """Apply an action to each entry of a batch; a refused entry becomes a Failed one."""
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        with self._account.lock:
            queue = self._account.queue(request, call)
            for entry in check_entries(request, kind):
                injected = self._account.faults.failed_entry(call.operation)
                error: SqsError | None = None
                if injected is None or injected.fields.get("stored"):
                    _, error = attempt(lambda each: action(queue, each), entry)
                if injected is None and error is None:
                    done.append({"Id": entry["Id"]})
                    continue
                if error is not None and injected is None:
                    self._account.recorder.rejected(call.operation, error)
                failed.append(failed_entry(entry["Id"], self._account.faults.plan, error, injected))
            call.entries = len(done)
        return {name: items for name, items in (("Successful", done), ("Failed", failed)) if items}

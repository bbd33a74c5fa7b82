"""SendMessage and SendMessageBatch, and the sink that answers both without any check."""

from __future__ import annotations

import re
from typing import Any

from .account import Account
from .batch_rules import check_send_batch
from .batches import attempt, failed_entry
from .message_rules import Draft, check_message
from .queues import Queue
from .recorder import Call

_SINK_ID = re.compile(rb'"Id"\s*:\s*"([A-Za-z0-9_-]{1,80})"')


class SendOperations:
    """Each public method is an operation: it maps a request to an answer."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def send_message(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """SendMessage."""
        queue = self._account.queue(request, call)
        draft = check_message(
            request, limit=queue.number("MaximumMessageSize"), fifo=queue.fifo, by_content=queue.by_content
        )
        with self._account.lock:
            answer = self._store(queue, draft, call)
            self._account.changed.notify_all()
        return answer

    def send_message_batch(self, request: dict[str, Any], call: Call) -> dict[str, Any]:
        """SendMessageBatch: the lock is held for storing only, not for checking."""
        queue = self._account.queue(request, call)
        limit = queue.number("MaximumMessageSize")
        entries = check_send_batch(request, fifo=queue.fifo, by_content=queue.by_content)

        def check(entry: dict[str, Any]) -> Draft:
            return check_message(entry, limit=limit, fifo=queue.fifo, by_content=queue.by_content, in_batch=True)

        plan = self._account.faults.plan
        checked = [(entry, *attempt(check, entry)) for entry in entries]
        for _, _, error in checked if "characters-500" in plan.dialects else ():
            if error is not None and error.shape == "InvalidMessageContents":
                raise error
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        with self._account.lock:
            for entry, draft, error in checked:
                injected = self._account.faults.failed_entry(call.operation, draft.body) if draft else None
                if draft is not None and (injected is None or injected.fields.get("stored")):
                    stored = self._store(queue, draft, call)
                    if injected is None:
                        answer["Successful"].append({"Id": entry["Id"], **stored})
                if error is not None:
                    self._account.recorder.rejected(call.operation, error)
                if injected is not None or error is not None:
                    answer["Failed"].append(failed_entry(entry["Id"], self._account.faults.plan, error, injected))
            self._account.changed.notify_all()
        return {name: items for name, items in answer.items() if items}

    def _store(self, queue: Queue, draft: Draft, call: Call) -> dict[str, Any]:
        """Store a checked message; the fields of SendMessage's answer."""
        message_id, sequence = queue.store(draft, self._account.now(), call.key)
        call.payload += draft.size
        call.entries += 1
        answer = {"MessageId": message_id, "MD5OfMessageBody": draft.md5}
        if draft.md5_attributes:
            answer["MD5OfMessageAttributes"] = draft.md5_attributes
        if sequence:
            answer["SequenceNumber"] = sequence
        return answer


def sink_answer(body: bytearray, call: Call) -> bytes:
    """The answer to an unchecked send: every id in it succeeds.

    Quotes inside a JSON string are escaped, so an unescaped "Id": is always the key of an entry.
    """
    call.payload = len(body)
    ids: list[bytes] = []
    at = body.find(b'"Id"')
    while at >= 0:
        found = _SINK_ID.match(body, at)
        if found:
            ids.append(found[1])
        at = body.find(b'"Id"', at + 4)
    call.entries = max(1, len(ids))
    rest = b'"MessageId":"00000000-0000-4000-8000-000000000000","MD5OfMessageBody":"' + b"0" * 32 + b'"'
    if call.operation == "SendMessage":
        return b"{" + rest + b"}"
    return b'{"Successful":[' + b",".join(b'{"Id":"' + key + b'",' + rest + b"}" for key in ids) + b"]}"

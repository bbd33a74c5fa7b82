"""SQS itself: authenticate a request, inject an error or execute the operation, and answer.

The wire is SQS's AWS JSON 1.0 protocol: POST, the operation in X-Amz-Target, errors in `__type` and x-amzn-query-error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from .account import Account
from .dialects import error_answer
from .errors import InjectedError, SqsError
from .handle_operations import HandleOperations
from .http_response import http_response
from .queue_operations import QueueOperations
from .receive_operations import ReceiveOperations
from .recorder import Call
from .send_operations import SendOperations, sink_answer
from .service import Service
from .signature import ACCESS_KEY, SECRET_KEY, authenticate


class SqsService(Service):
    """With `sink` sends are answered without any check; with `discard` messages are checked, but not kept."""

    def __init__(self, *, sink: bool = False, discard: bool = False, faults: Mapping[str, Any] | None = None) -> None:
        super().__init__(faults)
        self.account = Account(self, discard)
        self._sink = sink
        queues, send = QueueOperations(self.account), SendOperations(self.account)
        receive, handles = ReceiveOperations(self.account), HandleOperations(self.account)
        self._operations: dict[str, Callable[[dict[str, Any], Call], dict[str, Any]]] = {
            "CreateQueue": queues.create_queue,
            "DeleteQueue": queues.delete_queue,
            "ListQueues": queues.list_queues,
            "PurgeQueue": queues.purge_queue,
            "GetQueueUrl": queues.get_queue_url,
            "GetQueueAttributes": queues.get_queue_attributes,
            "SetQueueAttributes": queues.set_queue_attributes,
            "SendMessage": send.send_message,
            "SendMessageBatch": send.send_message_batch,
            "ReceiveMessage": receive.receive_message,
            "DeleteMessage": handles.delete_message,
            "DeleteMessageBatch": handles.delete_message_batch,
            "ChangeMessageVisibility": handles.change_visibility,
            "ChangeMessageVisibilityBatch": handles.change_visibility_batch,
        }
        self.create_queue = queues.create_queue

    @staticmethod
    def operation(method: str, path: str, headers: Mapping[str, str]) -> str:
        """The operation of X-Amz-Target; method and path where there is none."""
        return headers.get("x-amz-target", "").partition("AmazonSQS.")[2] or f"{method} {path}"[:80]

    def respond(self, call: Call, headers: Mapping[str, str], path: str, body: bytearray) -> bytes:
        """Execute a request and count it; the whole HTTP response. Raises ClientGoneError."""
        status, answer, query_error, code = 200, b"", "", ""
        if self._sink and call.operation in {"SendMessage", "SendMessageBatch"}:
            answer = sink_answer(body, call)
        else:
            try:
                answer = self._answer(call, headers, path, body)
            except SqsError as error:
                status, answer, query_error = error_answer(error, self.faults.plan.dialects)
                code = error.code
                if not isinstance(error, InjectedError) and error.status < 500:
                    self.recorder.rejected(call.operation, error)
        self.recorder.finished(call, len(body), len(answer), status, code)
        return http_response(status, answer, query_error)

    def _answer(self, call: Call, headers: Mapping[str, str], path: str, body: bytearray) -> bytes:
        """The JSON of a successful answer. Raises SqsError or ClientGoneError."""
        plan = self.faults.plan
        secrets = {ACCESS_KEY: SECRET_KEY}
        caller = authenticate(headers, path, body, time.time() + plan.skew, secrets, plan.known, plan.expired)
        call.key, call.region = caller.key, caller.region
        call.agent = headers.get("user-agent", "")
        self.faults.raise_error(call.operation)
        if not headers.get("content-type", "").startswith("application/x-amz-json-1.0"):
            raise SqsError("SerializationException", "Content-Type must be application/x-amz-json-1.0")
        operation = self._operations.get(call.operation)
        if operation is None:
            raise SqsError("UnknownOperationException", f"Unknown operation {call.operation}")
        try:
            request = json.loads(body or b"{}")
        except ValueError as error:
            raise SqsError("SerializationException", f"Could not parse the request's JSON: {error}") from None
        if not isinstance(request, dict):
            raise SqsError("SerializationException", "Start of structure expected")
        return json.dumps(operation(request, call), ensure_ascii=False, separators=(",", ":")).encode()

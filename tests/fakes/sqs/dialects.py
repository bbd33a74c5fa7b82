"""How emulators of SQS write errors in other ways than AWS."""

from __future__ import annotations

import json

from .errors import SqsError


def dialect_code(shape: str, code: str, dialects: frozenset[str]) -> str:
    """An error code as the emulators write it."""
    if "short-codes" in dialects:
        code = shape.rpartition(".")[2]
    if "exception-suffix" in dialects and not code.endswith("Exception"):
        code += "Exception"
    if "prefixed-codes" in dialects and not code.startswith("AWS."):
        code = f"AWS.SimpleQueueService.{code}"
    return code


def error_answer(error: SqsError, dialects: frozenset[str]) -> tuple[int, bytes, str]:
    """(HTTP status, body, value of x-amzn-query-error or "") of an error."""
    if error.shape == "InvalidMessageContents" and "characters-500" in dialects:
        error = SqsError("InternalFailure", "character not supported")
    code, kind = dialect_code(error.shape, error.code, dialects), error.type
    if dialects & {"short-codes", "exception-suffix", "prefixed-codes"}:
        kind = code
    header = "" if "short-codes" in dialects else f"{code};{error.fault}"
    body = {"__type": kind, "message": error.message}
    return error.status, json.dumps(body).encode(), header

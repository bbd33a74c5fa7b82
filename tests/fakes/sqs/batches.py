"""Failed entries of batch calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .dialects import dialect_code
from .errors import INTERNAL, SqsError
from .faults import FaultPlan, Trigger

T = TypeVar("T")


def attempt(action: Callable[[dict[str, Any]], T], entry: dict[str, Any]) -> tuple[T | None, SqsError | None]:
    """(result, None) or (None, the error that the rules raised)."""
    try:
        return action(entry), None
    except SqsError as error:
        return None, error


def failed_entry(key: str, plan: FaultPlan, error: SqsError | None, injected: Trigger | None) -> dict[str, Any]:
    """A BatchResultErrorEntry for an injected fault or for an error of the rules, in the dialect in force."""
    if injected is not None:
        code = injected.fields.get("code", "InternalError")
        fault = bool(injected.fields.get("sender_fault", False))
        message = injected.fields.get("message", INTERNAL)
    else:
        assert error is not None
        code, fault, message = error.code, True, error.message
    entry = {"Id": key, "SenderFault": fault, "Code": dialect_code(code, code, plan.dialects), "Message": message}
    if "no-sender-fault" in plan.dialects:
        del entry["SenderFault"]
    return entry

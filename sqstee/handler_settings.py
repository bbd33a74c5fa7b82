"""The settings of `sqstee.Handler` and `sqstee.configure`, for type checkers: nothing imports this at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict


class HandlerSettings(TypedDict, total=False):
    """The options of `sqstee run` by their names with underscores, as Python values or as text.

    Sizes are bytes or text such as 4M; times are seconds or text such as 10s.
    """

    profile: str
    job: str
    auto_name: bool
    label: Mapping[str, object] | str | Sequence[str]
    auto_labels: bool
    host: str
    spool: str
    spool_max: int | str
    on_full: str
    linger: float | str
    flush_timeout: float | str
    message_bytes: int | str
    max_line: int | str
    compress: str
    fallback: str
    fallback_after: float | str
    via_s3: str
    group: str
    token_file: str
    local_max: int | str
    heartbeat: float | str
    tty: str
    merge: bool
    unbuffer: bool
    send_command: bool
    fsync: bool
    redact: str | Sequence[str]
    strip_ansi: bool
    collapse_cr: bool
    parse_json: bool
    rate_limit: str
    share: str
    keep_shipper: float | str
    strict: bool
    summary: bool
    quiet: bool

"""How a run is delivered."""

from __future__ import annotations

import json

from sqstee.destination import parse
from sqstee.options import LEAST_MESSAGE_BYTES, LONGEST_SECONDS, SENDER_OPTIONS
from sqstee.options import host as host_name
from sqstee.spool.reader import read_meta


def manner_of(folder: str, run: str) -> DeliveryPolicy:
    """How the run in `folder` wants to be shipped. Raises OSError or ValueError where its first frame is none."""
    meta = json.loads(read_meta(folder))
    try:
        if meta["run"] != run:
            raise ValueError("its first frame names another run")
        host_name(meta["host"])
        found = DeliveryPolicy(
            parse(meta["to"]).text,
            float(meta["linger"]) if "linger" in meta else None,
            int(meta["message_bytes"]) if "message_bytes" in meta else None,
            str(meta["compress"]),
            int(meta["local_max"]),
            {name: str(meta.get(name, "")) for name in SENDER_OPTIONS},
        )
        fine = 0 <= (found.linger or 0) <= LONGEST_SECONDS
        fine = fine and (found.message_bytes is None or found.message_bytes >= LEAST_MESSAGE_BYTES)
        if not fine or found.compress not in ("none", "auto", "gzip"):
            raise ValueError("its first frame asks for what there is not")
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its first frame is none: {type(error).__name__}: {error}") from None
    return found


class DeliveryPolicy:
    """How a group's runs are shipped: equal ones are shipped together."""

    __slots__ = ("compress", "linger", "local_max", "message_bytes", "sending", "to")

    def __init__(
        self,
        to: str,
        linger: float | None,
        message_bytes: int | None,
        compress: str,
        local_max: int,
        sending: dict[str, str],
    ) -> None:
        self.to = to
        self.sending = sending  # the SENDER_OPTIONS
        self.linger = linger
        self.message_bytes = message_bytes
        self.compress = compress
        self.local_max = local_max

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two the same."""
        return (self.linger, self.message_bytes, self.compress, *self.sender_key)

    @property
    def sender_key(self) -> tuple[object, ...]:
        """What makes their senders the same."""
        return (self.to, self.local_max, *sorted(self.sending.items()))

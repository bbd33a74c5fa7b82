"""What is known of one run at the end of a drain. Pure."""

from __future__ import annotations


class Verdict:
    """What is known of one run: `state` is complete, missing (it has ended, or a later line is there) or open.

    `missing` and `gapped` count seqs that never came and those that the sender reported as dropped; `ranges` are the
    first of the missing ones. `result` is how the command ended, empty where that is not known.
    """

    __slots__ = (
        *("run", "host", "job", "lines", "next", "ended", "result"),
        *("missing", "gapped", "duplicates", "ranges"),
    )

    def __init__(self, run: str, host: str = "", job: str = "", next: int = 0, lines: int = 0) -> None:
        self.run, self.host, self.job, self.next, self.lines = run, host, job, next, lines
        self.ended = False
        self.result = ""
        self.missing = self.gapped = self.duplicates = 0
        self.ranges: list[tuple[int, int]] = []

    @property
    def state(self) -> str:
        """complete, missing or open."""
        if self.missing or (self.gapped and self.ended):
            return "missing"
        return "complete" if self.ended else "open"

    @property
    def fields(self) -> dict[str, object]:
        """For a program."""
        return {"state": self.state} | {name: getattr(self, name) for name in self.__slots__ if name != "next"}

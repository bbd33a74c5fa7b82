"""The verdict on one run at the end of a drain. Pure."""

from __future__ import annotations


class Verdict:
    """The verdict on one run: `state` is complete, missing (lines never came, or were dropped in an ended run) or open.

    `missing` counts seqs that never came, `gapped` those that only a gap event of the sender covers; `elsewhere` says
    how many of the latter went to each other destination, and all others were dropped. `ranges` are the first missing
    ranges. `next` is the seq after the last one written. `result`: how the command ended, if known. `lines`
    counts a line that came in pieces once: `unfinished` are the streams whose last record ended without a newline.
    """

    __slots__ = (
        *("run", "host", "job", "lines", "next", "ended", "result"),
        *("missing", "gapped", "elsewhere", "duplicates", "ranges", "unfinished"),
    )

    def __init__(self, run: str, host: str = "", job: str = "", next: int = 0, lines: int = 0) -> None:
        self.run, self.host, self.job, self.next, self.lines = run, host, job, next, lines
        self.ended = False
        self.result = ""
        self.missing = self.gapped = self.duplicates = 0
        self.elsewhere: dict[str, int] = {}
        self.ranges: list[tuple[int, int]] = []
        self.unfinished: set[str] = set()

    def continue_line(self, stream: str) -> None:
        """The next record of a stream, which was counted, continues the stream's last line if that is unfinished."""
        if stream in self.unfinished:
            self.unfinished.discard(stream)
            self.lines -= 1

    @property
    def state(self) -> str:
        """complete, missing or open."""
        if self.missing or (self.gapped and self.ended):
            return "missing"
        return "complete" if self.ended else "open"

    @property
    def fields(self) -> dict[str, object]:
        """The verdict for programs."""
        names = (name for name in self.__slots__ if name not in ("next", "unfinished"))
        return {"state": self.state} | {name: getattr(self, name) for name in names}

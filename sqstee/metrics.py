"""Metrics as a page for Prometheus: its text format 0.0.4. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    Kinds = Mapping[str, tuple[str, str]]
    Samples = Mapping[str, Mapping[str, int]]


def exposition(kinds: Kinds, samples: Samples, process: int = 0, shared: Collection[str] = ()) -> str:
    """The text: `kinds` gives the type and the meaning of each metric, `samples` its numbers by their label.

    Where several processes serve, each has figures of its own, labelled with its id, `process`; those of the `shared`
    metrics are the same in each.
    """
    lines = []
    for name, found in sorted(samples.items()):
        kind, text = kinds[name]
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        own = f'process="{process}"' if process and name not in shared else ""
        for label, number in sorted(found.items()):
            labels = ",".join(filter(None, (label, own)))
            lines.append(f"{name}{{{labels}}} {number}" if labels else f"{name} {number}")
    return "\n".join((*lines, ""))

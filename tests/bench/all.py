"""Every bench in turn: what they print goes to RESULTS.md beside this file, and the plots that README shows are drawn.

make bench                              everything (about three quarters of an hour)
make bench BENCH=--quick                everything with small counts (two minutes), printed and not kept
python tests/bench/all.py shipping.py   some of them, the others' results stay; with --quick as above
python tests/bench/all.py --plots       the plots anew from RESULTS.md
python tests/bench/all.py --scale       what many clusters would cost by RESULTS.md: README's table
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from bench.common import DOLLARS, table
from bench.nodes import AGENT, ALONE, SHARED
from bench.plot import bars, curves

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
# What each is given, and what it is given for a quick look.
BENCHES: dict[str, tuple[list[str], list[str]]] = {
    "startup.py": ([], ["10"]),
    "wrapping.py": ([], ["1", "50", "20000"]),
    "shipping.py": (["5000000"], ["20000", "20"]),
    "ways.py": (["1000000", "20"], ["20000", "2"]),
    "growth.py": ([], ["1000", "10000", "100000"]),
    "loop.py": ([], ["5"]),
    "priority.py": ([], ["1"]),
    "nodes.py": (["1", "8", "64", "256"], ["--seconds", "2", "1", "4"]),
    "burst.py": ([], ["8", "3"]),
    "looking.py": ([], ["1", "16"]),
    "pace.py": (["--minutes", "3"], ["--minutes", "0.1", "--flat", "10000", "--runs", "4"]),
    "outage.py": ([], ["1", "20000"]),
    "receiving.py": ([], ["packed", "20000"]),
    "objects.py": ([], ["200", "1", "10000"]),
    "layouts.py": ([], ["20000", "20", "1"]),
    "tailing.py": ([], ["20000", "1"]),
    "handler.py": ([], ["1", "5000"]),
    "delay.py": ([], ["10"]),
    "collector.py": (["8", "6"], ["2", "1"]),
    "board.py": ([], ["500", "20000", "5"]),
    "kills.py": ([], ["4", "2", "6", "2"]),
    "pixels.py": ([], ["30"]),
    "spark_receive.py": ([], ["1", "20000", "300"]),
    "at_rest.py": ([], ["1600", "8", "50"]),
}


def results() -> dict[str, str]:
    """By bench, what was measured last."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    return dict(re.findall(r"^## (\S+)\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


def measure(name: str, quick: bool = False) -> str:
    """Run one bench; its own output, tables as they are."""
    command = [sys.executable, str(FOLDER / name), *BENCHES[name][quick]]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return shown(found.stdout)


def shown(text: str) -> str:
    """As it is where it holds Markdown tables, else as preformatted text."""
    text = text.strip()
    return f"{text}\n\n" if "\n|" in text else f"```\n{text}\n```\n\n"


def write(found: dict[str, str]) -> None:
    """Save what was measured."""
    parts = ["# What the benches said\n\nWritten by `make bench`; the machine is named where a bench names it.\n\n"]
    parts += [f"## {name}\n\n{found[name]}" for name in BENCHES if name in found]
    RESULTS.write_text("".join(parts).rstrip() + "\n")


def tables(text: str) -> list[list[str]]:
    """The rows of Markdown tables, without their heads."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if any(cell[:1].isdigit() for cell in row[1:])]


def number(cell: str) -> float:
    """A figure of a table."""
    return float(cell.replace(",", ""))


SHIPPERS = {ALONE: "each for itself", SHARED: "one shared shipper a node", AGENT: "one agent per node"}


def draw(found: dict[str, str]) -> None:
    """The plots."""
    rates = {
        f"{row[0]}, {row[1]}": number(row[5])
        for row in tables(found.get("shipping.py", ""))
        if row[2:4] == ["20", "120"] and "access log" not in row[0]
    }
    if rates:
        (FOLDER / "rates.svg").write_text(bars("Lines of 120 bytes to a queue 20 ms away", "lines/s", rates))
    memory: dict[str, list[tuple[float, float]]] = {}
    for row in tables(found.get("nodes.py", "")):
        if row[3]:  # where there was memory for so many
            memory.setdefault(row[1], []).append((number(row[0]), number(row[3])))
    if memory:
        (FOLDER / "memory.svg").write_text(curves("Memory of all of sqstee on a node", "wrappers", "MiB", memory))
    growth = tables(found.get("growth.py", ""))
    if growth:
        series = {
            "milliseconds of processor time": [(number(row[0]), 1000 * number(row[1])) for row in growth],
            "MiB": [(number(row[0]), number(row[4])) for row in growth],
        }
        (FOLDER / "growth.svg").write_text(
            curves("What lines cost: time grows with them, memory does not", "lines", "", series)
        )


def scale(found: dict[str, str], clusters: int = 20, cores: int = 2000, wrappers: int = 64) -> str:
    """What a wrapper on each core of so many clusters costs, by what was measured on a node of so many wrappers."""
    nodes = clusters * cores // wrappers
    measured = [row for row in tables(found["nodes.py"]) if number(row[0]) == wrappers]
    million = next(number(row[7]) for row in tables(found["shipping.py"]) if row[:2] == ["sqstee", "strict"])
    shippers = [nodes * (wrappers if row[1] == ALONE else 1) for row in measured]
    requests = [count * 86_400 for count in shippers]
    rows: list[tuple[str, ...]] = []

    def add(name: str, values: Iterable[float], form: str = "{:,.0f}") -> None:
        rows.append((name, *(form.format(value) for value in values)))

    add("memory of a wrapper", (number(row[2]) for row in measured), "{:.1f} MiB")
    add(f"memory of a node's {wrappers}", (number(row[3]) for row in measured), "{:,.0f} MiB")
    add(f"memory of all {nodes} nodes", (number(row[3]) * nodes / 1024 for row in measured), "{:,.0f} GiB")
    add("processor time of a node's burst", (number(row[4]) for row in measured), "{:.1f} s")
    add("connections, four per shipper", (4 * count for count in shippers))
    add("requests per second, if all trickle", shippers)
    add("requests per day for that, millions", (count / 1e6 for count in requests))
    add("dollars per day for that", (count * DOLLARS for count in requests))
    add("billed requests of a burst of all", (number(row[6]) * nodes for row in measured))
    add("dollars for that", (number(row[6]) * nodes * DOLLARS for row in measured), "{:.2f}")
    add("dollars for a million lines at once", [million * DOLLARS] * len(measured), "{:.4f}")
    return table(("", *(SHIPPERS[row[1]] for row in measured)), rows)


def main() -> None:
    """Measure what is asked for, and draw."""
    words = sys.argv[1:]
    quick = "--quick" in words
    if "--scale" in words:
        print(scale(results()))
        return
    names = [word for word in words if not word.startswith("--")] or list(BENCHES)
    found = results()
    for name in names if "--plots" not in words else ():
        print(f"{name} …", flush=True)
        if quick:
            print(measure(name, quick), flush=True)
        else:
            found[name] = measure(name)
            write(found)
    if not quick:
        draw(found)


if __name__ == "__main__":
    main()

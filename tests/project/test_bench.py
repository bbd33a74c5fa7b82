"""The benches work: each is run with small counts and what it prints is read, so that they do not rot."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import all as benches
from bench import scale
from bench.plot import bars, curves

FOLDER = Path(benches.__file__).parent
# What each is given, and how many lines with figures it prints.
SMALL: dict[str, tuple[list[str], int]] = {
    "startup.py": (["2"], 4),
    "loop.py": (["2"], 8),
    "handler.py": (["1", "200"], 3),
    "growth.py": (["100", "1000"], 2),
    "looking.py": (["1", "2"], 2),
    "pace.py": (["--minutes", "0.04", "--flat", "300", "--runs", "1"], 14),
    "receiving.py": (["packed", "2000"], 1),
    "objects.py": (["20", "1", "2000"], 9),
    "layouts.py": (["2000", "4", "1"], 3),
    "tailing.py": (["2000", "1"], 11),
    "delay.py": (["2"], 2),
    "collector.py": (["1", "0.2"], 1),
}
# These take longer, ten seconds each on a busy machine: with --benches.
LARGE: dict[str, tuple[list[str], int]] = {
    "shipping.py": (["1000", "2"], 11),
    "ways.py": (["1000", "2"], 6),
    "wrapping.py": (["1", "5", "1000"], 10),
    "nodes.py": (["--seconds", "1", "2", "1000000"], 3),
    "burst.py": (["2", "1"], 3),
    "priority.py": (["1", "2"], 3),
    "outage.py": (["1", "2000"], 8),
    "board.py": (["20", "2000", "2"], 8),
    "kills.py": (["2", "1", "2", "1"], 2),
    "pixels.py": (["10"], 2),
    "spark_receive.py": (["1", "2000", "50"], 9),
    "at_rest.py": (["1600", "8", "50"], 14),
}


def run(name: str, arguments: list[str]) -> str:
    """What a bench prints."""
    command = [sys.executable, str(FOLDER / name), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert found.returncode == 0, found.stderr
    return found.stdout


def figures(text: str) -> list[list[float]]:
    """The numbers of each row of a bench's tables, or of each line where it has none; two or more."""
    rows = benches.tables(text) or [line.replace(":", " ").split() for line in text.splitlines()]
    found = [[number for cell in row for number in numbers(cell)] for row in rows]
    return [row for row in found if len(row) > 1]


def numbers(cell: str) -> list[float]:
    """The number that a cell is, if it is one."""
    try:
        return [benches.number(cell)]
    except ValueError:
        return []


def test_every_bench_is_run_by_one_command_and_by_these_tests() -> None:
    """No bench is forgotten."""
    here = {path.name for path in FOLDER.glob("*.py")} - {"all.py", "common.py", "plot.py", "scale.py", "__init__.py"}
    assert here == set(benches.BENCHES) == SMALL.keys() | LARGE.keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_small_bench(name: str) -> None:
    """It ends well and prints its figures."""
    arguments, count = SMALL[name]
    text = run(name, arguments)
    assert len(figures(text)) == count, text


def test_the_cost_of_many_clusters_is_computed_from_what_was_measured() -> None:
    """Twenty clusters of 2,000 cores; each quota has its source."""
    text = scale.shown(scale.Load(), scale.units(benches.results()))
    rows = {row[0]: row[1:] for row in benches.tables(text)}
    assert rows["lines per second"][:2] == ["600,000", "12,000,000"]
    assert rows["lines per hour, millions"][1] == "43,200"
    assert [name for name in rows if re.search(" a (second|batch|run)\\b(?! by itself)", name)] == []
    assert benches.number(rows["SQS: dollars to send"][1]) > benches.number(rows["SQS: dollars to send, --compress"][1])
    sources = re.findall(r"^\[(\d)\] https://docs\.aws\.amazon\.com/", text, re.MULTILINE)
    cited = {row[2][-2] for row in rows.values() if row[2]}
    assert cited == set(sources)


@pytest.mark.bench
@pytest.mark.parametrize("name", LARGE)
def test_a_large_bench(name: str) -> None:
    """The same of those that take longer; where there is not the memory for so many, a row says so."""
    arguments, count = LARGE[name]
    text = run(name, arguments)
    assert len(figures(text)) == count, text
    assert ("left out" in text) == (name == "nodes.py")


def test_results_are_read_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before stays; the plots show it."""
    monkeypatch.setattr(benches, "FOLDER", tmp_path)
    monkeypatch.setattr(benches, "RESULTS", tmp_path / "RESULTS.md")
    memory = "| wrappers | | each | all |\n|--|--|--|--|\n| 1 | agent | 7.1 | 54.7 |\n| 256 | agent | left out | |\n"
    benches.write({"nodes.py": benches.shown(f"a machine\n{memory}"), "delay.py": benches.shown("12 ms")})
    found = benches.results()
    assert set(found) == {"nodes.py", "delay.py"}
    assert found["delay.py"].strip() == "```\n12 ms\n```"
    benches.draw(found)
    assert [path.name for path in tmp_path.glob("*.svg")] == ["memory.svg"]
    assert "54.7" in (tmp_path / "memory.svg").read_text()


@pytest.mark.parametrize(
    "drawn",
    [
        bars("Lines", "lines/s", {"one & two": 44.0, "three": 403_813.0}),
        curves("Memory", "wrappers", "MiB", {"<alone>": [(1, 42.2), (64, 2321)], "agent": [(1, 54.7), (64, 418)]}),
    ],
    ids=["bars", "curves"],
)
def test_a_plot_is_an_image_with_everything_inside(drawn: str) -> None:
    """Well-formed, and no text begins outside of it."""
    root = ElementTree.fromstring(drawn)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    texts = list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert len(texts) > 6
    for text in texts:
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


def test_the_manual_says_what_the_benches_said() -> None:
    """Its table for many clusters is computed from RESULTS.md, and its other large figures stand there."""
    results = benches.RESULTS.read_text()
    page = (FOLDER.parent.parent / "man/sqstee-costs.7.md").read_text()
    shown = [line.replace(" ", "") for line in page.splitlines()]
    computed = [line.replace(" ", "") for line in benches.scale(benches.results()).splitlines()[2:]]
    assert len(computed) > 5
    assert [row for row in computed if row not in shown] == []
    measured = re.findall(r"\d{2,3},\d{3}\b", page.partition("Twenty clusters")[0])
    assert len(measured) > 10
    assert [figure for figure in measured if figure not in results] == []

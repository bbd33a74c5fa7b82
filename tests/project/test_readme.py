"""What README says is true: its commands run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support import ROOT, SCRIPT, Sqstee

from sqstee.__main__ import VERBS

README = ROOT / "README.md"
# the recipes are run by test_recipes, in surroundings of their own
TEXT = re.sub(r"^## Recipes\n.*?^## ", "## ", README.read_text(), flags=re.DOTALL | re.MULTILINE)
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", [block for block in BLOCKS if "my-" not in block])
def test_every_shell_block_runs(sqstee: Sqstee, block: str) -> None:
    """As it stands, in a shell, with the installed command first on PATH."""
    environ = sqstee.environ | {"PATH": f"{Path(SCRIPT).parent}:{sqstee.environ['PATH']}"}
    found = subprocess.run(
        ["bash", "-euc", block], capture_output=True, text=True, env=environ, timeout=60, check=False, cwd=sqstee.folder
    )
    assert found.returncode == 0, found.stderr


def test_every_option_is_in_the_help_of_its_verb(sqstee: Sqstee) -> None:
    """README sends the reader to the verbs' help, where every option that it names is."""
    text = b"".join(sqstee.run(verb, "--help", environ={"COLUMNS": "200"}).stdout for verb in VERBS).decode()
    named = set(re.findall(r"`(--[a-z-]+)", README.read_text()))
    assert named
    assert [flag for flag in sorted(named) if flag not in text] == []


PICTURES = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README.read_text())


@pytest.mark.parametrize("name", [name for name in PICTURES if not name.endswith(".png")])
def test_pictures_are_there_and_ask_no_network(name: str) -> None:
    """Each is a file beside README, whole by itself: without a font, a style or a picture from elsewhere."""
    text = (README.parent / name).read_text()
    assert text.lstrip().startswith("<svg")
    assert not re.search(r"@import|@font-face|url\(\s*['\"]?https?:|(href|src)=['\"]https?:", text)
    assert "/tmp/" not in text


def test_links_within_it_lead_somewhere() -> None:
    """A heading for every `(#anchor)`, by the rule of GitHub's anchors."""
    headings = re.findall(r"^#+ (.+)$", README.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = re.findall(r"\]\(#([^)]+)\)", README.read_text())
    assert len(linked) > 10
    assert set(linked) <= anchors

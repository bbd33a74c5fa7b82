"""What README and the manual say is true: their commands run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support import SCRIPT, Sqstee
from support.documents import DOCUMENTS

from sqstee.__main__ import VERBS

# the recipes are run by test_recipes, in surroundings of their own; a block with `my-…` in it needs AWS or a server
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in DOCUMENTS
    if path.name != "sqstee-recipes.7.md"
    for number, block in enumerate(re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE))
    if "my-" not in block
]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_shell_block_runs(sqstee: Sqstee, block: str) -> None:
    """As it stands, in a shell, with the installed command first on PATH."""
    environ = sqstee.environ | {"PATH": f"{Path(SCRIPT).parent}:{sqstee.environ['PATH']}"}
    found = subprocess.run(
        ["bash", "-euc", block], capture_output=True, text=True, env=environ, timeout=60, check=False, cwd=sqstee.folder
    )
    assert found.returncode == 0, found.stderr


def test_every_option_is_in_the_help_of_its_verb(sqstee: Sqstee) -> None:
    """The documents send the reader to the verbs' help, where every option that they name is."""
    text = b"".join(sqstee.run(verb, "--help", environ={"COLUMNS": "200"}).stdout for verb in VERBS).decode()
    for path in DOCUMENTS:
        named = set(re.findall(r"`(--[a-z-]+)", path.read_text())) - {"--no-"}
        assert [flag for flag in sorted(named) if flag not in text] == [], path.name


PICTURES = sorted(
    {
        (path.parent / name).resolve()
        for path in DOCUMENTS
        for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", path.read_text())
    }
)


@pytest.mark.parametrize("picture", [path for path in PICTURES if path.suffix == ".svg"], ids=lambda path: path.name)
def test_pictures_are_there_and_ask_no_network(picture: Path) -> None:
    """Each is a file beside the documents, whole by itself: without a font, a style or a picture from elsewhere."""
    text = picture.read_text()
    assert text.lstrip().startswith("<svg")
    assert not re.search(r"@import|@font-face|url\(\s*['\"]?https?:|(href|src)=['\"]https?:", text)
    assert "/tmp/" not in text

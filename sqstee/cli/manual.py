"""`sqstee man` and `sqstee completion`: pages and scripts that are installed to be read, wherever sqstee runs from."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import typer

from sqstee.errors import EXIT_FAILURE, SqsteeError, unknown_name

if TYPE_CHECKING:
    from pathlib import Path

_COMPLETIONS = {"bash": "sqstee.bash", "zsh": "_sqstee", "fish": "sqstee.fish"}


def man(
    page: str = typer.Argument("sqstee", metavar="[PAGE]", help="A page, such as tail, recipes, sqstee.toml."),
    pager: bool = typer.Option(True, "--pager/--no-pager", help="On a terminal: through $PAGER, or less."),
) -> None:
    """Show a page of the manual. Unlike man(1), it also finds the pages after `uv tool install`, and in sqstee.pyz.

    The verbs' pages are named after them; `sqstee man` without a page shows sqstee(1), which lists the others.
    """
    from sqstee.cli.page_writer import TextPage, columns
    from sqstee.cli.pager import paging

    pages = _pages()
    known = {name: name for name in pages}
    known |= {re.sub("^sqstee[-.]", "", name): name for name in pages}
    if page not in known:
        raise unknown_name("page", page, known, "sqstee man lists the pages at its end")
    text = pages[known[page]].read_text(encoding="utf-8")
    shown = TextPage(columns(), sys.stdout.isatty()).write(text)
    with paging(pager):
        sys.stdout.write(shown)


def completion(shell: str = typer.Argument(..., metavar="bash|zsh|fish", help="The shell.")) -> None:
    """Print the completion of a shell, for a shell that does not find the installed one.

    For bash put this into ~/.bashrc: eval "$(sqstee completion bash)"

    For zsh, with a DIR of $fpath: sqstee completion zsh > DIR/_sqstee

    For fish: sqstee completion fish > ~/.config/fish/completions/sqstee.fish
    """
    if shell not in _COMPLETIONS:
        raise unknown_name("shell", shell, _COMPLETIONS, f"the shells: {', '.join(_COMPLETIONS)}")
    path = _shipped("completions") / _COMPLETIONS[shell]
    sys.stdout.write(path.read_text(encoding="utf-8"))


def _pages() -> dict[str, Path]:
    """The pages by their names."""
    return {path.name[: -len(".1.md")]: path for path in sorted(_shipped("man").glob("*.?.md"))}


def _shipped(folder: str) -> Path:
    """A folder of files to be read: inside the package, or beside it in a clone."""
    from pathlib import Path

    import sqstee

    package = Path(sqstee.__file__).parent
    for parent in (package, package.parent):
        if (parent / folder).is_dir():
            return parent / folder
    message = f"the folder {folder} is missing from the installation in {package}"
    raise SqsteeError(message, "install sqstee again", EXIT_FAILURE)

"""The pages and their files, from the package: plain HTML, CSS and JavaScript, which hold nothing of any run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from sqstee.web.answers import HTML, Answer, tag_of, unchanged

_FOLDER = Path(__file__).parent / "static"
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_PAGES = {"": ("board", "runs"), "run": ("run", "run"), "job": ("job", "job"), "search": ("search", "search")}
_MOST_WANTED = 2000  # characters of an address that a login leads to: they come back in its form, encoded again


class Pages:
    """All pages and files, read once."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.is_file()}
        self._pages = {
            path: self._made(name, title, f'<script type="module" src="static/{name}.js"></script>').encode()
            for path, (name, title) in _PAGES.items()
        }

    @property
    def paths(self) -> frozenset[str]:
        """The paths of the pages, below the board's."""
        return frozenset(self._pages)

    def page(self, path: str, environ: dict[str, str]) -> Answer | None:
        """A page by its path below the board's."""
        return _kept(self._pages[path], HTML, environ) if path in self._pages else None

    def file(self, name: str, environ: dict[str, str]) -> Answer | None:
        """A file of the pages, for anybody."""
        kind = _KINDS.get(Path(name).suffix)
        return _kept(self._files[name], kind, environ) if kind and name in self._files else None

    def login(
        self, problem: str, wanted: str, status: int = 401, headers: Sequence[tuple[str, str]] = (), again: str = ""
    ) -> Answer:
        """The page that asks for a token, and leads to the page that was `wanted`.

        With an address in `again`, the browser goes there at once: a link on another site leads here without the
        cookie, which is for this site alone. The browser's next request comes from this page, and has it.
        """
        reload = f'<meta http-equiv="refresh" content="0; url={escape(again)}">' if again else ""
        text = self._made("login", "log in", reload)
        text = text.replace("<!-- next -->", escape(wanted if len(wanted) <= _MOST_WANTED else ""))
        return Answer(text.replace("<!-- problem -->", escape(problem)).encode(), HTML, status, headers)

    def _made(self, name: str, title: str, head: str) -> str:
        """A page: its own content in the common layout."""
        text = self._files["layout.html"].decode()
        for place, found in {"name": name, "title": title, "head": head}.items():
            text = text.replace(f"<!-- {place} -->", found)
        link = '<a href="./"' if name == "board" else f'<a href="{name}"'
        text = text.replace(link, f'{link} aria-current="page"')
        return text.replace("<!-- main -->", self._files[f"{name}.html"].decode().strip())


def _kept(body: bytes, kind: str, environ: dict[str, str]) -> Answer:
    tag = tag_of(body)
    if unchanged(environ, tag):
        return Answer(b"", kind, 304, [("ETag", tag)], is_kept=True)
    return Answer(body, kind, headers=[("ETag", tag)], is_kept=True)

"""The pages and their files, from the package: plain HTML, CSS and JavaScript, which hold nothing of any run."""

from __future__ import annotations

from html import escape
from pathlib import Path

from sqstee.web.answers import HTML, Answer, tag_of, unchanged

_FOLDER = Path(__file__).parent / "static"
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_PAGES = {"": "board.html", "run": "run.html", "search": "search.html"}


class Pages:
    """All pages and files, read once."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.is_file()}

    def page(self, path: str, environ: dict[str, str]) -> Answer | None:
        """A page by its path below the board's."""
        name = _PAGES.get(path)
        return self._kept(name, HTML, environ) if name else None

    def file(self, name: str, environ: dict[str, str]) -> Answer | None:
        """A file of the pages, for anybody."""
        kind = _KINDS.get(Path(name).suffix)
        return self._kept(name, kind, environ) if kind and name in self._files else None

    def login(self, problem: str, address: str) -> Answer:
        """The page that asks for a token. With an `address`, the browser goes there at once.

        A link on another site leads here without the cookie, which is for this site alone: the browser's next request
        comes from this page, and has it.
        """
        again = f'<meta http-equiv="refresh" content="0; url={escape(address)}">' if address else ""
        text = self._files["login.html"].decode().replace("<!-- again -->", again)
        return Answer(text.replace("<!-- problem -->", escape(problem)).encode(), HTML, 401)

    def _kept(self, name: str, kind: str, environ: dict[str, str]) -> Answer:
        body = self._files[name]
        tag = tag_of(body)
        if unchanged(environ, tag):
            return Answer(b"", kind, 304, [("ETag", tag)], is_kept=True)
        return Answer(body, kind, headers=[("ETag", tag)], is_kept=True)

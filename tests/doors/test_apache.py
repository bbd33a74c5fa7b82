"""The collector in a real Apache with mod_wsgi, by the configuration in sqstee-serve(1)."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, Rebuilt, Sqstee, running, wait_for
from support.collector import stored

PAGE = (ROOT / "man/sqstee-serve.1.md").read_text()
MODULES = Path("/usr/lib/apache2/modules")
PYTHON = "/usr/bin/python3"  # for which Debian builds its mod_wsgi
# Apache does not serve as root; in a user namespace root is somebody else.
WORDS = ["unshare", "--user", "--map-user=33", "--map-group=33"] if os.geteuid() == 0 else ["env"]

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("apache2") and (MODULES / "mod_wsgi.so").exists()),
        reason="apache2 and libapache2-mod-wsgi-py3 are not installed",
    ),
    pytest.mark.skipif(
        subprocess.run([*WORDS, "true"], capture_output=True, check=False).returncode != 0,
        reason="Apache does not serve as root, and there are no user namespaces",
    ),
]


def block(language: str, text: str) -> str:
    """The only block of the page in a language with this text."""
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (found,) = (each for each in blocks if text in each)
    return found


@contextlib.contextmanager
def apache(folder: Path, configuration: str, script: str) -> Iterator[str]:
    """Apache with a configuration of its own, which refers to /opt/sqstee and so on; the collector's URL."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder / "opt"], check=True, timeout=60)
    (packages,) = (folder / "opt").glob("lib/python*/site-packages")
    (packages / "sqstee.pth").write_text(f"{ROOT}\n")
    (folder / "tokens").write_text("secret\n")
    moved = {"/opt/sqstee": f"{folder}/opt", "/etc/sqstee": str(folder), "/var/lib/sqstee": str(folder)}
    for old, new in moved.items():
        configuration, script = configuration.replace(old, new), script.replace(old, new)
    (folder / "opt/collector.wsgi").write_text(script)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    names = [name for name in ("mpm_event", "authz_core", "wsgi") if (MODULES / f"mod_{name}.so").exists()]
    lines = [f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in names]
    lines += [f"Listen 127.0.0.1:{port}", "ServerName 127.0.0.1", f"ServerRoot {folder}", f"PidFile {folder}/pid"]
    lines += [f"DefaultRuntimeDir {folder}", f"WSGISocketPrefix {folder}/wsgi", f"ErrorLog {folder}/log"]
    lines += ["StartServers 1", "GracefulShutdownTimeout 1", configuration]
    (folder / "httpd.conf").write_text("\n".join(lines))
    words = ["apache2", "-f", str(folder / "httpd.conf"), "-DFOREGROUND"]
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with running([*WORDS, *words], env=environ) as process:

        def listens() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        try:
            wait_for(listens, "Apache")
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()  # and its children with it
            assert process.wait(40) == 0


def refusal(sqstee: Sqstee, url: str, token: str) -> str:
    """What `check` says about the collector."""
    found = sqstee.run("check", url, "-o", "json", environ={"SQSTEE_TOKEN": token} if token else {})
    (step,) = (step for step in map(json.loads, found.stdout.splitlines()) if step["name"] == "collector")
    return f"{step['state']} {step['text']} → {step['advice']}"


def address(url: str) -> tuple[str, int]:
    """Host and port."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    return host, int(port)


def bad_requests(url: str) -> int:
    """How many requests were answered with 400, by the metrics of the only process."""
    with contextlib.closing(http.client.HTTPConnection(*address(url), timeout=60)) as connection:
        connection.request("GET", "/metrics", headers={"Authorization": "Bearer secret"})
        text = connection.getresponse().read().decode()
    found = re.search(r'^sqstee_requests_total{status="400"} (\d+)$', text, re.MULTILINE)
    assert found, text
    return int(found[1])


def test_a_run_is_collected_by_apache(sqstee: Sqstee, tmp_path: Path) -> None:
    """The configuration of the documents takes the token and stores every line; a wrong token is called wrong."""
    configuration, script = block("apache", "WSGIDaemonProcess"), block("python", "import application")
    with apache(tmp_path, configuration, script) as url:
        found = sqstee.run("--strict", "--to", url, "--", "seq", "20000", environ={"SQSTEE_TOKEN": "secret"})
        assert (found.returncode, found.stderr) == (0, b"")
        assert refusal(sqstee, url, "secret").startswith("ok ")
        assert "the bearer token is not one of the collector's → set SQSTEE_TOKEN" in refusal(sqstee, url, "other")
        assert "no bearer token arrived" in refusal(sqstee, url, "")
        refused = bad_requests(url)
        with socket.create_connection(address(url)) as peer:  # an upload that is cut off
            head = "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 100000\r\n\r\n{"
            peer.sendall(head.encode())
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: bad_requests(url) > refused, "an answer to the upload")
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log, log
    got = Rebuilt((row.data, row.attributes) for row in stored(tmp_path / "lines.db"))
    got.assert_whole()
    assert got.stdout == found.stdout


def test_a_token_that_apache_withholds(sqstee: Sqstee, tmp_path: Path) -> None:
    """Without WSGIPassAuthorization the collector says so, and `check` names what to set."""
    configuration, script = block("apache", "WSGIDaemonProcess"), block("python", "import application")
    with apache(tmp_path, configuration.replace("WSGIPassAuthorization On\n", ""), script) as url:
        said = refusal(sqstee, url, "secret")
    assert "no bearer token arrived" in said
    assert "→ have the collector's server pass the token on: in Apache, WSGIPassAuthorization On" in said

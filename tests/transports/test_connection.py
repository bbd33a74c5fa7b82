"""The way to a server: certificates, proxies and credentials are classified alike for SQS, S3 and collectors."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import Sqstee
from support.collector import body
from support.tls import certificate, serving_tls

from sqstee.destination import parse
from sqstee.transports.connection import tls_context
from sqstee.transports.errors import OPEN, REFRESH, RETRY, TransportError
from sqstee.transports.factory import open_sender
from sqstee.transports.probe import network_steps

KINDS = ("sqs", "s3", "http")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials and a region, and nothing of this machine's own settings."""
    for name in os.environ:
        if name.upper().startswith(("AWS_", "SQSTEE_", "SSL_CERT", "REQUESTS_CA")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    given = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (given | {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(name, value)


def refusal_by(kind: str, url: str, token_file: str = "") -> TransportError:
    """The refusal of one body by a destination of this kind at `url`."""
    to = {"sqs": f"{url}/123456789012/q", "s3": "s3://bkt/p", "http": f"{url}/"}[kind]
    sender = open_sender(parse(to), "", 0, token_file=token_file)
    try:
        sender.open()
        sender.send([body("R", 0, 0)])
    except TransportError as refusal:
        return refusal
    pytest.fail("it was accepted")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("host", "first_day", "last_day", "trusted", "said"),
    [
        ("127.0.0.1", -1, 1, False, "self-signed certificate"),
        ("127.0.0.1", -3, -1, True, "certificate has expired"),
        ("127.0.0.1", 1, 3, True, "certificate is not yet valid"),
        ("example.org", -1, 1, True, "'127.0.0.1'"),
    ],
)
def test_a_certificate_that_is_refused_is_told_alike_and_passes_not_by_itself(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    host: str,
    first_day: int,
    last_day: int,
    trusted: bool,
    said: str,
) -> None:
    """Regression: passing trouble for SQS and S3, so that each command waited for the whole flush timeout."""
    file = certificate(tmp_path, host, first_day, last_day)
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    with serving_tls(file) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        refusal = refusal_by(kind, url)
    assert (refusal.kind, refusal.code) == (OPEN, "Certificate")
    assert said in str(refusal)
    assert url.partition("://")[2] in str(refusal)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "AWS_CA_BUNDLE"])
def test_a_collector_is_trusted_by_either_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """Regression: AWS_CA_BUNDLE, which serves SQS and S3, was not heeded; both may be set, to different files."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    file = certificate(mine)
    for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(file if name == variable else certificate(other)))
    with serving_tls(file) as url:
        sender = open_sender(parse(url), "", 0)
        assert sender.send([body("R", 0, 0)]) == []
        sender.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "why"), [(None, "no such file or directory"), (b"", "has no certificate"), (b"x\n", "no certificate")]
)
def test_a_list_of_authorities_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, content: bytes | None, why: str
) -> None:
    """Regression: `SSL validation failed for … [Errno 2] No such file or directory`, and passing trouble."""
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with serving_tls(certificate(tmp_path)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        refusal = refusal_by(kind, url)
    assert refusal.kind == OPEN
    assert f"AWS_CA_BUNDLE={bundle}: " in str(refusal)
    assert why in str(refusal)


@contextmanager
def refusing_proxy(answer: str) -> Iterator[str]:
    """The address of a proxy that answers every request with this status."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    peer, _ = server.accept()
                    with peer:
                        peer.recv(65536)
                        peer.sendall(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())

        thread = threading.Thread(target=refuse)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "given", "class_", "said"),
    [
        ("407 No", "", OPEN, "answered 407 No: it requires a user and password in HTTPS_PROXY"),
        (
            "407 No",
            "u:p@",
            OPEN,
            "answered 407 No: it refuses the user and password in HTTPS_PROXY",
        ),
        ("403 Forbidden", "", OPEN, "answered 403 Forbidden"),
        ("502 Bad Gateway", "", RETRY, "answered 502 Bad Gateway"),
    ],
)
def test_a_proxy_that_refuses_is_told_with_its_status(
    monkeypatch: pytest.MonkeyPatch, kind: str, answer: str, given: str, class_: str, said: str
) -> None:
    """Regression: `Failed to connect to proxy URL`, and for 407 a retry for ever."""
    with refusing_proxy(answer) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{given}{address}")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://server.invalid")
        refusal = refusal_by(kind, "https://server.invalid")
        (step,) = (step for step in network_steps("https://server.invalid", tls_context()) if step.name != "DNS")
    assert (refusal.kind, refusal.code) == (class_, f"Proxy{answer[:3]}")
    assert refusal.message == f"the proxy {address} (HTTPS_PROXY) {said}"
    assert (step.name, step.state, step.text) == ("connection", "failed", str(refusal))
    assert ("USER:PASSWORD" if "407" in answer else "NO_PROXY") in step.advice


@pytest.mark.parametrize("answer", [b"220 smtp ready\r\n", b""])
def test_check_survives_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """Another kind of server at the proxy's address: a failed step, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(answer)
                peer.recv(65536)

        thread = threading.Thread(target=greet)
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{server.getsockname()[1]}")
        steps = list(network_steps("https://server.invalid", tls_context()))
        thread.join()
    assert (steps[-1].name, steps[-1].state) == ("connection", "failed")


def test_a_port_without_tls_is_told_as_such() -> None:
    """It answers, but not with TLS: no port needs to be opened."""
    with refusing_proxy("400 Bad Request") as address:
        step = list(network_steps(f"https://{address}", tls_context()))[-1]
    assert (step.name, step.state) == ("TLS", "failed")
    assert "speaks TLS" in step.advice


def test_check_survives_a_name_that_no_resolver_takes() -> None:
    """Regression: a traceback with UnicodeError."""
    (step,) = network_steps(f"https://{'a' * 64}.invalid", tls_context())
    assert (step.name, step.state) == ("DNS", "failed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", ["t:p", "http:1", "u:secret"])
def test_a_short_password_leaves_the_rest_of_the_text(monkeypatch: pytest.MonkeyPatch, kind: str, user: str) -> None:
    """Regression: `h***t***://127.0.0.1:9`, where the user was `t` and the password `p`."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://{user}@127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://server.invalid")
    refusal = refusal_by(kind, "https://server.invalid")
    assert (refusal.kind, refusal.message) == (RETRY, "the proxy 127.0.0.1:9 (HTTPS_PROXY): Connection refused")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "proxy",
    [
        *("http://u:hidden@127.0.0.1:xyz", "http://[::1", "127.0.0.1:99999", "http://"),
        *("u:hidden#@h:1", "u:12/hidden@h:1", "socks5://h:1"),
    ],
)
def test_an_invalid_proxy_is_a_mistake_for_every_destination(
    monkeypatch: pytest.MonkeyPatch, kind: str, proxy: str
) -> None:
    """Regression: boto3 took it for passing trouble, and `check` ended with a traceback."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://server.invalid")
    refusal = refusal_by(kind, "https://server.invalid")
    assert (refusal.kind, refusal.code) == (OPEN, "Proxy")
    assert "invalid HTTPS_PROXY" in str(refusal)
    assert "hidden" not in refusal.message


@pytest.mark.parametrize("to", ["q", "s3://bkt/p", "https://collector.invalid/"])
def test_check_survives_an_invalid_proxy(sqstee: Sqstee, to: str) -> None:
    """Regression: a traceback for a port of letters, an unfinished address, a port that no protocol has."""
    environ = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")}
    found = sqstee.run("check", to, environ=environ | {"HTTPS_PROXY": "http://u:pw@127.0.0.1:xyz", "NO_PROXY": ""})
    assert (found.returncode, found.stderr) == (1, b"")
    assert b"invalid HTTPS_PROXY" in found.stdout


@pytest.mark.parametrize("to", ["q", "s3://bkt/p"])
@pytest.mark.parametrize("port", ["99999", "xyz"])
def test_an_endpoint_without_a_port_is_a_mistake(sqstee: Sqstee, to: str, port: str) -> None:
    """Regression: check ended with a traceback, and a run tried for as long as it might."""
    environ = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")}
    environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    found = sqstee.run("check", to, environ=environ)
    assert (found.returncode, found.stderr) == (1, b"")
    assert b"AWS_ENDPOINT_URL" in found.stdout
    found = sqstee.run("--to", to, "--flush-timeout", "60s", "--", "echo", "hi", environ=environ, timeout=40)
    assert (found.returncode, found.stdout) == (0, b"hi\n")
    assert b"1 line not delivered yet (Configuration: " in found.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """Regression: passing trouble with the name `FileNotFoundError`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    missing = tmp_path / "token"
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(missing))
    refusal = refusal_by(kind, "http://127.0.0.1:9", str(missing))
    assert (refusal.kind, refusal.code) == (OPEN, "Configuration")
    assert str(missing) in str(refusal)
    assert "no such file" in str(refusal).lower()
    assert kind == "http" or "AWS_WEB_IDENTITY_TOKEN_FILE" in str(refusal)


@pytest.mark.parametrize(
    ("process", "kind", "said"),
    [
        ("/nonexistent/helper", OPEN, "/nonexistent/helper: no such file or directory"),
        ("/etc/passwd", OPEN, "/etc/passwd: permission denied"),
        ("echo please log in", REFRESH, "not JSON"),
        ("true", REFRESH, "not JSON"),
        (r"printf \\377", REFRESH, "not JSON"),
        ("sh -c 'echo no login >&2; exit 3'", REFRESH, "no login"),
        ("""echo '{"Version": 1}'""", REFRESH, "AccessKeyId"),
        ("echo []", REFRESH, "credential_process: "),
        ("""echo '{"Version": 1, "AccessKeyId": 5, "SecretAccessKey": "b"}'""", REFRESH, "must be strings"),
        ("sh -c 'x", REFRESH, "No closing quotation"),
    ],
)
def test_a_credential_process_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, process: str, kind: str, said: str
) -> None:
    """Regression: the name was that of an exception: JSONDecodeError, `[Errno 2]`, UnicodeDecodeError."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(f"[profile p]\ncredential_process = {process}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "p")
    refusal = refusal_by("sqs", "http://127.0.0.1:9")
    assert refusal.kind == kind
    assert "credential_process: " in str(refusal)
    assert said in str(refusal)
    assert "Error" not in str(refusal)


def test_nobody_is_asked_for_an_mfa_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Regression: the shipper's prompt took the terminal's next line from the command."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    role = "role_arn = arn:aws:iam::123456789012:role/r\nsource_profile = q\nmfa_serial = arn:aws:iam::1:mfa/u"
    config.write_text(f"[profile p]\n{role}\n[profile q]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "p")
    sender = open_sender(parse("http://127.0.0.1:9/123456789012/q"), "", 0)
    for _ in range(2):  # botocore has an error of its own for the second time
        with pytest.raises(TransportError, match="needs an MFA code") as raised:
            sender.open()
        assert raised.value.kind == OPEN

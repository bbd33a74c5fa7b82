"""The way to a server: certificates, proxies and credentials are classified alike for SQS, S3 and collectors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.collector import body
from support.tls import certificate, serving_tls

from sqstee.destination import parse
from sqstee.transports.errors import OPEN, REFRESH, TransportError
from sqstee.transports.factory import open_sender

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

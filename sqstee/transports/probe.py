"""Testing the path to a service of AWS step by step: credentials, network, clock, each permission.

Permissions are tested without side effects, by calls that must fail for their parameters: the error shows whether the
caller or the parameters were refused.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from sqstee.destination import Destination
from sqstee.text import without_userinfo
from sqstee.transports.advice import advice_on, is_of_key
from sqstee.transports.aws import access_key, new_session, refusal_of
from sqstee.transports.connection import (
    PROXY,
    aws_bundles,
    bundle_trouble,
    connection_refusal,
    network_refusal,
    proxy_address,
    proxy_credentials,
    proxy_of,
)
from sqstee.transports.errors import OPEN, REFRESH, RETRY, TIMEOUT, TransportError, classify

OK, WARNING, FAILED = "ok", "warning", "failed"
_SECONDS = 5.0  # to connect
READ_SECONDS = 30.0
_SKEW_WARNING, _SKEW_FATAL = 30.0, 300.0  # beyond five minutes AWS refuses signatures (IAM user guide)


class Step:
    """One test: its `state` (OK, WARNING or FAILED), the finding, and the one thing to do about it."""

    __slots__ = ("advice", "name", "state", "text")

    def __init__(self, name: str, state: str, text: str, advice: str = "") -> None:
        self.name = name
        self.state = state
        self.text = without_userinfo(text)
        self.advice = advice


class AwsProbe:
    """Tests one destination of AWS; each step depends on those before it."""

    service = ""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.client: Any = None
        self.region = destination.region

    def steps(self) -> Iterator[Step]:
        """Yield each step as it is done, up to the first that makes the rest impossible."""
        for part in (self._credentials, self._network, self.target):
            failed = False
            for step in part():
                failed = failed or step.state == FAILED
                yield step
            if failed:
                return
        yield from self.permissions()

    def make_client(self) -> Any:
        """The client of the destination's service and region."""
        raise NotImplementedError

    def target(self) -> Iterator[Step]:
        """Test whether the queue or bucket is there, and the clock."""
        raise NotImplementedError

    def permissions(self) -> Iterator[Step]:
        """Test each permission, and then report any further findings."""
        raise NotImplementedError

    def needs_region(self) -> bool:
        """Whether the service cannot be reached without a configured region."""
        return False

    def resource(self, action: str) -> str:
        """The ARN that a statement about `action` names."""
        raise NotImplementedError

    def failed(self, name: str, refusal: TransportError, action: str, state: str = FAILED) -> Step:
        """The step for a refusal of `action`, with the advice."""
        return Step(name, state, str(refusal), advice_on(refusal, action, self.resource(action)))

    def tried(self, action: str, call: Callable[[], object], proofs: tuple[str, ...] = (), must: bool = True) -> Step:
        """The step for a permission: `call` must fail for its parameters, with one of `proofs` if they are given.

        Without the permission the step is FAILED, or WARNING unless it is a `must`.
        """
        try:
            call()
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.code in proofs:
                return Step(action, OK, "allowed")
            if _is_busy(refusal):
                return self.failed(action, refusal, action, WARNING)
            answer = getattr(error, "response", None)
            if proofs or answer is None or _refuses_the_caller(refusal, answer):
                return self.failed(action, refusal, action, FAILED if must else WARNING)
        return Step(action, OK, "allowed")

    def partition(self) -> str:
        """The partition of the region in ARNs: aws, aws-cn, aws-us-gov, …"""
        try:
            return str(new_session().get_partition_for_region(self.region))
        except Exception:  # an unknown region, or none
            return "aws"

    def _credentials(self) -> Iterator[Step]:
        try:
            session = new_session()
            key, source = access_key(session)
        except Exception as error:
            refusal = refusal_of(error)
            advice = advice_on(refusal) if refusal.kind == OPEN or "credential_process" in str(refusal) else ""
            advice = advice or "check AWS_PROFILE; for details run: aws sts get-caller-identity"
            yield Step("credentials", FAILED, str(refusal), advice)
            return
        if not key:
            advice = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role"
            yield Step("credentials", FAILED, "not found", advice)
            return
        yield Step("credentials", OK, f"from {source}, key …{key[-4:]}")
        self.region = self.destination.region or session.get_config_variable("region") or ""
        if self.region:
            source = "the destination" if self.destination.region else "the environment or profile"
            yield Step("region", OK, f"{self.region}, from {source}")
        elif self.needs_region():
            advice = "set AWS_DEFAULT_REGION, or name the queue by its URL or ARN"
            yield Step("region", FAILED, "not configured", advice)
            return
        try:
            self.client = self.make_client()
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.code == PROXY:
                yield Step("proxy", FAILED, refusal.message, advice_on(refusal))
            else:
                advice = f"check AWS_ENDPOINT_URL_{self.service.upper()} and the profile"
                yield Step("endpoint", FAILED, str(refusal), advice)

    def _network(self) -> Iterator[Step]:
        url = str(self.client.meta.endpoint_url)
        bundle = _trusted()
        if url.startswith("https:") and (why := bundle_trouble(bundle)):
            advice = "set AWS_CA_BUNDLE to a readable PEM file of certificates, or unset it"
            yield Step("TLS", FAILED, f"{bundle}: {why}", advice)
            return
        context = ssl.create_default_context(cafile=bundle)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 sets it, botocore does not
        yield from network_steps(url, context)


def network_steps(url: str, context: ssl.SSLContext) -> Iterator[Step]:
    """DNS, a connection, and TLS: through the proxy that the environment names."""
    target, proxy = urlsplit(url), proxy_of(url)
    port = target.port or (443 if target.scheme == "https" else 80)
    host, through = target.hostname or "", ""
    first, first_port = host, port
    if proxy:
        first, first_port = proxy_address(proxy)
        through = f" through the proxy {first}:{first_port}"
    try:
        found = socket.getaddrinfo(first, first_port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA cannot encode
        advice = "check the endpoint's name, the resolver, and HTTPS_PROXY if the network needs a proxy"
        yield Step("DNS", FAILED, f"{first}: {getattr(error, 'strerror', '') or error}", advice)
        return
    yield Step("DNS", OK, f"{first} is {found[0][4][0]}")
    tls = target.scheme == "https" and not (proxy and proxy.scheme == "https")  # http.client has no TLS inside TLS
    step, connected = "connection", f"{host}:{port}{through}"
    try:
        with closing(http.client.HTTPConnection(first, first_port, timeout=_SECONDS)) as connection:
            if proxy and tls:
                connection.set_tunnel(host, port, proxy_credentials(proxy))
            connection.connect()
            yield Step(step, OK, connected)
            if tls:
                step = "TLS"
                with context.wrap_socket(connection.sock, server_hostname=host) as wrapped:
                    yield Step(step, OK, f"{wrapped.version()} with {host}")
    except (OSError, http.client.HTTPException) as error:
        refusal = connection_refusal(error, url, aws_bundles()) or network_refusal(error, url)
        advice = f"open port {first_port} to {first}, set HTTPS_PROXY, or create a VPC endpoint"
        if step == "TLS":
            advice = "check that this port speaks TLS; if it does not, give the endpoint as http://"
        if refusal.code in ("Network", TIMEOUT):
            yield Step(step, FAILED, f"{connected}: {refusal.message}", advice)
        else:
            yield Step(step, FAILED, str(refusal), advice_on(refusal))


def clock_steps(answer: Any, before: float) -> Iterator[Step]:
    """The clock against the server's, by the Date of an answer, be it an error, to a request made at `before`."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date") if answer else None
    if date:
        yield clock_step(parsedate_to_datetime(date).timestamp() - (before + time.time()) / 2)


def clock_step(seconds: float) -> Step:
    """The step for a difference of the server's clock to ours, in seconds."""
    text = f"{abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'} the server's"
    if abs(seconds) < _SKEW_WARNING:
        return Step("clock", OK, "agrees with the server's")
    state = FAILED if abs(seconds) > _SKEW_FATAL else WARNING
    advice = "set the clock (timedatectl set-ntp true): signatures are refused after 5 minutes"
    return Step("clock", state, text, advice)


def _trusted() -> str:
    """The file of authorities that boto3 uses."""
    import botocore.session
    from botocore.httpsession import get_cert_path

    named = botocore.session.get_session().get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return str(named or get_cert_path(True))


def _is_busy(refusal: TransportError) -> bool:
    """Whether the service answered that it is busy, which proves nothing."""
    no_answer = refusal.code in ("Network", "NoAnswer", TIMEOUT) or "Internal" in refusal.code
    return refusal.kind == RETRY and not no_answer


def _refuses_the_caller(refusal: TransportError, answer: Any) -> bool:
    """Whether an answer refuses the caller or the destination, in place of the parameters."""
    forbidden = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 403
    return forbidden or is_of_key(refusal) or refusal.kind in (RETRY, REFRESH) or classify(refusal.code) == OPEN

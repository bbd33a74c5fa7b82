"""AWS clients, rebuilt when their credentials expire, and the classification of their errors.

They are botocore's, the lower half of boto3: boto3 itself would add s3transfer and multiprocessing, a seventh of the
time to the first request, for helpers that nothing here calls. botocore and its own imports (ssl, urllib) are imported
when the first client is needed.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqstee import __version__
from sqstee.text import masked_url
from sqstee.transports.errors import (
    NOT_RETRIEVED,
    OPEN,
    REFRESH,
    RETRY,
    TIMEOUT,
    TransportError,
    classify,
    is_html,
    short_code,
)

CONNECT_SECONDS = 10  # also bounds the upload of a request
READ_SECONDS = 20
NO_CREDENTIALS = "NoCredentials"
_INVALID_URLS = ("Invalid endpoint", "Invalid IPv6 URL")
_SOURCES = {  # botocore's names of the sources of credentials, and those in its documentation
    "custom-process": "credential_process",
    "assume-role-with-web-identity": "AWS_WEB_IDENTITY_TOKEN_FILE",
    "container-role": "AWS_CONTAINER_CREDENTIALS_FULL_URI",
}

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

Client = TypeVar("Client")


def load(service: str) -> None:
    """Import every module of AWS's that a first call needs. Dummy credentials keep it from looking for real ones."""

    import sqstee.transports.connection  # noqa: F401

    session = new_session()
    session.set_credentials("-", "-")
    session.create_client(service, region_name="us-east-1")


def new_session() -> Any:
    """A session that never asks for an MFA code: its prompt would take the command's input from the terminal."""
    import botocore.session

    from sqstee.transports.aws_models import use_own_models

    session = botocore.session.get_session()
    use_own_models(session)
    provider = session.get_component("credential_provider").get_provider("assume-role")
    if hasattr(provider, "_prompter"):  # getpass; botocore has no public way to replace it
        provider._prompter = _refuse_to_ask
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    return session


def _moment(value: Any) -> datetime:
    """A time in an answer. botocore's own way takes a tenth of a millisecond for each object of a listing."""
    try:
        return datetime.fromisoformat(value)
    except (ValueError, TypeError):
        from botocore.utils import parse_timestamp

        found: datetime = parse_timestamp(value)
        return found


def access_key(session: Any) -> tuple[str, str]:
    """The id of the session's access key and the source of the credentials; '' where there are none.

    Raises TransportError where a credential_process gives something else: botocore fails when it signs with it.
    """
    found = session.get_credentials()
    frozen = found.get_frozen_credentials() if found else None
    if frozen is None or not frozen.access_key:
        return "", ""
    if not isinstance(frozen.access_key, str) or not isinstance(frozen.secret_key, str):
        source = _SOURCES.get(found.method, found.method)
        raise TransportError(REFRESH, NOT_RETRIEVED, f"{source}: AccessKeyId and SecretAccessKey must be strings")
    return frozen.access_key, str(found.method)


def _check_port(endpoint: str) -> None:
    """Raise TransportError for an endpoint whose port is none: botocore finds out only at the first request."""
    from urllib.parse import urlsplit

    try:
        _ = urlsplit(endpoint).port
    except ValueError as error:
        raise TransportError(OPEN, "Configuration", f"invalid endpoint {masked_url(endpoint)}: {error}") from error


def _refuse_to_ask(prompt: str) -> str:
    raise _needs_mfa()


def _needs_mfa() -> TransportError:
    hint = 'before the start run: eval "$(aws configure export-credentials --format env)"'
    return TransportError(OPEN, "Configuration", f"the profile needs an MFA code (mfa_serial); {hint}")


def build_client(service: str, region: str, endpoint: str | None, connections: int, read_seconds: float) -> Any:
    """A client with a session of its own, for fresh credentials; with our time limits, and no retries of botocore's."""
    import botocore
    from botocore.config import Config

    from sqstee.transports.connection import proxy_of

    config = Config(
        user_agent=f"sqstee/{__version__} Botocore/{botocore.__version__}",  # it would compose its own for each call
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        tcp_keepalive=True,
    )
    session = new_session()
    region = region or session.get_config_variable("region") or ("us-east-1" if endpoint else "")
    client = session.create_client(service, region_name=region or None, endpoint_url=endpoint, config=config)
    access_key(session)
    _check_port(client.meta.endpoint_url)
    proxy_of(client.meta.endpoint_url)  # raises for an invalid one, which botocore takes for passing trouble
    client.meta.events.register_first("before-parse", _refuse_page)
    return client


class RenewedClient(Generic[Client]):
    """A client that is replaced when its credentials are missing or expired, since it would never find new ones."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._client: Client | None = None

    @contextmanager
    def calling(self) -> Iterator[Client]:
        """The client, in a context that turns every exception into a TransportError.

        A refused credential of a client that another thread has replaced already becomes RETRY: it says nothing about
        the current credentials.
        """
        client = None
        try:
            client = self._get()
            yield client
        except TransportError:
            raise
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.kind == REFRESH and not self._forget(client):
                refusal.kind = RETRY
            raise refusal from error

    def _get(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    def _forget(self, client: Client | None) -> bool:
        """Drop the client so that the next call makes a new one; False if another thread has done so already."""
        with self._lock:
            if client is not self._client:
                return False
            self._client = None
            return True


def refusal_of(error: Exception) -> TransportError:
    """The TransportError for an exception of boto3 or of the libraries below it."""
    from botocore import exceptions

    from sqstee.transports.connection import aws_bundles, connection_refusal, innermost, network_refusal

    if isinstance(error, TransportError):
        return error
    url = str(getattr(error, "kwargs", {}).get("endpoint_url", "https://"))
    if isinstance(error, exceptions.ClientError):
        return _refusal_of_answer(error)
    if refusal := connection_refusal(error, url, aws_bundles()):
        return refusal
    text = str(error) or type(error).__name__
    if isinstance(error, exceptions.CredentialRetrievalError):
        found: dict[str, Any] = dict(error.kwargs)
        source = found.get("provider", "")
        reason = found.get("error_msg", text)
        return TransportError(REFRESH, NOT_RETRIEVED, f"{_SOURCES.get(source, source)}: {reason}")
    without_credentials = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
        getattr(exceptions, "LoginError", exceptions.SSOError),  # for `aws login`, in later versions
    )
    if isinstance(error, without_credentials):
        return TransportError(REFRESH, NO_CREDENTIALS, text)
    if isinstance(error, exceptions.MetadataRetrievalError):
        return TransportError(REFRESH, NOT_RETRIEVED, text)
    timeouts = (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)
    if isinstance(error, timeouts) or (isinstance(error, exceptions.HTTPClientError) and "timed out" in text):
        return TransportError(RETRY, TIMEOUT, text)
    if isinstance(error, exceptions.ConnectionClosedError) and _upload_took_too_long(error):
        return TransportError(RETRY, TIMEOUT, "the upload took too long")
    if isinstance(error, exceptions.ProxyConnectionError):  # its text masks the password as any letters of the URL
        return network_refusal(innermost(error), url)
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return TransportError(RETRY, "Network", text)
    if isinstance(error, exceptions.RefreshWithMFAUnsupportedError):
        return _needs_mfa()
    if isinstance(error, exceptions.NoRegionError):
        return TransportError(OPEN, "NoRegion", text)
    if isinstance(error, ValueError) and text.startswith(_INVALID_URLS):  # an empty region, or a mistyped URL
        return TransportError(OPEN, "Configuration", f"{text} (is the region set?)")
    if isinstance(error, exceptions.BotoCoreError) and not isinstance(error, exceptions.IncompleteReadError):
        return TransportError(OPEN, "Configuration", text)
    if source := _credential_source(error):
        return _refusal_of_source(source, error)
    return TransportError(RETRY, type(error).__name__, text)


def _refusal_of_answer(error: ClientError) -> TransportError:
    """The refusal in an answer of AWS, or of a proxy before it."""
    from sqstee.transports.connection import proxy_refusal

    found = error.response.get("Error", {})
    code = str(found.get("QueryErrorCode") or found.get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status == 407:
        return proxy_refusal("http://", status, found.get("Message", ""))
    message = f"{error.operation_name}: {found.get('Message', '')}"
    kind = classify(code, status, message=message)
    return TransportError(kind, short_code(code), message)


def _credential_source(error: Exception) -> str:
    """The source of credentials in which an exception arose, by the frames that it passed; empty if in none."""
    source = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__") == "botocore.credentials":
            owner = frame.f_locals.get("self")
            source = getattr(owner, "METHOD", None) or getattr(owner, "method", None) or source or "credentials"
    return _SOURCES.get(source, source)


def _refusal_of_source(source: str, error: Exception) -> TransportError:
    """The refusal for an exception that botocore lets through: the name of its type says nothing to a user."""
    if isinstance(error, OSError) and error.filename:
        return TransportError(OPEN, "Configuration", f"{source}: {error.filename}: {(error.strerror or '').lower()}")
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return TransportError(REFRESH, NOT_RETRIEVED, f"{source}: the output is not JSON")
    return TransportError(REFRESH, NOT_RETRIEVED, f"{source}: {str(error) or type(error).__name__}")


def _refuse_page(operation_model: Any, response_dict: Any, **_: object) -> None:
    """Raise TransportError if an HTTP 200 is the page of a proxy or portal: boto3 reads it as an empty answer.

    An answer of S3 about an object has an ETag, even if the object is HTML; an answer of SQS is a JSON object.
    """
    if response_dict["status_code"] != 200:
        return
    headers, body = response_dict["headers"], response_dict["body"]
    if operation_model.name in ("GetObject", "PutObject"):
        page = "etag" not in headers
        if page and operation_model.has_streaming_output:  # else it keeps its connection until it is collected
            body.close()
    else:
        page = "html" in headers.get("content-type", "") or is_html(body)
        if operation_model.service_model.service_name == "sqs":
            page = page or not (body or b"{").lstrip().startswith(b"{")
    if page:
        raise TransportError(RETRY, "NoAnswer", f"{operation_model.name}: answered by a proxy's HTML page")


def _upload_took_too_long(error: Any) -> bool:
    """Whether a time-out of ours closed the connection: botocore reports it like one closed by the other side."""
    return any(isinstance(one, TimeoutError) for one in getattr(error.kwargs.get("error"), "args", ()))

"""boto3's clients: built, renewed when their credentials have expired, and what their errors mean.

boto3 is imported when the first one is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from sqstee import __version__
from sqstee.transports.errors import OPEN, REFRESH, RETRY, TIMEOUT, TransportError, classify

CONNECT_SECONDS = 10  # also bounds the upload of a request
READ_SECONDS = 20

Client = TypeVar("Client")


def load(service: str) -> None:
    """Import what a first call imports. Stand-ins for credentials keep boto3 from looking for real ones."""
    import encodings.idna  # noqa: F401  # by getaddrinfo

    import boto3.session

    session = boto3.session.Session("-", "-", region_name="us-east-1")
    session.client(service)  # type: ignore[call-overload]  # one of those that are used


def build_client(service: str, region: str, endpoint: str | None, connections: int, read_seconds: float) -> Any:
    """A client of a session of its own, so that it has the credentials of now; our time limits, no retries (ours)."""
    import boto3.session
    from botocore.config import Config

    config = Config(
        user_agent=f"sqstee/{__version__} Boto3/{boto3.__version__}",  # their own is composed anew for each call
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        tcp_keepalive=True,
    )
    session = boto3.session.Session()
    region = region or session.region_name or ("us-east-1" if endpoint else "")
    return session.client(service, region_name=region or None, endpoint_url=endpoint, config=config)  # type: ignore[call-overload]


class RenewedClient(Generic[Client]):
    """A client that is made anew when its credentials turn out to be missing or expired: it would never recover."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._client: Client | None = None

    @contextmanager
    def calling(self) -> Iterator[Client]:
        """The client; whatever is raised comes out as TransportError.

        What an older client is refused that another thread has found out about is passing trouble: it says nothing
        about the credentials of now.
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
        """Have the next call make a new client, unless there is one already; whether there was none."""
        with self._lock:
            if client is not self._client:
                return False
            self._client = None
            return True


def refusal_of(error: Exception) -> TransportError:
    """What an exception of boto3, or of what is below it, means for the sender."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        found = error.response.get("Error", {})
        code = str(found.get("QueryErrorCode") or found.get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        message = f"{error.operation_name}: {found.get('Message', '')}"
        kind = classify(code, status, message=message)
        return TransportError(kind, code.rsplit(".", 1)[-1], message)
    text = str(error) or type(error).__name__
    without_credentials = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError,
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
        getattr(exceptions, "LoginError", exceptions.SSOError),  # of `aws login`, in later versions
    )
    if isinstance(error, without_credentials):
        return TransportError(REFRESH, "NoCredentials", text)
    timeouts = (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)
    if isinstance(error, timeouts) or (isinstance(error, exceptions.HTTPClientError) and "timed out" in text):
        return TransportError(RETRY, TIMEOUT, text)
    if isinstance(error, exceptions.ConnectionClosedError) and _upload_took_too_long(error):
        return TransportError(RETRY, TIMEOUT, "the upload took too long")
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return TransportError(RETRY, "Network", text)
    if isinstance(error, exceptions.NoRegionError):
        return TransportError(OPEN, "NoRegion", text)
    if isinstance(error, ValueError) and text.startswith("Invalid endpoint"):  # of an empty region, or a mistyped URL
        return TransportError(OPEN, "Configuration", f"{text} (is the region set?)")
    if isinstance(error, exceptions.BotoCoreError) and not isinstance(error, exceptions.IncompleteReadError):
        return TransportError(OPEN, "Configuration", text)
    return TransportError(RETRY, type(error).__name__, text)


def check_answer(operation: str, answer: Any) -> None:
    """Raise TransportError where an HTTP 200 is a page of a proxy's or portal's, which boto3 takes for an empty answer.

    Whatever S3 has stored has an ETag, also where its answer, or the object, calls itself a page.
    """
    head = answer["ResponseMetadata"]
    page = head["HTTPStatusCode"] == 200 and "html" in head["HTTPHeaders"].get("content-type", "")
    if page and "ETag" not in answer:
        raise TransportError(RETRY, "NoAnswer", f"{operation}: a page of a proxy's, not an answer")


def _upload_took_too_long(error: Any) -> bool:
    """Whether a connection was closed by us, which botocore does not tell from those that were closed by others."""
    return any(isinstance(one, TimeoutError) for one in getattr(error.kwargs.get("error"), "args", ()))

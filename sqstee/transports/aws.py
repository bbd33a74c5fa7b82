"""boto3 clients, rebuilt when their credentials expire, and the classification of their errors.

boto3 is imported when the first client is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from sqstee import __version__
from sqstee.transports.errors import NOT_RETRIEVED, OPEN, REFRESH, RETRY, TIMEOUT, TransportError, classify

CONNECT_SECONDS = 10  # also bounds the upload of a request
READ_SECONDS = 20

Client = TypeVar("Client")


def load(service: str) -> None:
    """Import every module that a first call needs. Dummy credentials keep boto3 from looking for real ones."""
    import encodings.idna  # noqa: F401  # for getaddrinfo

    import boto3.session

    session = boto3.session.Session("-", "-", region_name="us-east-1")
    session.client(service)  # type: ignore[call-overload]  # "sqs" or "s3"


def build_client(service: str, region: str, endpoint: str | None, connections: int, read_seconds: float) -> Any:
    """A client with a session of its own, for fresh credentials; with our time limits, and no retries of boto3's."""
    import boto3.session
    from botocore.config import Config

    config = Config(
        user_agent=f"sqstee/{__version__} Boto3/{boto3.__version__}",  # botocore would compose its own for each call
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
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
        getattr(exceptions, "LoginError", exceptions.SSOError),  # for `aws login`, in later versions
    )
    if isinstance(error, without_credentials):
        return TransportError(REFRESH, "NoCredentials", text)
    if isinstance(error, exceptions.CredentialRetrievalError | exceptions.MetadataRetrievalError):
        return TransportError(REFRESH, NOT_RETRIEVED, text)
    timeouts = (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)
    if isinstance(error, timeouts) or (isinstance(error, exceptions.HTTPClientError) and "timed out" in text):
        return TransportError(RETRY, TIMEOUT, text)
    if isinstance(error, exceptions.ConnectionClosedError) and _upload_took_too_long(error):
        return TransportError(RETRY, TIMEOUT, "the upload took too long")
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return TransportError(RETRY, "Network", text)
    if isinstance(error, exceptions.NoRegionError):
        return TransportError(OPEN, "NoRegion", text)
    if isinstance(error, ValueError) and text.startswith("Invalid endpoint"):  # an empty region, or a mistyped URL
        return TransportError(OPEN, "Configuration", f"{text} (is the region set?)")
    if isinstance(error, exceptions.BotoCoreError) and not isinstance(error, exceptions.IncompleteReadError):
        return TransportError(OPEN, "Configuration", text)
    return TransportError(RETRY, type(error).__name__, text)


def check_answer(operation: str, answer: Any) -> None:
    """Raise TransportError if an HTTP 200 is the HTML page of a proxy or portal: boto3 reads it as an empty answer.

    An answer of S3 about a stored object has an ETag, even if the object is HTML.
    """
    head = answer["ResponseMetadata"]
    page = head["HTTPStatusCode"] == 200 and "html" in head["HTTPHeaders"].get("content-type", "")
    if page and "ETag" not in answer:
        raise TransportError(RETRY, "NoAnswer", f"{operation}: answered by a proxy's HTML page")


def _upload_took_too_long(error: Any) -> bool:
    """Whether a time-out of ours closed the connection: botocore reports it like one closed by the other side."""
    return any(isinstance(one, TimeoutError) for one in getattr(error.kwargs.get("error"), "args", ()))

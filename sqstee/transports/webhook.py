"""A POST of one JSON object to a webhook, whose URL may be a secret."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request

from sqstee import __version__
from sqstee.transports.connection import COLLECTOR_BUNDLES, connection_refusal, network_refusal, tls_context
from sqstee.transports.errors import OPEN, RETRY, TransportError

_SECONDS = 20.0  # for connecting, and for each step of the answer
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_READ_BYTES = 65536  # the most that is read of an answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Following one would turn the POST into a GET, whose success says nothing."""

    def redirect_request(self, *_: object) -> None:
        return None


class Webhook:
    """The webhook at `url`, http:// or https://. Raises ValueError where the URL is neither, or has a user."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.port == 0:
            raise ValueError("not of the form http://HOST/… or https://HOST/…")
        path, query = (urllib.parse.quote(text, safe=_ASCII) for text in (parts.path, parts.query))
        self._url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, query, ""))
        self.name = f"the webhook at {parts.netloc}"  # its path and its query are often all that protects it
        self._server = f"{parts.scheme}://{parts.netloc}/"
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=tls_context()), _NoRedirect())

    def post(self, data: bytes) -> None:
        """Post JSON. Raises TransportError unless the answer is a success."""
        headers = {"Content-Type": "application/json", "User-Agent": f"sqstee/{__version__}"}
        request = urllib.request.Request(self._url, data, headers, method="POST")
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                answer.read(_READ_BYTES)
        except urllib.error.HTTPError as error:
            error.close()
            raise TransportError(RETRY, f"Http{error.code}", str(error.reason)) from None
        except urllib.error.URLError as error:
            reason = error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason))
            raise self._refusal(reason) from None
        except ValueError:  # its text would repeat the URL
            raise TransportError(OPEN, "Configuration", "the URL cannot be used") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._refusal(error) from None

    def _refusal(self, error: BaseException) -> TransportError:
        return connection_refusal(error, self._server, COLLECTOR_BUNDLES) or network_refusal(error, self._server)

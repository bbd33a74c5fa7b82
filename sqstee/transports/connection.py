"""The way to a server, the same for SQS, S3 and collectors: its proxy, the trusted certificates, and failures there.

SQS and S3 trust the same as boto3: AWS_CA_BUNDLE, else a profile's ca_bundle, else REQUESTS_CA_BUNDLE, else its own
list. A collector is trusted by the system's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR in their place,
and by those of AWS_CA_BUNDLE as well.
"""

from __future__ import annotations

import binascii
import errno
import os
import re
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator

from sqstee.transports.errors import OPEN, RETRY, TIMEOUT, TransportError, classify

CERTIFICATE = "Certificate"  # the code of a refused certificate
PROXY = "Proxy"  # the code of a proxy's invalid URL; with a status, such as Proxy407, of a proxy's refusal
COLLECTOR_BUNDLES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE")
_UNREADABLE = (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3}) ?(.*)")  # of http.client, for CONNECT


def proxy_of(url: str, schemes: tuple[str, ...] = ("http", "https")) -> urllib.parse.SplitResult | None:
    """The proxy for a URL by HTTP_PROXY, HTTPS_PROXY and NO_PROXY, with one of `schemes`.

    Raises TransportError without repeating the proxy's URL, which may hold a password.
    """
    target = urllib.parse.urlsplit(url)
    found = urllib.request.getproxies().get(target.scheme, "")
    if not found or urllib.request.proxy_bypass(target.netloc):
        return None
    name = _variable(target.scheme)
    expected = " or ".join(f"{scheme}://HOST:PORT" for scheme in schemes)
    try:
        proxy = urllib.parse.urlsplit(found if "://" in found else f"http://{found}")
        usable = bool(proxy.hostname) and proxy.port != 0 and proxy.scheme in schemes
        usable = usable and "@" not in proxy.path + proxy.query + proxy.fragment  # a password with / ? or # unquoted
    except ValueError:
        usable = False
    if not usable:
        raise TransportError(OPEN, PROXY, f"invalid {name}: not of the form {expected}")
    return proxy


def proxy_address(proxy: urllib.parse.SplitResult) -> tuple[str, int]:
    """The host and port of a proxy."""
    return proxy.hostname or "", proxy.port or (443 if proxy.scheme == "https" else 80)


def proxy_credentials(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    """The header with the user and password in a proxy's URL, if it has them (RFC 7617)."""
    if proxy.username is None:
        return {}
    pair = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {binascii.b2a_base64(pair.encode(), newline=False).decode()}"}


def proxy_refusal(url: str, status: int, reason: str) -> TransportError:
    """The refusal by the proxy for `url`, with an HTTP status: the request did not reach the server."""
    proxy = proxy_of(url)
    name = _variable(urllib.parse.urlsplit(url).scheme)
    text = f"{_named(proxy, name)} answered {status} {reason}".rstrip()
    if status == 407:
        given = proxy is not None and proxy.username is not None
        text += f": it {'refuses the' if given else 'requires a'} user and password in {name}"
    return TransportError(classify(f"{PROXY}{status}", status), f"{PROXY}{status}", text)


def connection_refusal(error: BaseException, url: str, bundles: tuple[str, ...]) -> TransportError | None:
    """The TransportError if `error` arose on the way to the server of `url`: its certificate, or the proxy.

    `bundles` are the variables that name the trusted certificates. None for any other error.
    """
    for one in _chain(error):
        if tunnel := _REFUSED_TUNNEL.fullmatch(str(one)):
            return proxy_refusal(url, int(tunnel[1]), tunnel[2].strip())
        if type(error).__name__ == "SSLError" and _is_unusable_file(one):
            text = _unusable_bundle(bundles) or f"the ca_bundle of the profile: {getattr(one, 'strerror', '') or one}"
            return TransportError(OPEN, "Configuration", text)
        # urllib3 checks the name in a certificate itself, and has its own CertificateError
        if isinstance(one, ssl.SSLCertVerificationError) or type(one).__name__ == "CertificateError":
            text = f"{_server(url)}: {getattr(one, 'verify_message', '') or one}"
            unusable = _unusable_bundle(bundles)
            return TransportError(OPEN, CERTIFICATE, f"{text} ({unusable})" if unusable else text)
    return None


def network_refusal(error: BaseException, url: str) -> TransportError:
    """The TransportError of a connection that failed, or took too long; names the proxy if there is one."""
    timeout = isinstance(error, TimeoutError)
    reason = (
        getattr(error, "strerror", None) or str(error) or ("no answer in time" if timeout else type(error).__name__)
    )
    proxy = proxy_of(url)
    if proxy:
        reason = f"{_named(proxy, _variable(urllib.parse.urlsplit(url).scheme))}: {reason}"
    return TransportError(RETRY, TIMEOUT if timeout else "Network", reason)


def aws_bundles() -> tuple[str, ...]:
    """The variables that name the authorities that boto3 trusts."""
    return ("AWS_CA_BUNDLE",) if os.environ.get("AWS_CA_BUNDLE") else ("REQUESTS_CA_BUNDLE",)


def tls_context() -> ssl.SSLContext:
    """The context for a collector. Files that cannot be read count only once a certificate is refused."""
    context = ssl.create_default_context()
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        try:
            context.load_verify_locations(bundle)
        except OSError:
            pass
    return context


def bundle_trouble(path: str) -> str:
    """Why a file cannot be used as a list of trusted certificates; empty if it can."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return "has no certificate"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def _unusable_bundle(names: tuple[str, ...]) -> str:
    """The first of these variables that names an unusable file, and why; empty if there is none."""
    for name in names:
        path = os.environ.get(name)
        if path and (why := bundle_trouble(path)):
            return f"{name}={path}: {why}"
    return ""


def _is_unusable_file(error: BaseException) -> bool:
    """Whether OpenSSL could not read a list of trusted certificates."""
    if isinstance(error, ssl.SSLError):
        return error.library in ("X509", "PEM")
    return isinstance(error, OSError) and error.errno in _UNREADABLE


def innermost(error: BaseException) -> BaseException:
    """The exception that the libraries have wrapped."""
    return list(_chain(error))[-1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that the libraries have wrapped in it. Not __context__: that may be another call's."""
    found: object = error
    while isinstance(found, BaseException):
        yield found
        inner = getattr(found, "kwargs", {}).get("error") or getattr(found, "original_error", None) or found.__cause__
        found = inner or next((one for one in found.args if isinstance(one, BaseException)), None)


def _variable(scheme: str) -> str:
    return f"{scheme.upper()}_PROXY"


def _named(proxy: urllib.parse.SplitResult | None, variable: str) -> str:
    where = "{}:{}".format(*proxy_address(proxy)) if proxy else "?"
    return f"the proxy {where} ({variable})"


def _server(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc

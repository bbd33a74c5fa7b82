"""Parses a destination string. Pure.

The same string is used everywhere (`--to`, SQSTEE_TO, a configuration file): a queue name, queue URL, queue ARN,
`s3://bucket/prefix`, `http(s)://host/…` of a collector, `local` or `local:PATH`.
"""

from __future__ import annotations

from sqstee.errors import SqsteeError

FORMS = "a queue name, queue URL or queue ARN, s3://bucket/prefix, http(s)://host/path, local or local:PATH"
_QUEUE_NAME_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class Destination:
    """A parsed destination.

    `kind` is sqs, s3, http or local; `text` the string as given; `name` the queue's name, the bucket, the collector's
    host or the local path; `url` a queue's or collector's URL; `region` and `account` are empty unless the string names
    them.
    """

    __slots__ = ("account", "kind", "name", "region", "text", "url")

    def __init__(
        self, kind: str, text: str, name: str = "", url: str = "", region: str = "", account: str = ""
    ) -> None:
        self.kind = kind
        self.text = text
        self.name = name
        self.url = url
        self.region = region
        self.account = account

    @property
    def is_exposed(self) -> bool:
        """Whether lines would go to this collector unencrypted over a network."""
        host = self.name.lower()
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        inside = host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")
        return self.kind == "http" and self.url.startswith("http://") and not inside


def parse(text: str) -> Destination:
    """Parse a destination; raises SqsteeError if it has none of the forms."""
    if text == "local" or text.startswith("local:"):
        if text == "local:":
            raise _malformed(text)
        return Destination("local", text, name=text[6:])
    if text.startswith("arn:"):
        return _arn(text)
    if text.startswith("s3://"):
        bucket = text[5:].partition("/")[0]
        if not bucket:
            raise _malformed(text)
        return Destination("s3", text, name=bucket)
    if text.startswith(("http://", "https://")):
        return _url(text)
    if _is_queue_name(text):
        return Destination("sqs", text, name=text)
    raise _malformed(text)


def _arn(text: str) -> Destination:
    parts = text.split(":")
    if len(parts) == 6 and parts[2] == "sqs" and parts[3] and _is_account(parts[4]) and _is_queue_name(parts[5]):
        return Destination("sqs", text, name=parts[5], region=parts[3], account=parts[4])
    raise _malformed(text)


def _url(text: str) -> Destination:
    """A URL with a path of /<account>/<queue> is a queue; any other URL is a collector."""
    from sqstee.text import without_userinfo  # not at the top: most runs of the front have no URL

    if without_userinfo(text) != text:  # it would end up in the spool and in messages
        hint = "AWS credentials come from AWS_ACCESS_KEY_ID, a profile or a role; put others into a proxy"
        raise SqsteeError("a URL with a user or password is not a destination", hint)
    rest = text.partition("://")[2]
    host = rest[: min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))]
    path = rest[len(host) :].removeprefix("/")
    if not _is_host(host) or not text.isprintable() or " " in text:
        raise _malformed(text)
    account, _, name = path.rstrip("/").partition("/")
    if _is_account(account) and _is_queue_name(name):
        return Destination("sqs", text, name=name, url=text, region=_region(host), account=account)
    return Destination("http", text, name=host, url=text)


def _region(host: str) -> str:
    """The region in a host name of AWS, empty for other hosts (emulators).

    AWS uses sqs.REGION.amazonaws.com (VPC endpoints too, after their own name), sqs.REGION.api.aws, sqs-fips.REGION.…,
    and the older REGION.queue.amazonaws.com.
    """
    labels = host.partition(":")[0].split(".")
    if "amazonaws" not in labels:
        named = labels[0] in ("sqs", "sqs-fips") and len(labels) > 2
        return labels[1] if named and labels[1].count("-") >= 2 and labels[1][-1:].isdigit() else ""
    before = labels[: labels.index("amazonaws")]
    if before[-1:] == ["queue"]:
        return before[-2] if len(before) > 1 else "us-east-1"
    before = before[:-1] if before[-1:] == ["vpce"] else before
    return before[-1] if len(before) > 1 else ""


def _is_host(text: str) -> bool:
    """Whether this is a name or address, optionally with a port."""
    name, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        name = text
    right_port = not colon or (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536)
    return right_port and (_is_address(name) if name.startswith("[") else _is_name(name))


def _is_address(text: str) -> bool:
    """Whether this is an IPv6 address in brackets, optionally with a zone."""
    import _socket  # the socket module costs the front 12 ms

    try:
        _socket.inet_pton(_socket.AF_INET6, text[1:-1].partition("%")[0])
    except OSError:
        return False
    return text.endswith("]")


def _is_name(text: str) -> bool:
    """Whether each label has 1 to 63 characters: resolvers refuse longer ones (RFC 1035, 2.3.4)."""
    labels = text.removesuffix(".").split(".")
    return not set(text) & set("@:[]\\") and all(0 < len(label) <= 63 for label in labels)


def _is_account(text: str) -> bool:
    return len(text) == 12 and text.isascii() and text.isdigit()


def _is_queue_name(text: str) -> bool:
    """Whether this has up to 80 of A-Z a-z 0-9 - _, including a final `.fifo` (SQS API reference, CreateQueue)."""
    stem = text.removesuffix(".fifo")
    return len(stem) > 0 and len(text) <= 80 and not set(stem) - _QUEUE_NAME_LETTERS


def _malformed(text: str) -> SqsteeError:
    from sqstee.text import without_userinfo

    return SqsteeError(f"{without_userinfo(text)!r} is not a destination", f"use {FORMS}")

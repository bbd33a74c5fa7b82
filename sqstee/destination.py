"""Parses a destination string. Pure.

The same string is used everywhere (`--to`, SQSTEE_TO, a configuration file): a queue name, queue URL, queue ARN,
`s3://bucket/prefix`, `http(s)://host/…` of a collector, `local` or `local:PATH`. An http(s) URL is a queue's if it has
the form of one, as SQS and its emulators write them. A folder that drain made can be read as well.
"""

from __future__ import annotations

from sqstee.errors import SqsteeError, suggestion

FORMS = "a queue name, queue URL or queue ARN, s3://bucket/prefix, http(s)://host/path, local or local:PATH"
_QUEUE_NAME_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_BUCKET_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


class Destination:
    """A parsed destination.

    `kind` is sqs, s3, http, local or folder; `text` the string as given; `name` the queue's name, the bucket, the
    collector's host, the local path or the folder; `url` a queue's or collector's URL; `region` and `account` are empty
    unless the string names them.
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
        if "@" in bucket:
            raise _with_userinfo()
        if not bucket:
            raise _malformed(text)
        if not _is_bucket(bucket):
            hint = "it has 3 to 63 lowercase letters, digits, dots and hyphens; the form is s3://BUCKET/PREFIX"
            raise SqsteeError(f"{_masked(text)!r} has no valid bucket name", hint)
        return Destination("s3", text, name=bucket)
    if text.startswith(("http://", "https://")):
        return _url(text)
    if _is_queue_name(text):
        return Destination("sqs", text, name=text)
    raise _malformed(text)


def parse_source(text: str) -> Destination:
    """Parse a source to read: a destination, or a folder that drain made. Raises SqsteeError."""
    return Destination("folder", text, name=text) if _is_folder(text) else parse(text)


def _is_folder(text: str) -> bool:
    """Whether this is a path with a slash, such as `logs/`: a plain name is a queue."""
    head, slash, _ = text.partition("/")
    return text in (".", "..") or bool(slash and ":" not in head)


def _arn(text: str) -> Destination:
    parts = text.split(":")
    if len(parts) == 6 and parts[2] == "sqs" and parts[3] and _is_account(parts[4]) and _is_queue_name(parts[5]):
        return Destination("sqs", text, name=parts[5], region=parts[3], account=parts[4])
    raise _malformed(text)


def _url(text: str) -> Destination:
    """A URL with the path of a queue is a queue; any other is a collector, unless its host is that of SQS or S3."""
    if _masked(text) != text:
        raise _with_userinfo()
    scheme, _, rest = text.partition("://")
    host = rest[: min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))]
    path = rest[len(host) :].removeprefix("/").rstrip("/")
    if not _is_host(host) or not text.isprintable() or " " in text:
        raise _malformed(text)
    region, account, name = _queue_path(path)
    if _is_queue_name(name):
        return Destination("sqs", text, name=name, url=text, region=region or _region(host), account=account)
    service = _service(host)
    if service == "sqs":
        shown = host if "console" not in host else "sqs.REGION.amazonaws.com"
        hint = f"the form is {scheme}://{shown}/ACCOUNT/QUEUE, with an account of 12 digits; or use the queue's name"
        raise SqsteeError(f"{text!r} is not a queue's URL", hint)
    if service == "s3":
        raise SqsteeError(f"{text!r} is not the form for a bucket", "the form is s3://BUCKET/PREFIX")
    return Destination("http", text, name=host, url=text)


def _queue_path(path: str) -> tuple[str, str, str]:
    """The region, account and queue name in a URL's path; the name is empty if it has none of these forms.

    - ACCOUNT/NAME: SQS and most emulators
    - queue/REGION/ACCOUNT/NAME: LocalStack (SQS_ENDPOINT_STRATEGY=path)
    - queue/NAME: ElasticMQ, GoAws
    """
    parts = path.split("/")
    if len(parts) == 2 and _is_account(parts[0]):
        return "", parts[0], parts[1]
    if parts[0] == "queue" and len(parts) == 4 and _is_account(parts[2]):
        return parts[1], parts[2], parts[3]
    return "", "", parts[1] if parts[0] == "queue" and len(parts) == 2 else ""


def _service(host: str) -> str:
    """`sqs` or `s3` for a host name of that service at AWS or LocalStack, and for a console's; else empty."""
    labels = host.lower().partition(":")[0].split(".")
    at_localstack = labels[-2:] == ["localstack", "cloud"]
    if not at_localstack and "amazonaws" not in labels and labels[-2:] != ["api", "aws"]:
        return "sqs" if labels[-3:] == ["aws", "amazon", "com"] and "console" in labels else ""
    if any(label == "s3" or label.startswith(("s3-fips", "s3-website")) for label in labels):
        return "s3"
    return "sqs" if at_localstack or {"sqs", "sqs-fips", "queue"} & set(labels) else ""


def _region(host: str) -> str:
    """The region in a host name of AWS, empty for other hosts (emulators).

    AWS uses sqs.REGION.amazonaws.com (VPC endpoints too, after their own name), sqs.REGION.api.aws, sqs-fips.REGION.…,
    and the older REGION.queue.amazonaws.com; LocalStack the same forms in its domain.
    """
    labels = host.lower().partition(":")[0].split(".")
    if "amazonaws" not in labels:
        if labels[1:2] == ["queue"]:
            labels = ["sqs", labels[0], *labels[2:]]
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


def _is_bucket(text: str) -> bool:
    """Whether this is a bucket's name (S3 user guide, general purpose bucket naming rules) or an access point's ARN."""
    if text.startswith("arn:"):
        return not set(text) - _QUEUE_NAME_LETTERS - set(":.")
    inner = set(text) - _BUCKET_LETTERS
    return 3 <= len(text) <= 63 and not inner - set(".-") and not {text[0], text[-1]} & inner and ".." not in text


def _masked(text: str) -> str:
    from sqstee.text import masked_url  # not at the top: most runs of the front have no URL

    return masked_url(text)


def _with_userinfo() -> SqsteeError:
    """The error for a URL with a user or password, which would end up in the spool and in messages."""
    hint = "give a collector's token by SQSTEE_TOKEN or --token-file, AWS credentials by AWS_ACCESS_KEY_ID or a profile"
    return SqsteeError("a URL with a user or password is not a destination", hint)


def _malformed(text: str) -> SqsteeError:
    if _is_folder(text):
        return SqsteeError(f"{text!r} is not a destination: a folder can only be read", f"use {FORMS}")
    guess = _guess(text)
    message = f"{_masked(text)!r} is not a destination{suggestion(guess)}"
    return SqsteeError(message, f"use {FORMS}", meant=(text, guess))


def _guess(text: str) -> str:
    """The destination that was probably meant by a malformed one, such as sqs://queue or s3:bucket; else empty."""
    kind, _, rest = text.partition(":")
    kind, rest = kind.lower(), rest.strip("/")
    guess = f"{kind}://{rest}" if kind in ("s3", "http", "https") else rest if kind in ("sqs", "queue") else ""
    try:
        return parse(guess).text if guess not in ("", text) else ""
    except SqsteeError:
        return ""

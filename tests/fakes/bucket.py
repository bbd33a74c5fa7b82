"""One bucket of a strict Amazon S3, to be served by `fakes.web.FakeWeb`."""

from __future__ import annotations

import base64
import threading
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import md5
from xml.sax.saxutils import escape

from .web import HttpRequest, HttpResponse

_ACTIONS = {
    ("PUT", True): "s3:PutObject",
    ("GET", True): "s3:GetObject",
    ("GET", False): "s3:ListBucket",
    ("DELETE", True): "s3:DeleteObject",
}


class FakeS3:
    """A bucket that accepts whole objects only and lists them in order. Path-style; signatures are not checked.

    Modelled from the API reference: PutObject with If-None-Match, Content-MD5 and checksums, GetObject, DeleteObject,
    DeleteObjects, ListObjectsV2 with StartAfter, Delimiter, MaxKeys and a continuation token. With `discard` an
    object's content is checked, but not kept. `denied` are the actions that no policy of the caller allows; as AWS
    does, it names them unless it is `terse`.
    """

    def __init__(self, bucket: str, discard: bool = False) -> None:
        self.bucket = bucket
        self.denied: set[str] = set()
        self.terse = False
        self._discard = discard
        self.objects: dict[str, bytes] = {}
        self._modified: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Execute a request."""
        bucket, _, key = request.path.lstrip("/").partition("/")
        if bucket != self.bucket:
            return self.refusal("NoSuchBucket", 404, "The specified bucket does not exist")
        if "AWS4-HMAC-SHA256" not in request.headers.get("authorization", ""):
            return self.refusal("AccessDenied", 403, "Access Denied")
        action = _ACTIONS.get((request.method, bool(key)), "")
        if action == "s3:GetObject" and action not in self.denied and key not in self.objects:
            action = "s3:ListBucket"  # without which a missing object looks forbidden
        if action in self.denied:
            return self._deny(action, key)
        with self._lock:
            if request.method == "PUT" and key:
                return self._put(key, request)
            if request.method == "GET" and key:
                return self._get(key, request.headers)
            if request.method == "DELETE" and key:
                if request.headers.get("if-match") == "*" and key not in self.objects:
                    return self.refusal("PreconditionFailed", 412, "At least one of the pre-conditions did not hold")
                self.objects.pop(key, None)
                return HttpResponse(204)
            if request.method == "GET" and request.query.get("list-type") == "2":
                return self._list(request.query)
            if request.method == "POST" and "delete" in request.query:
                return self._delete(request)
        return self.refusal("NotImplemented", 501, "not modelled")

    @staticmethod
    def refusal(code: str, status: int, message: str) -> HttpResponse:
        """An error as S3 writes it."""
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        return HttpResponse(status, text.encode(), {"Content-Type": "application/xml"})

    def _deny(self, action: str, key: str) -> HttpResponse:
        resource = f"arn:aws:s3:::{self.bucket}{'' if action == 's3:ListBucket' else f'/{key}'}"
        text = (
            f'User: arn:aws:iam::123456789012:user/u is not authorized to perform: {action} on resource: "{resource}"'
        )
        text += f" because no identity-based policy allows the {action} action"
        return self.refusal("AccessDenied", 403, "Access Denied" if self.terse else text)

    def store(self, key: str, data: bytes, age: float = 0.0) -> None:
        """Store an object without a request, as if so many seconds ago."""
        self.objects[key] = data
        modified = datetime.now(UTC) - timedelta(seconds=age)
        self._modified[key] = modified.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def _put(self, key: str, request: HttpRequest) -> HttpResponse:
        if "content-length" not in request.headers:
            return self.refusal("MissingContentLength", 411, "You must provide the Content-Length HTTP header.")
        if not _intact(request):
            return self.refusal("BadDigest", 400, "The checksum you specified did not match what we received.")
        condition = request.headers.get("if-none-match")
        if condition not in (None, "*"):
            return self.refusal("NotImplemented", 501, "A header you provided implies functionality")
        if condition and key in self.objects:
            return self.refusal("PreconditionFailed", 412, "At least one of the pre-conditions did not hold")
        self.store(key, b"" if self._discard else request.body)
        return HttpResponse(200, b"", {"ETag": f'"{_etag(request.body)}"'})

    def _get(self, key: str, given: Mapping[str, str]) -> HttpResponse:
        if key not in self.objects:
            return self.refusal("NoSuchKey", 404, "The specified key does not exist.")
        data = self.objects[key]
        headers = {"ETag": f'"{_etag(data)}"', "Content-Type": "binary/octet-stream"}
        if given.get("if-match", headers["ETag"]) != headers["ETag"]:
            return self.refusal("PreconditionFailed", 412, "At least one of the pre-conditions did not hold")
        if "range" not in given:
            return HttpResponse(200, data, headers)
        first, last = map(int, given["range"].removeprefix("bytes=").split("-"))
        if first >= len(data):
            return self.refusal("InvalidRange", 416, "The requested range is not satisfiable")
        headers["Content-Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
        return HttpResponse(206, data[first : last + 1], headers)

    def _list(self, query: Mapping[str, str]) -> HttpResponse:
        after = query.get("continuation-token") or query.get("start-after", "")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names = sorted(name for name in self.objects if name.startswith(prefix) and name > after)
        if delimiter:  # keys that are alike up to it count as one, by the part that is alike
            ends = (name.find(delimiter, len(prefix)) + len(delimiter) for name in names)
            alike = [name[:end] if end >= len(delimiter) else name for name, end in zip(names, ends, strict=True)]
            names = [name for name in dict.fromkeys(alike) if name > after]
        most = min(1000, int(query.get("max-keys", "1000")))
        listed, more = names[:most], len(names) > most
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>{self._modified[name]}</LastModified>"
            f"<Size>{len(self.objects[name])}</Size></Contents>"
            if name in self.objects
            else f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in listed
        )
        token = f"<NextContinuationToken>{escape(listed[-1])}</NextContinuationToken>" if more else ""
        text = (
            "<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(listed)}</KeyCount>{token}{entries}"
            "</ListBucketResult>"
        )
        return HttpResponse(200, text.encode(), {"Content-Type": "application/xml"})

    def _delete(self, request: HttpRequest) -> HttpResponse:
        if not _intact(request):
            return self.refusal("BadDigest", 400, "The checksum you specified did not match what we received.")
        for element in ET.fromstring(request.body).iter():
            if element.tag.endswith("Key"):
                self.objects.pop(element.text or "", None)
        text = "<?xml version='1.0'?><DeleteResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'/>"
        return HttpResponse(200, text.encode(), {"Content-Type": "application/xml"})


def _etag(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()


def _intact(request: HttpRequest) -> bool:
    """Whether the digests in the headers are those of the body."""
    crc = base64.b64encode(zlib.crc32(request.body).to_bytes(4, "big")).decode()
    digest = base64.b64encode(md5(request.body, usedforsecurity=False).digest()).decode()
    given = request.headers
    return given.get("x-amz-checksum-crc32", crc) == crc and given.get("content-md5", digest) == digest

"""The one thing to do about a refusal: the text that `sqstee check` shows. Pure."""

from __future__ import annotations

import json
import re

from sqstee.transports.connection import CERTIFICATE, PROXY
from sqstee.transports.errors import OPEN, REFRESH, RETRY, TransportError

_KEY_ARN = re.compile(r"arn:[\w-]+:kms:[\w/:-]+")
# "User: ARN is not authorized to perform: ACTION on resource: ARN because no TYPE policy allows the ACTION action", or
# "with an explicit deny in a TYPE policy" (IAM user guide, troubleshooting access denied error messages).
_DENIED = re.compile(r"not authorized to perform: (?P<action>[\w-]+:\w+)(?: on resource: \"?(?P<arn>arn:[^\s\"]+))?")
_CALLER = re.compile(r"User: (arn:\S+)")
_POLICY = re.compile(r"(?P<how>explicit deny in|because no) (?:an? |the )?(?P<type>[\w -]*?(?:policy|boundary))\b")
_KMS = {
    "Disabled": "the key is disabled: aws kms enable-key --key-id {key}",
    "InvalidState": "the key waits for its deletion: aws kms cancel-key-deletion --key-id {key}, then enable-key",
    "NotFound": "the key does not exist: give the queue or bucket another one",
    "InvalidKeyUsage": "the key is not for encryption: give the queue or bucket a symmetric key (ENCRYPT_DECRYPT)",
    "OptIn": "the account has no subscription to AWS KMS: complete it in the AWS console",
    "Throttl": "too many requests to AWS KMS: give the queue a longer KmsDataKeyReusePeriodSeconds, or raise the quota",
}


def advice_on(refusal: TransportError, action: str = "", arn: str = "", bundles: str = "AWS_CA_BUNDLE") -> str:
    """Advice on a refusal of `action` on the resource `arn`; `bundles` names the files of authorities."""
    return (
        advice_on_the_way(refusal, bundles)
        or _on_key(refusal, action)
        or _on_access(refusal, action, arn)
        or _on_resource(refusal)
    )


def is_of_key(refusal: TransportError) -> bool:
    """Whether a code is one for the KMS key of a queue or bucket."""
    return refusal.code.startswith(("KMS.", "Kms"))


def advice_on_the_way(refusal: TransportError, bundles: str) -> str:
    """Advice on credentials, certificates, proxies and portals; empty for any other refusal."""
    code, text = refusal.code, refusal.message
    if code == CERTIFICATE:
        return _on_certificate(text.partition(": ")[2], bundles)  # behind the server's name, which may be any word
    if code == PROXY:
        return "correct it, or unset it"
    if code == f"{PROXY}407":
        return "put the proxy's own user and password into its URL: http://USER:PASSWORD@HOST:PORT"
    if code.startswith(f"{PROXY}5"):
        return "check that the proxy reaches this host, or go past it with NO_PROXY"
    if code.startswith(PROXY):
        return "have the proxy let this host through, or go past it with NO_PROXY"
    if code == "NoAnswer":
        return "log in to this network in a browser, or set NO_PROXY: something in between answers every request"
    if "_CA_BUNDLE" in text:
        return "name a readable PEM file of certificates, or unset it"
    if "credential_process" in text:
        return "correct credential_process in the profile; run it by hand to see its output"
    if code in ("Configuration", "NoRegion"):
        return "check the AWS_* variables and the profile; for details run: aws sts get-caller-identity"
    return ""


def _on_certificate(text: str, bundles: str) -> str:
    if "expired" in text:
        return "renew the server's certificate; if it is not old, set this machine's clock"
    if "not yet valid" in text:
        return "set this machine's clock: timedatectl set-ntp true"
    if "match" in text:  # of a host name or an IP address
        return "use the host name in the certificate, or give the server a certificate for this one"
    return f"set {bundles} to the certificate file of the authority"


def _on_key(refusal: TransportError, action: str) -> str:
    """About the KMS key of a queue or bucket; SQS has codes for it, S3 names a denied action of KMS."""
    denied = _DENIED.search(refusal.message)
    of_kms = denied is not None and denied["action"].startswith("kms:")
    if not is_of_key(refusal) and not of_kms:
        return ""
    key = _KEY_ARN.search(refusal.message)
    for word, text in _KMS.items():
        if word in refusal.code:
            return text.format(key=key[0] if key else "KEY")
    sends = action in ("sqs:SendMessage", "s3:PutObject")
    actions = ["kms:GenerateDataKey", "kms:Decrypt"] if sends else ["kms:Decrypt"]
    return _on_denial(refusal.message, {"Action": actions, "Resource": key[0] if key else "*"}, "key")


def _on_access(refusal: TransportError, action: str, arn: str) -> str:
    """About IAM: the statement that is missing, and the policy that it belongs in."""
    if not any(word in refusal.code for word in ("AccessDenied", "AuthorizationError", "403")):
        return ""
    denied = _DENIED.search(refusal.message)
    if denied and denied["action"].lower() != action.lower():
        action, arn = denied["action"], denied["arn"] or "*"
    resource = (denied["arn"] if denied else None) or arn
    return _on_denial(refusal.message, {"Action": action, "Resource": resource}, "resource")


def _on_denial(message: str, statement: dict[str, object], owner: str) -> str:
    policy = _POLICY.search(message)
    if policy and policy["how"].startswith("explicit"):
        article = "an" if policy["type"][0].lower() in "aeiou" else "a"
        forbidden = f"an explicit deny in {article} {policy['type']} forbids it"
        return f"{forbidden}, and no Allow overrides that: change the deny"
    kind = policy["type"] if policy else "identity-based policy"
    allow = {"Effect": "Allow", **statement}
    if kind == "resource-based policy":
        caller = _CALLER.search(message)
        allow = {"Effect": "Allow", "Principal": {"AWS": caller[1] if caller else "CALLER"}, **statement}
        return f"add to the policy of the {owner}: {json.dumps(allow)}"
    where = "the caller's IAM policy" if kind == "identity-based policy" else f"the {kind}"
    return f"add to {where}: {json.dumps(allow)}"


def _on_resource(refusal: TransportError) -> str:
    """About a queue or bucket that does not exist, and anything else."""
    if "QueueDoesNotExist" in refusal.code or "NonExistentQueue" in refusal.code:
        return "check the name, region and account; for a queue just created or deleted, try again in a minute"
    if refusal.code in ("NoSuchBucket", "InvalidBucketName"):
        return "check the bucket's name and the endpoint; to create it run: aws s3 mb s3://BUCKET"
    if refusal.kind == REFRESH:
        return "log in again or renew the credentials; check this machine's clock"
    if refusal.kind == RETRY:
        return "try again"
    return "check the endpoint and the region" if refusal.kind == OPEN else ""

"""The advice on refusals: the right statement, for the right policy, or what else helps."""

from __future__ import annotations

import json

import pytest
from fakes.sqs import FakeSqs

from sqstee.destination import parse
from sqstee.transports.advice import advice_on
from sqstee.transports.connection import CERTIFICATE
from sqstee.transports.errors import OPEN, RETRY, TransportError
from sqstee.transports.probe import AwsProbe
from sqstee.transports.s3_probe import BucketProbe
from sqstee.transports.sqs_probe import QueueProbe

ARN = "arn:aws:sqs:us-east-1:123456789012:q"
KEY = "arn:aws-cn:kms:cn-north-1:123456789012:key/0-1"
USER = "arn:aws:iam::210987654321:user/u"


def advised(code: str, message: str, action: str = "sqs:SendMessage", kind: str = OPEN) -> str:
    """The advice on a refusal of an action on the queue."""
    return advice_on(TransportError(kind, code, message), action, ARN)


def denied(action: str = "sqs:sendmessage", arn: str = ARN, why: str = "") -> str:
    """The message of IAM."""
    return f"SendMessage: User: {USER} is not authorized to perform: {action} on resource: {arn} {why}"


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        ("KMS.DisabledException", f"{KEY} is disabled.", f"aws kms enable-key --key-id {KEY}"),
        ("KmsDisabled", "", "aws kms enable-key --key-id KEY"),
        ("KMS.InvalidStateException", f"{KEY} is pending deletion.", "cancel-key-deletion"),
        ("KMS.KMSInvalidStateException", "", "cancel-key-deletion"),
        ("KMS.NotFoundException", "", "does not exist"),
        ("KMS.InvalidKeyUsageException", "", "symmetric"),
        ("KMS.OptInRequired", "", "subscription"),
        ("KMS.ThrottlingException", "", "KmsDataKeyReusePeriodSeconds"),
    ],
)
def test_each_trouble_with_a_key_has_its_own_advice(code: str, message: str, said: str) -> None:
    """Regression: each of them was told to allow kms:GenerateDataKey."""
    found = advised(code, message)
    assert said in found
    assert "kms:GenerateDataKey" not in found


def test_the_name_of_a_server_is_no_word_about_its_certificate() -> None:
    """Only the finding counts: a host may be called anything."""
    for host in ("match.example", "expired.example:8443"):
        found = advised(CERTIFICATE, f"{host}: self-signed certificate")
        assert found == "set AWS_CA_BUNDLE to the certificate file of the authority"
    assert "clock" in advised(CERTIFICATE, "match.example: certificate has expired")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("KMS.AccessDeniedException", f"The ciphertext refers to {KEY}, which you may not use."),
        ("AccessDenied", denied("kms:GenerateDataKey", KEY, "because no identity-based policy allows the action")),
    ],
)
def test_a_key_that_may_not_be_used_needs_a_statement_about_the_key(code: str, message: str) -> None:
    """Regression: the statement was one about the queue."""
    statement = json.loads(advised(code, message).partition(": ")[2])
    assert statement == {"Effect": "Allow", "Action": ["kms:GenerateDataKey", "kms:Decrypt"], "Resource": KEY}
    received = json.loads(advised(code, message, "sqs:ReceiveMessage").partition(": ")[2])
    assert received["Action"] == ["kms:Decrypt"]


@pytest.mark.parametrize(
    "policy",
    ["an identity-based policy", "a resource-based policy", "a service control policy", "a permissions boundary"],
)
def test_an_explicit_deny_gets_no_statement_to_allow(policy: str) -> None:
    """Regression: an Allow cannot help there."""
    for action in ("sqs:sendmessage", "kms:Decrypt"):
        found = advised("AccessDenied", denied(action, why=f"with an explicit deny in {policy}"))
        assert f"explicit deny in {policy} forbids it" in found
        assert '"Allow"' not in found


@pytest.mark.parametrize(
    ("why", "where", "principal"),
    [
        ("because no identity-based policy allows the sqs:sendmessage action", "the caller's IAM policy", None),
        ("", "the caller's IAM policy", None),
        ("because no resource-based policy allows the sqs:sendmessage action", "the policy of the resource", USER),
        ("because no permissions boundary allows the sqs:sendmessage action", "the permissions boundary", None),
        ("because no VPC endpoint policy allows the sqs:sendmessage action", "the VPC endpoint policy", None),
    ],
)
def test_a_statement_goes_to_the_policy_that_lacks_it(why: str, where: str, principal: str | None) -> None:
    """With the action as IAM spells it, and the caller where the policy is another's."""
    head, _, statement = advised("AccessDenied", denied(why=why)).partition(": ")
    assert head == f"add to {where}"
    found = json.loads(statement)
    assert (found["Action"], found["Resource"]) == ("sqs:SendMessage", ARN)
    assert found.get("Principal") == (principal and {"AWS": principal})


@pytest.mark.parametrize(
    ("region", "partition"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_arns_have_the_partition_of_the_region(region: str, partition: str) -> None:
    """Regression: arn:aws:sqs:*:*:q in every partition."""
    queue: AwsProbe = QueueProbe(parse(f"https://sqs.{region}.amazonaws.com/123456789012/q"), ())
    assert queue.resource("sqs:SendMessage") == f"arn:{partition}:sqs:{region}:123456789012:q"
    bucket: AwsProbe = BucketProbe(parse("s3://bkt/p"), ())
    bucket.region = region
    assert bucket.resource("s3:PutObject") == f"arn:{partition}:s3:::bkt/p/*"
    assert bucket.resource("s3:ListBucket") == f"arn:{partition}:s3:::bkt"


@pytest.mark.parametrize(
    ("code", "status", "state"),
    [
        ("KmsAccessDenied", 400, "failed"),
        ("KmsDisabled", 400, "failed"),
        ("KmsThrottled", 400, "warning"),
        ("RequestThrottled", 403, "warning"),
        ("InternalFailure", 500, "failed"),
        ("OptInRequired", 403, "failed"),
        ("InvalidParameterValueException", 400, "ok"),
        ("ReceiptHandleIsInvalid", 404, "ok"),
    ],
)
def test_only_a_refusal_of_the_parameters_proves_a_permission(
    fake_sqs: FakeSqs, monkeypatch: pytest.MonkeyPatch, code: str, status: int, state: str
) -> None:
    """Regression: an answer that the service is busy counted as `allowed`."""
    for name, value in fake_sqs.environ().items():
        monkeypatch.setenv(name, value)
    fake_sqs.faults(errors=[{"operation": "DeleteMessage", "code": code, "status": status}])
    steps = {step.name: step for step in QueueProbe(parse("q"), ("sqs:DeleteMessage",)).steps()}
    assert steps["sqs:DeleteMessage"].state == state
    assert "Kms" not in code or "kms" in steps["sqs:DeleteMessage"].advice.lower()


def test_passing_trouble_is_tried_again() -> None:
    """Nothing else helps."""
    assert advised("Network", "Connection refused", kind=RETRY) == "try again"

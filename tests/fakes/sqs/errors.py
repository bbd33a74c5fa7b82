"""The error answers of SQS.

Sources: the `awsQueryError` pairs of AWS's public Smithy model (legacy code and HTTP status), and recorded answers of
AWS for the wording (LocalStack's `aws.validated` tests of 2024-2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

# Shape name -> (code that boto3 shows, HTTP status): awsQueryError traits of the Smithy model. PurgeQueueInProgress
# with 403 and the first two common errors also appear in recorded answers; the shape names of the other common errors
# are assumed.
ERRORS: dict[str, tuple[str, int]] = {
    "BatchEntryIdsNotDistinct": ("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", 400),
    "BatchRequestTooLong": ("AWS.SimpleQueueService.BatchRequestTooLong", 400),
    "EmptyBatchRequest": ("AWS.SimpleQueueService.EmptyBatchRequest", 400),
    "InvalidAddress": ("InvalidAddress", 404),
    "InvalidAttributeName": ("InvalidAttributeName", 400),
    "InvalidAttributeValue": ("InvalidAttributeValue", 400),
    "InvalidBatchEntryId": ("AWS.SimpleQueueService.InvalidBatchEntryId", 400),
    "InvalidMessageContents": ("InvalidMessageContents", 400),
    "InvalidSecurity": ("InvalidSecurity", 403),
    "KmsAccessDenied": ("KMS.AccessDeniedException", 400),
    "KmsDisabled": ("KMS.DisabledException", 400),
    "KmsInvalidKeyUsage": ("KMS.InvalidKeyUsageException", 400),
    "KmsInvalidState": ("KMS.InvalidStateException", 400),
    "KmsNotFound": ("KMS.NotFoundException", 400),
    "KmsOptInRequired": ("KMS.OptInRequired", 403),
    "KmsThrottled": ("KMS.ThrottlingException", 400),
    "MessageNotInflight": ("AWS.SimpleQueueService.MessageNotInflight", 400),
    "OverLimit": ("OverLimit", 403),
    "PurgeQueueInProgress": ("AWS.SimpleQueueService.PurgeQueueInProgress", 403),
    "QueueDeletedRecently": ("AWS.SimpleQueueService.QueueDeletedRecently", 400),
    "QueueDoesNotExist": ("AWS.SimpleQueueService.NonExistentQueue", 400),
    "QueueNameExists": ("QueueAlreadyExists", 400),
    "ReceiptHandleIsInvalid": ("ReceiptHandleIsInvalid", 404),
    "RequestThrottled": ("RequestThrottled", 403),
    "ResourceNotFoundException": ("ResourceNotFoundException", 404),
    "TooManyEntriesInBatchRequest": ("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", 400),
    "UnsupportedOperation": ("AWS.SimpleQueueService.UnsupportedOperation", 400),
    # Common errors: they are not in the SQS model.
    "InvalidParameterValueException": ("InvalidParameterValue", 400),
    "MissingRequiredParameterException": ("MissingParameter", 400),
    "AccessDeniedException": ("AccessDenied", 403),
    "ExpiredTokenException": ("ExpiredToken", 403),
    "IncompleteSignatureException": ("IncompleteSignature", 403),
    "InvalidSignatureException": ("SignatureDoesNotMatch", 403),
    "MissingAuthenticationTokenException": ("MissingAuthenticationToken", 403),
    "UnrecognizedClientException": ("InvalidClientTokenId", 403),
    "SerializationException": ("SerializationException", 400),
    "ThrottlingException": ("ThrottlingException", 400),
    "UnknownOperationException": ("UnknownOperationException", 404),
    "InternalFailure": ("InternalError", 500),
    "ServiceUnavailableException": ("ServiceUnavailable", 503),
}
_SHAPES = {code: shape for shape, (code, _) in ERRORS.items()}
_COMMON = frozenset(shape for shape in list(ERRORS)[list(ERRORS).index("InvalidParameterValueException") :])


class SqsError(Exception):
    """An error answer: `shape` (the `__type`), `code` (as boto3 shows it), HTTP `status` and `message`."""

    def __init__(self, shape: str, message: str, status: int | None = None) -> None:
        message = message.encode(errors="replace").decode()  # it may quote a lone surrogate
        super().__init__(message)
        self.shape = _SHAPES.get(shape, shape)
        self.code, usual = ERRORS.get(self.shape, (shape, 400))
        self.status = usual if status is None else status
        self.message = message

    @property
    def fault(self) -> str:
        """`Sender` or `Receiver`: the part of x-amzn-query-error after the semicolon."""
        return "Receiver" if self.status >= 500 else "Sender"

    @property
    def type(self) -> str:
        """The value of `__type`: the shape's name after AWS's namespace."""
        space = "com.amazon.coral.service" if self.shape in _COMMON else "com.amazonaws.sqs"
        return f"{space}#{self.shape}"


def invalid(message: str) -> NoReturn:
    """Raise InvalidParameterValue."""
    raise SqsError("InvalidParameterValueException", message)


def missing(parameter: str) -> NoReturn:
    """Raise MissingParameter."""
    raise SqsError("MissingRequiredParameterException", f"The request must contain the parameter {parameter}.")


INTERNAL = "We encountered an internal error. Please try again."


class InjectedError(SqsError):
    """An error that a fault demands, not a rejection of the client's request. `given` holds the fault's fields."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given.get("code", "InternalFailure"), given.get("message", INTERNAL), given.get("status"))
        self.given = given

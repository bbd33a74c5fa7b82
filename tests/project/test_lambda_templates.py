"""The templates that deploy the Lambda function: what they say of it is true, and both say the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from support import ROOT, clean_environment
from support.bodies import lines_of

from sqstee.aws_lambda import VARIABLE, handler

RECIPES = ROOT / "man" / "recipes"
SAM = (RECIPES / "lambda.sam.yaml").read_text()
TERRAFORM = (RECIPES / "lambda.tf").read_text()


def settings(text: str, names: dict[str, str]) -> dict[str, str]:
    """The first value of each setting, by the name that it has here."""
    found = {}
    for name, written in names.items():
        match = re.search(rf"^ *{written} *[:=] *\[?([^\s\]]+)", text, re.MULTILINE)
        assert match, written
        found[name] = match[1].strip('"')
    return found


SAM_SETTINGS = settings(
    SAM,
    {
        "handler": "Handler",
        "runtime": "Runtime",
        "memory": "MemorySize",
        "timeout": "Timeout",
        "visibility": "VisibilityTimeout",
        "window": "MaximumBatchingWindowInSeconds",
        "batch": "BatchSize",
        "answer": "FunctionResponseTypes",
        "receives": "maxReceiveCount",
    },
)
TERRAFORM_SETTINGS = settings(
    TERRAFORM,
    {
        "handler": "handler",
        "runtime": "runtime",
        "memory": "memory_size",
        "timeout": "timeout",
        "visibility": "visibility_timeout_seconds",
        "window": "maximum_batching_window_in_seconds",
        "batch": "batch_size",
        "answer": "function_response_types",
        "receives": "maxReceiveCount",
    },
)


def test_both_templates_deploy_the_same() -> None:
    """Whichever tool is used."""
    assert SAM_SETTINGS == TERRAFORM_SETTINGS


def test_the_settings_are_those_that_the_function_needs() -> None:
    """AWS asks for a visibility timeout of six times the function's, and the batching window."""
    numbers = {name: int(text) for name, text in SAM_SETTINGS.items() if text.isdigit()}
    assert numbers["visibility"] >= 6 * numbers["timeout"] + numbers["window"]
    assert numbers["batch"] <= 10_000
    assert numbers["receives"] >= 5
    assert SAM_SETTINGS["answer"] == "ReportBatchItemFailures"
    assert SAM_SETTINGS["handler"] == f"{handler.__module__}.{handler.__name__}"
    for text in (SAM, TERRAFORM):
        assert VARIABLE in text
        assert "s3:PutObject" in text


@pytest.mark.parametrize("missing", ["typer", "rich", "boto3"])
def test_the_function_needs_botocore_alone(missing: str) -> None:
    """So that what is deployed is the package itself: Lambda has boto3."""
    code = (
        f"import sys, json; sys.modules[{missing!r}] = None\n"
        "from sqstee.aws_lambda import handler\n"
        "print(json.dumps(handler(json.loads(sys.stdin.read()))))"
    )
    event = json.dumps({"Records": [{"messageId": "1", "body": lines_of(0, 1).data.decode()}]})
    environ = clean_environment()
    found = subprocess.run(
        [sys.executable, "-c", code], input=event, capture_output=True, text=True, env=environ, timeout=60, check=True
    )
    assert found.stdout == lines_of(0, 1).data.decode() + '{"batchItemFailures": []}\n'

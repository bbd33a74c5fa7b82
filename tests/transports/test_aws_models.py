"""The models of AWS's services: read for those that are called alone, with the same outcome as botocore's own way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.loaders import JSONFileLoader, Loader

from sqstee.transports.aws import new_session
from sqstee.transports.aws_models import without_other_services

REGIONS = ("us-east-1", "eu-west-1", "cn-north-1", "us-gov-west-1", "us-iso-east-1", "xx-nowhere-1")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HOME", str(tmp_path))


def prepared(session: Any, service: str, region: str, config: Config) -> tuple[object, ...]:
    """What a client for a region would do: where it sends its requests, and how it signs them."""
    client = session.create_client(service, region_name=region, config=config)
    sent: list[str] = []

    def keep(request: Any, **_: object) -> None:
        scope = str(request.headers["Authorization"]).split("/")[2:4]  # region and service of the signature
        sent.extend((request.url, *scope))
        raise InterruptedError

    client.meta.events.register("before-send", keep)
    calls: dict[str, Callable[[], object]] = {
        "sqs": lambda: client.get_queue_url(QueueName="q"),
        "s3": lambda: client.list_objects_v2(Bucket="bucket"),
        "sts": lambda: client.get_caller_identity(),
        "cloudwatch": lambda: client.list_metrics(),
    }
    with pytest.raises(InterruptedError):
        calls[service]()
    meta = client.meta
    assert sent
    return (*sent, meta.endpoint_url, meta.region_name, meta.partition, meta.config.signature_version)


@pytest.mark.parametrize("service", ["sqs", "s3", "sts", "cloudwatch"])
def test_a_client_sends_and_signs_as_botocores_own(service: str) -> None:
    """In every partition, an unknown one included, and at FIPS and dual-stack endpoints."""
    ours, theirs = new_session(), botocore.session.Session()
    configs = {"": Config(), "fips": Config(use_fips_endpoint=True), "dual": Config(use_dualstack_endpoint=True)}
    for region in REGIONS:
        for name in configs if region in ("us-east-1", "us-gov-west-1") else ("",):
            found = prepared(ours, service, region, configs[name])
            assert found == prepared(theirs, service, region, configs[name]), (region, name)


def test_only_the_folder_of_the_service_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore looks into those of all services: thousands of system calls, slow on a network file system."""
    looked_at: set[str] = set()
    exists = JSONFileLoader.exists

    def note(self: JSONFileLoader, file_path: str) -> bool:
        looked_at.add(Path(file_path).parts[-3])
        return bool(exists(self, file_path))

    monkeypatch.setattr(JSONFileLoader, "exists", note)
    new_session().create_client("sqs", region_name="us-east-1")
    assert looked_at == {"sqs"}


def test_models_of_the_users_own_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In AWS_DATA_PATH and ~/.aws/models, before botocore's."""
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path / "mine"))
    ours, theirs = new_session(), botocore.session.Session()
    found = ours.get_component("data_loader").search_paths
    assert found == theirs.get_component("data_loader").search_paths
    assert found[0] == str(tmp_path / "mine")


def test_the_endpoints_of_other_services_are_never_parsed() -> None:
    """They are nearly all of a file of over a megabyte. Of a service that is called nothing is missing."""
    text = Path(Loader.BUILTIN_DATA_PATH, "endpoints.json").read_bytes()
    cut = without_other_services(text)
    assert len(cut) < len(text) / 10
    whole = json.loads(text)
    for partition in whole["partitions"]:
        called = {"sqs", "s3", "monitoring", "sts", "oidc", "portal.sso"} & set(partition["services"])
        partition["services"] = {name: partition["services"][name] for name in called}
    assert json.loads(cut) == whole


@pytest.mark.parametrize("indent", [None, 1, 2, 4])
def test_endpoints_in_another_layout_are_parsed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    """Those of a later botocore, or of a user's own in AWS_DATA_PATH."""
    services: dict[str, object] = {name: {"endpoints": {"eu-west-1": {}}} for name in ("a4b", "sqs")}
    mine = {"partitions": [{"partition": "mine", "regions": {}, "services": services}], "version": 3}
    (tmp_path / "endpoints.json").write_text(json.dumps(mine, indent=indent))
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    assert new_session().get_component("data_loader").load_data("endpoints") == mine

"""sqstee check: every step, and the one thing to do about each failure."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import Sqstee
from support.bodies import in_flight, lines_of, put
from support.collector import collecting, stored
from support.documents import page

from sqstee.cli.check import known_variables
from sqstee.transports.probe import clock_step


def checked(sqstee: Sqstee, server: FakeSqs, *words: str, **environ: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The status, and the steps by name."""
    found = sqstee.run("check", *words, "-o", "json", environ=server.environ() | environ)
    assert found.stderr == b""
    steps = [json.loads(line) for line in found.stdout.splitlines()]
    return found.returncode, {step["name"]: step for step in steps}


def test_a_path_that_works(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Status 0; every permission tried; nothing was sent, and nothing received."""
    put(fake_sqs, [lines_of(0, 0)])
    status, steps = checked(sqstee, fake_sqs, "q")
    assert status == 0
    actions = ("SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes")
    assert all(steps[f"sqs:{action}"]["state"] == "ok" for action in actions)
    assert steps["credentials"]["text"].startswith("from env")
    assert steps["clock"]["state"] == "ok"
    assert "messages up to 1,048,576 bytes" in steps["limits"]["text"]
    assert steps["dead letters"]["state"] == "warning"
    (message,) = fake_sqs.messages("q")
    assert message.receives == 0


def test_one_message_out_and_back(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--round-trip: what was there before stays there, to be received at once."""
    put(fake_sqs, [lines_of(0, 0)])
    status, steps = checked(sqstee, fake_sqs, "q", "--round-trip")
    assert (status, steps["round trip"]["state"]) == (0, "ok")
    assert len(fake_sqs.messages("q")) == 1
    assert in_flight(fake_sqs) == 0


def test_a_round_trip_that_was_not_made_is_said(sqstee: Sqstee) -> None:
    """Where there is no queue of SQS nothing is sent, and no silence passes for success."""
    found = sqstee.run("check", "local", "--round-trip")
    assert found.returncode == 0
    assert "warning round trip: nothing was sent to local" in found.stdout.decode()
    assert sqstee.run("check", "local").stdout.count(b"round trip") == 0


def test_looking_for_the_one_message_makes_no_dead_letters(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Of a backlog each message is received once, not again and again until nobody may receive it any more."""
    fake_sqs.create_queue("dead")
    dead = "arn:aws:sqs:us-east-1:123456789012:dead"
    fake_sqs.create_queue("b", RedrivePolicy=json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 2}))
    put(fake_sqs, [lines_of(seq, seq) for seq in range(40)], "b")
    status, steps = checked(sqstee, fake_sqs, "b", "--round-trip")
    assert (status, steps["round trip"]["state"]) == (0, "ok")
    assert fake_sqs.messages("dead") == []
    found = [one.receives for one in fake_sqs.messages("b")]
    assert (len(found), max(found)) == (40, 1)
    assert in_flight(fake_sqs, "b") == 0


@pytest.mark.parametrize("operation", ["SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility"])
def test_a_missing_permission_is_named_with_its_statement(sqstee: Sqstee, fake_sqs: FakeSqs, operation: str) -> None:
    """The statement to add, ready to paste; the other permissions are still tried."""
    fake_sqs.faults(errors=[{"operation": operation, "code": "AccessDenied", "status": 403}])
    status, steps = checked(sqstee, fake_sqs, "q")
    assert status == 1
    failed = [step for step in steps.values() if step["state"] == "failed"]
    assert [step["name"] for step in failed] == [f"sqs:{operation}"]
    statement = json.loads(failed[0]["advice"].partition(": ")[2])
    assert statement["Action"] == f"sqs:{operation}"
    assert statement["Resource"].endswith(":q")


def test_only_what_a_role_needs(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """--for send: a node that may not receive is fine."""
    fake_sqs.faults(errors=[{"operation": "ReceiveMessage", "code": "AccessDenied", "status": 403}])
    status, steps = checked(sqstee, fake_sqs, "q", "--for", "send")
    assert status == 0
    assert "sqs:ReceiveMessage" not in steps


@pytest.mark.parametrize(
    ("words", "environ", "name", "advice"),
    [
        (("missing",), {}, "queue", "check the name"),
        (("q",), {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials", "set AWS_PROFILE"),
        (("q",), {"AWS_DEFAULT_REGION": ""}, "region", "set AWS_DEFAULT_REGION"),
        (("q",), {"AWS_ENDPOINT_URL_SQS": "http://nowhere.invalid:1"}, "DNS", "the resolver"),
    ],
)
def test_each_failure_has_its_advice(
    sqstee: Sqstee, fake_sqs: FakeSqs, words: tuple[str, ...], environ: dict[str, str], name: str, advice: str
) -> None:
    """What is wrong, and what to do about it; the spool is looked at all the same."""
    status, steps = checked(sqstee, fake_sqs, *words, **environ)
    assert status == 1
    assert steps[name]["state"] == "failed"
    assert advice in steps[name]["advice"]
    assert steps["spool"]["state"] == "ok"


def test_a_closed_port(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Nobody listens: said as such."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        status, steps = checked(sqstee, fake_sqs, "q", AWS_ENDPOINT_URL_SQS=endpoint)
    assert (status, steps["connection"]["state"]) == (1, "failed")


@pytest.mark.parametrize(("seconds", "state"), [(2.0, "ok"), (-40.0, "warning"), (400.0, "failed"), (-400.0, "failed")])
def test_a_wrong_clock(seconds: float, state: str) -> None:
    """The difference to the server's Date is said before signatures are refused for it."""
    step = clock_step(seconds)
    assert step.state == state
    assert state == "ok" or f"{abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'}" in step.text


def test_credentials_that_nobody_knows(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """Refused by the server: renew them, or set the clock."""
    fake_sqs.faults(known_keys=["AKIAOTHER"])
    status, steps = checked(sqstee, fake_sqs, "q")
    assert status == 1
    assert "check this machine's clock" in steps["queue"]["advice"]


def test_where_each_value_came_from(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """File, environment, command line."""
    folder = sqstee.folder / ".config"
    folder.mkdir()
    (folder / "sqstee.toml").write_text('to = "other"\nlinger = "2s"\njob = "a"\n')
    found = sqstee.run("check", environ=fake_sqs.environ() | {"SQSTEE_JOB": "b"}).stdout.decode()
    assert f"destination: other (sqs), from {folder}/sqstee.toml:1" in found
    assert f"linger: 2s, from {folder}/sqstee.toml:2" in found
    assert "job: b, from SQSTEE_JOB" in found
    found = sqstee.run("check", "q", environ=fake_sqs.environ() | {"SQSTEE_TO": "z"}).stdout.decode()
    assert "destination: q (sqs), from the command line" in found


def test_the_local_queue_and_a_bad_spool(sqstee: Sqstee, tmp_path: Path) -> None:
    """Without an account; a spool that cannot be is a failure."""
    sqstee.run("--", "seq", "3")
    found = sqstee.run("check")
    assert found.returncode == 0
    assert b"bodies in" in found.stdout
    (tmp_path / "file").write_text("")
    found = sqstee.run("check", "--spool", str(tmp_path / "file"))
    assert found.returncode == 1
    assert "→ choose another folder" in found.stdout.decode()


@pytest.mark.parametrize("words", [("-o", "xml"), ("--for", "ever"), ("no queue!",)])
def test_bad_input(sqstee: Sqstee, words: tuple[str, ...]) -> None:
    """Exit 125, one line and one hint."""
    found = sqstee.run("check", *words)
    assert found.returncode == 125
    assert found.stderr.count(b"\n") == 2


def test_a_profile_or_an_endpoint_that_is_none(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """What boto3 refuses before any call is a failed step with its advice, as any other."""
    for wrong, step in (({"AWS_PROFILE": "nobody"}, b"credentials"), ({"AWS_ENDPOINT_URL_SQS": "none"}, b"endpoint")):
        found = sqstee.run("check", "q", environ=fake_sqs.environ() | wrong)
        assert found.returncode == 1
        assert re.search(rb"^failed  " + step + rb": .+\n +\S+ .+", found.stdout, re.MULTILINE), found.stdout
        assert b"Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("given", "state", "said"),
    [
        ("secret", "ok", "accepts posts with this token"),
        ("other", "failed", "one of the collector's tokens"),
        ("", "failed", "one of the collector's tokens"),
    ],
)
def test_a_collector_and_its_token(sqstee: Sqstee, tmp_path: Path, given: str, state: str, said: str) -> None:
    """An empty post tells whether it is there and takes the token; nothing is stored."""
    store = tmp_path / "store.db"
    with collecting(store, environ={"SQSTEE_TOKEN": "secret"}) as (_, url):
        found = sqstee.run("check", url, "-o", "json", environ={"SQSTEE_TOKEN": given} if given else {})
    steps = {step["name"]: step for step in map(json.loads, found.stdout.splitlines())}
    assert (found.returncode, steps["collector"]["state"]) == (int(state == "failed"), state)
    assert said in steps["collector"]["text"] + steps["collector"]["advice"]
    assert stored(store) == []


def test_a_portals_page_proves_nothing(sqstee: Sqstee, fake_sqs: FakeSqs) -> None:
    """HTTP 200 with a page: no permission of a queue and no collector is "ok", and the advice speaks of the network."""
    fake_sqs.faults(garbage={"type": "text/plain"})
    environ = fake_sqs.environ()
    url = environ["AWS_ENDPOINT_URL_SQS"]
    for destination, step in ((f"{url}/123456789012/q", b"queue"), (f"{url}/collector", b"collector")):
        found = sqstee.run("check", destination, environ=environ)
        assert found.returncode == 1
        assert re.search(rb"^failed  " + step + rb": NoAnswer: .+\n +\S+ log in to this network", found.stdout, re.M)
        assert b"allowed" not in found.stdout


def test_a_collector_that_is_not_there(sqstee: Sqstee) -> None:
    """Nobody listens: one line, and what to look at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = sqstee.run("check", f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert found.returncode == 1
    assert b"failed  collector: Network: " in found.stdout
    assert b"check host and port" in found.stdout
    assert found.stderr == b""


def test_a_mistyped_variable_and_a_mistake_in_the_agents_table_are_found(sqstee: Sqstee) -> None:
    """Both have no effect on a run, and nothing else shows them."""
    (sqstee.folder / ".config").mkdir()
    (sqstee.folder / ".config" / "sqstee.toml").write_text("[agent]\ntwo = ['q']\n")
    found = sqstee.run("check", "local", environ={"SQSTEE_LINGR": "1s", "SQSTEE_TOKEN": "x"})
    assert found.returncode == 0
    assert b"warning SQSTEE_LINGR: has no effect; did you mean 'SQSTEE_LINGER'?\n" in found.stdout
    assert b"sqstee.toml:2: unknown key 'two' in [agent]\n" in found.stdout
    assert b"SQSTEE_TOKEN" not in found.stdout


def test_no_documented_variable_is_said_to_have_no_effect() -> None:
    """Each one in the manual, those of the Lambda handler and the collector as well."""
    text = page("sqstee.1") + page("sqstee.toml.5")
    documented = re.findall(r"\bSQSTEE_[A-Z0-9_]+", text)
    assert len(documented) > 30
    assert not set(documented) - known_variables()

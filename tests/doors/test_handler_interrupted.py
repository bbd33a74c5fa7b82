"""sqstee.Handler when a signal, a lock or a new configuration gets in between: no line waits, is lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from support import Sqstee
from support.logging_programs import arrived, program, run

AFTER_A_WRITE = (
    "from sqstee.spool import segments\n"
    "write = segments.write_whole\n"
    "def interrupted(*words):\n"
    "    write(*words)\n"
    "    segments.write_whole = write\n"
    "    log.warning('signal')\n"  # as a signal handler at this very moment would
    "    raise KeyboardInterrupt\n"
)


@pytest.mark.parametrize("share", ["auto", "never"])
def test_an_exception_of_a_signal_handler(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path, share: str) -> None:
    """Regression: readers were told of damage on the disk, and what the signal handler had logged was lost."""
    code = AFTER_A_WRITE + (
        f"handler = sqstee.configure(to='q', share={share!r}, keep_shipper='0s')\n"
        "for n in range(3):\n"
        "    log.info('before %d', n)\n"
        "    segments.write_whole = interrupted\n"
        "    try:\n        log.info('within %d', n)\n    except KeyboardInterrupt:\n        pass\n"
        "log.info('after')\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stderr) == (0, "")
    runs = arrived(fake_sqs)
    assert [[record.message for record in one.records] for one in runs] == [
        ["before 0", "within 0"],
        ["signal", "before 1", "within 1"],
        ["signal", "before 2", "within 2"],
        ["signal", "after"],
    ]
    assert {event.event for one in runs for event in one.events} == {"start", "exit"}
    assert sqstee.waiting_runs() == []


def test_runs_that_are_broken_off_do_not_lengthen_the_end(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Each of them would wait for the flush timeout."""
    fake_sqs.faults(black_hole=True)
    code = AFTER_A_WRITE + (
        "import time\n"
        "handler = sqstee.configure(to='q', flush_timeout=2)\n"
        "for n in range(8):\n"
        "    log.info('before %d', n)\n"
        "    segments.write_whole = interrupted\n"
        "    try:\n        log.info('within %d', n)\n    except KeyboardInterrupt:\n        pass\n"
        "before = time.monotonic()\nhandler.close()\nprint(time.monotonic() - before < 6 * 2)\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stdout) == (0, "True\n")
    fake_sqs.release()
    fake_sqs.clear_faults()
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    assert sum(len(one.records) for one in arrived(fake_sqs)) == 3 * 8


def test_a_value_whose_text_takes_a_lock(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Regression: one thread held the handler and waited for the lock, the other held the lock and logged."""
    code = (
        "handler = sqstee.configure(to='q')\n"
        "lock, within, logged = threading.Lock(), threading.Event(), threading.Event()\n"
        "class Value:\n"
        "    def __str__(self):\n"
        "        within.set(); print(logged.wait(20))\n"
        "        with lock: return 'value'\n"
        "thread = threading.Thread(target=log.info, args=('one',), kwargs={'extra': {'it': Value()}})\n"
        "thread.start(); within.wait()\n"
        "with lock: log.info('two')\n"
        "logged.set(); thread.join()\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stdout, found.stderr) == (0, "True\n", "")
    (one,) = arrived(fake_sqs)
    assert one.stderr == b"two\none\n"


def test_others_log_while_the_handler_is_closed(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Regression: during an outage their calls took as long as the flush timeout, since logging locks the handler."""
    fake_sqs.faults(black_hole=True)
    code = (
        "import time\n"
        "handler = sqstee.configure(to='q', flush_timeout=30)\nlog.info('one')\n"
        "thread = threading.Thread(target=logging.shutdown, daemon=True); thread.start()\n"
        "while handler.run: time.sleep(0.001)\n"
        "log.info('two'); print(thread.is_alive(), flush=True); os._exit(0)\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stdout) == (0, "True\n")
    fake_sqs.release()
    fake_sqs.clear_faults()
    assert sqstee.run("flush", environ=fake_sqs.environ()).returncode == 0
    assert [one.stderr for one in arrived(fake_sqs)] == [b"one\n", b"two\n"]


def test_a_new_configuration_waits_for_no_delivery(sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path) -> None:
    """Regression: it took the flush timeout, for the shipping thread imported what waits for logging's own lock."""
    code = (
        "import logging.config, time\n"
        "handler = sqstee.configure(to='q', flush_timeout=30)\nlog.info('one')\n"
        "before = time.monotonic()\n"
        "logging.config.dictConfig({'version': 1})\n"
        "print(time.monotonic() - before < 15)\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stdout, found.stderr) == (0, "True\n", "")
    assert [one.stderr for one in arrived(fake_sqs)] == [b"one\n"]
    assert sqstee.waiting_runs() == []


def test_a_handler_that_a_new_configuration_has_closed_but_not_removed(
    sqstee: Sqstee, fake_sqs: FakeSqs, tmp_path: Path
) -> None:
    """Regression: its later lines stayed in the spool, without a word: logging forgets a handler that it has closed."""
    code = (
        "import logging.config\n"
        "sqstee.configure(to='q')\nlog.info('one')\n"
        "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False})\n"
        "log.info('two')\n"
    )
    found = run(sqstee, program(tmp_path, code), fake_sqs)
    assert (found.returncode, found.stderr) == (0, "")
    first, second = arrived(fake_sqs)
    assert (first.stderr, second.stderr) == (b"one\n", b"two\n")
    assert [one.events[-1].fields.get("cause") for one in (first, second)] == [None, None]
    assert sqstee.waiting_runs() == []

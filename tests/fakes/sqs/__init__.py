"""A strict, fault-injecting Amazon SQS for tests and benchmarks, and the client that starts it.

In a test:

    with FakeSqs("jobs", "ordered.fifo") as sqs:
        subprocess.run([...], env=os.environ | sqs.environ())
        assert [m.body for m in sqs.messages("jobs")] == [...]

As a process, in tests/: `python -m fakes.sqs --port 0 --queue jobs` prints one JSON line with its endpoint when it is
ready, serves 127.0.0.1 only, and ends at EOF on its stdin or on SIGTERM. It uses the standard library only.

    limits errors parameters characters   the vocabulary of the rules
    attributes message_rules batch_rules queue_rules signature   what SQS accepts and refuses, as pure functions
    queues fifo account   the state: messages, visibility, receipt handles, groups, deduplication, the clock
    queue_operations send_operations receive_operations handle_operations batches   the operations
    faults injection dialects   the faults: as they are specified, as they strike, errors as emulators write them
    recorder reports   counters, and the reports that a test gets
    service sqs_service   from a request to its answer
    server connection http_response control   HTTP and the control channel
    process   the server as a process, forked or by itself
    client fork_server   FakeSqs, and the fork server that starts it fast

Not modelled: retention (nothing expires), policies, encryption, tags, move tasks, the 60 s for which the name of a
deleted queue stays reserved, and approximate counts (all counts are exact).
"""

from __future__ import annotations

from .client import FakeSqs
from .faults import Faults
from .reports import Counters, Delivery, Request, StoredMessage
from .signature import ACCESS_KEY, REGION, SECRET_KEY

__all__ = [
    "ACCESS_KEY",
    "REGION",
    "SECRET_KEY",
    "Counters",
    "Delivery",
    "FakeSqs",
    "Faults",
    "Request",
    "StoredMessage",
]

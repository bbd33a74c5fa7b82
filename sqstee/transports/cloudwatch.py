"""Metrics of a queue that only CloudWatch has: the age of the oldest message, and traffic."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from sqstee.destination import Destination
from sqstee.transports.aws import new_session, refusal_of
from sqstee.transports.errors import TransportError

_PERIOD = 60  # seconds: the finest that SQS publishes
_LOOK_BACK = 15 * _PERIOD  # metrics may lag by some minutes
METRICS = {
    "oldest": ("ApproximateAgeOfOldestMessage", "Maximum"),
    "sent": ("NumberOfMessagesSent", "Sum"),
    "received": ("NumberOfMessagesReceived", "Sum"),
    "deleted": ("NumberOfMessagesDeleted", "Sum"),
    "empty_receives": ("NumberOfEmptyReceives", "Sum"),
}


def metrics(destination: Destination) -> dict[str, float]:
    """The latest value of each metric that has one: `oldest` in seconds, the others counts of one minute.

    The age ignores messages received three times or more. Raises TransportError.
    """
    try:
        client: Any = new_session().create_client("cloudwatch", region_name=destination.region or None)
        now = time.time()
        answer = client.get_metric_data(
            MetricDataQueries=[_query(name, *metric, destination.name) for name, metric in METRICS.items()],
            StartTime=datetime.fromtimestamp(now - _LOOK_BACK, UTC),
            EndTime=datetime.fromtimestamp(now, UTC),
            ScanBy="TimestampDescending",
        )
    except Exception as error:
        refusal = refusal_of(error)
        raise TransportError(refusal.kind, refusal.code, refusal.message) from error
    return {found["Id"]: float(found["Values"][0]) for found in answer["MetricDataResults"] if found["Values"]}


def _query(name: str, metric: str, statistic: str, queue: str) -> dict[str, object]:
    dimensions = [{"Name": "QueueName", "Value": queue}]
    described = {"Namespace": "AWS/SQS", "MetricName": metric, "Dimensions": dimensions}
    return {"Id": name, "MetricStat": {"Metric": described, "Period": _PERIOD, "Stat": statistic}}

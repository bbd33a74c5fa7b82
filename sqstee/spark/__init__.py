"""sqstee on Spark: read data at rest, prove that each run is whole, empty a queue by many executors.

    read(spark, *sources)         a DataFrame of the lines and events, each once
    verdicts(frame)               one row per run: complete, missing (which seqs) or open, as `sqstee drain` judges it
    receive(spark, queue, to)     the executors empty a queue into files
    register(spark)               spark.readStream.format("sqstee"), for Spark's own sinks

Needs PySpark 4 (extra `spark`), on executors sqstee itself. Modules: frame and run_verdicts are Spark SQL; receiving
runs on the driver, task on the executors, output writes files there; stream is a data source of Spark's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqstee.spark.frame import read
from sqstee.spark.receiving import receive
from sqstee.spark.run_verdicts import verdicts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["read", "receive", "register", "verdicts"]


def register(spark: SparkSession) -> None:
    """Make `spark.readStream.format("sqstee")` known to a session. Raises SqsteeError."""
    from sqstee.errors import SqsteeError

    try:
        from sqstee.spark.stream import (
            QueueDataSource,  # needs pyspark, which the other functions get from their caller
        )
    except ImportError as error:
        hint = "pip install 'sqstee[spark]', on the driver and on the executors"
        raise SqsteeError(f"a streaming source needs PySpark 4 and pyarrow: {error}", hint) from None
    spark.dataSource.register(QueueDataSource)

"""What a shipper ships from: one run's `Source`, or a `Fleet` of many."""

from __future__ import annotations

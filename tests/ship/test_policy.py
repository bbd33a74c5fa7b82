"""The META frame hands a run's options to whoever ships it."""

from __future__ import annotations

import pytest

from sqstee import options
from sqstee.settings import load_settings
from sqstee.ship.policy import DeliveryPolicy

PACKER_OPTIONS = ("--strip-ansi", "--collapse-cr", "--parse-json")


@pytest.mark.parametrize("option", PACKER_OPTIONS)
def test_what_concerns_packing_alone_keeps_no_runs_apart(option: str) -> None:
    """It reaches the packer of its own run, and runs with and without it share a shipper."""
    plain, other = (DeliveryPolicy("q", load_settings(words, {})) for words in ((), (option,)))
    assert plain.key == other.key
    assert DeliveryPolicy.from_meta(other.to_meta()).to_meta() == other.to_meta()
    (name,) = set(other.to_meta()) - set(plain.to_meta())
    assert (name, other.to_meta()[name]) == (option[2:].replace("-", "_"), True)


def test_every_option_for_the_packer_is_one_of_them() -> None:
    assert tuple(option[2:].replace("-", "_") for option in PACKER_OPTIONS) == options.PACKER_OPTIONS

"""The exception tree."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from holdback.errors import HoldbackError, UnknownNameError


def family(error: type[HoldbackError]) -> Iterator[type[HoldbackError]]:
    yield error
    for child in error.__subclasses__():
        yield from family(child)


@pytest.mark.parametrize("kind", list(family(HoldbackError)), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind):
    """Executors send errors between processes; type and message must arrive."""
    error = kind("expected this, got that")

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert str(copy) == "expected this, got that"


def test_an_unknown_name_is_answered_with_the_nearest():
    """A typo gets the name that was meant, and all that would have worked."""
    error = UnknownNameError.among("rung", "majorty", ["majority", "displayed"])

    assert str(error) == (
        "unknown rung 'majorty'. Did you mean 'majority'? Known: displayed, majority."
    )

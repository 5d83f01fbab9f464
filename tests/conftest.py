"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# A package of fakes with entry points of its own, found as any installed plug-in is.
sys.path.insert(0, str(Path(__file__).parent / "fakes"))


@pytest.fixture(autouse=True)
def fresh_addresses():
    """What one test's server was given up on says nothing of another's on the same port."""
    connection = sys.modules.get("holdback.models.connection")
    if connection is not None:
        connection._GIVEN_UP.clear()

"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

# A package of fakes with entry points of its own, found as any installed plug-in is.
sys.path.insert(0, str(Path(__file__).parent / "fakes"))

import pytest

from holdback.tasks.chess.engine import EnginePool


@pytest.fixture(scope="session")
def pool():
    """One Stockfish process for all tests that do no harm to it."""
    with EnginePool(processes=1) as engines:
        yield engines

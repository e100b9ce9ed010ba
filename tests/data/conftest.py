"""The real data, where it is there."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared():
    """Return a function that gives a path in the shared data, or skips the test."""

    def path(*parts):
        found = SHARED.joinpath(*parts)
        if not found.exists():
            pytest.skip(f"real data {found} is not there")
        return found

    return path

"""Tests on real data: found beside the repository, skipped with the reason where it is not there."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data beside the repository: {folder} is absent")
    return folder

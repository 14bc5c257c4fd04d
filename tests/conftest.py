"""Fixtures that many tests use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, one a core


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and published results beside the checkout; tests that use it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the shared data folder beside the checkout")
    return folder

"""Tiny detectors for the tests of compression."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def zoo() -> ModuleType:
    spec = spec_from_file_location("tiny_detectors", Path(__file__).with_name("tiny_detectors.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["tiny_detectors"] = module
    spec.loader.exec_module(module)
    return module

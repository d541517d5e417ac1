"""Fixtures for all tests: a small data set, made once a session. Who changes it copies it first."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from helpers import make_dataset

# Where pytest runs in a shell's background SIGINT is ignored, and so it would be in the commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train (12 samples), valid (6), test (6) of 1.5 s; 3 environments x 2 recordings a split; 1 s clips; 16 kHz."""
    return make_dataset(tmp_path_factory.mktemp("shards") / "tiny")

"""The lower bounds of pyproject.toml are true: the oldest versions are installed, and the house stands on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# At least one test file of everything that is imported from outside.
FILES = "audio shard dataset stream loader rooms augment metrics peers model enhance enhance_files train convert"
MORE = "published process sampler spectrogram statistics evaluate report inspect cli"


@pytest.mark.lowest
def test_the_house_stands_on_the_oldest_versions(tmp_path):
    python = tmp_path / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--constraint", "constraints/lowest.txt"]
    subprocess.run([*pip, ".", "pytest", "hypothesis"], cwd=ROOT, check=True)
    files = [f"tests/test_{name}.py" for name in f"{FILES} {MORE}".split()]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([python, "-m", "pytest", *files], cwd=ROOT, env=env, check=False).returncode == 0

"""What a wheel puts into site-packages, and that it works from there, away from this tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of a copy of this tree in it, without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (ROOT / name).is_file() and name.split("/")[0] not in ("results", "docs", "tests", "benchmarks"):
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", folder / "tree"], check=True, timeout=300)
    return folder / "site"


def said(installed: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    argv = [sys.executable, *arguments]
    done = subprocess.run(argv, env=env, cwd=installed.parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_takes_three_names(installed):
    found = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert found == {"bin", "nrcli", "nrdata", "nrmodel"}
    assert (installed / "nrdata" / "py.typed").exists() and (installed / "nrmodel" / "py.typed").exists()


@pytest.mark.slow
def test_its_commands_and_its_facts_are_its_own(installed):
    code = "import nrcli, nrdata.manifests as m; print(nrcli.__file__, m.__file__, m.FOLDER, len(m.sources()))"
    *files, count = said(installed, "-c", code).split()
    assert all(file.startswith(str(installed)) for file in files) and int(count) == 7
    assert "demand" in said(installed, str(installed / "bin" / "nr"), "sources")
    assert "Usage: nr train" in said(installed, str(installed / "bin" / "nr"), "train", "--help")

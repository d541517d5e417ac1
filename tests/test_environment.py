"""Versions and revision: what stands beside artefacts, and no path of the machine among it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nrdata.environment import git_revision, provenance, versions


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    git_revision.cache_clear()
    yield tmp_path, git("rev-parse", "HEAD")
    git_revision.cache_clear()


def test_revision_of_a_checkout_and_whether_it_was_changed(checkout, monkeypatch):
    folder, head = checkout
    (folder / "untracked").write_text("data")
    assert git_revision(folder) == head
    git_revision.cache_clear()
    (folder / "a").write_text("2")
    assert git_revision(folder) == f"{head}-dirty"
    git_revision.cache_clear()
    monkeypatch.setenv("GIT_DIR", str(folder / "elsewhere"))  # as a hook of another repository sets it
    assert git_revision(folder) == f"{head}-dirty"


def test_no_checkout_or_no_git_has_no_revision(checkout, tmp_path, monkeypatch):
    assert git_revision(tmp_path / "none") == ""
    monkeypatch.setenv("PATH", "")
    git_revision.cache_clear()
    assert git_revision(tmp_path) == ""


def test_versions_are_those_that_are_loaded():
    assert versions(("numpy", "no-such-package")) == {"numpy": np.__version__}


def test_provenance_is_plain_and_holds_no_path():
    text = json.dumps(provenance(), allow_nan=False)
    assert {"revision", "versions", "python", "platform", "libsndfile"} == set(json.loads(text))
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[1]) not in text

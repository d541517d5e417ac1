"""What an artefact was made with: git revision of the code, package versions, Python, platform. No machine paths."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("nr", "numpy", "soundfile", "soxr", "torch", "torchaudio", "webdataset", "scipy", "safetensors", "pesq",
            "pystoi", "pyroomacoustics", "audiomentations")  # fmt: skip


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions by package name; what is not installed is left out. Nothing is imported."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_revision(folder: Path = Path(__file__).resolve().parents[1]) -> str:
    """The commit of the checkout that holds the code, with `-dirty` where tracked files differ; "" outside of one."""
    if not (folder / ".git").exists():
        return ""
    # GIT_DIR and the like, as a hook sets them, would name another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=clean, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that it refuses: unknown is said by ""
        return ""


def provenance() -> dict[str, Any]:
    """`revision`, `versions`, `python`, `platform`, `libsndfile`: what stands in every `run.json`. The revision is
    asked once a process, so that all artefacts of a run name the code that it started with."""
    import soundfile

    return {
        "revision": git_revision(),
        "versions": versions(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "libsndfile": soundfile.__libsndfile_version__,
    }

"""matplotlib as it is used here: for pictures in files, whatever the environment has chosen for screens."""

from __future__ import annotations

import importlib
import os
from typing import Any


def matplotlib() -> Any:
    """The package. MPLBACKEND is not asked: a notebook sets it for its child processes too, and names a package that
    their environment may lack, so that matplotlib would fail to load."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        package = importlib.import_module("matplotlib")
        package.use("agg")
    finally:
        if before is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = before
    return package


def pyplot() -> Any:
    """`matplotlib.pyplot`, drawing into files."""
    matplotlib()
    return importlib.import_module("matplotlib.pyplot")

"""Sound and a noise reference in, enhanced sound out: a conditioned SGMSE+."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nrmodel.model import Model


def load(path: str | Path) -> Model:
    """Load a model (see `nrmodel.model.load`)."""
    from nrmodel.model import load as load_model

    return load_model(path)

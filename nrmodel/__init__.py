"""Sound and a noise reference in, enhanced sound out: a conditioned SGMSE+."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nrmodel.model import Model


def load(path: str | Path | None = None) -> Model:
    """A model (see `nrmodel.model.load`); without a path the one that ships with the package."""
    from nrmodel.defaults import default_checkpoint
    from nrmodel.model import load as load_model

    return load_model(default_checkpoint()[0] if path is None else path)

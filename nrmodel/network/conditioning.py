"""Where the embedded reference z_r enters a network: one row a way. No torch is loaded for the names alone.

A row says which of a network's places get a layer from z_r, and which: a function `(features, out) -> module` whose
module maps `(B, features)` to `(B, out)` and gives zero at first, so that step 0 is the network without conditioning,
exactly. Every network has the places `time` and `film`; `rows` and `with_spectrum` are the compact network's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nrdata.errors import check_known

if TYPE_CHECKING:
    from torch import nn

Layer = Callable[[int, int], "nn.Module"]


@dataclass(frozen=True)
class Conditioning:
    time: Layer | None = None  # added to the time embedding
    film: Layer | None = None  # scale and shift of every residual block's maps
    rows: Layer | None = None  # a bias for each row of the stem's maps
    with_spectrum: bool = False  # the clip's spectrum stands behind the embedding, and as maps beside the noisy one

    @property
    def takes_reference(self) -> bool:
        return self != NONE


def dense(features: int, out: int) -> nn.Module:
    """A dense layer."""
    from nrmodel.network.blocks import zero

    return zero(features, out)


NONE = Conditioning()
CONDITIONINGS: dict[str, Conditioning] = {
    "additive": Conditioning(time=dense, rows=dense),
    "film": Conditioning(film=dense, rows=dense),
    "spectrum": Conditioning(time=dense, rows=dense, with_spectrum=True),
}


def conditioning(name: str) -> Conditioning:
    """A row of the table, or none at all."""
    check_known("conditioning", name, ("none", *CONDITIONINGS))
    return NONE if name == "none" else CONDITIONINGS[name]

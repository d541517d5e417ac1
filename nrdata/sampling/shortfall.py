"""What a pool cannot serve, known from the index alone before anything is trained or evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nrdata.errors import UserError
from nrdata.sampling.laws import LAWS, LawMixture
from nrdata.sampling.pool import Pool


@dataclass(frozen=True)
class Shortfall:
    """One environment under one mode: `missing` of its `rows` items (expected over crops) get no reference, and
    `unknown` of them one whose sound may overlap the item's, since stretches are unknown."""

    mode: str
    env_id: str
    rows: int
    missing: float
    unknown: int

    def __str__(self) -> str:
        told = []
        if self.missing:
            told.append(f"{self.missing:.3g} of {self.rows} items without reference")
        if self.unknown:
            told.append(f"{self.unknown} of {self.rows} items with unknown overlap")
        return f"{self.mode}: {self.env_id}: {', '.join(told)}"


def check_law(pool: Pool, law: LawMixture, crop_samples: int | None = None) -> list[Shortfall]:
    """Environments that cannot serve `law` for all their items, in order of mode and name; an empty list is well.

    `crop_samples` is the training crop; None: whole samples are heard, as in evaluation.
    """
    found = []
    env = pool.index.env[pool.rows]
    for mode in law.modes:
        missing, unknown = LAWS[mode].shortfall(pool, crop_samples)
        for code in np.unique(env[(missing > 0) | unknown]):
            own = env == code
            found.append(
                Shortfall(mode, pool.index.env_names[code], int(own.sum()), float(missing[own].sum()),
                          int(unknown[own].sum()))
            )  # fmt: skip
    return found


def refuse_shortfall(found: list[Shortfall]) -> None:
    """Raise `UserError` where items would be without the reference that the law promises them."""
    lacking = [s for s in found if s.missing]
    if lacking:
        listed = "; ".join(map(str, lacking[:5])) + (f"; and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise UserError(
            f"the reference law cannot be served ({listed}); use --on-missing-ref none to give these items no "
            "reference, or another --ref-mode",
            kind="missing_reference",
        )

"""Splits for bare folders, where no index fixes them: disjoint in speaker and in noise recording."""

from __future__ import annotations

from collections.abc import Sequence

from nrdata.errors import UserError
from nrdata.keyed import plan_rng

VALID_SHARE = 0.1
TEST_SHARE = 0.2
UNSEEN_SHARE = 0.2  # of the environments, where there are at least five
ENVIRONMENTS_FOR_UNSEEN = 5


def speakers(names: Sequence[str], seed: int) -> dict[str, str]:
    """Speaker -> split: a tenth (at least one) for validation, a fifth (at least one) for test."""
    names = sorted(set(names))
    if len(names) < 3:
        raise UserError(
            f"{len(names)} speaker{'s' * (len(names) != 1)} found ({', '.join(names)}): training, validation and test "
            "need one each; make a sub-folder per speaker, or give --speech-index with a column 'split'",
            kind="few_speakers",
        )
    order = [names[i] for i in plan_rng(seed, "speaker splits").permutation(len(names))]
    valid = max(1, round(VALID_SHARE * len(order)))
    test = max(1, round(TEST_SHARE * len(order)))
    return {name: "valid" if i < valid else "test" if i < valid + test else "train" for i, name in enumerate(order)}


def unseen_environments(names: Sequence[str], seed: int) -> tuple[str, ...]:
    """A fifth of the environments, kept for test; none where there are fewer than five."""
    names = sorted(set(names))
    if len(names) < ENVIRONMENTS_FOR_UNSEEN:
        return ()
    count = round(UNSEEN_SHARE * len(names))
    return tuple(sorted(names[i] for i in plan_rng(seed, "unseen").permutation(len(names))[:count]))


def recordings(names: Sequence[str], environment: str, unseen: bool, seed: int) -> dict[str, str]:
    """Recording -> split within one environment. An unseen one is test as a whole; one recording is training, two are
    training and test, from three on every split has its own."""
    names = sorted(set(names))
    if unseen:
        return dict.fromkeys(names, "test")
    order = [names[i] for i in plan_rng(seed, "recording splits", environment).permutation(len(names))]
    test = max(1, round(TEST_SHARE * len(order))) if len(order) > 1 else 0
    valid = max(1, round(VALID_SHARE * len(order))) if len(order) > 2 else 0
    return {name: "test" if i < test else "valid" if i < test + valid else "train" for i, name in enumerate(order)}

"""What is asked to enhance: the model and its negative controls, peers, a folder of estimates, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nrdata.errors import UserError
from nrmodel.evaluation import peers as peer_functions
from nrmodel.evaluation.folders import Inputs, Sounds, by_name, check_pairs, warn_of_unused
from nrmodel.evaluation.schema import CONTROLS

CONTROL_FILES = 48  # the negative controls are run on this many files

# (key, sounds, reference, nfe, seed of the sampler's noise) -> (estimate (frames,), flags)
Enhanced = tuple[np.ndarray, list[str]]
Enhance = Callable[[str, Sounds, np.ndarray | None, int, int], Enhanced]


@dataclass(frozen=True)
class System:
    """What enhances. `rows`: None for all files, else how many of them. `sampler(nfe)` names the sampler."""

    name: str
    enhance: Enhance
    modes: tuple[str, ...] = ("none",)
    ref_seconds: tuple[float, ...] = (1.0,)
    budgets: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)
    rows: int | None = None
    sampler: Callable[[int], str] = lambda nfe: ""
    computes: bool = False  # whether its time is worth telling
    alignment: bool = True  # whether a delay can come from the system and is looked for
    inputs: dict[str, Inputs] = field(default_factory=dict)  # files of its own, by what they are
    version: str = ""  # of the package that it comes from


class Enhancer(Protocol):
    """What an evaluation asks of a model. `nrmodel.model.Model` is one."""

    sample_rate: int
    digest: str
    training_data: dict[str, Any] | None  # env_ids, recordings, speakers; None: not known

    @property
    def nfe(self) -> int:
        """Network calls where none are asked for."""

    @property
    def takes_reference(self) -> bool: ...

    @property
    def can_keep(self) -> bool:
        """Whether `embed` knows what it is to keep the rest."""

    def sampler(self, nfe: int | None, sampler: str) -> tuple[str, Any]:
        """(name of the sampler, the sampler) for so many calls."""

    def embed(self, ref: np.ndarray, sample_rate: int, keep_rest: bool = False) -> Any:
        """z_r of a clip, float32 (frames,); `keep_rest`: only its sound is to go."""

    def enhance(
        self, noisy: np.ndarray, sample_rate: int, ref: Any, ref_sample_rate: int | None, nfe: int | None, seed: int,
        sampler: str,
    ) -> np.ndarray:  # fmt: skip
        """Sound of the shape of `noisy`; `ref`: what `embed` gave, or None."""


def model_systems(
    model: Enhancer,
    sample_rate: int,
    modes: Sequence[str],
    ref_seconds: Sequence[float],
    nfe: Sequence[int | None],
    seeds: Sequence[int],
    sampler: str,
) -> list[System]:
    """The model, and its two negative controls: clean speech in (what breaks?), noise alone in (how much is left?)."""
    if sample_rate != model.sample_rate:
        raise UserError(f"the model works at {model.sample_rate} Hz, the data has {sample_rate} Hz", "wrong_rate")
    if not model.takes_reference:  # trained without references
        modes = ("none",)
    budgets = tuple(dict.fromkeys(model.nfe if n is None else n for n in nfe))

    def on(field: str) -> Enhance:
        def enhance(key: str, sounds: Sounds, ref: np.ndarray | None, nfe: int, seed: int) -> Enhanced:
            # Embedded here, so that no clip is judged and left out: the ladder asks what silence and speech do.
            z_r = None if ref is None else model.embed(ref, sounds.sample_rate)
            return model.enhance(getattr(sounds, field), sounds.sample_rate, z_r, None, nfe, seed, sampler), []

        return enhance

    name = f"nr:{model.digest[:8]}"
    names = {n: model.sampler(n, sampler)[0] for n in budgets}
    asked = tuple(modes), tuple(ref_seconds), budgets, tuple(seeds)
    whole = System(name, on("noisy"), *asked, sampler=names.__getitem__, computes=True)
    control = replace(whole, modes=("none",), budgets=(min(budgets),), seeds=tuple(seeds)[:1], rows=CONTROL_FILES)
    return [whole, *(replace(control, name=n, enhance=on(n)) for n in CONTROLS)]


def peer_system(name: str, modes: Sequence[str], ref_seconds: Sequence[float]) -> System:
    """A peer that takes a reference gets the `disjoint` clip, or that of the first mode which has one."""
    peer = peer_functions.load(name)
    with_ref = [mode for mode in modes if mode != "none"]
    own_modes = ("none",)
    if peer.takes_reference:
        if not with_ref:
            raise UserError(
                f"peer {name} needs a reference: give a mode such as disjoint, or --ref with folders", "mode"
            )
        own_modes = ("disjoint",) if "disjoint" in with_ref else (with_ref[0],)

    def enhance(key: str, sounds: Sounds, ref: np.ndarray | None, nfe: int, seed: int) -> Enhanced:
        return peer(sounds.noisy, sounds.sample_rate, ref), []

    seconds, version = tuple(ref_seconds)[:1], peer_functions.version(peer)
    return System(f"peer:{name}", enhance, own_modes, seconds, computes=True, version=version)


def folder_system(enhanced: Path, keys: Sequence[str], limited: bool = False) -> System:
    """Estimates made elsewhere, `enhanced/NAME`; a key of a data set is a NAME too. `limited`: the others are of files
    that were not drawn."""
    found = Inputs(by_name(enhanced))
    check_pairs(enhanced, found.paths, Path("the evaluation set"), {key: Path(key) for key in keys})
    if not limited:
        warn_of_unused(enhanced, found.paths, keys)
    return System("enhanced", lambda key, sounds, ref, nfe, seed: (found.read(key), []), inputs={"enhanced": found})

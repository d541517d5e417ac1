"""Plain folders as an evaluation set: clean and noisy files paired by name, and perhaps references and estimates.

The rule for rates, printed by the command: everything is mixed to mono and resampled to 16 kHz (soxr VHQ) before it is
enhanced or scored; what is under 16 kHz is refused, since wide-band PESQ has no meaning there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.evaluation.metrics import SAMPLE_RATE, looks_swapped
from nrmodel.evaluation.rungs import ShownClip, spectral_distance_db

RATE_RULE = f"all files are taken as mono and resampled to {SAMPLE_RATE} Hz before enhancement and scoring"


@dataclass(frozen=True)
class Sounds:
    """One file: float32 (frames,) each, at one rate. `noise` is what was added to `clean`."""

    clean: np.ndarray
    noisy: np.ndarray
    noise: np.ndarray
    sample_rate: int


class FolderFiles:
    """`clean/NAME` and `noisy/NAME` for each NAME, `ref/NAME` where there is a folder of references. Names are paths
    in the folder without their ending. Environments, recordings and speakers are unknown: every file stands alone."""

    def __init__(self, clean: Path, noisy: Path, ref: Path | None = None, limit: int | None = None):
        self.clean, self.noisy = by_name(clean), by_name(noisy)
        self.ref = by_name(ref) if ref else {}
        check_pairs(clean, self.clean, noisy, self.noisy)
        if ref:
            check_pairs(ref, self.ref, noisy, self.noisy)
        names = sorted(self.noisy)
        self.names = [names[place] for place in drawn(len(names), limit)]
        self.rows = range(len(self.names))
        self.modes = ("none", "given") if ref else ("none",)
        self.fingerprint, self.sample_rate = "", SAMPLE_RATE

    def key(self, row: int) -> str:
        return self.names[row]

    def facts(self, row: int, sounds: Sounds) -> dict[str, Any]:
        signal, rest = np.sum(np.square(sounds.clean)), np.sum(np.square(sounds.noise))
        snr_db = round(10 * float(np.log10(signal / rest)), 2) if signal > 0 and rest > 0 else None
        unknown = {"env_id": "unknown", "recording": "unknown", "speaker": "unknown"}
        return {"key": self.key(row), **unknown, "snr_db": snr_db}

    def sounds(self, row: int) -> Sounds:
        name = self.names[row]
        clean, noisy = read_mono(self.clean[name]), read_mono(self.noisy[name])
        frames = min(len(clean), len(noisy))
        return Sounds(clean, noisy, noisy[:frames] - clean[:frames], SAMPLE_RATE)

    def fault(self, sounds: Sounds) -> str | None:
        """Why the pair as a whole cannot be scored."""
        return "swapped" if looks_swapped(sounds.clean, sounds.noisy) else None

    def reference(self, row: int, sounds: Sounds, mode: str, ref_seconds: float, seed: int) -> ShownClip | None:
        """The file's own clip whole (`given`), whatever length was asked."""
        if mode == "none":
            return ShownClip(None)
        name = self.names[row]
        clip = read_mono(self.ref[name])
        distance = spectral_distance_db(clip, sounds.noise, SAMPLE_RATE)
        return ShownClip(clip, "given", f"{name}.ref", (0, len(clip)), distance)


def drawn(count: int, limit: int | None) -> Sequence[int]:
    """The places of `count` that a limit leaves, in order: the first of a fixed permutation, so that a smaller limit is
    a part of a larger one and no grid of environments and SNRs is met in step."""
    if limit is None or limit >= count:
        return range(count)
    return sorted(int(place) for place in np.random.default_rng(0).permutation(count)[:limit])


def by_name(folder: Path) -> dict[str, Path]:
    """Sound files by their path in `folder` without the ending. Raises `UserError` for two of a name or none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "missing")
    found: dict[str, Path] = {}
    for path in audio.list_audio(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{path} and {found[name].name} have one name: which one belongs to the pair?", "ambiguous")
        found[name] = path
    if not found:
        raise UserError(f"{folder} holds no sound file", "empty")
    return found


def check_pairs(folder: Path, have: dict[str, Path], noisy_folder: Path, noisy: dict[str, Path]) -> None:
    """Every noisy file has its partner in `folder`, or `UserError` names the first that has none."""
    missing = sorted(noisy.keys() - have.keys())
    if missing:
        raise UserError(
            f"{folder} has no partner for {noisy[missing[0]].name} of {noisy_folder} ({len(missing)} in all): "
            "pairs have the same name",
            "missing",
        )


def read_mono(path: Path) -> np.ndarray:
    """Mono float32 at 16 kHz. Raises `UserError` for a lower rate and for what cannot be read."""
    x, rate = audio.read(path)
    if rate < SAMPLE_RATE:
        raise UserError(f"{path} has {rate} Hz: {SAMPLE_RATE} Hz or more are needed to score it", "wrong_rate")
    return audio.resample(audio.to_mono(x), rate, SAMPLE_RATE)

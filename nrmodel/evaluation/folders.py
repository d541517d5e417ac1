"""Plain folders as an evaluation set: clean and noisy files paired by name, and perhaps references and estimates.

The rule for rates, printed by the command: everything is mixed to mono and resampled to 16 kHz (soxr VHQ) before it is
enhanced or scored; what is under 16 kHz is refused, since wide-band PESQ has no meaning there.

Plain files have no fingerprint: each is known by its content (`Inputs`), in the request and in the rows made of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nrdata import audio
from nrdata.audio.pairing import Pairing, mended, pairing
from nrdata.errors import UserError
from nrdata.files import sha256
from nrmodel.evaluation.metrics import SAMPLE_RATE, looks_swapped
from nrmodel.evaluation.rungs import ShownClip, spectral_distance_db

RATE_RULE = f"all files are taken as mono and resampled to {SAMPLE_RATE} Hz before enhancement and scoring"
SHOWN = 5  # names a sentence


@dataclass(frozen=True)
class Sounds:
    """One file: float32 (frames,) each, at one rate. `noise` is what was added to `clean`. Of a pair of plain files
    the SNR (None: it cannot be told), and how clean lies in noisy where it does so in another way than as it is."""

    clean: np.ndarray
    noisy: np.ndarray
    noise: np.ndarray
    sample_rate: int
    snr_db: float | None = None
    oddity: Pairing | None = None


@dataclass
class Inputs:
    """Sound files by name, and what each was when it was first looked at: its size and its SHA-256."""

    paths: dict[str, Path]
    contents: dict[str, str] = field(default_factory=dict)

    def content(self, name: str) -> str:
        if name not in self.contents:
            self.contents[name] = content_of(self.paths[name])
        return self.contents[name]

    def read(self, name: str) -> np.ndarray:
        """Mono at 16 kHz. Raises `UserError` where it is no longer the file that the request names."""
        known, path = self.content(name), self.paths[name]
        x = read_mono(path)
        if content_of(path) != known:
            raise UserError(f"{path} was replaced during the evaluation: score it anew with --force", "changed")
        return x


def content_of(path: Path) -> str:
    """What a file is, wherever it lies and whatever its time says: `<bytes>-<SHA-256>`."""
    return f"{path.stat().st_size}-{sha256(path)}"


class FolderFiles:
    """`clean/NAME` and `noisy/NAME` for each NAME, `ref/NAME` where there is a folder of references. Names are paths
    in the folder without their ending. Environments, recordings and speakers are unknown: every file stands alone."""

    def __init__(self, clean: Path, noisy: Path, ref: Path | None = None, limit: int | None = None):
        folders = {"clean": clean, "noisy": noisy} | ({"ref": ref} if ref else {})
        self.inputs = {role: Inputs(by_name(folder)) for role, folder in folders.items()}
        for role, folder in folders.items():
            check_pairs(folder, self.inputs[role].paths, noisy, self.inputs["noisy"].paths)
            warn_of_unused(folder, self.inputs[role].paths, self.inputs["noisy"].paths)
        names = sorted(self.inputs["noisy"].paths)
        self.names = [names[place] for place in drawn(len(names), limit)]
        self.rows = range(len(self.names))
        self.modes = ("none", "given") if ref else ("none",)
        self.fingerprint, self.sample_rate = "", SAMPLE_RATE

    def key(self, row: int) -> str:
        return self.names[row]

    def facts(self, row: int, sounds: Sounds) -> dict[str, Any]:
        unknown = {"env_id": "unknown", "recording": "unknown", "speaker": "unknown"}
        odd = sounds.oddity
        pair = odd and {"fault": odd.fault, "correlation": round(odd.correlation, 3), "scale": round(odd.scale, 4),
                        "delay_ms": round(1000 * odd.delay / SAMPLE_RATE, 3), "detail": odd.detail}  # fmt: skip
        return {"key": self.key(row), **unknown, "snr_db": sounds.snr_db, "pair": pair}

    def sounds(self, row: int) -> Sounds:
        name = self.names[row]
        clean, noisy = self.inputs["clean"].read(name), self.inputs["noisy"].read(name)
        frames = min(len(clean), len(noisy))
        speech, mixture = clean[:frames], noisy[:frames]
        found = pairing(speech, mixture, SAMPLE_RATE)
        if found.fault and found.mendable:
            speech, mixture = mended(speech, mixture, found)
        noise = mixture - speech
        snr_db = snr(speech, noise) if found.mendable else None
        return Sounds(clean, noisy, noise, SAMPLE_RATE, snr_db, found if found.fault else None)

    def fault(self, sounds: Sounds) -> str | None:
        """Why the pair as a whole cannot be scored."""
        return "swapped" if looks_swapped(sounds.clean, sounds.noisy) else None

    def reference(self, row: int, sounds: Sounds, mode: str, ref_seconds: float, seed: int) -> ShownClip | None:
        """The file's own clip whole (`given`), whatever length was asked."""
        if mode == "none":
            return ShownClip(None)
        name = self.names[row]
        clip = self.inputs["ref"].read(name)
        distance = spectral_distance_db(clip, sounds.noise, SAMPLE_RATE)
        return ShownClip(clip, "given", f"{name}.ref", (0, len(clip)), distance)


def snr(speech: np.ndarray, noise: np.ndarray) -> float | None:
    """In dB; None without speech or without noise."""
    signal, rest = np.sum(np.square(speech)), np.sum(np.square(noise))
    return round(10 * float(np.log10(signal / rest)), 2) if signal > 0 and rest > 0 else None


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


def warn_of_unused(folder: Path, have: Mapping[str, Path], wanted: Container[str]) -> None:
    """Name the sound files of a folder that no row is made of: without a noisy file of their name, or of a kind that
    cannot be read."""
    alone = [path for name, path in sorted(have.items()) if name not in wanted]
    foreign = audio.list_foreign(folder)
    for paths, why in ((alone, "no noisy file has their name"), (foreign, "they need another decoder")):
        if paths:
            names = [path.relative_to(folder).as_posix() for path in paths]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            warnings.warn(f"not used of {folder}: {', '.join(names[:SHOWN])}{more} ({why})", stacklevel=2)


def read_mono(path: Path) -> np.ndarray:
    """Mono float32 at 16 kHz. Raises `UserError` for a lower rate and for what cannot be read."""
    x, rate = audio.read(path)
    if rate < SAMPLE_RATE:
        raise UserError(f"{path} has {rate} Hz: {SAMPLE_RATE} Hz or more are needed to score it", "wrong_rate")
    return audio.resample(audio.to_mono(x), rate, SAMPLE_RATE)

"""From a plan row to a mixture: a pure function of the row and of the sound it names.

A row with `noise` mixes speech and noise at the row's SNR; a row with `noisy` takes a ready pair, whose noise is
what is left when the clean sound is subtracted, before anything is resampled. Raises `UserError` where a sample
cannot be made: that row is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nrdata import audio
from nrdata.builders.plan import Row
from nrdata.builders.sources import Source, mono, stretch
from nrdata.builders.synthesis import augment, rooms
from nrdata.errors import UserError
from nrdata.store.triplet import Mixture, mix

UNKNOWN_STRETCH = [-1, -1]


@dataclass(frozen=True)
class Sources:
    """Sources of speech and of noise by their names: what stands before the first `/` of `speaker` and of `env_id`."""

    speech: Mapping[str, Source]
    noise: Mapping[str, Source]

    def of_speech(self, row: Row) -> Source:
        return self._named(self.speech, row["speaker"], "speech")

    def of_noise(self, row: Row) -> Source:
        return self._named(self.noise, row["env_id"], "noise")

    def _named(self, sources: Mapping[str, Source], name: str, side: str) -> Source:
        source = name.split("/", 1)[0]
        if source not in sources:
            raise UserError(
                f"the plan wants {side} of '{source}', which is not given: --{side} {source}:DIR", kind="no_source"
            )
        return sources[source]


def render(row: Row, sources: Sources) -> tuple[Mixture, dict[str, Any]]:
    """The mixture of one row, and the fields of its JSON that the sound does not give."""
    mixture = pair(row, sources) if "noisy" in row else mixed(row, sources)
    noise = row.get("noise")
    fields = {
        "env_id": row["env_id"],
        "split": row["split"],
        "speaker": row["speaker"],
        "recording": row["recording"],
        "stretch": [noise["start"], noise["stop"]] if noise else UNKNOWN_STRETCH,
        "meta": row["meta"],
    }
    return mixture, fields


def mixed(row: Row, sources: Sources) -> Mixture:
    """Speech and a stretch of noise at the row's SNR, with the reserved clip of the same unit.

    Noise and clip go through the row's filters and room; the clean sound is the whole reverberant speech of that room.
    """
    rate, noise_path = row["sample_rate"], row["noise"]["path"]
    noise_source = sources.of_noise(row)
    clean = stretch(sources.of_speech(row), row["speech"]["path"], row["speech"]["start"], row["speech"]["stop"], rate)
    noise = stretch(noise_source, noise_path, row["noise"]["start"], row["noise"]["stop"], rate)
    ref = row["ref"] and stretch(noise_source, noise_path, row["ref"]["start"], row["ref"]["stop"], rate)
    if chain := row.get("augment"):
        noise = augment.augmented(noise, chain, rate)
        ref = None if ref is None else augment.augmented(ref, chain, rate)
    if room := row.get("room"):
        of_speech, of_noise = rooms.responses(room, rate)
        clean, noise = rooms.reverberant(clean, of_speech), rooms.reverberant(noise, of_noise)
        ref = None if ref is None else rooms.reverberant(ref, of_noise)
    return mix(clean, noise, row["snr_db"], ref)


def pair(row: Row, sources: Sources) -> Mixture:
    """A ready pair: noise = noisy - clean at the rate of the files, then all resampled to the stored rate."""
    source = sources.of_speech(row)
    (clean, rate), (noisy, noisy_rate) = (source.read(row[side]["path"]) for side in ("speech", "noisy"))
    for side, found in (("speech", rate), ("noisy", noisy_rate)):
        expected = row["source_rate"] or rate  # 0: any, as long as both agree
        if found != expected:
            copies = "; --source-rate 16000 takes copies at that rate" if row["source_rate"] and found == 16000 else ""
            raise UserError(f"{expected} Hz expected, {found} found in {row[side]['path']}{copies}", kind="wrong_rate")
    if len(clean) != len(noisy):
        raise UserError(f"clean has {len(clean)} samples, noisy {len(noisy)}", kind="length_mismatch")
    if clean.shape[1] != noisy.shape[1]:
        raise UserError(f"clean has {clean.shape[1]} channels, noisy {noisy.shape[1]}", kind="channels_mismatch")
    # The channel or mean that serves for the clean sound is taken of both: subtracting one from the other is no noise.
    clean, noisy = _same_mono(clean, noisy, row["noisy"]["path"])
    parts = [audio.resample(x, rate, row["sample_rate"]) for x in (clean, noisy - clean)]
    ref = row["ref"] and stretch(source, row["ref"]["path"], 0, None, row["sample_rate"])
    return mix(parts[0], parts[1], None, ref)


def _same_mono(clean: np.ndarray, noisy: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Both sounds, (frames, channels) each, made mono in one way: the mean, or where it cancels in either the first."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", audio.ChannelsCancel)
        means = mono(clean, name), mono(noisy, name)
    for warning in caught:
        warnings.warn(warning.message, stacklevel=2)
    return (clean[:, 0], noisy[:, 0]) if caught else means

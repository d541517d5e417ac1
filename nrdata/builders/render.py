"""From a plan row to a mixture: a pure function of the row and of the sound it names.

A row with `noise` mixes speech and noise at the row's SNR; a row with `noisy` takes a ready pair, whose noise is
what is left when the clean sound is subtracted, before anything is resampled. Raises `UserError` where a sample
cannot be made: that row is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nrdata import audio
from nrdata.audio.pairing import mended, pairing
from nrdata.builders.rows import PlanRow, Stretch
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

    def of_speech(self, row: PlanRow) -> Source:
        return self._named(self.speech, row.speaker, "speech")

    def of_noise(self, row: PlanRow) -> Source:
        return self._named(self.noise, row.env_id, "noise")

    def _named(self, sources: Mapping[str, Source], name: str, side: str) -> Source:
        source = name.split("/", 1)[0]
        if source not in sources:
            raise UserError(
                f"the plan wants {side} of '{source}', which is not given: --{side} {source}:DIR", kind="no_source"
            )
        return sources[source]


def render(row: PlanRow, sources: Sources) -> tuple[Mixture, dict[str, Any]]:
    """The mixture of one row, and the fields of its JSON that the sound does not give."""
    mixture, undone = pair(row, sources) if row.noisy else (mixed(row, sources), {})
    fields = {name: getattr(row, name) for name in ("env_id", "split", "speaker", "recording")}
    fields["meta"] = row.meta | undone
    fields["stretch"] = [row.noise.start, row.noise.stop] if row.noise else UNKNOWN_STRETCH
    return mixture, fields


def mixed(row: PlanRow, sources: Sources) -> Mixture:
    """Speech and a stretch of noise at the row's SNR, with the reserved clip of the same unit.

    Noise and clip go through the row's filters and room; the clean sound is the whole reverberant speech of that room.
    """
    rate, of_noise, of_speech = row.sample_rate, sources.of_noise(row), sources.of_speech(row)
    assert row.noise is not None
    clean, noise = sound(of_speech, row.speech, rate), sound(of_noise, row.noise, rate)
    ref = None if row.ref is None else sound(of_noise, row.ref, rate)
    if row.augment:
        noise = augment.augmented(noise, row.augment, rate)
        ref = None if ref is None else augment.augmented(ref, row.augment, rate)
    if row.room:
        from_speech, from_noise = rooms.responses(row.room, rate)
        clean, noise = rooms.reverberant(clean, from_speech), rooms.reverberant(noise, from_noise)
        ref = None if ref is None else rooms.reverberant(ref, from_noise)
    return mix(clean, noise, row.asked_snr_db, ref)


def sound(source: Source, part: Stretch, rate: int) -> np.ndarray:
    """Mono float32 (frames,) at `rate`."""
    return stretch(source, part.path, part.start, part.stop, rate)


def pair(row: PlanRow, sources: Sources) -> tuple[Mixture, dict[str, Any]]:
    """A ready pair: noise = noisy - clean at the rate of the files, then all resampled to the stored rate; and for its
    `meta` what was undone. Raises `UserError` where the difference holds speech."""
    source = sources.of_speech(row)
    assert row.noisy is not None
    (clean, rate), (noisy, noisy_rate) = source.read(row.speech.path), source.read(row.noisy.path)
    for path, its_rate in ((row.speech.path, rate), (row.noisy.path, noisy_rate)):
        expected = row.source_rate or rate
        if its_rate != expected:
            copies = "; --source-rate 16000 takes copies at that rate" if row.source_rate and its_rate == 16000 else ""
            raise UserError(f"{expected} Hz expected, {its_rate} found in {path}{copies}", kind="wrong_rate")
    if len(clean) != len(noisy):
        raise UserError(f"clean has {len(clean)} samples, noisy {len(noisy)}", kind="length_mismatch")
    if clean.shape[1] != noisy.shape[1]:
        raise UserError(f"clean has {clean.shape[1]} channels, noisy {noisy.shape[1]}", kind="channels_mismatch")
    # The channel or mean that serves for the clean sound is taken of both: subtracting one from the other is no noise.
    clean, noisy = _same_mono(clean, noisy, row.noisy.path)
    parts = [audio.resample(x, rate, row.sample_rate) for x in (clean, noisy - clean)]
    undone = {"undone_scale": 1.0, "undone_delay": 0} if row.align else {}
    found = pairing(parts[0], parts[0] + parts[1], row.sample_rate)
    if found.fault:
        if rate != row.sample_rate:
            exact = pairing(clean, noisy, rate)
            found = exact if exact.fault else replace(found, mendable=False)
        if not (row.align and found.mendable):
            raise UserError(f"{found}{'; --align undoes it' * found.mendable}", kind=found.fault)
        clean, noisy = mended(clean, noisy, found)
        parts = [audio.resample(x, rate, row.sample_rate) for x in (clean, noisy - clean)]
        again = pairing(parts[0], parts[0] + parts[1], row.sample_rate)
        if again.fault:
            raise UserError(f"{again}, after a scale of {found.scale:.4g} and {found.delay} samples", again.fault)
        undone = {"undone_scale": round(found.scale, 6), "undone_delay": found.delay}
        warnings.warn(f"{row.noisy.path}: undone: {found.detail}", stacklevel=2)
    ref = None if row.ref is None else sound(source, row.ref, row.sample_rate)
    return mix(parts[0], parts[1], None, ref), undone


def _same_mono(clean: np.ndarray, noisy: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Both sounds, (frames, channels) each, made mono in one way: the mean, or where it cancels in either the first."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", audio.ChannelsCancel)
        means = mono(clean, name), mono(noisy, name)
    for warning in caught:
        warnings.warn(warning.message, stacklevel=2)
    return (clean[:, 0], noisy[:, 0]) if caught else means

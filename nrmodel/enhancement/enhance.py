"""Enhancement of sound of any rate, channel count and length: what surrounds one call of the model.

A file is measured first (length, peak, the model's level), then streamed: resampled to the model's rate, cut into
overlapping windows, enhanced, cross-faded, resampled back, cut to its length. Nothing grows with the length. Up to
`WHOLE_SECONDS` the window is the whole file. The sampler's noise belongs to absolute frames, so that two windows see
the same noise where they overlap.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nrdata import audio
from nrdata.errors import UserError
from nrdata.keyed import noise_rng
from nrmodel.diffusion.sampler import Noise
from nrmodel.enhancement import clip, rumble
from nrmodel.enhancement.fullband import UpperBand, join_bands, resampled
from nrmodel.enhancement.interface import Embedding, Model
from nrmodel.enhancement.layout import Wave, joined, sound_of

log = logging.getLogger(__name__)

WHOLE_SECONDS = 10.0  # up to here a file is one window
WINDOW_SECONDS = 8.0
FADE_SECONDS = 1.0  # two neighbouring windows share this much
BLOCK_SECONDS = 60.0  # long sound is read, and its level measured, in pieces of this length
OPPOSITE = -0.5  # a channel whose correlation with the first one is under this has its phase turned
NOISE_CHUNK = 64  # frames that share one key of the noise generator


class ReferenceWarning(UserWarning):
    """The reference is used with a doubt, or not used; the message says which."""


@dataclass(frozen=True)
class Measured:
    """One pass over a sound. `levels` (channels,) are those of the model's rule, 0 for a silent channel; negative where
    the channel has the opposite phase of the first one: it is enhanced upright and turned back, so that inverted
    channels come out inverted. `rumbling` (channels,): whether what is under 20 Hz is to be taken out; `levels` are
    then those of the rest."""

    frames: int
    peak: float
    levels: np.ndarray
    rumbling: np.ndarray


def enhance_array(
    model: Model,
    noisy: Wave,
    sample_rate: int,
    ref: np.ndarray | torch.Tensor | None = None,
    ref_sample_rate: int | None = None,
    nfe: int | None = None,
    seed: int = 0,
    sampler: str = "budget",
    ref_as_given: bool = False,
    keep_rest: bool = False,
    full_band: bool = True,
) -> Wave:
    """Enhanced float32 sound of the type, shape, rate and level of `noisy`, a float array or tensor `(samples,)`,
    `(samples, channels)` or `(channels, samples)`; without what is under 20 Hz where that is loud.

    `ref`: a clip of the noise alone, an array or tensor of any length, rate (`ref_sample_rate`, by default that of
    `noisy`) and channel count; where it is doubtful, or too short, silent or speech and so not used (`ref_as_given`
    uses it all the same), a `ReferenceWarning` says so. Or the `Embedding` that `model.embed` made of a clip, which is
    used as it is. `nfe`: calls of the network a window (the model's default if None), spent by `sampler`. `keep_rest`:
    only what the clip holds goes, everything else stays. `full_band`: what lies above the model's band is kept,
    enhanced (`nrmodel.enhancement.fullband`). Raises `UserError` for integer, empty or non-finite sound, for
    more channels than samples, and for `keep_rest` without a clip that can serve.
    """
    given = sound_of(noisy, sample_rate, "the noisy sound")
    x = given.samples
    z_r: torch.Tensor
    wave, wave_rate = None, 0
    if ref is None:
        z_r = model.null(1)
        if keep_rest:
            clip.none(model).must_serve()
    elif isinstance(ref, Embedding):
        if keep_rest:
            raise UserError("the clip is embedded already: keep_rest belongs to model.embed", kind="bad_option")
        z_r = ref
        if z_r.shape[1:] != model.null(1).shape[1:]:
            raise UserError(f"the embedding has shape {tuple(z_r.shape)}: another model made it", kind="embedding")
    else:
        rate = sample_rate if ref_sample_rate is None else ref_sample_rate
        sound = sound_of(ref, rate, "the reference").samples.astype(np.float32)
        reference = clip.from_wave(model, sound, rate, "the reference", "a clip", ref_as_given, keep_rest=keep_rest)
        if keep_rest:
            reference.must_serve()
        log.info("%s", reference.judged)
        z_r, wave, wave_rate = reference.z_r, reference.wave, reference.rate
        for note in reference.notes:
            warnings.warn(note, ReferenceWarning, stacklevel=3)
    block = int(BLOCK_SECONDS * sample_rate)

    def blocks() -> Iterator[np.ndarray]:
        return (x[i : i + block].astype(np.float32, copy=False) for i in range(0, len(x), block))

    measured = measure(model, blocks(), sample_rate)
    upper = upper_band(model, sample_rate, x.shape[1], wave, wave_rate) if full_band else None
    enhanced = enhance_blocks(model, blocks(), measured, sample_rate, z_r, nfe, seed, sampler, upper)
    return joined(enhanced, given, noisy)


def measure(model: Model, blocks: Iterable[np.ndarray], sample_rate: int) -> Measured:
    """The first pass over blocks `(n, channels)`. The level of a sound longer than one block is the RMS over the louder
    half of the levels of its blocks; the greatest of them where the model's level is the peak. Raises `UserError`
    (not_finite) with number and position, or (empty)."""
    frames, peak, bad, first_bad = 0, 0.0, 0, 0
    levels: list[np.ndarray] = []
    levels_above: list[np.ndarray] = []  # of what is over 20 Hz
    rumbling: np.ndarray = np.zeros(1, bool)
    products: np.ndarray = np.zeros(1)  # of each channel with the first one
    powers: np.ndarray = np.zeros(1)
    for block in blocks:
        finite = np.isfinite(block)
        if not finite.all():
            first_bad = first_bad if bad else frames + int(np.argmin(finite.all(axis=1)))
            bad += int(np.size(finite) - np.count_nonzero(finite))
        elif not bad:
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            sound = audio.resample(block, sample_rate, model.sample_rate)
            low = rumble.low(sound, model.sample_rate)
            above = sound - low
            rumbling = rumbling | rumble.matters(low, sound, model.sample_rate)
            levels.append(_levels(model, sound))
            levels_above.append(_levels(model, above))
            wide = above.astype(np.float64)
            products = products + wide[:, 0] @ wide
            powers = powers + (wide**2).sum(axis=0)
        frames += len(block)
    if bad:
        raise UserError(f"{bad} non-finite samples, first at {first_bad / sample_rate:.2f} s", kind="not_finite")
    if frames == 0:
        raise UserError("holds no samples", kind="empty")
    heard = np.where(rumbling, np.array(levels_above), np.array(levels))
    loudest = np.sort(heard, axis=0)[-1 if model.level_is_peak else len(levels) // 2 :]
    opposite = products < OPPOSITE * np.sqrt(powers * powers[0])
    return Measured(frames, peak, np.sqrt((loudest**2).mean(axis=0)) * np.where(opposite, -1.0, 1.0), rumbling)


def _levels(model: Model, sound: np.ndarray) -> np.ndarray:
    """The model's level of each channel of `(samples, channels)`."""
    if not len(sound):
        return np.zeros(sound.shape[1])
    return model.level(torch.from_numpy(np.ascontiguousarray(sound.T)).to(model.device)).double().cpu().numpy()


def enhance_blocks(
    model: Model,
    blocks: Iterable[np.ndarray],
    measured: Measured,
    sample_rate: int,
    z_r: torch.Tensor,
    nfe: int | None,
    seed: int,
    sampler: str = "budget",
    upper: UpperBand | None = None,
) -> Iterator[np.ndarray]:
    """The second pass: blocks `(n, channels)` at `sample_rate` -> enhanced blocks, `measured.frames` in all; with what
    `upper` makes of the sound above the model's band, or without any."""
    channels = len(measured.levels)

    def lower(inside: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        inside = rumble.removed(inside, model.sample_rate, measured.rumbling)
        return _windowed(model, inside, measured.levels, z_r, nfe, seed, sampler)

    if upper is None:
        outside = resampled(lower(resampled(blocks, sample_rate, model.sample_rate)), model.sample_rate, sample_rate)
    else:
        outside = join_bands(blocks, lower, sample_rate, model.sample_rate, upper)
    done = 0
    for block in outside:
        block = block[: measured.frames - done]
        if not np.isfinite(block).all():
            raise UserError(f"the model gave non-finite samples after {done / sample_rate:.2f} s: use another one")
        if len(block):
            yield block
        done += len(block)
    if done < measured.frames:  # fewer samples than the model's rate resolves
        yield np.zeros((measured.frames - done, channels), np.float32)


def upper_band(
    model: Model, sample_rate: int, channels: int, clip: np.ndarray | None = None, clip_rate: int = 0
) -> UpperBand | None:
    """What enhances the sound above the model's band; None where a rate of `sample_rate` holds none."""
    if sample_rate <= model.sample_rate:
        return None
    return UpperBand(sample_rate, channels, model.sample_rate, clip, clip_rate)


def frame_noise(seed: int, first_frame: int, device: torch.device | str = "cpu") -> Noise:
    """`noise(shape)` for a sampler: complex Gaussian `(B, 1, F, T)`, E|z|^2 = 1, that belongs to (seed, number of the
    call, absolute frame) and is the same in all channels B."""
    calls = itertools.count()

    def noise(shape: Sequence[int]) -> torch.Tensor:
        batch, _, bins, frames = shape
        call, first = next(calls), first_frame // NOISE_CHUNK
        chunks = [
            noise_rng(seed, call, chunk).standard_normal((NOISE_CHUNK, bins, 2), np.float32)
            for chunk in range(first, (first_frame + frames - 1) // NOISE_CHUNK + 1)
        ]
        start = first_frame - first * NOISE_CHUNK
        z = torch.from_numpy(np.concatenate(chunks)[start : start + frames] * np.float32(np.sqrt(0.5)))
        return torch.view_as_complex(z).T.to(device).expand(batch, 1, bins, frames)

    return noise


def _windowed(
    model: Model,
    blocks: Iterable[np.ndarray],
    levels: np.ndarray,
    z_r: torch.Tensor,
    nfe: int | None,
    seed: int,
    sampler: str = "budget",
) -> Iterator[np.ndarray]:
    """Overlap-add at the model's rate. Windows start on whole frames; weights of neighbours sum to one."""
    hop = model.spectrogram.hop
    size, fade = (round(s * model.sample_rate / hop) * hop for s in (WINDOW_SECONDS, FADE_SECONDS))
    whole = int(WHOLE_SECONDS * model.sample_rate)
    rise = rising(fade)[:, None]
    held = np.zeros((0, len(levels)), np.float32)
    tail: np.ndarray | None = None
    first_frame = 0

    def enhanced(window: np.ndarray) -> np.ndarray:
        noise = frame_noise(seed, first_frame, model.device)

        def call(y: torch.Tensor) -> torch.Tensor:
            return model.enhance_window(y, z_r.expand(len(y), -1), nfe, noise, sampler)

        y = by_channel(window, levels, call, model.device)
        if tail is not None:
            y[:fade] = y[:fade] * rise + tail
        return y

    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > whole:
            y = enhanced(held[:size])
            yield y[:-fade]
            tail = y[-fade:] * (1 - rise)
            held = held[size - fade :]
            first_frame += (size - fade) // hop
    if len(held):
        yield enhanced(held)


def rising(count: int) -> np.ndarray:
    """Weights `(count,)` of what comes in where two windows share so many samples; what goes out has the rest to 1."""
    rise: np.ndarray = np.sin(np.pi / 2 * (np.arange(count) + 0.5) / max(count, 1)).astype(np.float32) ** 2
    return rise


def by_channel(
    window: np.ndarray, levels: np.ndarray, enhance: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> np.ndarray:
    """One call, `enhance` of waves `(B, samples)` on `device`, for the channels of `(samples, channels)` in which there
    is sound, divided by their `levels (channels,)` and multiplied again; the others stay silent."""
    heard = (levels != 0) & window.any(axis=0)
    out = np.zeros_like(window)
    if heard.any():
        scale = levels[heard].astype(np.float32)
        y = torch.from_numpy(np.ascontiguousarray((window[:, heard] / scale).T)).to(device)
        out[:, heard] = enhance(y).float().cpu().numpy().T * scale
    return out

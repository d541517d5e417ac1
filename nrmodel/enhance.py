"""Enhancement of sound of any rate, channel count and length: what surrounds one call of the model.

A file is measured first (length, peak, the model's level), then streamed: resampled to the model's rate, cut into
overlapping windows, enhanced, cross-faded, resampled back, cut to its length. Nothing grows with the length. Up to
`WHOLE_SECONDS` the window is the whole file. The sampler's noise belongs to absolute frames, so that two windows see
the same noise where they overlap.

Of the model this needs `sample_rate`, `device`, `spectrogram.hop`, `config.level` ("max" where a level is a peak),
`level(waves (B, samples)) -> (B,)` (0 for silence), `embed(ref, sample_rate) -> z_r (1, D)`, `null(batch)` (None where
it takes no reference) and `enhance_window(noisy (B, samples), z_r, nfe, noise) -> (B, samples)`, level already
normalised.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch

from nrdata import audio
from nrdata.errors import UserError
from nrdata.sampling.pool import MIN_REF_SECONDS
from nrmodel import speech_activity

WHOLE_SECONDS = 10.0  # up to here a file is one window
WINDOW_SECONDS = 8.0
FADE_SECONDS = 1.0  # two neighbouring windows share this much
BLOCK_SECONDS = 60.0  # long sound is read, and its level measured, in pieces of this length
MAX_REF_SECONDS = 30.0  # of a longer one the beginning is used
SILENT_DBFS = -90.0
OPPOSITE = -0.5  # a channel whose correlation with the first one is under this has its phase turned
NOISE_CHUNK = 64  # frames that share one key of the noise generator
Noise = Callable[[Sequence[int]], torch.Tensor]


class ReferenceWarning(UserWarning):
    """The reference is used with a doubt, or not used; the message says which."""


@dataclass(frozen=True)
class Measured:
    """One pass over a sound. `levels` (channels,) are those of the model's rule, 0 for a silent channel; negative where
    the channel has the opposite phase of the first one: it is enhanced upright and turned back, so that inverted
    channels come out inverted."""

    frames: int
    peak: float
    levels: np.ndarray


def enhance_array(
    model: Any,
    noisy: np.ndarray,
    sample_rate: int,
    ref: np.ndarray | torch.Tensor | None = None,
    ref_sample_rate: int | None = None,
    nfe: int | None = None,
    seed: int = 0,
    keep_rest: bool = False,
) -> np.ndarray:
    """Enhanced float32 sound of the shape, rate and level of `noisy`, float `(samples,)` or `(samples, channels)`.

    `ref`: a clip of the noise alone, of any length, rate (`ref_sample_rate`, by default that of `noisy`) and channel
    count; where it is doubtful, or too short, silent or speech and so not used, a `ReferenceWarning` says so. Or what
    `model.embed` made of a clip, which is used as it is. `nfe`: calls of the network a window (the model's default if
    None). `keep_rest`: only the clip's sound goes, and everything else stays. Raises `UserError` for integer, empty or
    non-finite sound, and for `keep_rest` without a clip that can be used.
    """
    x = _checked(noisy, sample_rate, "the noisy sound")
    z_r = None
    if isinstance(ref, torch.Tensor):
        z_r = ref
    elif ref is not None:
        clip = _checked(ref, ref_sample_rate or sample_rate, "the reference")
        z_r, notes = embed_reference(model, clip, ref_sample_rate or sample_rate, keep_rest)
        for note in notes:
            warnings.warn(f"the reference {note}", ReferenceWarning, stacklevel=2)
    if keep_rest:
        check_clip(z_r)
    block = int(BLOCK_SECONDS * sample_rate)

    def blocks() -> Iterator[np.ndarray]:
        return (x[i : i + block] for i in range(0, len(x), block))

    measured = measure(model, blocks(), sample_rate)
    y = np.concatenate(list(enhance_blocks(model, blocks(), measured, sample_rate, z_r, nfe, seed)))
    return y.reshape(np.shape(noisy))


def check_clip(z_r: torch.Tensor | None) -> None:
    """Without a clip, nobody knows what is to stay."""
    if z_r is None:
        raise UserError("to keep the rest, a clip of what is to go is needed: give --ref or --ref-span", kind="no_clip")


def embed_reference(
    model: Any, clip: np.ndarray, sample_rate: int, keep_rest: bool = False
) -> tuple[torch.Tensor | None, list[str]]:
    """A clip `(frames, channels)` -> (z_r `(1, D)`, or None where the clip counts as missing; what is to be said).

    With `keep_rest` a clip of speech is taken, too: a talker may be what is to go.
    """
    if not np.isfinite(clip).all():
        raise UserError("the reference holds non-finite samples", kind="not_finite")
    if model.null(1) is None:
        return None, ["is not used: this model was trained without one"]
    mono = audio.resample(audio.to_mono(clip[: int(MAX_REF_SECONDS * sample_rate)]), sample_rate, model.sample_rate)
    missing, notes = judge_reference(mono, model.sample_rate, speech_may_go=keep_rest)
    return (None if missing else model.embed(mono, model.sample_rate, keep_rest)), notes


def judge_reference(clip: np.ndarray, sample_rate: int, speech_may_go: bool = False) -> tuple[bool, list[str]]:
    """Mono sound -> (counts as missing?, what is to be said about it, each continuing "the reference ...")."""
    seconds = len(clip) / sample_rate
    if seconds < MIN_REF_SECONDS:
        return True, [f"is very short ({seconds:.2f} s, {MIN_REF_SECONDS} s needed): works without reference"]
    if audio.rms_dbfs(clip) < SILENT_DBFS:
        return True, ["is silent: works without reference"]
    at_rate = audio.resample(clip, sample_rate, speech_activity.RATE)
    if not speech_may_go and speech_activity.is_speech(at_rate):
        return True, ["is speech with little noise: works without reference"]
    notes = []
    if is_clipped(clip):
        notes.append("is clipped: its spectrum is not that of the noise")
    if speech_activity.holds_speech(at_rate):
        notes.append("holds speech: speech may be removed with the noise")
    return False, notes


def is_clipped(clip: np.ndarray) -> bool:
    """Whether three samples in a row stay at a peak near full scale."""
    peak = float(np.abs(clip).max(initial=0.0))
    at_peak = np.abs(clip) >= 0.999 * peak
    return peak > 0.98 and bool((at_peak[2:] & at_peak[1:-1] & at_peak[:-2]).any())


def same_sound(clip: np.ndarray, noisy: np.ndarray) -> bool:
    """Whether two mono sounds of one rate are the same recording from the start, whatever their level and codec."""
    n = min(len(clip), len(noisy))
    if n == 0 or abs(len(clip) - len(noisy)) > 0.01 * n:
        return False
    a, b = clip[:n].astype(np.float64), noisy[:n].astype(np.float64)
    scale = np.sqrt((a @ a) * (b @ b))
    return bool(scale > 0 and abs(a @ b) > 0.99 * scale)


def measure(model: Any, blocks: Iterable[np.ndarray], sample_rate: int) -> Measured:
    """The first pass over blocks `(n, channels)`. The level of a sound longer than one block is the RMS over the louder
    half of the levels of its blocks; the greatest of them where the model's level is the peak. Raises `UserError`
    (not_finite) with number and position, or (empty)."""
    frames, peak, bad, first_bad = 0, 0.0, 0, 0
    levels: list[np.ndarray] = []
    products: np.ndarray = np.zeros(1)  # of each channel with the first one
    powers: np.ndarray = np.zeros(1)
    for block in blocks:
        finite = np.isfinite(block)
        if not finite.all():
            first_bad = first_bad if bad else frames + int(np.argmin(finite.all(axis=1)))
            bad += int(np.size(finite) - np.count_nonzero(finite))
        elif not bad:
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            upright = audio.resample(block, sample_rate, model.sample_rate)
            waves = torch.from_numpy(np.ascontiguousarray(upright.T)).to(model.device)
            levels.append(model.level(waves).double().cpu().numpy() if len(upright) else np.zeros(block.shape[1]))
            wide = block.astype(np.float64)
            products = products + wide[:, 0] @ wide
            powers = powers + (wide**2).sum(axis=0)
        frames += len(block)
    if bad:
        raise UserError(f"{bad} non-finite samples, first at {first_bad / sample_rate:.2f} s", kind="not_finite")
    if frames == 0:
        raise UserError("holds no samples", kind="empty")
    loudest = np.sort(np.array(levels), axis=0)[-1 if model.config.level == "max" else len(levels) // 2 :]
    opposite = products < OPPOSITE * np.sqrt(powers * powers[0])
    return Measured(frames, peak, np.sqrt((loudest**2).mean(axis=0)) * np.where(opposite, -1.0, 1.0))


def enhance_blocks(
    model: Any,
    blocks: Iterable[np.ndarray],
    measured: Measured,
    sample_rate: int,
    z_r: torch.Tensor | None,
    nfe: int | None,
    seed: int,
) -> Iterator[np.ndarray]:
    """The second pass: blocks `(n, channels)` at `sample_rate` -> enhanced blocks, `measured.frames` in all."""
    channels = len(measured.levels)
    inside = _resampled(blocks, sample_rate, model.sample_rate, channels)
    enhanced = _windowed(model, inside, measured.levels, z_r, nfe, seed)
    outside = _resampled(enhanced, model.sample_rate, sample_rate, channels)
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


def frame_noise(seed: int, first_frame: int, device: torch.device | str = "cpu") -> Noise:
    """`noise(shape)` for a sampler: complex Gaussian `(B, 1, F, T)`, E|z|^2 = 1, that belongs to (seed, number of the
    call, absolute frame) and is the same in all channels B."""
    calls = itertools.count()

    def noise(shape: Sequence[int]) -> torch.Tensor:
        batch, _, bins, frames = shape
        call, first = next(calls), first_frame // NOISE_CHUNK
        chunks = [
            np.random.default_rng([seed, call, chunk]).standard_normal((NOISE_CHUNK, bins, 2), np.float32)
            for chunk in range(first, (first_frame + frames - 1) // NOISE_CHUNK + 1)
        ]
        start = first_frame - first * NOISE_CHUNK
        z = torch.from_numpy(np.concatenate(chunks)[start : start + frames] * np.float32(np.sqrt(0.5)))
        return torch.view_as_complex(z).T.to(device).expand(batch, 1, bins, frames)

    return noise


def _checked(x: np.ndarray, sample_rate: int, what: str) -> np.ndarray:
    """float32 `(samples, channels)`."""
    x = np.asarray(x)
    if sample_rate <= 0:
        raise UserError(f"{what} has a sample rate of {sample_rate} Hz")
    if not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"{what} is {x.dtype}: floats in [-1, 1) are expected, as soundfile reads them")
    if x.ndim not in (1, 2) or x.size == 0:
        raise UserError(f"{what} has shape {x.shape}: (samples,) or (samples, channels) is expected", kind="empty")
    return x.reshape(len(x), -1).astype(np.float32, copy=False)


def _resampled(blocks: Iterable[np.ndarray], rate_in: int, rate_out: int, channels: int) -> Iterator[np.ndarray]:
    """`audio.resample` of a stream; the concatenated result is that of the concatenated blocks."""
    if rate_in == rate_out:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="VHQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def _windowed(
    model: Any,
    blocks: Iterable[np.ndarray],
    levels: np.ndarray,
    z_r: torch.Tensor | None,
    nfe: int | None,
    seed: int,
) -> Iterator[np.ndarray]:
    """Overlap-add at the model's rate. Windows start on whole frames; weights of neighbours sum to one."""
    hop = model.spectrogram.hop
    size, fade = (round(s * model.sample_rate / hop) * hop for s in (WINDOW_SECONDS, FADE_SECONDS))
    whole = int(WHOLE_SECONDS * model.sample_rate)
    rise = np.sin(np.pi / 2 * (np.arange(fade) + 0.5) / fade)[:, None].astype(np.float32) ** 2
    held = np.zeros((0, len(levels)), np.float32)
    tail: np.ndarray | None = None
    first_frame = 0

    def enhanced(window: np.ndarray) -> np.ndarray:
        y = _window(model, window, levels, z_r, nfe, frame_noise(seed, first_frame, model.device))
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


def _window(
    model: Any,
    window: np.ndarray,
    levels: np.ndarray,
    z_r: torch.Tensor | None,
    nfe: int | None,
    noise: Noise,
) -> np.ndarray:
    """One call of the model on `(samples, channels)`; channels without sound stay so."""
    heard = (levels != 0) & window.any(axis=0)
    out = np.zeros_like(window)
    if heard.any():
        scale = levels[heard].astype(np.float32)
        y = torch.from_numpy(np.ascontiguousarray((window[:, heard] / scale).T)).to(model.device)
        condition = model.null(len(y)) if z_r is None else z_r.expand(len(y), -1)
        out[:, heard] = model.enhance_window(y, condition, nfe, noise).float().cpu().numpy().T * scale
    return out

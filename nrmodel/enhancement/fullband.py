"""The band above the model's: a 44.1 or 48 kHz recording keeps it, enhanced.

    output = enhanced + gain (x - low)

`low` is the recording `x` at the model's rate and back, `enhanced` what the model made of that. What is left, x - low,
is the upper band with the edge where the two overlap: a model that changes nothing and gains of 1 give the recording
back, without a seam. The gain per bin and frame is Ephraim and Malah's log-spectral amplitude estimator (1985), tied to
the model: its a priori SNR is the geometric mean of the decision-directed one and of what the band below foretells,
speech from what the model kept there, tilted as speech is, and noise that rises and falls with what it removed. The
noise's spectrum is the clip's, or at first that of what was removed, and is learnt on where no speech is foretold.
State is one frame and three spectra a channel, so that sound of any length goes through in pieces of any size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soxr
from scipy.ndimage import convolve1d
from scipy.special import exp1

from nrdata import audio

HOP_SECONDS = 0.016  # frames are two hops
BELOW = (0.5, 0.91)  # the band that foretells, in parts of the highest frequency of the model
FIRST = 0.87  # from here on there is an upper band: `audio.resample` passes 0.913
TILT_HERTZ = (7000, 9000, 11000, 14000, 18000, 24000)
TILT_DB = (-1.0, -4.0, -7.0, -9.5, -14.0, -20.0)  # speech in a bin there over its mean from 4 to 7.3 kHz
REMOVED_DB = -6.0  # first guess of the noise without a clip, over what the model removed below
FOLLOW = 0.7  # exponent: noise above follows what is removed below
FOLLOW_DB = 15.0  # rises at most so far
DIRECTED = 0.95  # share of the frame before in the decision-directed SNR
FORETOLD = 0.5  # share of the foretold SNR, in the logarithm; half of it where the other one is
SURE = 10.0  # so high
BREATH = 0.3  # the gain is not under this part of the model's own
DOUBT = 20.0  # speech is foretold so roughly that a part of what is there may be it
MEMORY = 100  # frames of noise alone that its spectrum is the mean of
BURST = 4.0  # a frame counts at most so many times the spectrum that was known
LEARNING = 12  # but for the first frames
SMOOTH = 15  # bins
PIECE = 64  # frames that are transformed at once
TINY = 1e-12  # power far under the last bit's
Blocks = Iterable[np.ndarray]


@dataclass
class State:
    """What one frame hands to the next: power spectra `(channels, bins)` of noise and of the speech just found, the
    noise's power below the edge `(channels,)`, and how many frames of noise both are the mean of `(channels,)`."""

    noise: np.ndarray
    speech: np.ndarray
    noise_below: np.ndarray
    frames: np.ndarray


def gains(
    upper: np.ndarray, low: np.ndarray, kept: np.ndarray, removed: np.ndarray, tilt: np.ndarray, state: State
) -> np.ndarray:
    """Gain (channels, bins) of one frame; `state` moves on.

    `upper (channels, bins)`: power of the upper band. `low`, `kept`, `removed (channels,)`: mean power in a bin of the
    band below, of what the model kept of it and of what it took away. `tilt (bins,)`: speech above over speech below.
    """
    smooth = _smooth(upper, SMOOTH)
    # How far this frame is noise alone: that the model took out, and by what is there, not by the noise known so far,
    # which may be far too little.
    taken = np.minimum(removed / (low + TINY), 1)[:, None]
    alone = taken / (1 + DOUBT * tilt * kept[:, None] / np.maximum(smooth, TINY))
    risen = np.minimum((removed + TINY) / (state.noise_below + TINY), 10 ** (FOLLOW_DB / 10))
    follow = np.maximum(risen[:, None] ** FOLLOW, alone * np.minimum(smooth / (state.noise + TINY), 1))
    noise = state.noise * follow + TINY
    foretold = tilt * kept[:, None] / noise
    directed = DIRECTED * state.speech / noise + (1 - DIRECTED) * np.maximum(smooth / noise - 1, 0)
    share = FORETOLD / (1 + directed / SURE)
    before = np.maximum(directed, 1e-6) ** (1 - share) * np.maximum(foretold, 1e-6) ** share
    wiener = before / (1 + before)
    gain: np.ndarray = wiener * np.exp(0.5 * exp1(np.maximum(wiener * np.clip(upper / noise, 1e-2, 1e3), 1e-4)))
    of_model = np.sqrt(np.minimum((kept + TINY) / (low + TINY), 1))[:, None]
    gain = np.maximum(np.minimum(gain, 1), BREATH * of_model)

    step = 1 / np.minimum(state.frames + 1, MEMORY)
    most = np.where(state.frames < LEARNING, np.inf, BURST)[:, None] * noise
    state.noise = state.noise + alone * step[:, None] * (np.minimum(smooth, most) / follow - state.noise)
    state.noise_below = state.noise_below + alone.mean(axis=1) * step * (removed - state.noise_below)
    state.frames = state.frames + alone.mean(axis=1)
    state.speech = gain**2 * upper
    return np.asarray(gain)


class UpperBand:
    """Joins the enhanced lower band and the upper band of one recording, as it comes."""

    def __init__(
        self, sample_rate: int, channels: int, model_rate: int, clip: np.ndarray | None = None, clip_rate: int = 0
    ):
        """`clip (samples, channels or 1)` at `clip_rate`: the noise alone; used where it has an upper band itself."""
        self.hop = round(HOP_SECONDS * sample_rate)
        self.window = np.sqrt(np.hanning(2 * self.hop + 1)[:-1]).astype(np.float32)
        hertz = np.fft.rfftfreq(2 * self.hop, 1 / sample_rate)
        self.first = int(np.searchsorted(hertz, FIRST * model_rate / 2))
        self.below = slice(*np.searchsorted(hertz, [part * model_rate / 2 for part in BELOW]))
        # The model's rate is taken to be 16 kHz in TILT_HERTZ: another one moves the tilt with it.
        self.tilt = 10 ** (np.interp(hertz[self.first :] * 16000 / model_rate, TILT_HERTZ, TILT_DB) / 10)
        self.held = np.zeros((self.hop, 3, channels), np.float32)  # x - low, low, enhanced; half a frame of zeros first
        self.tail = np.zeros((self.hop, channels), np.float32)
        self.begun = False
        self.state: State | None = None
        if clip is not None and clip_rate >= sample_rate:
            self.state = self._of_clip(audio.resample(clip, clip_rate, sample_rate), channels)

    def feed(self, x: np.ndarray, low: np.ndarray, enhanced: np.ndarray) -> np.ndarray:
        """`x`, `low` and `enhanced (n, channels)`, the same samples of each -> (m, channels), what is ready of the sum:
        all but the last 16 to 32 ms of what was fed."""
        done, size = [np.zeros((0, x.shape[1]), np.float32)], PIECE * self.hop
        for i in range(0, len(x), size):  # a minute of sound is not held three times over
            a, b, c = (part[i : i + size] for part in (x, low, enhanced))
            self.held = np.concatenate([self.held, np.stack([a - b, b, c], axis=1)])
            while (count := len(self.held) // self.hop - 1) > 0:
                done.append(self._frames(min(count, PIECE)))
        return np.concatenate(done)

    def flush(self) -> np.ndarray:
        """The rest: as much comes out as went in."""
        left = len(self.held) - (0 if self.begun else self.hop)
        zeros = np.zeros((2 * self.hop, self.held.shape[2]), np.float32)
        return self.feed(zeros, zeros, zeros)[:left]

    def _frames(self, count: int) -> np.ndarray:
        """The next `count` frames, a hop of sound each (the first one of all gives none)."""
        spectra = self._spectra(self.held[: (count + 1) * self.hop])
        upper = np.abs(spectra[:, 0, :, self.first :]) ** 2
        low, kept = spectra[:, 1, :, self.below], spectra[:, 2, :, self.below]
        powers = [np.mean(np.abs(part) ** 2, axis=-1) for part in (low, kept, low - kept)]
        out = np.zeros(((count + 1) * self.hop, self.held.shape[2]), np.float32)
        out[: self.hop] = self.tail
        for i in range(count):
            of_low, of_kept, of_removed = (power[i] for power in powers)
            if self.state is None:
                self.state = self._guess(upper[i], of_removed)
            gain = gains(upper[i], of_low, of_kept, of_removed, self.tilt, self.state)
            gain = np.pad(gain, ((0, 0), (self.first, 0)), mode="edge")  # under the edge there is nothing but dust
            wave = np.fft.irfft(gain * spectra[i, 0], 2 * self.hop) * self.window
            out[i * self.hop : (i + 2) * self.hop] += wave.T.astype(np.float32)
        done, self.tail = out[: count * self.hop] + self.held[: count * self.hop, 2], out[count * self.hop :]
        self.held = self.held[count * self.hop :]
        done = done if self.begun else done[self.hop :]
        self.begun = True
        return done

    def _spectra(self, x: np.ndarray) -> np.ndarray:
        """(n, ...) -> (frames, ..., bins)."""
        frames = np.lib.stride_tricks.sliding_window_view(x, 2 * self.hop, axis=0)[:: self.hop]
        return np.fft.rfft(frames * self.window)

    def _guess(self, upper: np.ndarray, removed: np.ndarray) -> State:
        noise = np.minimum(_smooth(upper, SMOOTH), removed[:, None] * 10 ** (REMOVED_DB / 10))
        return State(noise, np.zeros_like(upper), removed, np.full(len(upper), 2.0))

    def _of_clip(self, clip: np.ndarray, channels: int) -> State | None:
        """From the mean spectrum of a clip; a clip of other channels stands for each of them with its mean."""
        if len(clip) < 2 * self.hop:
            return None
        power = np.mean(np.abs(self._spectra(clip)) ** 2, axis=0)  # (channels, bins)
        if len(power) != channels:
            power = np.repeat(power.mean(axis=0, keepdims=True), channels, axis=0)
        noise = _smooth(power[:, self.first :], 5)
        frames = np.full(channels, float(len(clip) // self.hop - 1))
        return State(noise, np.zeros_like(noise), power[:, self.below].mean(axis=1), frames)


def join_bands(
    blocks: Blocks, lower: Callable[[Blocks], Blocks], sample_rate: int, model_rate: int, upper: UpperBand
) -> Iterator[np.ndarray]:
    """Blocks `(n, channels)` at `sample_rate` -> enhanced blocks, as many samples in all.

    `lower` takes blocks at the model's rate and gives as many samples, enhanced. What is held is what `lower` holds.
    """
    whole, source = twice(blocks)
    inside, plain = twice(resampled(source, sample_rate, model_rate))
    low, enhanced = (resampled(part, model_rate, sample_rate) for part in (plain, lower(inside)))
    for x, *bands in aligned(whole, low, enhanced):
        yield upper.feed(x, *bands)
    yield upper.flush()


def twice(blocks: Blocks) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
    """The blocks for two readers; one that both have had is let go (`itertools.tee` keeps 57 of them: an hour)."""
    source = iter(blocks)
    ahead: tuple[deque[np.ndarray], deque[np.ndarray]] = deque(), deque()

    def reader(mine: deque[np.ndarray]) -> Iterator[np.ndarray]:
        while True:
            if not mine:
                if (block := next(source, None)) is None:
                    return
                for waiting in ahead:
                    waiting.append(block)
                del block
            yield mine.popleft()

    return reader(ahead[0]), reader(ahead[1])


def aligned(first: Blocks, *others: Blocks) -> Iterator[list[np.ndarray]]:
    """The same samples of all: each block of the first, and of the others as many, zeros where they end early."""
    streams = [iter(other) for other in others]
    held: list[list[np.ndarray]] = [[] for _ in streams]
    for block in first:
        parts = [block]
        for i, stream in enumerate(streams):
            while sum(len(part) for part in held[i]) < len(block) and (more := next(stream, None)) is not None:
                held[i].append(more)
            joined = np.concatenate([block[:0], *held[i]])
            joined = np.pad(joined, ((0, max(len(block) - len(joined), 0)), (0, 0)))
            parts.append(joined[: len(block)])
            held[i] = [joined[len(block) :]]
        yield parts


def resampled(blocks: Blocks, rate_in: int, rate_out: int) -> Iterator[np.ndarray]:
    """`audio.resample` of a stream; the concatenated result is that of the concatenated blocks."""
    if rate_in == rate_out:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    for block in blocks:
        if stream is None:
            channels = block.shape[1]
            stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="VHQ")
        yield stream.resample_chunk(np.ascontiguousarray(block))
    if stream is not None:
        yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def _smooth(power: np.ndarray, width: int) -> np.ndarray:
    """A Hann window over bins."""
    weights = np.hanning(width + 2)[1:-1]
    found: np.ndarray = convolve1d(power, weights / weights.sum(), axis=-1, mode="nearest")
    return found

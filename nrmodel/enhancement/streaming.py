"""Enhancement of sound as it comes: feed sound, get sound, a stated time later, in memory that does not grow.

    stream = Stream(model, 48000)
    out = stream.feed(block)  # as often as blocks come, of any length
    rest = stream.flush()     # in all as many samples as were fed

Each chunk is enhanced in a window of its own: `context_seconds` of the past, the chunk, and `look_seconds` of what
comes after it, which is what a bidirectional network misses most. Neighbouring chunks are cross-faded. A window is
resampled as a whole, so that no resampler adds its delay. The level is that of the last LEVEL_SECONDS.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement import clip as clips
from nrmodel.enhancement import enhance, speech_activity
from nrmodel.enhancement.fullband import HOP_SECONDS, UpperBand
from nrmodel.enhancement.interface import Embedding, Model

CONTEXT_SECONDS = 0.9  # results/chunks says what less and more of it cost
LOOK_SECONDS = 0.256
FADE_SECONDS = 0.032
LEVEL_SECONDS = 30.0  # of the past
PAUSE_SECONDS = 0.5  # a quiet stretch of this length can be the reference; at most
MAX_PAUSE_SECONDS = 2.0  # of it is used
WATCHED_SECONDS = 10.0  # of the past are searched for it, from
FIRST_SECONDS = 2.0  # on


class Stream:
    """A recording, enhanced as it comes.

    `ref`: a clip of the noise alone `(samples,)` or `(samples, channels)` at `ref_sample_rate` (that of the stream if
    None); what `model.embed` made of one; "pause": the first quiet stretch of the sound itself, from then on; or None.
    `full_band`: sound above the model's band is kept, enhanced. Raises `UserError` for a clip that is not finite, sound
    that is not finite or float, or whose channels change.
    """

    _held: np.ndarray  # past, next chunk, and what came after
    _before: int  # samples of it that are past
    _first: int  # of the recording: the sample that `_held` begins with
    _fed: int  # how many came
    _seen: int  # samples of the recording that are in the history
    _history: np.ndarray  # at the model's rate
    _levels: np.ndarray
    _tail: np.ndarray
    _upper: UpperBand | None
    _channels: int

    def __init__(
        self,
        model: Model,
        sample_rate: int,
        ref: np.ndarray | Embedding | Literal["pause"] | None = None,
        ref_sample_rate: int | None = None,
        chunk_seconds: float = 0.5,
        context_seconds: float = CONTEXT_SECONDS,
        look_seconds: float = LOOK_SECONDS,
        full_band: bool = True,
        seed: int = 0,
    ):
        if sample_rate <= 0 or chunk_seconds < FADE_SECONDS:
            raise UserError(f"{sample_rate} Hz in chunks of {chunk_seconds} s: 1 Hz and 0.032 s are the least")
        self.model, self.sample_rate, self.seed = model, sample_rate, seed
        self.full_band = full_band and sample_rate > model.sample_rate
        hop = round(HOP_SECONDS * sample_rate)  # of the upper band's frames: whole ones make the latency exact
        self._chunk = max(round(chunk_seconds * sample_rate / hop), 2) * hop
        self._past = round(context_seconds * sample_rate)
        self._look, self._fade = round(max(look_seconds, FADE_SECONDS) * sample_rate), round(FADE_SECONDS * sample_rate)
        self._latency = self._chunk + self._look + (hop if self.full_band else 0)
        self._listening = isinstance(ref, str)
        self._clip: np.ndarray | None = None
        self._clip_rate = ref_sample_rate or sample_rate
        self._z_r: torch.Tensor | None = ref if isinstance(ref, Embedding) else None
        if isinstance(ref, np.ndarray):
            self._use(ref.reshape(len(ref), -1).astype(np.float32, copy=False), self._clip_rate)
        self._begin(0)
        self._flat = False

    @property
    def latency_seconds(self) -> float:
        """The longest time from a sample's being fed until its enhanced value comes out, computing not counted."""
        return self._latency / self.sample_rate

    @property
    def levels(self) -> np.ndarray:
        """Running level of each channel (the model's rule, negative where its phase is turned); 0 before the first."""
        return self._levels if self._channels else np.zeros(1)

    @property
    def has_reference(self) -> bool:
        """Whether a clip is in use by now."""
        return self._z_r is not None

    def feed(self, sound: np.ndarray) -> np.ndarray:
        """Float `(n,)` or `(n, channels)` -> the enhanced samples that are ready, `(m,)` or `(m, channels)`; they
        continue those given before."""
        x = self._checked(sound)
        if not x.size:
            return x.reshape(np.shape(sound))
        self._held = np.concatenate([self._held, x])
        self._fed += len(x)
        done = [np.zeros_like(x[:0])]
        while len(self._held) >= self._before + self._chunk + self._look:
            done.append(self._step(self._chunk))
        return self._shaped(np.concatenate(done))

    def flush(self) -> np.ndarray:
        """What is left, enhanced. The stream is then as new but for its reference: the next feed begins a recording."""
        if not self._channels:
            return np.zeros(0, np.float32)
        done = []
        if left := len(self._held) - self._before:
            done.append(self._step(left))
        if self._upper is not None:
            done.append(self._upper.flush())
        out = self._shaped(np.concatenate([self._held[:0], *done]))
        self._channels = 0
        return out

    def _begin(self, channels: int) -> None:
        self._channels = channels
        self._held = np.zeros((0, channels), np.float32)
        self._before = self._first = self._fed = self._seen = 0
        self._history = np.zeros((0, channels), np.float32)
        self._levels = np.zeros(channels)
        self._tail = np.zeros((0, 2, channels), np.float32)
        self._upper = None
        if channels and self.full_band:
            self._upper = enhance.upper_band(self.model, self.sample_rate, channels, self._clip, self._clip_rate)

    def _step(self, count: int) -> np.ndarray:
        """Enhance `count` samples, and with the upper band give those that are ready."""
        window = self._held[: self._before + count + self._look]
        inside = audio.resample(window, self.sample_rate, self.model.sample_rate)
        self._remember(inside, self._first + len(window))
        made = self._enhanced(inside)
        bands = np.stack([self._outside(inside, len(window)), self._outside(made, len(window))], axis=1)
        bands = bands[self._before :]
        fade = min(len(self._tail), len(bands))
        rise = enhance.rising(fade)[:, None, None]
        bands[:fade] = bands[:fade] * rise + self._tail[:fade] * (1 - rise)
        self._tail = bands[count : count + self._fade].copy()
        x, low, enhanced = window[self._before : self._before + count], bands[:count, 0], bands[:count, 1]
        dropped = max(self._before + count - self._past, 0)
        self._held = self._held[dropped:]
        self._before, self._first = self._before + count - dropped, self._first + dropped
        return enhanced if self._upper is None else self._upper.feed(x, low, enhanced)

    def _enhanced(self, inside: np.ndarray) -> np.ndarray:
        """One call of the model on a window `(samples, channels)` at its rate."""
        frame = round(self._first / self.sample_rate * self.model.sample_rate / self.model.spectrogram.hop)
        noise = enhance.frame_noise(self.seed, frame, self.model.device)

        def call(y: torch.Tensor) -> torch.Tensor:
            condition = self.model.null(len(y)) if self._z_r is None else self._z_r.expand(len(y), -1)
            return self.model.enhance_window(y, condition, None, noise)

        return enhance.by_channel(inside, self._levels, call, self.model.device)

    def _remember(self, inside: np.ndarray, upto: int) -> None:
        """The history, the level, and the first quiet stretch, from a window that ends with sample `upto`."""
        ratio = self.model.sample_rate / self.sample_rate
        new = min(max(round((upto - self._seen) * ratio), 0), len(inside))
        self._seen = upto
        self._history = np.concatenate([self._history, inside[len(inside) - new :]])
        self._history = self._history[-int(LEVEL_SECONDS * self.model.sample_rate) :]
        if len(self._history):
            self._levels = enhance.measure(self.model, [self._history], self.model.sample_rate).levels
        if self._listening and len(self._history) >= FIRST_SECONDS * self.model.sample_rate:
            self._listen()

    def _listen(self) -> None:
        rate = self.model.sample_rate
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", audio.ChannelsCancel)
            mono = audio.to_mono(self._history[-int(WATCHED_SECONDS * rate) :])
        at_rate = audio.resample(mono, rate, speech_activity.RATE)
        start, stop = (i * rate // speech_activity.RATE for i in speech_activity.longest_pause(at_rate))
        clip = mono[start : min(stop, start + int(MAX_PAUSE_SECONDS * rate))]
        if len(clip) >= PAUSE_SECONDS * rate and clip.any():
            self._use(clip[:, None], rate)
            self._listening = self._z_r is None and self.model.takes_reference

    def _use(self, clip: np.ndarray, rate: int) -> None:
        """Take a clip, where it serves: for the model, and for an upper band that begins after it."""
        found = clips.from_wave(self.model, clip, rate, "the reference", "a clip")
        for note in found.notes:
            warnings.warn(note, enhance.ReferenceWarning, stacklevel=4)
        self._z_r = found.z_r if found.used != "none" else None
        self._clip = found.wave

    def _outside(self, inside: np.ndarray, length: int) -> np.ndarray:
        """Back at the stream's rate, `length` samples."""
        out = audio.resample(inside, self.model.sample_rate, self.sample_rate)[:length]
        return np.pad(out, ((0, length - len(out)), (0, 0)))

    def _checked(self, sound: np.ndarray) -> np.ndarray:
        """float32 (n, channels)."""
        x = np.asarray(sound)
        if not np.issubdtype(x.dtype, np.floating) or x.ndim not in (1, 2):
            raise UserError(f"{x.dtype} {x.shape} fed: floats (samples,) or (samples, channels) are expected")
        if not x.size:
            return x.astype(np.float32)
        x = x.reshape(len(x), -1)
        if not self._channels:
            self._begin(x.shape[1])
            self._flat = np.ndim(sound) == 1
        if x.shape[1] != self._channels:
            raise UserError(f"{x.shape[1]} channels fed after {self._channels}: flush() first")
        if not np.isfinite(x).all():
            raise UserError(f"non-finite samples fed after {self._fed / self.sample_rate:.2f} s", kind="not_finite")
        return x.astype(np.float32, copy=False)

    def _shaped(self, out: np.ndarray) -> np.ndarray:
        return out[:, 0] if self._flat else out

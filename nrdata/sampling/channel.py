"""The channel that a recording went through before anybody hears it: resamplers, telephones, microphones, codecs.

A `Channel` is a list of members, each off at its neutral value, passed in this order:

    gain, tilt, microphone, band    linear: one magnitude curve without phase, 0 dB at 1 kHz but for the gain
    rate                            linear: soxr to that rate and back
    automatic gain                  a gain over time, read from the mixture and laid on its parts alike
    clipping                        hard, at a share of the mixture's peak
    codec                           libsndfile's MP3, Vorbis, Opus, GSM 06.10 and mu-law, encoded and decoded

No member delays. Mixture, clean sound and clip go through the same numbers. Linear members and the automatic gain keep
noisy = clean + noise. Clipping and codecs do not: there the target is the clean sound alone through the same channel at
the same gain, clipped at the same threshold or coded by the same codec, so that nothing is asked of the network that
the channel took away.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import soxr

from nrdata.audio import resample
from nrdata.errors import UserError
from nrdata.sampling.transforms import EQ_LOWEST_HZ, EQ_POINTS, filtered

RATES = (8000, 11025, 22050, 24000, 44100, 48000)
LEVEL_HZ = 1000.0  # where linear members but the gain are 0 dB
ORDER = 16  # of the edges of a band: Butterworth's magnitude
BLOCK_SECONDS = 0.01  # the automatic gain's step
AGC_LIMIT_DB = 20.0
MICROPHONE_DB = 8.0
CODECS = {  # -> format, subtype, libsndfile's compression level (1: the lowest rate), Hz it works at (None: any)
    "mp3": ("MP3", "MPEG_LAYER_III", 0.95, None),
    "vorbis": ("OGG", "VORBIS", 1.0, None),
    "opus": ("OGG", "OPUS", 0.98, None),
    "gsm": ("WAV", "GSM610", None, 8000),
    "mulaw": ("WAV", "ULAW", None, 8000),
}
PEAK = 0.9  # of the mixture in front of a codec, which knows full scale


@dataclass(frozen=True)
class Channel:
    """The members; the default is the straight channel."""

    gain_db: float = 0.0
    tilt_db: float = 0.0  # at 8 kHz, linear over log frequency, 0 dB at 1 kHz
    microphone_db: tuple[float, ...] = ()  # gains at points even in log frequency
    band_hz: tuple[float, float] = (0.0, np.inf)
    rate: int = 0  # Hz of the resampling
    quality: str = "VHQ"  # soxr's: "LQ", "MQ", "HQ", "VHQ"
    agc: float = 0.0  # strength: 1 brings every passage to the loudest one's level
    agc_seconds: float = 0.1  # of its smoothing
    clip: float = 1.0  # threshold as a share of the mixture's peak
    codec: str = ""

    @property
    def linear(self) -> bool:
        return not (self.agc or self.clip < 1 or self.codec)


TELEPHONE = Channel(band_hz=(300.0, 3400.0), rate=8000)
NAMED = {
    **{f"{rate / 1000:g}k": Channel(rate=rate) for rate in RATES},
    "telephone": TELEPHONE,
    "lowpass-4k": Channel(band_hz=(0.0, 4000.0)),
    "lowpass-7k": Channel(band_hz=(0.0, 7000.0)),
    "tilt-down": Channel(tilt_db=-12.0),
    "tilt-up": Channel(tilt_db=12.0),
    "quiet": Channel(gain_db=-30.0),
    "microphone": Channel(microphone_db=(-6.0, -2.0, 3.0, -1.0, 2.0, 4.0, -3.0, -8.0)),
    "agc": Channel(agc=0.7),
    "clipping": Channel(clip=0.4),
    "mp3": Channel(codec="mp3"),
    "vorbis": Channel(codec="vorbis"),
    "opus": Channel(codec="opus"),
    "gsm": replace(TELEPHONE, codec="gsm"),
    "mulaw": replace(TELEPHONE, codec="mulaw"),
}
# What is drawn, and how often; codecs cost a hundred times what the others do.
SHARES = {"rate": 0.28, "low-pass": 0.22, "telephone": 0.24, "tilt": 0.06, "microphone": 0.1, "agc": 0.04,
          "clipping": 0.045, "codec": 0.015}  # fmt: skip
CODEC_SHARES = (0.25, 0.3, 0.02, 0.18, 0.25)  # in the order of CODECS: Opus takes four times what the others do
QUALITIES = ("LQ", "MQ", "HQ", "VHQ")


def named(name: str) -> Channel:
    """A fixed channel, for evaluation. Raises `UserError` naming those there are."""
    if name not in NAMED:
        raise UserError(f"channel {name!r} is unknown: choose from {', '.join(NAMED)}", "channel")
    return NAMED[name]


def draw_channel(rng: np.random.Generator) -> Channel:
    """One main member by `SHARES`; with a chance of a third each also a tilt and a microphone."""
    kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    tilted, coloured = rng.random(2) < 1 / 3
    tilt_db = float(rng.uniform(-12, 12)) if tilted or kind == "tilt" else 0.0
    curve = rng.uniform(-MICROPHONE_DB, MICROPHONE_DB, EQ_POINTS)
    channel = Channel(tilt_db=tilt_db, microphone_db=tuple(curve) if coloured or kind == "microphone" else ())
    if kind == "rate":
        return replace(channel, rate=int(rng.choice(RATES)), quality=str(rng.choice(QUALITIES)))
    if kind == "low-pass":
        return replace(channel, band_hz=(0.0, float(np.exp(rng.uniform(np.log(2500), np.log(7800))))))
    if kind == "telephone":
        low, high = float(rng.uniform(60, 400)), float(rng.uniform(3000, 7000))
        return replace(channel, band_hz=(low, high), rate=8000 if high < 3900 and rng.random() < 0.5 else 0)
    if kind == "agc":
        return replace(channel, agc=float(rng.uniform(0.3, 0.9)), agc_seconds=float(rng.uniform(0.05, 0.5)))
    if kind == "clipping":
        return replace(channel, clip=float(np.exp(rng.uniform(np.log(0.2), np.log(0.9)))))
    if kind == "codec":
        codec = str(rng.choice(list(CODECS), p=CODEC_SHARES))
        return replace(TELEPHONE if CODECS[codec][3] else channel, codec=codec)
    return channel


def apply(
    channel: Channel, noisy: np.ndarray, parts: Sequence[np.ndarray], clips: Sequence[np.ndarray], sample_rate: int
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """`noisy` and what runs along with it (`parts`: clean, noise ...), float32 (frames,) each, and `clips` of any
    length, through one channel: the same three, of the same lengths."""
    fixed = _Fixed(channel, sample_rate)
    noisy, *others = (fixed.linear(x) for x in (noisy, *parts, *clips))
    parts, clips = others[: len(parts)], others[len(parts) :]
    if channel.linear:
        return noisy, list(parts), list(clips)
    if channel.agc:
        anchor_db = _levels_db(noisy, sample_rate).max()
        gain = _agc_gain(channel, noisy, anchor_db, sample_rate)
        noisy, parts = gain * noisy, [gain * x for x in parts]
        clips = [_agc_gain(channel, x, anchor_db, sample_rate) * x for x in clips]
    if channel.clip < 1:
        threshold = channel.clip * np.abs(noisy).max(initial=0.0)
        noisy, *others = (np.clip(x, -threshold, threshold) for x in (noisy, *parts, *clips))
        parts, clips = others[: len(parts)], others[len(parts) :]
    if channel.codec:
        scale = PEAK / max(float(np.abs(noisy).max(initial=0.0)), 1e-6)
        noisy, *others = (through_codec(x, channel.codec, sample_rate, scale) for x in (noisy, *parts, *clips))
        parts, clips = others[: len(parts)], others[len(parts) :]
    return noisy, list(parts), list(clips)


def response_db(channel: Channel, frequency: np.ndarray, nyquist: float) -> np.ndarray:
    """The linear members' magnitude at `frequency` in Hz (without the resampling), in dB."""
    octaves = np.log2(np.maximum(frequency, EQ_LOWEST_HZ) / LEVEL_HZ)
    curve = channel.gain_db + channel.tilt_db / 3 * octaves
    if channel.microphone_db:
        points = np.log2(np.geomspace(EQ_LOWEST_HZ, nyquist, len(channel.microphone_db)) / LEVEL_HZ)
        curve = curve + np.interp(octaves, points, channel.microphone_db) - np.interp(0, points, channel.microphone_db)
    low, high = channel.band_hz
    with np.errstate(divide="ignore", over="ignore"):
        if low > 0:
            curve = curve - 10 * np.log10(1 + (low / np.maximum(frequency, 1e-3)) ** ORDER)
        if high < np.inf:
            curve = curve - 10 * np.log10(1 + (frequency / high) ** (2 * ORDER))
    found: np.ndarray = np.maximum(curve, channel.gain_db - 120.0)
    return found


@dataclass
class _Fixed:
    """A channel at a sample rate; curves are made once for sounds of one length."""

    channel: Channel
    sample_rate: int
    curves: dict[int, np.ndarray] = field(default_factory=dict)

    def linear(self, x: np.ndarray) -> np.ndarray:
        channel = self.channel
        if channel.gain_db or channel.tilt_db or channel.microphone_db or channel.band_hz != (0.0, np.inf):
            x = filtered(x, self._curve, self.sample_rate)
        if channel.rate:
            there = soxr.resample(x, self.sample_rate, channel.rate, quality=channel.quality)
            x = fitted(soxr.resample(there, channel.rate, self.sample_rate, quality=channel.quality), len(x))
        return x

    def _curve(self, frequency: np.ndarray) -> np.ndarray:
        if len(frequency) not in self.curves:
            self.curves[len(frequency)] = response_db(self.channel, frequency, self.sample_rate / 2)
        return self.curves[len(frequency)]


def _levels_db(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """RMS level of blocks of 10 ms."""
    size = round(BLOCK_SECONDS * sample_rate)
    blocks = np.pad(x, (0, -len(x) % size)).reshape(-1, size)
    found: np.ndarray = 10 * np.log10(np.mean(np.square(blocks, dtype=np.float64), axis=1) + 1e-10)
    return found


def _agc_gain(channel: Channel, x: np.ndarray, anchor_db: float, sample_rate: int) -> np.ndarray:
    """The gain at each sample, float32: towards `anchor_db` by the strength, smoothed in both directions."""
    from scipy.ndimage import gaussian_filter1d

    wanted = np.clip(channel.agc * (anchor_db - _levels_db(x, sample_rate)), 0, AGC_LIMIT_DB)
    smooth = gaussian_filter1d(wanted, channel.agc_seconds / BLOCK_SECONDS, mode="nearest")
    at = (np.arange(len(smooth)) + 0.5) * round(BLOCK_SECONDS * sample_rate)
    found: np.ndarray = (10 ** (np.interp(np.arange(len(x)), at, smooth) / 20)).astype(np.float32)
    return found


def through_codec(x: np.ndarray, codec: str, sample_rate: int, scale: float) -> np.ndarray:
    """Encoded and decoded at `scale` times its level, brought back to its level and length."""
    import soundfile

    container, subtype, compression, rate = CODECS[codec]
    rate = rate or sample_rate
    coded = np.clip(resample(scale * x, sample_rate, rate), -1, 1)
    buffer = io.BytesIO()
    given = {} if compression is None else {"compression_level": compression}
    soundfile.write(buffer, coded, rate, format=container, subtype=subtype, **given)
    buffer.seek(0)
    decoded = soundfile.read(buffer, dtype="float32")[0]
    return fitted(resample(decoded, rate, sample_rate), len(x)) / np.float32(scale)


def fitted(x: np.ndarray, frames: int) -> np.ndarray:
    """Cut or zero-padded at its end to `frames`."""
    return x[:frames] if len(x) >= frames else np.pad(x, (0, frames - len(x)))

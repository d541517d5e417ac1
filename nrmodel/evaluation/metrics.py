"""PESQ-WB, ESTOI and SI-SDR, each a number or a named failure, never a plausible number from nothing.

Every metric is called alike, `metric(clean, estimate) -> float`, on mono float arrays of equal length at 16 kHz, and
raises `MetricFailure`; `METRICS` has all that is said of each. `score` checks the pair first (rate, length,
finiteness, silence, delay) and runs them all.
Imports are light on purpose: worker processes load this file, and nothing of torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from nrdata.audio.levels import rms_dbfs

SAMPLE_RATE = 16000
LENGTH_TOLERANCE = 512  # samples: one STFT frame of 32 ms; within it both are cut to the shorter
DELAY_LIMIT_MS = 2.0  # more is `misaligned`; less is flagged, since SI-SDR loses a decibel with the first sample
DELAY_SEARCH_SECONDS = 0.25
SILENT_REFERENCE_DBFS = -70.0
SILENT_ESTIMATE_DBFS = -100.0  # metrics ignore level; under this nothing of a 16-bit signal is left
OFFSET_COSTS_DB = 0.1  # SI-SDR that the signals' means take: from here on they are removed, and that is flagged
INVERTED = -0.3  # correlation of the pair, means removed, under which the estimate is upside down
PESQ_WHOLE_SECONDS = 30.0  # PESQ writes past a table of 50 utterances: longer signals go in segments
PESQ_SEGMENT_SECONDS = 20.0


class MetricFailure(Exception):
    """Why a metric has no number. `kind` is the name that stands in the row, `detail` a few words for a reader."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(kind, detail)  # both, so that it survives pickling
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@dataclass
class Scores:
    """What one (clean, estimate) pair scored. A metric is in `values` or in `failures`, never in both."""

    values: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)  # `segmented`, `delayed`, `offset`, `inverted`: to read with care
    delay_ms: float = 0.0  # of the estimate behind the clean signal


def pesq_wb(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Wide-band PESQ (ITU-T P.862.2, MOS-LQO 1.04 to 4.64); over 30 s the mean of segments, weighted by duration.

    The reference code can crash the process on many utterances: call it where that costs one file (`scoring.py`).
    """
    from pesq import BufferTooShortError, NoUtterancesError, PesqError, pesq

    total = seconds = 0.0
    failure: MetricFailure | None = None
    for start, stop in pesq_segments(clean):
        try:
            value = float(pesq(SAMPLE_RATE, clean[start:stop], estimate[start:stop], "wb"))
        except NoUtterancesError:
            failure = MetricFailure("no_speech", "PESQ finds no utterance in the clean signal")
            continue
        except BufferTooShortError:
            failure = MetricFailure("too_short", "PESQ needs a quarter of a second")
            continue
        except (PesqError, ValueError, ZeroDivisionError) as e:
            raise MetricFailure("not_finite", f"PESQ: {e}") from e
        if not 0.9 < value < 5.0:  # NaN fails this too
            raise MetricFailure("not_finite", f"PESQ gave {value}")
        total += value * (stop - start)
        seconds += stop - start
    if not seconds:
        raise failure or MetricFailure("too_short")
    return total / seconds


def estoi(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Extended short-time objective intelligibility (Jensen and Taal 2016), at most 1.

    pystoi adds noise from the global generator: it is seeded here and left as it was found, so that a file's figure
    does not depend on the files before it.
    """
    from pystoi import stoi

    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # its 1e-5 for too little speech comes with a warning
            value = float(stoi(clean, estimate, SAMPLE_RATE, extended=True))
    except RuntimeWarning as e:
        raise _little_speech(clean, "ESTOI needs 30 frames (0.4 s) with speech") from e
    except (ValueError, IndexError) as e:  # numpy's AxisError is both: not one frame
        raise _little_speech(clean, "ESTOI finds no frame with speech") from e
    finally:
        np.random.set_state(state)
    if not math.isfinite(value):
        raise MetricFailure("not_finite", f"ESTOI gave {value}")
    return value


def si_sdr(clean: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, without mean removal (Le Roux et al. 2019, as SGMSE has it).

    `target = clean * <estimate, clean> / |clean|^2`, then the energy of the target over that of the rest. A constant
    in the estimate counts as distortion, and an inverted estimate as the upright one: `score_steps` sees to both.
    """
    clean64, estimate64 = clean.astype(np.float64), estimate.astype(np.float64)
    energy = float(clean64 @ clean64)
    if energy == 0:
        raise MetricFailure("silent_reference")
    if not np.any(estimate64):
        raise MetricFailure("silent_estimate")
    target = clean64 * (float(estimate64 @ clean64) / energy)
    rest = estimate64 - target
    of_target, of_rest = float(target @ target), float(rest @ rest)
    if of_rest <= 1e-12 * of_target:
        raise MetricFailure("identical", "the estimate is the clean signal: the ratio has no bound")
    if of_target == 0:
        raise MetricFailure("not_finite", "nothing of the clean signal is in the estimate")
    return 10 * math.log10(of_target / of_rest)


@dataclass(frozen=True)
class Metric:
    """What every table, picture and verdict knows of a metric. `function(clean, estimate)` must be importable, since
    scoring processes call it; a difference of `margin` would matter; `better`: +1 where more is better, -1 where less
    is."""

    function: Callable[[np.ndarray, np.ndarray], float]
    title: str
    unit: str
    digits: int  # behind the point, in tables
    margin: float
    colour: str  # of its panel in pictures
    better: int = 1

    @property
    def heading(self) -> str:
        """Title and unit, as a column has it."""
        return f"{self.title} {self.unit}".rstrip()


METRICS: dict[str, Metric] = {  # as tables show them; scored from the last to the first, since PESQ may end its process
    "pesq_wb": Metric(pesq_wb, "PESQ-WB", "", 2, 0.05, "#b5541c"),
    "estoi": Metric(estoi, "ESTOI", "", 3, 0.01, "#1f5fa8"),
    "si_sdr": Metric(si_sdr, "SI-SDR", "dB", 2, 0.3, "#3d7d3d"),
}


def failed(kind: str) -> Scores:
    """What a pair scores that cannot be scored at all."""
    return Scores(failures=dict.fromkeys(reversed(METRICS), kind))


def score(clean: np.ndarray, estimate: np.ndarray, sample_rate: int, alignment: bool = True) -> Scores:
    """All metrics of one pair: `score_steps` taken to its end."""
    *_, scores = score_steps(clean, estimate, sample_rate, alignment)
    return scores


def score_steps(clean: np.ndarray, estimate: np.ndarray, sample_rate: int, alignment: bool = True) -> Iterator[Scores]:
    """The same `Scores` after each metric, PESQ last: what is there when a process dies is not lost."""
    scores = Scores()
    try:
        clean, estimate = checked_pair(clean, estimate, sample_rate)
        if alignment:
            lag = delay_samples(clean, estimate)
            scores.delay_ms = 1000 * lag / SAMPLE_RATE
            if abs(scores.delay_ms) > DELAY_LIMIT_MS:
                raise MetricFailure("misaligned", f"the estimate lags by {scores.delay_ms:.1f} ms")
            if lag:
                scores.flags.append("delayed")
    except MetricFailure as e:
        scores.failures = failed(e.kind).failures
        yield scores
        return
    if len(pesq_segments(clean)) > 1:
        scores.flags.append("segmented")
    centred = without_means(clean), without_means(estimate)
    if offset_matters(clean, estimate):
        scores.flags.append("offset")
        clean, estimate = centred
    if is_inverted(*centred):
        scores.flags.append("inverted")
    for name in reversed(METRICS):
        try:
            scores.values[name] = METRICS[name].function(clean, estimate)
        except MetricFailure as e:
            scores.failures[name] = e.kind
        yield scores


def without_means(x: np.ndarray) -> np.ndarray:
    """A signal without its constant offset, of the same type."""
    found: np.ndarray = (x - x.mean(dtype=np.float64)).astype(x.dtype)
    return found


def offset_matters(clean: np.ndarray, estimate: np.ndarray) -> bool:
    """Whether a constant in either signal moves SI-SDR, by what nobody hears."""
    try:
        return abs(si_sdr(without_means(clean), without_means(estimate)) - si_sdr(clean, estimate)) > OFFSET_COSTS_DB
    except MetricFailure as e:  # offset alone parts an estimate from the clean signal: that matters too
        return e.kind == "identical" and clean.mean() != estimate.mean()


def is_inverted(clean: np.ndarray, estimate: np.ndarray) -> bool:
    """Whether an estimate is upside down (both without means): metrics do not see that, a listener of a sum would."""
    clean64, estimate64 = clean.astype(np.float64), estimate.astype(np.float64)
    return float(clean64 @ estimate64) < INVERTED * math.sqrt(float(clean64 @ clean64) * float(estimate64 @ estimate64))


def checked_pair(clean: np.ndarray, estimate: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """The pair as the metrics want it, cut to the shorter where they differ by less than a frame. Raises
    `MetricFailure`: wrong_rate, wrong_length, too_short, not_finite, silent_reference, silent_estimate."""
    if sample_rate != SAMPLE_RATE:
        raise MetricFailure("wrong_rate", f"metrics are defined at {SAMPLE_RATE} Hz, {sample_rate} given")
    if clean.ndim != 1 or estimate.ndim != 1:
        raise MetricFailure("wrong_length", f"mono signals expected, shapes {clean.shape} and {estimate.shape} given")
    if abs(len(clean) - len(estimate)) > LENGTH_TOLERANCE:
        raise MetricFailure("wrong_length", f"{len(clean)} clean and {len(estimate)} estimated samples")
    frames = min(len(clean), len(estimate))
    if frames == 0:
        raise MetricFailure("too_short", "no sample")
    clean, estimate = clean[:frames], estimate[:frames]
    if not (np.isfinite(clean).all() and np.isfinite(estimate).all()):
        raise MetricFailure("not_finite", "NaN or infinity among the samples")
    if rms_dbfs(clean) < SILENT_REFERENCE_DBFS:
        raise MetricFailure("silent_reference", f"the clean signal is at {rms_dbfs(clean):.0f} dBFS")
    if rms_dbfs(estimate) < SILENT_ESTIMATE_DBFS:
        raise MetricFailure("silent_estimate", f"the estimate is at {rms_dbfs(estimate):.0f} dBFS")
    return np.ascontiguousarray(clean), np.ascontiguousarray(estimate)


def delay_samples(clean: np.ndarray, estimate: np.ndarray) -> int:
    """By how many samples the estimate lags (negative: leads); 0 where the correlation does not say so clearly.

    Cross-correlation with the spectra's common colour half removed (voiced speech correlates with itself a pitch
    period away), searched over a quarter of a second. A lag beyond the tolerance of 2 ms counts if its peak stands
    half as high again over all within it, a lag within if it is the highest; either must stand out of the curve.
    """
    reach = min(int(DELAY_SEARCH_SECONDS * SAMPLE_RATE), len(clean) - 1)
    size = 1 << (len(clean) + reach).bit_length()
    of_clean, of_estimate = np.fft.rfft(clean, size), np.fft.rfft(estimate, size)
    cross = np.conj(of_clean) * of_estimate
    weight = np.sqrt(np.abs(cross))
    cross = np.divide(cross, weight, out=np.zeros_like(cross), where=weight > 1e-9 * weight.max(initial=0.0))
    curve = np.abs(np.fft.irfft(cross, size))
    curve = np.concatenate([curve[size - reach :], curve[: reach + 1]])  # lags -reach .. reach
    lag = int(curve.argmax()) - reach
    if lag == 0 or curve.max() < 8 * np.median(curve):
        return 0
    near = int(DELAY_LIMIT_MS * SAMPLE_RATE / 1000)
    if abs(lag) <= near:
        return lag if curve.max() > 1.01 * curve[reach] else 0
    return lag if curve.max() > 1.5 * curve[max(reach - near, 0) : reach + near + 1].max() else 0


def looks_swapped(clean: np.ndarray, noisy: np.ndarray) -> bool:
    """Whether the "clean" signal has the higher floor: adding noise cannot lower the quietest tenth of the frames."""
    return _floor_db(clean) > _floor_db(noisy) + 3.0


def pesq_segments(clean: np.ndarray) -> list[tuple[int, int]]:
    """`[(start, stop)]` in samples: the whole under 30 s, else pieces of 10 to 20 s cut where 50 ms are quietest."""
    frames = len(clean)
    if frames <= PESQ_WHOLE_SECONDS * SAMPLE_RATE:
        return [(0, frames)]
    longest, hop = int(PESQ_SEGMENT_SECONDS * SAMPLE_RATE), SAMPLE_RATE // 20
    energy = np.square(clean[: frames // hop * hop].astype(np.float64)).reshape(-1, hop).sum(axis=1)
    segments, start = [], 0
    while frames - start > longest:
        # not nearer to the end than half a segment: no scrap may be left over
        first, last = start + longest // 2, min(start + longest, frames - longest // 2)
        window = energy[first // hop : last // hop]
        stop = (first // hop + int(window.argmin())) * hop + hop // 2 if len(window) else first
        segments.append((start, stop))
        start = stop
    return [*segments, (start, frames)]


def _floor_db(x: np.ndarray, hop: int = SAMPLE_RATE // 50) -> float:
    if len(x) < hop:
        return 0.0
    power = np.square(x[: len(x) // hop * hop].astype(np.float64)).reshape(-1, hop).mean(axis=1)
    return float(10 * np.log10(np.quantile(power, 0.1) + 1e-12))


def _little_speech(clean: np.ndarray, detail: str) -> MetricFailure:
    return MetricFailure("too_short" if len(clean) < 0.4 * SAMPLE_RATE else "no_speech", detail)

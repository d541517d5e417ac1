"""Sound from a microphone or a file, through a `Stream`, to a loudspeaker or a file: what `nr live` does.

A source is a rate, a channel count and blocks that come; a sink is a function that takes blocks. Devices are
sounddevice's (the extra `live`), which is imported only where one is asked for.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement.streaming import Stream

BLOCK_SECONDS = 0.02
WAITING_SECONDS = 10.0  # of sound from the microphone may wait; what comes then is lost, and said to be
METER_DB = 60  # the meter's range under full scale, 3 dB a sign


@dataclass
class Source:
    """`blocks` are float32 (n, channels)."""

    sample_rate: int
    channels: int
    blocks: Iterator[np.ndarray]


def take(source: Source, seconds: float) -> np.ndarray:
    """The next `seconds` of a source, `(samples, channels)`. Raises `UserError` where it ends before."""
    wanted = round(seconds * source.sample_rate)
    taken = [np.zeros((0, source.channels), np.float32)]
    while (have := sum(map(len, taken))) < wanted:
        block = next(source.blocks, None)
        if block is None:
            raise UserError(
                f"the sound ends after {have / source.sample_rate:.2f} s, before --ref-seconds does", "span"
            )
        taken.append(block)
    whole = np.concatenate(taken)
    source.blocks = itertools.chain([whole[wanted:]], source.blocks)
    return whole[:wanted]


def run(
    source: Source, stream: Stream, put: Callable[[np.ndarray], None], meter: Callable[[str], None], stop: Any
) -> float:
    """Until the source ends or `stop.is_set()`: seconds of sound put out. All that was heard comes out."""
    done, heard = 0, np.zeros((0, source.channels), np.float32)
    for block in source.blocks:
        if stop.is_set():
            break
        heard = np.concatenate([heard, block])
        made = stream.feed(block)
        if len(made):
            put(made)
            meter(f"in {bar(heard)}  out {bar(made)}")
            done, heard = done + len(made), heard[:0]
    rest = stream.flush()
    put(rest)
    return (done + len(rest)) / source.sample_rate


def bar(x: np.ndarray) -> str:
    """RMS level as a bar of fixed width and a number."""
    decibels = max(audio.rms_dbfs(x.ravel()), -float(METER_DB))
    filled = round((decibels + METER_DB) / 3)
    return f"[{'#' * filled:<{METER_DB // 3}}] {decibels:4.0f} dB"


def file_source(path: Path) -> Source:
    """A file in place of the microphone, as fast as it can be read."""
    info = audio.probe(path)
    return Source(info.sample_rate, info.channels, audio.blocks(path, max(round(BLOCK_SECONDS * info.sample_rate), 1)))


@contextlib.contextmanager
def microphone(name: str | None, stop: Any) -> Iterator[Source]:
    """An input device at its own rate, one channel, until `stop.is_set()`."""
    devices = sounddevice()
    with _told("microphone"):
        rate = int(devices.query_devices(_device(name), "input")["default_samplerate"])
        waiting: queue.Queue[np.ndarray] = queue.Queue(int(WAITING_SECONDS / BLOCK_SECONDS))
        lost = 0

        def heard(block: np.ndarray, frames: int, time: Any, status: Any) -> None:
            nonlocal lost
            try:
                waiting.put_nowait(block.copy())
            except queue.Full:
                lost += frames

        def blocks() -> Iterator[np.ndarray]:
            while not stop.is_set():
                with contextlib.suppress(queue.Empty):  # so that `stop` is looked at
                    yield waiting.get(timeout=0.2)

        size = round(BLOCK_SECONDS * rate)
        with devices.InputStream(rate, size, _device(name), channels=1, dtype="float32", callback=heard):
            yield Source(rate, 1, blocks())
        if lost:
            warnings.warn(
                f"{lost / rate:.1f} s were lost, this machine is too slow: try --chunk-seconds 1", stacklevel=2
            )


@contextlib.contextmanager
def loudspeaker(name: str | None, source: Source, ahead_seconds: float) -> Iterator[Callable[[np.ndarray], None]]:
    """An output device at the source's rate; `ahead_seconds` of silence first, so that it does not run dry between two
    chunks."""
    devices = sounddevice()
    with (
        _told("loudspeaker"),
        devices.OutputStream(
            source.sample_rate, device=_device(name), channels=source.channels, dtype="float32", latency="high"
        ) as out,
    ):
        out.write(np.zeros((round(ahead_seconds * source.sample_rate), source.channels), np.float32))
        yield lambda x: out.write(np.ascontiguousarray(x))


def sounddevice() -> Any:
    """The package. Raises `UserError` where it, or the system's PortAudio, is not installed."""
    try:
        import sounddevice as package
    except ImportError:
        raise UserError("sounddevice is not installed: pip install 'nr[live]'", "extra") from None
    except OSError as e:
        raise UserError(f"{e}: install the system's package of PortAudio (libportaudio2)", "extra") from e
    return package


def _device(name: str | None) -> str | int | None:
    return int(name) if name is not None and name.isdigit() else name


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of devices in a sentence."""
    try:
        yield
    except (sounddevice().PortAudioError, ValueError) as e:
        raise UserError(f"the {what} cannot be used ({e}): nr live --list names the devices", "device") from e

"""Files in, enhanced files out: what `nr enhance` does, in bounded memory, one file after another.

The enhanced sound first goes to a nameless temporary file as float32, so that one gain for the whole file is known
before anything is quantised; then the output is written under a temporary name and renamed. `enhance.jsonl` beside the
outputs says with which model, reference, seed and versions each was made: the same command again skips what it finds
there, any other is refused without `--force`.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from nrdata import audio, environment, files
from nrdata.errors import UserError
from nrmodel import enhance, speech_activity
from nrmodel.enhance_jobs import Job, Outcome

PEAK = 0.999  # integer formats clip above 1: a louder output is brought here, by one gain for the whole file
LOG = "enhance.jsonl"
KEPT_SUBTYPES = {"PCM_24": "PCM_24", "PCM_32": "PCM_32", "FLOAT": "FLOAT", "DOUBLE": "FLOAT"}  # the rest: PCM_16
WAV_LIMIT = 2**32 - 2**16  # bytes of sound that a WAV header can count
Progress = Callable[[float], None]  # called with the seconds of sound just done


def enhance_files(
    model: Any,
    jobs: Sequence[Job],
    nfe: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
    keep_rest: bool = False,
) -> Iterator[Outcome]:
    """Do the jobs one by one; a file that fails becomes an `Outcome` with its reason, and the next one follows.

    `keep_rest`: only what the clip holds goes. Raises `UserError` before any work where an output exists that the same
    command did not make (unless `force`).
    """
    settings = [_settings(model, job, nfe, seed) | ({"keep_rest": True} if keep_rest else {}) for job in jobs]
    made = [None if force else _made(job, wanted) for job, wanted in zip(jobs, settings, strict=True)]
    references = _References(model, keep_rest)
    for job, wanted, row in zip(jobs, settings, made, strict=True):
        outcome = Outcome(job)
        try:
            if row is not None:
                outcome.status = "partial" if row["partial"] else "kept"
                outcome.notes = ["was cut short: the output of its readable part is kept"] if row["partial"] else []
            else:
                _enhance_file(model, job, wanted, nfe, seed, references, outcome, progress)
        except UserError as e:
            outcome.status, outcome.notes = "failed", [*outcome.notes, str(e)]
        yield outcome


def _enhance_file(
    model: Any,
    job: Job,
    settings: dict[str, Any],
    nfe: int | None,
    seed: int,
    references: _References,
    outcome: Outcome,
    progress: Progress | None,
) -> None:
    info = audio.probe(job.noisy, tolerant=True)
    rate, channels = info.sample_rate, info.channels
    suffix = job.out.suffix.lower()
    subtype = _subtype(info.subtype, suffix)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    for path in job.outputs:
        _, outcome.subtype = audio.container(path, rate, channels, subtype)
    block = int(enhance.BLOCK_SECONDS * rate)
    source = _Source(job.noisy, block, rate, outcome)
    measured = enhance.measure(model, source.blocks(), rate)
    outcome.seconds = measured.frames / rate
    width = {"PCM_16": 2, "PCM_24": 3}.get(outcome.subtype, 4)
    if suffix == ".wav" and measured.frames * channels * width > WAV_LIMIT:
        raise UserError(f"{job.out} would be over 4 GiB: name it .flac in a --pairs CSV", kind="container")
    z_r = references.of(job, rate, measured.frames, outcome)
    if references.keep_rest:
        enhance.check_clip(z_r)
    with tempfile.TemporaryFile(dir=job.out.parent) as spool:
        peak = 0.0
        for y in enhance.enhance_blocks(model, source.blocks(), measured, rate, z_r, nfe, seed):
            spool.write(y.tobytes())
            peak = max(peak, float(np.abs(y).max()))
            if progress is not None:
                progress(len(y) / rate)
        if job.residual:
            parts = zip(source.blocks(), _spooled(spool, block, channels), strict=True)
            peak = max(peak, *(float(np.abs(x - y).max()) for x, y in parts))
        if outcome.subtype != "FLOAT" and peak > PEAK:
            outcome.gain = PEAK / peak
            outcome.notes.append(f"peak {peak:.3f}: the whole file is scaled by {20 * np.log10(outcome.gain):.2f} dB")
        _log(job, settings, outcome)
        gain = np.float32(outcome.gain)
        if job.residual:
            with audio.writer(job.residual_out, rate, channels, outcome.subtype) as put:
                for x, y in zip(source.blocks(), _spooled(spool, block, channels), strict=True):
                    put((x - y) * gain)
        with audio.writer(job.out, rate, channels, outcome.subtype) as put:  # last: its name means done
            for y in _spooled(spool, block, channels):
                put(y * gain)


def _spooled(spool: IO[bytes], block: int, channels: int) -> Iterator[np.ndarray]:
    spool.seek(0)
    while data := spool.read(block * channels * 4):
        yield np.frombuffer(data, np.float32).reshape(-1, channels)


@dataclass
class _Source:
    """The readable part of a file, as often as needed, in equal blocks; a cut is noted once."""

    path: Path
    block: int
    rate: int
    outcome: Outcome

    def blocks(self) -> Iterator[np.ndarray]:
        done = 0
        try:
            for x in audio.blocks(self.path, self.block):
                done += len(x)
                yield x
        except UserError as e:
            if e.kind != "truncated" or not done:
                raise
            if self.outcome.status != "partial":
                self.outcome.status = "partial"
                self.outcome.notes.append(f"{e} (the first {done / self.rate:.2f} s)")


class _References:
    """The embedded reference of each job; a clip shared by neighbouring jobs is read and embedded once."""

    def __init__(self, model: Any, keep_rest: bool = False):
        self.model, self.keep_rest = model, keep_rest
        self.path: Path | None = None
        self.last: tuple[torch.Tensor | None, list[str], np.ndarray, str] | None = None

    def of(self, job: Job, rate: int, frames: int, outcome: Outcome) -> torch.Tensor | None:
        """z_r, or None for the null reference; says in `outcome` what it is and what is doubtful about it."""
        if job.span is not None:
            start, stop = self._span(job, rate, frames, outcome)
            if stop <= start:
                return None
            clip = _stretch(job.noisy, start, stop)
            z_r, notes, _ = self._embed(clip, rate)
            used = f"{start / rate:.2f}-{stop / rate:.2f} s of the file itself"
        elif job.ref is not None:
            if self.last is None or self.path != job.ref:
                self.last, self.path = self._read(job.ref), job.ref
            z_r, notes, mono, used = self.last
            if enhance.same_sound(mono, self._start(job.noisy)):
                z_r = None
                speech = speech_activity.holds_speech(mono) if len(mono) else False
                what = "is the noisy file itself" + (" and contains speech" if speech else "")
                notes = [f"{what}: works without reference (--ref-span auto looks for a pause)"]
        else:
            return None
        outcome.notes += [f"the reference {note}" for note in notes]
        outcome.reference = used if z_r is not None else "none"
        return z_r

    def _read(self, path: Path) -> tuple[torch.Tensor | None, list[str], np.ndarray, str]:
        clip, rate, cut = _beginning(path)
        z_r, notes, mono = self._embed(clip, rate)
        notes = [*cut, *notes]
        used = f"{path.name}, {len(clip) / rate:.2f} s"
        if rate != self.model.sample_rate:
            used += f", {rate} -> {self.model.sample_rate} Hz"
        return z_r, notes, mono, used

    def _embed(self, clip: np.ndarray, rate: int) -> tuple[torch.Tensor | None, list[str], np.ndarray]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", audio.ChannelsCancel)
            z_r, notes = enhance.embed_reference(self.model, clip, rate, self.keep_rest)
            mono = audio.resample(audio.to_mono(clip), rate, speech_activity.RATE)
        cancel = [f": {w.message}" for w in caught if issubclass(w.category, audio.ChannelsCancel)]
        return z_r, [*cancel[:1], *notes], mono

    def _start(self, path: Path) -> np.ndarray:
        clip, rate, _ = _beginning(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", audio.ChannelsCancel)
            return audio.resample(audio.to_mono(clip), rate, speech_activity.RATE)

    def _span(self, job: Job, rate: int, frames: int, outcome: Outcome) -> tuple[int, int]:
        if isinstance(job.span, tuple):
            start, stop = (round(seconds * rate) for seconds in job.span)
            if stop > frames:
                raise UserError(f"{job.noisy} ends at {frames / rate:.2f} s, before --ref-span does", kind="span")
            return start, min(stop, start + int(enhance.MAX_REF_SECONDS * rate))
        start, stop = self._pause(job, rate)
        if (stop - start) / rate < enhance.MIN_REF_SECONDS:
            outcome.notes.append("no speech-free stretch of 0.25 s found: works without reference")
            return 0, 0
        return start, stop

    def _pause(self, job: Job, rate: int) -> tuple[int, int]:
        """The longest pause of the file, [start, stop) at its rate; of a long file, in one of its blocks."""
        best = (0, 0)
        done = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", audio.ChannelsCancel)
            for block in _Source(job.noisy, int(enhance.BLOCK_SECONDS * rate), rate, Outcome(job)).blocks():
                mono = audio.resample(audio.to_mono(block), rate, speech_activity.RATE)
                start, stop = (done + i * rate // speech_activity.RATE for i in speech_activity.longest_pause(mono))
                best = max(best, (start, stop), key=lambda span: span[1] - span[0])
                done += len(block)
        limit = int(enhance.MAX_REF_SECONDS * rate)
        return best[0], min(best[1], best[0] + limit)


def _beginning(path: Path) -> tuple[np.ndarray, int, list[str]]:
    """The first `MAX_REF_SECONDS` of a file, its rate, and a note where it is cut short before that."""
    rate = audio.probe(path, tolerant=True).sample_rate
    limit, notes = int(enhance.MAX_REF_SECONDS * rate), []
    blocks = audio.blocks(path, limit)
    clip = next(blocks)
    try:
        if len(clip) < limit:
            next(blocks, None)
    except UserError as e:
        if e.kind != "truncated":
            raise
        notes = [f"is cut short: {e}"]
    return clip, rate, notes


def _stretch(path: Path, start: int, stop: int) -> np.ndarray:
    """Samples [start, stop) of a file, even of one that is cut short later."""
    parts, done = [], 0
    for x in audio.blocks(path, audio.BLOCK):
        parts.append(x[max(start - done, 0) : max(stop - done, 0)])
        done += len(x)
        if done >= stop:
            break
    return np.concatenate(parts)


def _subtype(subtype: str, suffix: str) -> str | None:
    """The depth of the input, where the container has it."""
    kept = KEPT_SUBTYPES.get(subtype, "PCM_16")
    if suffix == ".flac" and kept != "PCM_16":
        return "PCM_24"
    return kept if suffix in (".wav", ".wave", ".flac") else None


# --- what was done ----------------------------------------------------------------------------------------------------


def _settings(model: Any, job: Job, nfe: int | None, seed: int) -> dict[str, Any]:
    span = list(job.span) if isinstance(job.span, tuple) else job.span
    return {
        "noisy_sha256": _sha256(job.noisy),
        "ref_sha256": _sha256(job.ref) if job.ref else "",
        "ref_span": span or "",
        "model": model.digest,
        "nfe": nfe or model.nfe,
        "seed": seed,
        "residual": job.residual,
    }


def _sha256(path: Path) -> str:
    """Of the file's bytes; empty where it cannot be read (the job will say why)."""
    try:
        return files.sha256(path)
    except OSError:
        return ""


def _made(job: Job, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The log's row of a finished output of these settings; None where work is to be done. The output itself is renamed
    last, so a row without it, or with the residual alone, is an interrupted job of this command."""
    row = _logged(job)
    same = row is not None and row["settings"] == settings
    there = [path for path in job.outputs if path.exists()]
    if there and (not same or (job.out in there and len(there) < len(job.outputs))):
        raise UserError(f"{there[0]} exists and was not made by this command: --force overwrites it", kind="exists")
    return row if job.out in there else None


def _logged(job: Job) -> dict[str, Any] | None:
    log = job.out.parent / LOG
    rows = []
    if log.is_file():
        lines = log.read_text(encoding="ascii", errors="replace").splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]
    return next((row for row in reversed(rows) if row["out"] == job.out.name), None)


def _log(job: Job, settings: dict[str, Any], outcome: Outcome) -> None:
    row = {
        "out": job.out.name,
        "noisy": job.noisy.name,
        "partial": outcome.status == "partial",
        "reference": outcome.reference,
        "gain": outcome.gain,
        "settings": settings,
        "made_with": environment.provenance(),
    }
    with (job.out.parent / LOG).open("a", encoding="ascii") as file:
        file.write(json.dumps(row, allow_nan=False, ensure_ascii=True) + "\n")

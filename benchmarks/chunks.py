"""Chunks against the whole file: `python benchmarks/chunks.py ../shared/data/corpus --out results/chunks`.

DATA holds speech.csv, noise.csv and their files at 16 kHz. Mixtures of its test split at 0 and 5 dB, as one window and
as a stream of chunks with less and more of the past before and of the sound after them (`--settings CHUNK:PAST:AFTER`,
in seconds, with commas between), without a reference and with a second of the same recording. Writes measured.jsonl and
table.md; where rows are there, it goes on behind them. The real-time factor is processor time of one thread over
duration, so that other work on the machine does not count, but for the caches.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import torch

import nrmodel
from nrdata import audio
from nrmodel.defaults import default_checkpoint
from nrmodel.enhancement.streaming import CONTEXT_SECONDS, LOOK_SECONDS, Stream
from nrmodel.evaluation.metrics import pesq_wb, si_sdr
from nrmodel.evaluation.statistics import interval

RATE = 16000
SNRS_DB = (0, 5)
SHIPPED = f"{CONTEXT_SECONDS}:{LOOK_SECONDS}"
SETTINGS = f"0.5:0.5:0.128,0.5:{CONTEXT_SECONDS}:0.128,0.5:{SHIPPED},1.0:{SHIPPED}"
MAX_SECONDS = 10.0  # one window of the whole file


@dataclass(frozen=True)
class Row:
    """One mixture through one setting; `chunk_seconds` 0 is the whole file."""

    speaker: str
    environment: str
    recording: str
    snr_db: int
    reference: bool
    chunk_seconds: float
    context_seconds: float
    latency_seconds: float
    si_sdr: float
    pesq_wb: float
    real_time_factor: float


def mixtures(data: Path, count: int) -> Iterator[tuple[tuple, np.ndarray, np.ndarray, np.ndarray]]:
    """(facts, clean, noisy, clip), float32 (samples,): speakers and recordings of the test split in turn."""
    with (data / "speech.csv").open() as speech, (data / "noise.csv").open() as noise:
        rows = [[row for row in csv.DictReader(file) if row["split"] == "test"] for file in (speech, noise)]
    utterances = {row["speaker"]: row for row in sorted(rows[0], key=lambda row: row["path"])}
    recordings = {row["environment"]: row for row in sorted(rows[1], key=lambda row: row["path"])}
    speakers, places = sorted(utterances), sorted(recordings)
    for i in range(count):
        utterance, recording = utterances[speakers[i % len(speakers)]], recordings[places[i % len(places)]]
        clean, bed = (audio.read(data / row["path"])[0][:, 0] for row in (utterance, recording))
        clean = clean[: min(len(bed) - 2 * RATE, int(MAX_SECONDS * RATE))]
        noise, clip, snr_db = bed[: len(clean)], bed[-RATE:], SNRS_DB[i % len(SNRS_DB)]
        gain = np.float32(np.sqrt(np.sum(clean**2) / np.sum(noise**2)) * 10 ** (-snr_db / 20))
        facts = (utterance["speaker"], recording["environment"], recording["recording"], snr_db)
        yield facts, clean, clean + gain * noise, gain * clip


def in_chunks(stream: Stream, noisy: np.ndarray) -> np.ndarray:
    """Fed as a microphone would, 10 ms at a time."""
    step = RATE // 100
    parts = [stream.feed(noisy[i : i + step]) for i in range(0, len(noisy), step)]
    return np.concatenate([*parts, stream.flush()])


def measured(
    model: nrmodel.Model, data: Path, count: int, settings: list[tuple[float, ...]], done: set[tuple]
) -> Iterator[Row]:
    for facts, clean, noisy, clip in mixtures(data, count):
        for reference in (False, True):
            ref = clip if reference else None
            for chunk, context, look in ((0.0, 0.0, 0.0), *settings):
                begin = time.process_time()
                stream = Stream(model, RATE, ref, None, chunk, context, look) if chunk else None
                latency = round(stream.latency_seconds, 3) if stream else 0.0
                if (*facts, reference, chunk, context, latency) in done:
                    continue
                y = in_chunks(stream, noisy) if stream else model.enhance(noisy, RATE, ref)
                factor = (time.process_time() - begin) / (len(noisy) / RATE)
                scores = (round(metric(clean, y), 3) for metric in (si_sdr, pesq_wb))
                yield Row(*facts, reference, chunk, context, latency, *scores, round(factor, 3))


def table(rows: list[Row], model: str) -> str:
    """A row a setting: latency, what it scores, and its difference to the whole file, file by file."""
    files = len({(row.speaker, row.recording) for row in rows})
    heads = ("chunk", "past", "latency", "SI-SDR, dB", "minus whole", "PESQ-WB", "minus whole", "real-time factor")
    parts = [f"# Chunks against the whole file\n\n{files} mixtures at 0 and 5 dB, model {model}, no sound resampled. "]
    parts.append("Brackets: 95 % intervals by place and speaker.\n")
    parts.append("Real-time factor: median processor time of one thread for a second of sound.\n")
    for reference, title in ((False, "Without a reference"), (True, "With a second of the noise")):
        whole = {r.recording + r.speaker: r for r in rows if r.reference == reference and not r.chunk_seconds}
        parts.append(f"\n## {title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n")
        for setting in dict.fromkeys((r.chunk_seconds, r.context_seconds, r.latency_seconds) for r in rows):
            own = [r for r in rows if (r.chunk_seconds, r.context_seconds, r.latency_seconds) == setting]
            own = [r for r in own if r.reference == reference]
            cells = ["whole", "", ""] if not setting[0] else [f"{seconds:g} s" for seconds in setting]
            labels = (np.array([r.environment for r in own]), np.array([r.speaker for r in own]))
            for name, digits in (("si_sdr", 2), ("pesq_wb", 3)):
                values = np.array([getattr(r, name) for r in own])
                cells.append(f"{values.mean():.2f}")
                of = interval(values - [getattr(whole[r.recording + r.speaker], name) for r in own], *labels)
                limits = "" if of.low is None else f" [{of.low:.{digits}f}, {of.high:.{digits}f}]"
                cells.append(f"{of.mean:+.{digits}f}{limits}" if setting[0] else "")
            cells.append(f"{np.median([r.real_time_factor for r in own]):.2f}")
            parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mixtures", type=int, default=24)
    parser.add_argument("--settings", default=SETTINGS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = [tuple(map(float, pair.split(":"))) for pair in options.settings.split(",")]
    model = nrmodel.load(default_checkpoint()[0])
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "measured.jsonl").open("a+") as file:
        file.seek(0)
        rows = [Row(**json.loads(line)) for line in file]
        done = {astuple(row)[:8] for row in rows}
        for row in measured(model, options.data, options.mixtures, settings, done):
            rows.append(row)
            print(json.dumps(asdict(row)), file=file, flush=True)
    (options.out / "table.md").write_text(table(rows, model.digest[:8]))


if __name__ == "__main__":
    main()

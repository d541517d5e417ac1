"""How clips and pauses are judged: `python benchmarks/clips.py CORPUS [--half 1] [--clips 8] [--files 60]`.

CORPUS holds noise.csv (path, environment), speech.csv (path, speaker) and the sound that they name. Printed: one-second
clips of noise that are refused or warned of, with the worst environments, and clips of speech that pass; what
`--ref-span auto` finds in files of two sentences in noise, a pause of 1.2 s between: this pause, a stretch of 0.25 s
without speech, or one with speech in it; processor seconds for an hour of sound. Speakers and recordings fall into two
halves by their names: thresholds were chosen on half 0, and half 1 is what is reported.
"""

from __future__ import annotations

import argparse
import csv
import time
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from nrdata import audio
from nrmodel.enhancement import clip, speech_activity

RATE = speech_activity.RATE
PAUSE_SECONDS = 1.2
SNRS_DB = (0, 5, 10)
LEAK = 0.1  # power of speech over that of noise in the clip, from which speech is let in


def by(corpus: Path, table: str, column: str, half: int | None) -> dict[str, list[Path]]:
    """Paths of a table of the corpus, grouped by a column; of a half of the speakers or of the recordings."""
    groups = defaultdict(list)
    with (corpus / table).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row[column] if table == "speech.csv" else Path(row["path"]).name
            if half is None or zlib.crc32(name.encode()) % 2 == half:
                groups[row[column]].append(corpus / row["path"])
    return groups


def sound(path: Path) -> np.ndarray:
    """Mono at `RATE`."""
    x, rate = audio.read(path)
    return audio.resample(audio.to_mono(x), rate, RATE)


def second(paths: list[Path], rng: np.random.Generator) -> np.ndarray | None:
    """A second of one of the files; None where it is shorter or digitally silent."""
    x = sound(paths[rng.integers(len(paths))])
    start = int(rng.integers(max(len(x) - RATE, 0) + 1))
    x = x[start : start + RATE]
    return x if len(x) == RATE and x.any() else None


def judged(groups: dict[str, list[Path]], each: int, rng: np.random.Generator) -> dict[str, list[clip.Judged]]:
    """Up to `each` clips of a group."""
    seconds = {name: [second(paths, rng) for _ in range(each)] for name, paths in groups.items()}
    return {name: [clip.judge(x, RATE, x) for x in clips if x is not None] for name, clips in seconds.items()}


def clips(corpus: Path, each: int, half: int | None) -> None:
    rng = np.random.default_rng(0)
    noise = judged(by(corpus, "noise.csv", "environment", half), each, rng)
    speakers = by(corpus, "speech.csv", "speaker", half)
    speech = judged(speakers, max(1, 25 * each // len(speakers)), rng)
    for what, groups in (("noise", noise), ("speech", speech)):
        every = [one for group in groups.values() for one in group]
        refused = np.mean([one.speech >= clip.IS_SPEECH for one in every])
        told = np.mean([clip.HOLDS_SPEECH <= one.speech < clip.IS_SPEECH for one in every])
        passed = np.mean([one.speech < clip.HOLDS_SPEECH for one in every])
        print(f"{len(every)} clips of {what}: {refused:.1%} refused, {told:.1%} warned of, {passed:.1%} pass")
    noise = {name: group for name, group in noise.items() if group}
    worst = {name: np.mean([one.speech >= clip.HOLDS_SPEECH for one in group]) for name, group in noise.items()}
    named = sorted(worst.items(), key=lambda item: -item[1])[:6]
    print("worst (refused or warned of): " + ", ".join(f"{name} {share:.0%}" for name, share in named))


def with_pause(
    corpus: Path, rng: np.random.Generator, snr_db: float, half: int | None
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Two sentences of a speaker around a pause, the noise throughout, and where the pause is."""
    speakers = [paths for paths in by(corpus, "speech.csv", "speaker", half).values() if len(paths) > 1]
    paths = speakers[rng.integers(len(speakers))]
    first, last = (trimmed(sound(paths[i])) for i in rng.choice(len(paths), 2, replace=False))
    talk = np.concatenate([first, np.zeros(int(PAUSE_SECONDS * RATE), np.float32), last])
    environments = list(by(corpus, "noise.csv", "environment", half).values())
    while True:
        found = environments[rng.integers(len(environments))]
        noise = np.resize(sound(found[rng.integers(len(found))]), len(talk))
        if noise.any():
            break
    gain = np.sqrt(audio.power(np.concatenate([first, last])) / audio.power(noise)) * 10 ** (-snr_db / 20)
    return talk, np.float32(gain) * noise, len(first), len(first) + int(PAUSE_SECONDS * RATE)


def trimmed(x: np.ndarray) -> np.ndarray:
    """Speech at a level of 0.05 from its first loud instant to its last."""
    x = x * np.float32(0.05 / audio.rms(x))
    loud = np.flatnonzero(np.convolve(x**2, np.ones(400) / 400, "same") > 1e-5)
    return x[loud[0] : loud[-1]]


def pauses(corpus: Path, files: int, half: int | None) -> None:
    spent = seconds = 0.0
    for snr_db in SNRS_DB:
        rng = np.random.default_rng(1 if half is None else 100 + half)
        found = clean = leaked = 0
        for _ in range(files):
            talk, noise, start, stop = with_pause(corpus, rng, snr_db, half)
            x = talk + noise
            began = time.process_time()
            first, last = speech_activity.longest_pause(x)
            spent, seconds = spent + time.process_time() - began, seconds + len(x) / RATE
            inside = max(min(last, stop) - max(first, start), 0)
            found += inside >= RATE // 4
            within = slice(first, last)
            if last - first >= RATE // 4:
                speech = audio.power(talk[within]) > LEAK * audio.power(noise[within])
                leaked, clean = leaked + speech, clean + (not speech)
        shares = f"pause found in {found / files:.0%}, a clip without speech in {clean / files:.0%}"
        print(f"{snr_db} dB, {files} files: {shares}, speech let in in {leaked / files:.1%}")
    print(f"{3600 * spent / seconds:.0f} processor seconds for an hour of sound")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--clips", type=int, default=8, help="of an environment")
    parser.add_argument("--files", type=int, default=60, help="of an SNR; 0: no pauses")
    parser.add_argument("--half", type=int, choices=(0, 1), help="of speakers and recordings (default: all)")
    given = parser.parse_args()
    if given.files:
        pauses(given.corpus, given.files, given.half)
    clips(given.corpus, given.clips, given.half)

"""Miniature corpora on disk, in the layouts that the builders take."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import soundfile as sf
from helpers import RATE, noise, speech

from cli.main import run

# Lines of the published logs: utterance, environment, SNR in dB.
TRAIN_LOG = """\
p236_002 babble 15
p236_003 babble 10
p236_005 babble 5
p226_001 cafeteria 0
p287_001 kitchen 15
p243_001 ssn 5
"""
TEST_LOG = """\
p257_001 bus 1.750000e+01
p257_002 bus 1.250000e+01
p232_003 psquare 7.500000e+00
"""


def bare_folders(root: Path, speakers: int = 4, environments: int = 3, recordings: int = 4) -> tuple[Path, Path]:
    """(speech, noise): `<speaker>/<n>.wav` of 2 to 3 s, `<environment>/<recording>.wav` of 5 s."""
    for s in range(speakers):
        for n in range(2):
            write(root / "speech" / f"s{s}" / f"{n}.wav", speech(2.0 + n, seed=10 * s + n))
    for e in range(environments):
        for r in range(recordings):
            write(root / "noise" / f"place{e}" / f"r{r}.wav", noise(5.0, e, seed=r))
    return root / "speech", root / "noise"


def indexed(root: Path, more: dict[str, str] | None = None) -> tuple[Path, Path]:
    """(speech index, noise index) with the splits fixed: 2 speakers and 2 recordings of 2 environments a split."""
    more = more or {}
    speech_rows, noise_rows = [], []
    for s, split in enumerate(("train", "train", "valid", "test")):
        path = f"speech/s{s}/a.flac"
        write(root / path, 0.4 * speech(3.5, seed=s))
        speech_rows.append({"path": path, "split": split, "speaker": f"s{s}", "license": "CC0", **more})
    for split in ("train", "valid", "test"):
        for e in range(2):
            for r in range(2):
                path = f"noise/place{e}/{split}{r}.flac"
                write(root / path, noise(5.0, e, seed=10 * len(split) + r))
                row = {"path": path, "split": split, "environment": f"place{e}", "recording": f"{split}{r}"}
                noise_rows.append({**row, "license": "CC-BY-4.0", **more})
    return table(root / "speech.csv", speech_rows), table(root / "noise.csv", noise_rows)


def voicebank(root: Path, rate: int = 48000) -> Path:
    """Every line of the two logs, as the corpus is published: folders of WAV, `logfiles/` beside them."""
    for part, log in (("trainset_28spk", TRAIN_LOG), ("testset", TEST_LOG)):
        logs = root / "logfiles"
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"log_{part}.txt").write_text(log)
        for i, line in enumerate(log.splitlines()):
            utterance, _, snr_db = line.split()
            clean = 0.3 * speech(1.2, seed=i, rate=rate)
            bed = noise(1.2, i % 3, seed=i, rate=rate)
            bed *= np.sqrt(np.mean(clean**2) / np.mean(bed**2)) * 10 ** (-float(snr_db) / 20)
            write(root / f"clean_{part}_wav" / f"{utterance}.wav", clean, rate)
            write(root / f"noisy_{part}_wav" / f"{utterance}.wav", clean + bed, rate)
    return root


def write(path: Path, x: np.ndarray, rate: int = RATE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, x, rate, **options)
    return path


def table(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def build(*argv: object) -> int:
    """`nr build-shards ...` in this process: its exit code."""
    return run(["build-shards", *map(str, argv)])


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every shard and index in a data set."""
    files = [p for p in folder.iterdir() if p.suffix == ".tar" or p.name.endswith(".index.jsonl")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}

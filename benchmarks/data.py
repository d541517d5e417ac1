"""Speed of the data pipeline, as ratios measured in one run: `python benchmarks/data.py [--rows 100000]`.

Times are CPU seconds of one process and one thread, the best of several rounds taken in turn, so that a busy machine
changes them little. Sound: speech-like and noise-like, 10 s samples at 16 kHz, crops of 2 s, references of 1 s.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import nrdata
from nrdata import audio
from nrdata.builders import build
from nrdata.builders.plan import Options, Plan, Shard
from nrdata.builders.synthesis.scenes import SCENES, recording
from nrdata.builders.synthesis.voices import utterance, voice
from nrdata.sampling.stream import Stream, StreamConfig
from nrdata.sampling.transforms import decode_audio
from nrdata.store.dataset import DataSet
from nrdata.store.gather import write_manifest
from nrdata.store.shard import ShardWriter
from nrdata.store.triplet import mix
from nrmodel.diffusion.spectrogram import Spectrogram

RATE, SAMPLES, BATCH, ROUNDS = 16000, 96, 16, 12
CROP, REF_SECONDS = 2 * RATE, 1.0


def cost(work: Callable[[], int]) -> float:
    """CPU seconds an item of one call; `work` returns the number of items."""
    start = time.process_time()
    items = work()
    return (time.process_time() - start) / items


def compare(**contenders: Callable[[], int]) -> dict[str, float]:
    """The lowest cost of each, measured in turn; the first round warms up and is not counted."""
    rounds = [{name: cost(work) for name, work in contenders.items()} for _ in range(ROUNDS + 1)][1:]
    return {name: min(one[name] for one in rounds) for name in contenders}


def make_dataset(folder: Path, seconds: float) -> DataSet:
    """Shards of `SAMPLES` samples in eight environments, a reserve of 2 s each."""
    folder.mkdir(parents=True)
    rng, scenes = np.random.default_rng(0), sorted(SCENES)[:8]
    frames, reserve = int(seconds * RATE), 2 * RATE
    with ShardWriter(folder / "train-000000.tar", RATE, True) as writer:
        for i in range(SAMPLES):
            env_id = f"synthetic/{scenes[i % 8]}"
            clean = np.resize(utterance(voice(rng), seconds + 1, rng), frames)
            bed = recording(scenes[i % 8], seconds + 3.1, rng)
            mixture = mix(clean, bed[:frames], 5.0, bed[frames + RATE :][:reserve])
            fields = {"env_id": env_id, "split": "train", "speaker": "synthetic/s", "recording": f"{env_id}/{i}",
                      "stretch": [0, frames], "meta": {}}  # fmt: skip
            writer.write(f"train-{i + 1:07d}", mixture, fields)
    write_manifest(folder, name=folder.name)
    return nrdata.open(folder)


def stream_of(dataset: DataSet, **config: Any) -> Stream:
    return Stream(dataset, "train", StreamConfig(BATCH, CROP, ref_seconds=REF_SECONDS, **config))


def an_epoch(stream: Stream, epochs: Iterator[int]) -> Iterator[Any]:
    epoch = next(epochs)
    return (stream.batch(epoch, index) for index in range(stream.batches_per_epoch))


def waveforms(dataset: DataSet, folder: Path) -> dict[str, float]:
    """Up to waveform batches: our stream, (a) stock webdataset decoding whole, (c) the bare crops from memory."""
    stream, epochs = stream_of(dataset, law="disjoint"), iter(range(10**6))
    crops = []
    read = dataset.read

    def noting(split: str, row: int, field: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        crops.append((row, field, start, stop))
        return read(split, row, field, start, stop)

    dataset.read = noting  # type: ignore[method-assign]
    for _ in an_epoch(stream, iter([0])):
        pass
    dataset.read = read  # type: ignore[method-assign]
    members = {(row, field): _member(dataset, row, field) for row, field, _, _ in crops}

    def bare() -> int:
        for row, field, start, stop in crops:
            with soundfile.SoundFile(io.BytesIO(members[row, field])) as sound:
                sound.seek(start)
                sound.read(-1 if stop is None else stop - start, dtype="float32")
        return SAMPLES

    def ours() -> int:
        return sum(len(batch.key) for batch in an_epoch(stream, epochs))

    def stock() -> int:
        import webdataset

        source = webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False)
        return sum(1 for _ in source.decode(decode_audio))

    return compare(ours=ours, stock=stock, bare=bare)


def _member(dataset: DataSet, row: int, field: str) -> bytes:
    index, column = dataset.index("train"), ("clean", "json", "noise", "noisy", "ref").index(field)
    with Path(index.shard_files[index.shard[row]]).open("rb") as file:
        file.seek(int(index.offset[row, column]))
        return file.read(int(index.size[row, column]))


def spectrograms(dataset: DataSet, folder: Path) -> dict[str, float]:
    """Up to compressed spectrograms: our batches against two WAV files an item, item by item."""
    stream, epochs, transform = stream_of(dataset), iter(range(10**6)), Spectrogram()
    pairs = []
    for row in range(SAMPLES):
        pairs.append([folder / f"{row}-{field}.wav" for field in ("clean", "noisy")])
        for path in pairs[-1]:
            soundfile.write(path, dataset.read("train", row, path.stem.split("-")[1]), RATE, subtype="PCM_16")

    def ours() -> int:
        items = 0
        for batch in an_epoch(stream, epochs):
            waves = torch.from_numpy(np.concatenate([batch.clean, batch.noisy]))
            items += len(transform.forward(waves)) // 2
        return items

    window = torch.hann_window(transform.n_fft)

    def item(clean_file: Path, noisy_file: Path) -> tuple[torch.Tensor, torch.Tensor]:
        clean, noisy = (torch.from_numpy(soundfile.read(f, dtype="float32")[0])[None] for f in (clean_file, noisy_file))
        start = np.random.randint(clean.shape[1] - CROP + 1)
        clean, noisy = clean[:, start : start + CROP], noisy[:, start : start + CROP]
        level = noisy.abs().max()
        spectra = []
        for wave in (clean / level, noisy / level):
            z = torch.stft(wave, transform.n_fft, transform.hop, window=window, center=True, return_complex=True)
            spectra.append(transform.factor * z.abs() ** transform.exponent * torch.exp(1j * z.angle()))
        return spectra[0], spectra[1]

    def theirs() -> int:
        for first in range(0, SAMPLES, BATCH):
            items = [item(*pair) for pair in pairs[first : first + BATCH]]
            torch.stack([clean for clean, _ in items]), torch.stack([noisy for _, noisy in items])
        return SAMPLES

    return compare(ours=ours, theirs=theirs)


def sizes(dataset: DataSet, most: int) -> dict[int, tuple[float, float]]:
    """rows -> (seconds to the first batch from an index in memory, CPU seconds an item after it): the same members,
    listed again and again."""
    index, found = dataset.index("train"), {}
    columns = [f.name for f in dataclasses.fields(index) if isinstance(getattr(index, f.name), np.ndarray)]
    for rows in [n for n in (10**3, 10**4, 10**5, 10**6) if n <= most]:
        picked = np.arange(rows) % SAMPLES
        dataset._indexes["train"] = dataclasses.replace(index, **{c: getattr(index, c)[picked] for c in columns})
        start = time.process_time()
        stream = stream_of(dataset, law="env")
        stream.batch(0, 0)
        begun = time.process_time() - start

        def some(stream: Stream = stream) -> int:
            return sum(len(stream.batch(0, i * 7 % stream.batches_per_epoch).key) for i in range(12))

        found[rows] = (begun, compare(ours=some)["ours"])
    dataset._indexes["train"] = index
    return found


def building(folder: Path) -> dict[str, float]:
    """A build without rooms against the bare decoding of its sources and encoding of its members, per sample."""
    rng = np.random.default_rng(1)
    for i in range(12):
        files = {
            f"speech/s{i % 6}/u{i}.flac": np.resize(utterance(voice(rng), 8.0, rng), 7 * RATE),
            f"noise/{sorted(SCENES)[i % 4]}/r{i}.flac": recording(sorted(SCENES)[i % 4], 10.0, rng),
        }
        for name, sound in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name, sound, RATE, subtype="PCM_16")
    options = Options("folders", speech=(("local", folder / "speech"),), noise=(("local", folder / "noise"),),
                      unseen=(), hours=0.08)  # fmt: skip
    plan: Plan = build.make_plan(options)
    shard = max(build.shards(plan), key=lambda s: len(s.rows))
    (folder / "out").mkdir()

    def ours() -> int:
        build.make_shard(Shard(shard.name, shard.split, shard.rows), options, folder / "out", plan.has_ref)
        for path in (folder / "out").iterdir():
            path.unlink()
        return len(shard.rows)

    def bare() -> int:
        for row in shard.rows:
            for side, path in (("speech", row["speech"]["path"]), ("noise", row["noise"]["path"])):
                part = row[side]
                x, _ = soundfile.read(folder / side / path, start=part["start"], stop=part["stop"], dtype="int16")
                for _ in range(2 if side == "speech" else 1):  # clean and noisy, noise
                    audio.encode_flac(x, RATE)
            ref = row["ref"]
            x, _ = soundfile.read(folder / "noise" / row["noise"]["path"], start=ref["start"], stop=ref["stop"],
                                  dtype="int16")  # fmt: skip
            audio.encode_flac(x, RATE)
        return len(shard.rows)

    return compare(ours=ours, bare=bare)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a sample")
    parser.add_argument("--rows", type=int, default=10**5, help="largest split that is tried")
    args = parser.parse_args()
    torch.set_num_threads(1)

    def line(what: str, value: str, target: str = "") -> None:
        print(f"{what:<74}{value:>12}   {target}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = make_dataset(folder / "data", args.seconds)
        line(f"{SAMPLES} samples of {args.seconds:g} s; one thread, CPU time", "", "target")
        got = waveforms(dataset, folder / "data")
        line("stream: check, decode crops, reference, batch", f"{1e3 * got['ours']:.2f} ms/item")
        line("(a) stock webdataset, decoded whole", f"{1e3 * got['stock']:.2f} ms/item")
        line("(c) bare decoding of the same crops, from memory", f"{1e3 * got['bare']:.2f} ms/item")
        line("    items per second, stream over (a)", f"{got['stock'] / got['ours']:.1f} x", ">= 3")
        line("    the stream's own overhead over (c)", f"{100 * (got['ours'] / got['bare'] - 1):.0f} %", "< 40 %")
        (folder / "wav").mkdir()
        got = spectrograms(dataset, folder / "wav")
        line("stream and batch transform, to compressed spectrograms", f"{1e3 * got['ours']:.2f} ms/item")
        line("(b) two WAV files an item, whole, transformed item by item", f"{1e3 * got['theirs']:.2f} ms/item")
        line("    items per second, ours over (b)", f"{got['theirs'] / got['ours']:.1f} x", ">= 3")
        for rows, (begun, item) in sizes(dataset, args.rows).items():
            line(f"{rows:>9} rows: start {begun:.3f} s; then", f"{1e3 * item:.2f} ms/item", "flat")
        got = building(folder / "build")
        line("building, without rooms", f"{1e3 * got['ours']:.2f} ms/sample")
        line("bare decoding and encoding of the same", f"{1e3 * got['bare']:.2f} ms/sample")
        line("    throughput, building over bare", f"{100 * got['bare'] / got['ours']:.0f} %", ">= 80 %")


if __name__ == "__main__":
    main()

"""`nr inspect`: what is in a data set, in numbers and pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nrdata import drawing, files
from nrdata.audio.pairing import pairing
from nrdata.errors import UserError
from nrdata.fetch.remote import is_address
from nrdata.progress import Progress
from nrdata.store import card
from nrdata.store.dataset import DataSet
from nrdata.store.dataset import open as open_dataset
from nrdata.store.facts import REQUIRED, load_json
from nrdata.store.index import SplitIndex
from nrdata.store.manifest import NAME, read_manifest, tars
from nrdata.store.tar import members

HEARD = 32  # samples of a split whose noise is looked at for speech
BIN_DB = 2.5  # of the SNR histogram
DEVIATION_DB = 3.0  # between the SNR that a log claims and the measured one: listed
FRAME = 512  # samples of a spectrum
PER_ENVIRONMENT = 24  # samples its mean spectrum is taken over
JSON_FIELDS = ("env_id", "split", "speaker", "recording", "stretch", "snr_db", "sample_rate", "frames")


@dataclass(frozen=True)
class SplitContents:
    """One split: totals, and `environments[env_id] = (samples, minutes, recordings)`."""

    samples: int
    hours: float
    speakers: int
    recordings: int
    environments: dict[str, tuple[int, float, int]]
    snr_edges_db: list[float]  # histogram of the measured SNR: counts[i] lie in [edges[i], edges[i + 1])
    snr_counts: list[int]


@dataclass(frozen=True)
class Contents:
    """A data set at a glance."""

    name: str
    folder: str
    sample_rate: int
    has_ref: bool
    fingerprint: str
    ref_seconds: list[float]  # lengths of the reserved clips, shortest and longest; [] where there are none
    splits: dict[str, SplitContents]


def contents(folder: Path | str) -> Contents:
    """Read manifest and indexes, no sound. `UserError` says in a sentence what a foreign folder or tar lacks."""
    if not is_address(folder):
        path = files.local_path(folder)
        if path.name.endswith(".tar") or (path.is_dir() and tars(path) and not (path / NAME).exists()):
            raise UserError(what_is_missing(path), kind="foreign")
    dataset = open_dataset(folder)
    clips = [index.ref_frames[index.ref_frames > 0] for index in map(dataset.index, dataset.splits)]
    lengths = np.concatenate(clips) / dataset.sample_rate
    return Contents(
        dataset.name,
        str(folder),
        dataset.sample_rate,
        dataset.has_ref,
        dataset.fingerprint,
        [float(lengths.min()), float(lengths.max())] if len(lengths) else [],
        {split: _part(dataset, dataset.index(split)) for split in dataset.splits},
    )


def _part(dataset: DataSet, index: SplitIndex) -> SplitContents:
    n = len(index.env_names)
    samples = np.bincount(index.env, minlength=n)
    minutes = np.bincount(index.env, weights=index.frames, minlength=n) / dataset.sample_rate / 60
    pairs = np.unique(np.stack([index.env, index.recording]), axis=1)
    recordings = np.bincount(pairs[0], minlength=n)
    low, high = np.floor(index.snr_db.min() / BIN_DB), np.floor(index.snr_db.max() / BIN_DB) + 1
    edges = np.arange(low, high + 1) * BIN_DB
    counts, _ = np.histogram(index.snr_db, edges)
    return SplitContents(
        len(index),
        float(index.frames.sum()) / dataset.sample_rate / 3600,
        len(index.speaker_names),
        len(index.recording_names),
        {
            name: (int(samples[i]), round(float(minutes[i]), 3), int(recordings[i]))
            for i, name in enumerate(index.env_names)
        },
        edges.tolist(),
        counts.tolist(),
    )


def what_is_missing(path: Path) -> str:
    """A sentence on tars that are no data set of ours: what they hold, what they lack, what to do."""
    if not path.exists():
        raise UserError(f"no shards match {path}", kind="no_shards")
    tar = path if path.is_file() else tars(path)[0]
    suffixes: Counter[str] = Counter()
    lacking: list[str] = []
    with tar.open("rb") as file:
        for member in members(file, tar.name):
            suffix = member.name.partition(".")[2].lower()
            suffixes[suffix] += 1
            if suffix == "json" and suffixes["json"] == 1:
                file.seek(member.offset)
                try:
                    data = load_json(file.read(member.size))
                except ValueError:
                    data = None
                lacking = [name for name in JSON_FIELDS if not isinstance(data, dict) or name not in data]
    absent = [name for name in REQUIRED if name not in suffixes]
    if not absent and not lacking:
        folder = tar.parent
        what = f"{tar} is a shard" if path.is_file() else f"{path} has shards but no {NAME}"
        remedy = f"inspect its folder {folder}" if (folder / NAME).exists() else f"run nr index {folder}"
        return f"{what}: {remedy}"
    found = ", ".join(f"{suffix or 'no suffix'} ({n})" for suffix, n in suffixes.most_common(8))
    needs = [f"the members {', '.join(absent)}"] if absent else []
    needs += [f"the fields {', '.join(lacking)} in its JSON"] if lacking else []
    return f"{tar} is a tar of {found}; as a shard it lacks {' and '.join(needs)}: build shards with nr build-shards"


def logged_deviations(folder: Path | str) -> tuple[int, list[str]]:
    """(samples whose JSON keeps a logged SNR, lines on those over 3 dB from the measured one). Reads every JSON."""
    dataset = open_dataset(folder)
    logged, lines = 0, []
    for split in dataset.splits:
        index = dataset.index(split)
        with Progress(len(index), f"logs of {split} read") as progress:
            for row in range(len(index)):
                claim = dataset.facts(split, row).meta.get("logged_snr_db")
                progress.advance()
                if claim is None:
                    continue
                logged += 1
                if abs(claim - float(index.snr_db[row])) > DEVIATION_DB:
                    lines.append(f"{index.key[row].decode()}: logged {claim:g} dB, measured {index.snr_db[row]:.1f} dB")
    return logged, lines


def doubtful(folder: Path | str) -> tuple[int, list[str]]:
    """(samples heard, evenly spread over each split; lines on those whose noise holds their speech). Nothing is heard
    of a data set that lies elsewhere."""
    if is_address(folder):
        return 0, []
    dataset = open_dataset(folder)
    heard, lines = 0, []
    for split in dataset.splits:
        index = dataset.index(split)
        for row in range(0, len(index), max(1, -(-len(index) // HEARD))):
            clean, noisy = (dataset.read(split, row, side) for side in ("clean", "noisy"))
            found = pairing(clean, noisy, dataset.sample_rate)
            heard += 1
            if found.fault:
                lines.append(f"{index.key[row].decode()}: {found}")
    return heard, lines


def mean_spectra(dataset: DataSet) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(frequencies in Hz, environment -> mean spectrum of its noise in dB, level removed), over all splits."""
    window = np.hanning(FRAME).astype(np.float32)
    total: dict[str, np.ndarray] = {}
    used: Counter[str] = Counter()
    for split in dataset.splits:
        index = dataset.index(split)
        for code, name in enumerate(index.env_names):
            for row in np.flatnonzero(index.env == code)[: max(0, PER_ENVIRONMENT - used[name])].tolist():
                x = dataset.read(split, row, "noise")
                x = np.pad(x, (0, max(0, FRAME - len(x))))
                frames = np.lib.stride_tricks.sliding_window_view(x, FRAME)[:: FRAME // 2]
                power = np.mean(np.abs(np.fft.rfft(frames * window)) ** 2, axis=0)
                total[name] = total.get(name, 0) + power / power.mean()
                used[name] += 1
    frequencies = np.fft.rfftfreq(FRAME, 1 / dataset.sample_rate)
    return frequencies, {name: 10 * np.log10(p / used[name] + 1e-12) for name, p in sorted(total.items())}


def plot(folder: Path | str, picture: Path | str) -> Path:
    """A PNG: histogram of the measured SNR of each split, mean noise spectrum of each environment."""
    plt = drawing.pyplot()
    picture = Path(picture)
    if picture.suffix.lower() != ".png":
        raise UserError(f"{picture}: the picture is a PNG; name it .png", kind="container")
    dataset = open_dataset(folder)
    frequencies, spectra = mean_spectra(dataset)
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
    for split, part in contents(folder).splits.items():
        left.stairs(part.snr_counts, part.snr_edges_db, label=f"{split} ({part.samples})", linewidth=1.5)
    left.set(xlabel="SNR, dB (energy, measured)", ylabel="samples", title=dataset.name.replace("$", r"\$"))
    left.legend()
    styles = ("-", "--", ":", "-.")
    for i, (name, spectrum) in enumerate(spectra.items()):
        label = name.replace("$", r"\$")
        right.semilogx(frequencies[1:], spectrum[1:], styles[i // 10 % 4], color=f"C{i % 10}", label=label, linewidth=1)
    right.set(xlabel="frequency, Hz", ylabel="dB, level removed", title="mean spectrum of the noise")
    right.legend(fontsize=6, ncols=max(1, -(-len(spectra) // 24)))
    with files.replacing(picture) as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return picture


def write_card(folder: Path | str) -> bool:
    """Write the data card of a folder again, from its manifest; False where there is a README that is not ours."""
    return card.write_card(Path(folder), read_manifest(folder))

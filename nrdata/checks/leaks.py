"""`nr verify-shards --leaks`: what splits share, and clips that overlap the mixture they stand beside.

Known from what is stored: speakers, recordings, stretches of a recording, identical sound. Found in the sound: the same
noise or speech at another gain, offset or codec (`nrdata.audio.match`), whatever it is called.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nrdata.audio.match import RATE, best_match, compare, fft_size, whiten
from nrdata.progress import Progress
from nrdata.store.dataset import DataSet
from nrdata.store.dataset import open as open_dataset
from nrdata.store.index import SplitIndex

BLOCK = 512  # sounds held at once: 0.5 MiB each at 5 s
SHOWN = 3  # examples a line
MAX_PAIRS = 200_000  # of two splits whose sound is compared: a millisecond or two each


@dataclass(frozen=True)
class Leak:
    """One thing shared: its kind, the splits, how often, and examples."""

    kind: str  # speaker, recording, stretch, same_clean, same_noise, same_sound, same_speech, reference_overlaps
    splits: str
    count: int
    examples: list[str]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        return f"{self.splits}: {self.kind}: {self.count} ({'; '.join(self.examples)}{more})"


def find_leaks(*folders: Path | str) -> tuple[list[Leak], list[str]]:
    """All leaks of a data set, or of several that are opened together, and notes on what was not compared.

    A split `seen` may share recordings with training and speakers with test (that is its purpose), but no stretch.
    """
    dataset = open_dataset(*folders)
    found: list[Leak | None] = []
    notes: list[str] = []
    digests = {split: _digests(dataset, split) for split in dataset.splits}
    units = {split: distinct(dataset.index(split)) for split in dataset.splits}
    for a, b in itertools.combinations(dataset.splits, 2):
        x, y = dataset.index(a), dataset.index(b)
        pair = f"{a} and {b}"
        same_speech = {a, b} == {"seen", "test"}
        if not same_speech:
            found.append(_leak("speaker", pair, sorted(set(x.speaker_names) & set(y.speaker_names))))
        if "seen" not in (a, b):
            found.append(_leak("recording", pair, sorted(set(x.recording_names) & set(y.recording_names))))
        found.append(_leak("stretch", pair, _overlaps(x, y)))
        for field in ("noise",) if same_speech else ("clean", "noise"):
            same = [
                f"{_key(x, i)} and {_key(y, digests[b][field][d])}"
                for d, i in digests[a][field].items()
                if d in digests[b][field]
            ]
            found.append(_leak(f"same_{field}", pair, same))
        compared = [("noise", "same_sound", units[a], units[b])]
        if not same_speech:
            one, two = digests[a]["clean"], digests[b]["clean"]  # what is the same to the bit has been told
            compared.append(("clean", "same_speech", _without(one, two), _without(two, one)))
        for field, kind, all_a, all_b in compared:
            rows_a, rows_b = thinned(all_a, all_b)
            if len(rows_a) * len(rows_b) < len(all_a) * len(all_b):
                of = f"{len(all_a)} x {len(all_b)}"
                notes.append(f"{pair}: the {field} sound of {len(rows_a)} x {len(rows_b)} of {of} was compared")
            found.append(_leak(kind, pair, list(across(dataset, a, rows_a, b, rows_b, field))))
    for split in dataset.splits:
        found.append(_leak("reference_overlaps", split, list(_references(dataset, split))))
    return [leak for leak in found if leak is not None], notes


def distinct(index: SplitIndex) -> list[int]:
    """Rows whose noise is not a part of another row's: one sample for each stretch of each recording."""
    taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
    rows = []
    for row in np.argsort(-index.frames, kind="stable").tolist():
        start, stop = index.stretch[row].tolist()
        spans = taken[int(index.recording[row])]
        if start >= 0 and any(a <= start and stop <= b for a, b in spans):
            continue
        spans.append((start, stop))
        rows.append(row)
    return sorted(rows)


def thinned(a: list[int], b: list[int]) -> tuple[list[int], list[int]]:
    """Evenly spaced rows, at most about MAX_PAIRS pairs: the larger side is thinned."""
    step = max(-(-len(a) * len(b) // MAX_PAIRS), 1)
    return (a[::step], b) if len(a) >= len(b) else (a, b[::step])


def _without(digests: dict[bytes, int], others: dict[bytes, int]) -> list[int]:
    """The rows whose sound is not among the others'."""
    return sorted(row for digest, row in digests.items() if digest not in others)


def _leak(kind: str, splits: str, examples: list[str]) -> Leak | None:
    return Leak(kind, splits, len(examples), examples[:SHOWN]) if examples else None


def _key(index: SplitIndex, row: int) -> str:
    return bytes(index.key[row]).decode()


def _digests(dataset: DataSet, split: str) -> dict[str, dict[bytes, int]]:
    """field -> digest of the decoded sound -> the first row that has it."""
    found: dict[str, dict[bytes, int]] = {"clean": {}, "noise": {}}
    rows = len(dataset.index(split))
    with Progress(rows, f"samples of {split} hashed") as progress:
        for row in range(rows):
            for field, known in found.items():
                known.setdefault(hashlib.sha256(dataset.read(split, row, field).tobytes()).digest()[:16], row)
            progress.advance()
    return found


def _overlaps(x: SplitIndex, y: SplitIndex) -> list[str]:
    """Pairs of samples whose stretches of one recording overlap: a sweep over the starts in each recording."""
    found = []
    for recording in sorted(set(x.recording_names) & set(y.recording_names)):
        spans = [
            (int(index.stretch[row, 0]), int(index.stretch[row, 1]), side, row)
            for side, index in enumerate((x, y))
            for row in np.flatnonzero(index.recording == index.recording_names.index(recording)).tolist()
            if index.stretch[row, 0] >= 0
        ]
        open_spans: list[tuple[int, int, int, int]] = []
        for span in sorted(spans):
            open_spans = [other for other in open_spans if other[1] > span[0]]
            for other in open_spans:
                if other[2] != span[2]:
                    a, b = (other, span) if other[2] == 0 else (span, other)
                    found.append(f"{_key(x, a[3])} and {_key(y, b[3])} in {recording}")
            open_spans.append(span)
    return found


def _references(dataset: DataSet, split: str) -> Iterator[str]:
    """Samples whose reserved clip overlaps their mixture: as their JSON says, or as the sound says."""
    index = dataset.index(split)
    for row in np.flatnonzero(index.ref_frames).tolist():
        stretch, told = index.stretch[row], dataset.facts(split, row).meta.get("ref_stretch", [-1, -1])
        key = _key(index, row)
        if stretch[0] >= 0 and told[0] >= 0 and told[0] < stretch[1] and stretch[0] < told[1]:
            yield f"{key} (stretch {told})"
            continue
        match = best_match(dataset.read(split, row, "noise"), dataset.read(split, row, "ref"), dataset.sample_rate)
        if match is not None:
            yield f"{key} ({match})"


def across(
    dataset: DataSet, a: str, rows_a: Sequence[int], b: str, rows_b: Sequence[int], field: str = "noise"
) -> Iterator[str]:
    """Samples of split `a` and split `b` whose noise (or another member) is the same sound: "key and key (match)"."""
    if not rows_a or not rows_b:
        return
    index_a, index_b = dataset.index(a), dataset.index(b)
    size = fft_size(*(int(max(i.frames)) * RATE // dataset.sample_rate + 1 for i in (index_a, index_b)))
    with Progress(len(rows_a) * len(rows_b), f"pairs of {a} and {b} compared") as progress:
        for first in range(0, len(rows_b), BLOCK):
            rows = rows_b[first : first + BLOCK]
            block = [whiten(dataset.read(b, row, field), dataset.sample_rate) for row in rows]
            spectra = [np.fft.rfft(x, size) for x in block]
            for row_a in rows_a:
                x = whiten(dataset.read(a, row_a, field), dataset.sample_rate)
                spectrum = np.fft.rfft(x, size)
                for row_b, y, other in zip(rows, block, spectra, strict=True):
                    match = compare(x, y, spectrum, other, size)
                    if match is not None:
                        yield f"{index_a.key[row_a].decode()} and {index_b.key[row_b].decode()} ({match})"
                progress.advance(len(block))

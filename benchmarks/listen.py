"""The page to hear the model by: `python benchmarks/listen.py --shards SHARDS --out docs/listen`.

SHARDS is a data set of the corpora whose test files `manifests/test-sources.csv` attributes. A dozen of its test files,
drawn without a look at any score (`choose`), become `index.html`, Opus and WebP: the noisy sound, the clip, what the
shipped model makes of it without the clip, with it and with one of another place, peers, and the clean speech.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import nrdata
import nrmodel
from nrdata.errors import UserError
from nrdata.files import write_bytes, write_text
from nrdata.keyed import noise_seed
from nrdata.manifests import FOLDER
from nrdata.sampling.transforms import noise_gain
from nrmodel.defaults import default_checkpoint
from nrmodel.evaluation import peers
from nrmodel.evaluation.conditions import Changed, Conditions
from nrmodel.evaluation.evaluate import ShardFiles
from nrmodel.evaluation.folders import Sounds
from nrmodel.evaluation.metrics import score
from nrmodel.evaluation.parts import kept_db
from nrmodel.experiment import plots
from nrmodel.experiment.report import page, scores_told

SEED = 0
SECONDS = (2.5, 5.0)  # of a file, at least and at most
CONDITIONS = {
    "": Conditions(),
    "over a telephone": Conditions(channel="telephone"),
    "speech in a room (T60 0.6 s)": Conditions(room=0.6),
    "two noises": Conditions(),
}
SLOTS = [  # condition and SNR in dB of each example, in the order of the page
    *(("", snr_db) for snr_db in (-5, -5, 0, 0, 5, 10)),
    *(("over a telephone", snr_db) for snr_db in (0, 5)),
    *(("speech in a room (T60 0.6 s)", snr_db) for snr_db in (0, 5)),
    *(("two noises", snr_db) for snr_db in (0, 5)),
]
PEERS = {"deepfilternet3": "DeepFilterNet3", "dtln": "DTLN", "rnnoise": "RNNoise"}
DEEDS = {  # the licences under which sound may be shown; nothing else may
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "Public Domain": "https://creativecommons.org/publicdomain/mark/1.0/",
    "CC-BY": "https://creativecommons.org/licenses/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
}
BIT_RATE = 32000
MOST_BYTES = {".opus": 3_000_000, ".webp": 1_500_000}
PEAK = 0.7  # of the loudest version of an example; all have one gain


@dataclass(frozen=True)
class Example:
    """A row of the split, and the row whose noise is the second one, if any."""

    condition: str
    row: int
    second: int | None = None


@dataclass
class Version:
    name: str
    sound: np.ndarray  # (samples,)
    scores: dict[str, float | None] = field(default_factory=dict)
    note: str = ""


def choose(files: ShardFiles, slots: list[tuple[str, float]], shown: Callable[[int], bool]) -> list[Example]:
    """The first row in one drawn order (SEED) that fits a slot: its SNR, `SECONDS`, a clip of a second or more,
    `shown`, and no environment or speaker of an earlier slot. Raises `UserError` where there is none."""
    index, used = files.index, set[str]()
    order = [row for row in map(int, np.random.default_rng(SEED).permutation(len(index.key))) if shown(row)]

    def take(fits: Callable[[int], bool], told: str, *names: Any) -> int:
        for row in order:
            own = {str(its[getattr(index, name)[row]]) for name, its in names}
            if fits(row) and not own & used:
                used.update(own)
                return row
        raise UserError(f"the split {files.split!r} has no file left for the example {told!r}: give another data set")

    environment, speaker = ("env", index.env_names), ("speaker", index.speaker_names)
    least, most = (seconds * files.sample_rate for seconds in SECONDS)

    def fits(row: int, snr_db: float) -> bool:
        long_enough = least <= index.frames[row] <= most and index.ref_frames[row] >= files.sample_rate
        return bool(abs(index.snr_db[row] - snr_db) < 0.5 and long_enough)

    examples = []
    for condition, snr_db in slots:
        told = f"{condition} {snr_db:g} dB".strip()
        row, second = take(partial(fits, snr_db=snr_db), told, environment, speaker), None
        if condition == "two noises":
            frames = index.frames[row]
            second = take(lambda other, frames=frames: bool(index.frames[other] >= frames), told, environment)
        examples.append(Example(condition, row, second))
    return examples


def sounds_of(files: ShardFiles | Changed, example: Example) -> tuple[Sounds, np.ndarray]:
    """What is heard, and the second noise in it (silence where there is none), as loud as the first."""
    sounds = files.sounds(example.row)
    if example.second is None:
        return sounds, np.zeros_like(sounds.clean)
    clean, rate = sounds.clean, sounds.sample_rate
    other = files.sounds(example.second).noise[: len(clean)]
    other = np.float32(noise_gain(sounds.noise, other, 0.0)) * other
    both = sounds.noise + other
    gain = np.float32(noise_gain(clean, both, files.facts(example.row, sounds)["snr_db"]))
    return Sounds(clean, clean + gain * both, gain * both, rate), gain * other


def versions(
    model: nrmodel.Model, keeping: nrmodel.Model, peer_names: Sequence[str], files: ShardFiles | Changed,
    example: Example, place_of_clip: Callable[[str], str],
) -> list[Version]:  # fmt: skip
    """All that is to be heard of an example, scored against the clean sound. `place_of_clip`: of a source of a clip."""
    sounds, second = sounds_of(files, example)
    rate, noisy, seed = sounds.sample_rate, sounds.noisy, noise_seed(files.key(example.row), SEED)
    clip, wrong = (files.reference(example.row, sounds, mode, 1.0, SEED) for mode in ("disjoint", "mismatch"))
    assert clip is not None and clip.sound is not None and wrong is not None and wrong.sound is not None

    def scored(name: str, sound: np.ndarray, note: str = "") -> Version:
        return Version(name, sound, dict(score(sounds.clean, sound, rate).values), note)

    def made(by: nrmodel.Model, z_r: Any) -> np.ndarray:
        return by.enhance(noisy, rate, z_r, None, None, seed)

    another = made(model, model.embed(wrong.sound, rate))
    found = [
        scored("noisy", noisy),
        Version("the clip", clip.sound, note="the same place at another time"),
        scored("nr without clip", made(model, None)),
        scored("nr with clip", made(model, model.embed(clip.sound, rate))),
        scored("nr with wrong clip", another, f"a clip of {place_of_clip(wrong.source)}"),
    ]
    if example.second is not None:
        kept = made(keeping, keeping.embed(clip.sound, rate, keep_rest=True))
        told = "the other noise stays: against speech and it"
        found.append(Version("nr --keep-rest", kept, {"si_sdr": kept_db(sounds.clean + second, kept)}, told))
    found += [scored(PEERS[name], peers.load(name)(noisy, rate)) for name in peer_names]
    return [*found, Version("clean speech", sounds.clean, note="as it should be")]


def write_versions(found: list[Version], number: int, rate: int, out: Path) -> list[dict[str, Any]]:
    """Sounds and pictures of one example into `out`; what the page says of them. One gain for all, but where the clip
    alone would overflow; the noisy one sets the scale of the pictures, the clip has its own."""
    gain = PEAK / max(float(np.abs(version.sound).max()) for version in found if version.name != "the clip")
    top = plots.spectrogram(gain * found[0].sound, rate)[1]
    shown = []
    for version in found:
        sound = np.clip(gain * version.sound, -0.99, 0.99)
        name = f"{number:02d}-{re.sub('[^a-z0-9]+', '-', version.name.lower())}"
        write_bytes(out / f"{name}.opus", opus(sound, rate))
        picture, _ = plots.spectrogram(sound, rate, None if version.name == "the clip" else top)
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "webp", quality=50, method=6)
        write_bytes(out / f"{name}.webp", buffer.getvalue())
        told = "; ".join(text for text in (scores_told(version.scores), version.note) if text)
        facts = {"seconds": round(len(sound) / rate, 2), "khz": rate // 2000, "told": told}
        shown.append({"name": version.name, "sound": f"{name}.opus", "picture": f"{name}.webp", **facts})
    return shown


def opus(sound: np.ndarray, rate: int) -> bytes:
    """`(samples,)` as Ogg Opus, the same bytes for the same sound. Raises `UserError` where PyAV is not installed."""
    try:
        import av
    except ImportError as e:
        raise UserError("Opus is written by PyAV, which is not installed: pip install 'nr[video]'", "extra") from e
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg", container_options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("libopus", rate=rate, layout="mono", options={"b": str(BIT_RATE)})
        frame = av.AudioFrame.from_ndarray(np.rint(32767 * sound).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts = rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()


def sources(path: Path = FOLDER / "test-sources.csv") -> dict[str, dict[str, str]]:
    """Path in the corpora -> title, author, licence, link, of what `DEEDS` allows to be shown."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file) if row["license"] in DEEDS}


def attributed(dataset: Any, split: str, example: Example, known: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    """Where the sound of an example comes from, for the page."""
    rows = [(example.row, "speech", "Speech"), (example.row, "noise", "Noise and clip")]
    rows += [] if example.second is None else [(example.second, "noise", "Second noise")]
    found = []
    for row, side, told in rows:
        facts = known[corpus_path(dataset.facts(split, row).meta[side])]
        found.append({"what": told, "deed": DEEDS[facts["license"]], **facts})
    return found


def corpus_path(named: str) -> str:
    """`local/speech/x/y.flac`, as the builder names it, without the source."""
    return named.partition("/")[2]


def show(dataset: Any, out: Path, slots: list[tuple[str, float]] = SLOTS, split: str = "test") -> dict[str, int]:
    """Make the page in `out`, in place of the one there; bytes by kind of file."""
    known, straight = sources(), ShardFiles(dataset, split)
    index = straight.index

    def shown(row: int) -> bool:
        meta = dataset.facts(split, row).meta
        return all(corpus_path(meta.get(side, "")) in known for side in ("speech", "noise"))

    def place(row: int) -> str:
        return str(index.env_names[index.env[row]]).rpartition("/")[2]

    examples = choose(straight, slots, shown)
    model = nrmodel.load(default_checkpoint()[0])
    keeping = nrmodel.load(default_checkpoint(keep_rest=True)[0])
    peer_names = [name for name in PEERS if installed(name)]
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        if re.fullmatch(r"\d\d-[a-z0-9-]+\.(opus|webp)", old.name):
            old.unlink()
    told = []
    for number, example in enumerate(examples, 1):
        files = Changed(straight, CONDITIONS[example.condition]) if example.condition else straight
        found = versions(
            model, keeping, peer_names, files, example,
            lambda source: place(dataset.locate(source.rpartition(".")[0])[1]),
        )  # fmt: skip
        places = " and ".join(place(row) for row in (example.row, example.second) if row is not None)
        title = f"{places}, {index.snr_db[example.row]:.0f} dB"
        told.append({
            "title": f"{number}. {title}{', ' if example.condition else ''}{example.condition}",
            "key": straight.key(example.row), "sources": attributed(dataset, split, example, known),
            "versions": write_versions(found, number, dataset.sample_rate, out),
        })  # fmt: skip
        print(f"{number} of {len(examples)}: {title}", file=sys.stderr)
    policy = "default-src 'none'; img-src 'self' file: data:; media-src 'self' file:"
    facts = {"seconds": SECONDS, "seed": SEED, "digest": model.digest[:8], "peers": [PEERS[n] for n in peer_names]}
    write_text(out / "index.html", page("listen.html.j2", Path(__file__).parent, policy=policy, examples=told, **facts))
    sizes = {kind: sum(path.stat().st_size for path in out.glob(f"*{kind}")) for kind in MOST_BYTES}
    for kind, most in MOST_BYTES.items():
        if sizes[kind] > most:
            raise UserError(f"{out} holds {sizes[kind]} bytes of {kind}, more than {most}: lower BIT_RATE or SLOTS")
    return sizes


def installed(name: str) -> bool:
    """Whether a peer is there; says so where it is not."""
    try:
        peers.load(name)
    except UserError as e:
        print(f"left out: {PEERS[name]} ({e})", file=sys.stderr)
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    print(*(f"{size} bytes of {kind}" for kind, size in show(nrdata.open(given.shards), given.out).items()), sep=", ")


if __name__ == "__main__":
    main()

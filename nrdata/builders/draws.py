"""What is mixed with what: from speech files and noise recordings to the rows of a plan.

The law of the draws. *Training*: every environment equally often (a network should not learn that the world is rain
because rain was recorded most); within an environment its units in turn, in a new order each pass; speech files in
turn, in a new order each pass; the SNR uniform in a range. *Valid, test, seen*: `per_cell` draws for each
environment and SNR of a list, units and speech in turn. Speech longer than a unit's mixture part is cropped at a
drawn place; shorter speech takes a stretch of it, drawn where there is sound. Noise is never repeated, speech never
padded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nrdata.builders.plan import Options, Plan, Refused, number
from nrdata.builders.rows import PlanRow, Stretch
from nrdata.builders.units import SHORTEST_SECONDS, Levels, RefusedUnit, Unit, audible_start
from nrdata.errors import UserError
from nrdata.keyed import plan_rng

PER_CELL = 4

T = TypeVar("T")


@dataclass(frozen=True)
class SpeechFile:
    """A file of clean speech, its levels at the stored rate; `meta` has the same keys in all files of a data set."""

    source: str
    path: str  # relative to the source's root
    speaker: str
    split: str
    levels: Levels
    license: str = "unknown"
    meta: dict[str, Any] = field(default_factory=dict)
    content: str = ""  # digest of the decoded samples, "" where the name is the content

    @property
    def frames(self) -> int:
        return self.levels.frames

    @property
    def known_as(self) -> tuple[str, ...]:
        """What two files of the same sound may share."""
        return self.source, self.speaker


@dataclass(frozen=True)
class NoiseFile:
    """A noise recording, its levels and units at the stored rate, and the pieces that are no units."""

    source: str
    path: str
    environment: str
    recording: str
    split: str
    levels: Levels
    units: Sequence[Unit]
    refused: Sequence[RefusedUnit] = ()
    license: str = "unknown"
    meta: dict[str, Any] = field(default_factory=dict)
    content: str = ""  # as of speech

    @property
    def env_id(self) -> str:
        return f"{self.source}/{self.environment}"

    @property
    def known_as(self) -> tuple[str, ...]:
        """What two files of the same sound may share."""
        return self.source, self.environment, self.recording


F = TypeVar("F", bound=SpeechFile | NoiseFile)


@dataclass(frozen=True)
class NoiseUnit:
    file: NoiseFile
    unit: Unit

    @property
    def item(self) -> str:
        return f"{self.file.path}#{self.unit.number}"


def mixtures(
    speech: Sequence[SpeechFile], noise: Sequence[NoiseFile], options: Options, before: Sequence[Refused] = ()
) -> Plan:
    """The plan of all splits, with every file and unit that no row uses in its list of refused items. `before`: what
    was refused already, for the sentence that nothing is left."""
    plan = Plan([])
    speech = _once([f for f in speech if _long_enough(f, options, plan)], plan)
    units = _units(_once(noise, plan), options, plan)
    rows: list[PlanRow] = []
    used: dict[tuple[str, str, int], str] = {}  # (source, path, unit) -> licence
    for split in ("train", "valid", "test", "seen"):
        files = [f for f in speech if f.split == ("test" if split == "seen" else split)]
        places: dict[str, list[NoiseUnit]] = defaultdict(list)
        for u in units[split]:
            places[u.file.env_id].append(u)
        if split == "train" and not (files and places):
            missing = "speech" if not files else "noise"
            raise UserError(
                f"there is no {missing} for training: nothing to mix{why([*before, *plan.refused])}",
                kind="no_training_data",
            )
        if not files or not places:
            continue
        pairing = _training(files, places, options) if split == "train" else _cells(split, files, places, options)
        for i, (file, unit, snr_db) in enumerate(pairing):
            rows.append(_row(split, i, file, unit, snr_db, options))
            used[_id(file)] = file.license
            used[_id(unit)] = unit.file.license
    plan.refused += [Refused(f.path, _unused(f.split, options), "not_drawn") for f in speech if _id(f) not in used]
    for split, all_units in units.items():
        plan.refused += [Refused(u.item, _unused(split, options), "not_drawn") for u in all_units if _id(u) not in used]
    plan.rows = number(rows)
    by_file = {(source, path): license for (source, path, _), license in used.items()}
    plan.licenses = dict(sorted(Counter(by_file.values()).items()))
    return plan


HELP = {
    "loop": "--reserve-ref 0 builds without reserved clips",
    "too_short": "--reserve-ref 0 needs no room for a reserved clip",
    "quiet": "--reserve-ref 0 needs no sound at the ends",
    "mostly_silent": "give recordings without digital silence",
    "not_drawn": "",
    "unseen": "--unseen '' keeps none for test",
}


def why(refused: Sequence[Refused]) -> str:
    """The rest of a sentence on something that is empty: what was refused, why, and which option helps; kind by kind,
    the most frequent first."""
    parts = []
    for kind, n in Counter(r.kind for r in refused).most_common(3):
        first = next(r for r in refused if r.kind == kind)
        help = f"; {HELP[kind]}" if HELP.get(kind) else ""
        parts.append(f"{n} refused as {kind} ({first.item}: {first.reason}{help})")
    return f": {', '.join(parts)}" if parts else ""


def _id(item: SpeechFile | NoiseUnit) -> tuple[str, str, int]:
    if isinstance(item, SpeechFile):
        return "speech " + item.source, item.path, 0
    return "noise " + item.file.source, item.file.path, item.unit.number


def _unused(split: str, options: Options) -> str:
    if split == "train":
        return "in no training mixture: more --hours would use it"
    return f"in no mixture of {split}: a greater --per-cell would use it, if {split} has both speech and noise"


def _once(files: Sequence[F], plan: Plan) -> list[F]:
    """Without the files whose very samples are in an earlier file of another split, speaker or recording."""
    first: dict[str, F] = {}
    kept = []
    for file in files:
        other = first.setdefault(file.content, file) if file.content else file
        if (other.split, *other.known_as) != (file.split, *file.known_as):
            reason = f"the same sound as {other.path} ({other.known_as[1]}, {other.split})"
            plan.refused.append(Refused(file.path, reason, "duplicate"))
        else:
            kept.append(file)
    return kept


def _long_enough(file: SpeechFile, options: Options, plan: Plan) -> bool:
    if file.frames >= int(SHORTEST_SECONDS * options.sample_rate):
        return True
    seconds = file.frames / options.sample_rate
    plan.refused.append(Refused(file.path, f"{seconds:.2f} s of speech, {SHORTEST_SECONDS:g} s needed", "too_short"))
    return False


def _units(noise: Sequence[NoiseFile], options: Options, plan: Plan) -> dict[str, list[NoiseUnit]]:
    """The units of each split; with `seen_split` the last unit of every training recording that has several."""
    units: dict[str, list[NoiseUnit]] = {"train": [], "valid": [], "test": [], "seen": []}
    for file in noise:
        plan.refused += [Refused(f"{file.path}#{piece.number}", piece.reason, piece.kind) for piece in file.refused]
        mine = [NoiseUnit(file, unit) for unit in file.units]
        if file.split == "train" and options.seen_split and len(mine) > 1:
            units["seen"].append(mine.pop())
        units[file.split] += mine
    return units


def in_turn(items: Sequence[T], *key: object) -> Iterator[T]:
    """All items, then all again, in a new order each pass."""
    turn = 0
    while True:
        yield from (items[i] for i in plan_rng(*key, turn).permutation(len(items)))
        turn += 1


def _training(
    files: Sequence[SpeechFile], places: dict[str, list[NoiseUnit]], options: Options
) -> Iterator[tuple[SpeechFile, NoiseUnit, float]]:
    key = (options.seed, "train")
    environments = sorted(places)
    frames = options.hours * 3600 * options.sample_rate if options.hours is not None else None
    if frames is None:
        noise = sum(u.unit.frames for units in places.values() for u in units)
        frames = 2 * max(sum(f.frames for f in files), noise)
    speech = in_turn(files, *key, "speech")
    turns = {e: in_turn(places[e], *key, "units", e) for e in environments}
    done = 0
    for i, environment in enumerate(in_turn(environments, *key, "environments")):
        file, unit = next(speech), next(turns[environment])
        yield file, unit, round(float(plan_rng(*key, "snr", i).uniform(*options.snr_db)), 2)
        done += min(file.frames, unit.unit.frames)
        if done >= frames:
            return


def _cells(
    split: str, files: Sequence[SpeechFile], places: dict[str, list[NoiseUnit]], options: Options
) -> Iterator[tuple[SpeechFile, NoiseUnit, float]]:
    key = (options.seed, split)
    speech = in_turn(files, *key, "speech")
    for environment in sorted(places):
        units = in_turn(places[environment], *key, "units", environment)
        for snr_db in options.snr_test_db:
            for _ in range(options.per_cell or PER_CELL):
                yield next(speech), next(units), snr_db


def _row(split: str, i: int, file: SpeechFile, noise: NoiseUnit, snr_db: float, options: Options) -> PlanRow:
    rng = plan_rng(options.seed, split, "stretch", i)
    unit = noise.unit
    frames = min(file.frames, unit.frames)
    speech_start = audible_start(file.levels, (0, file.frames), frames, rng)
    noise_start = audible_start(noise.file.levels, unit.mixture, frames, rng)
    path = noise.file.path
    return PlanRow(
        split=split,
        speech=Stretch(file.path, speech_start, speech_start + frames),
        noise=Stretch(path, noise_start, noise_start + frames),
        ref=None if unit.reserve is None else Stretch(path, *unit.reserve),
        asked_snr_db=snr_db,
        sample_rate=options.sample_rate,
        env_id=noise.file.env_id,
        recording=f"{noise.file.env_id}/{noise.file.recording}",
        speaker=f"{file.source}/{file.speaker}",
        meta={
            "asked_snr_db": snr_db,
            "unit": unit.number,
            "speech": f"{file.source}/{file.path}",
            "noise": f"{noise.file.source}/{path}",
            "speech_start": speech_start,
            "ref_stretch": list(unit.reserve or (-1, -1)),
            **{f"speech_{k}": v for k, v in file.meta.items()},
            **{f"noise_{k}": v for k, v in noise.file.meta.items()},
        },
    )

"""Source `voicebank-demand`: the corpus as published, as folders or as zips, in any depth below the root.

An item is a line of a log (`p236_002 babble 15`). Its noise is noisy minus clean at the rate of the files; where it
was cut from DEMAND is not published, so the stretch is unknown and nothing is reserved. The logged SNR is an active-
speech level: it stays beside the measured one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from nrdata import audio, manifests
from nrdata.builders.duplicates import told, twins
from nrdata.builders.plan import Options, Plan, Refused, number
from nrdata.builders.render import Sources
from nrdata.builders.rows import PlanRow, Stretch
from nrdata.builders.sources import Place, Places, find
from nrdata.errors import UserError

SPEECH, NOISE = "voicebank", "demand"


def plan(options: Options) -> Plan:
    """A row for every line of the logs whose two files are there. Raises `UserError` where the corpus is not."""
    facts = manifests.load("voicebank-demand")
    places = _places(options)
    assert options.root is not None
    foreign = [name for name, _ in find(options.root) if audio.is_foreign(name)]
    result = Plan([], [Refused(name, audio.why_foreign(name), "needs_decoder") for name in foreign])
    with Places(places) as files:
        for part, about in facts["parts"].items():
            clean, noisy = ({n for n in places if n.startswith(f"{side}_{part}_wav/")} for side in ("clean", "noisy"))
            if not clean and not noisy and about["log"] not in places:
                continue
            if about["log"] not in places:
                raise UserError(
                    f"{about['log']} is nowhere below {options.root}: it comes in logfiles.zip", kind="no_log"
                )
            _part(part, about, files.text(about["log"]), clean, noisy, facts, options, result)
    if not result.rows:
        raise UserError(
            f"{options.root} holds no pair of VoiceBank-DEMAND: clean_testset_wav, noisy_testset_wav and the like, as "
            "folders or zips, and logfiles.zip",
            kind="no_pairs",
        )
    with Places(places) as files:
        copies = twins(result.rows, files)
    if copies:
        result.notes.append(told(copies, "kept, since the splits are published"))
    result.rows = number(result.rows)
    result.licenses = {facts["license"]: len(result.rows)}
    return result


@contextlib.contextmanager
def sources(options: Options) -> Iterator[Sources]:
    """The files by `<folder>/<name>`, wherever they lie."""
    with Places(_places(options)) as places:
        yield Sources({SPEECH: places}, {})


def _places(options: Options) -> Mapping[str, Place]:
    """`<folder>/<utterance>.wav` and `log_*.txt` -> place. An unpacked file goes before the same one in a zip."""
    assert options.root is not None
    places: dict[str, Place] = {}
    for name, place in find(options.root):
        parts = name.split("/")
        if parts[-1].startswith("log_") and place.suffix == ".txt":
            key = parts[-1]
        elif len(parts) > 1 and place.suffix in audio.EXTENSIONS:
            key = f"{parts[-2]}/{parts[-1].rpartition('.')[0]}.wav"
        else:
            continue
        if key not in places or not place.member:
            places[key] = place
    return places


def _part(
    part: str,
    about: dict[str, Any],
    log: str,
    clean: set[str],
    noisy: set[str],
    facts: dict[str, Any],
    options: Options,
    result: Plan,
) -> None:
    logged: set[str] = set()
    for n, line in enumerate(log.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        utterance = words[0]
        sides = {side: f"{side}_{part}_wav/{utterance}.wav" for side in ("clean", "noisy")}
        item = sides["noisy"]
        line_item = f"{about['log']} line {n}"
        if len(words) != 3 or not _finite(words[2]):
            result.refused.append(Refused(line_item, "it is not 'utterance environment SNR'", "bad_log"))
            continue
        if utterance in logged:
            result.refused.append(Refused(line_item, f"{utterance} appears twice", "duplicate"))
        elif sides["clean"] not in clean and item not in noisy:
            result.refused.append(Refused(item, f"in {about['log']}, but there is no such file", "no_file"))
        elif sides["clean"] not in clean or item not in noisy:
            lacking = sides["clean"] if item in noisy else item
            result.refused.append(Refused(item, f"{lacking} is missing", "missing_pair"))
        else:
            result.rows.append(_row(about["split"], sides, utterance, words[1], float(words[2]), facts, options))
        logged.add(utterance)
    names = {name.rpartition("/")[2].removesuffix(".wav") for name in clean | noisy}
    for utterance in sorted(names - logged):
        item = f"noisy_{part}_wav/{utterance}.wav"
        result.refused.append(Refused(item, f"no line of {about['log']} names it", "no_log_line"))


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _row(
    split: str,
    sides: dict[str, str],
    utterance: str,
    environment: str,
    logged_snr_db: float,
    facts: dict[str, Any],
    options: Options,
) -> PlanRow:
    speaker = utterance.partition("_")[0]
    env_id = f"{NOISE}/{environment.lower()}"
    return PlanRow(
        split="valid" if split == "train" and speaker in facts["valid_speakers"] else split,
        speech=Stretch(sides["clean"]),
        noisy=Stretch(sides["noisy"]),
        sample_rate=options.sample_rate,
        source_rate=options.source_rate,
        align=options.align,
        env_id=env_id,
        recording=f"{env_id}/{facts['environments'].get(environment.lower(), environment).lower()}",
        speaker=f"{SPEECH}/{speaker}",
        meta={"logged_snr_db": logged_snr_db, "utterance": utterance, "noisy": sides["noisy"]},
    )

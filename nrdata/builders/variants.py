"""Variants of an environment: `env_id~k` is an environment behind a room, a chain of filters, or both.

Drawn once for each (environment, variant), in all splits alike, so that a mixture's noise and its references went
through the same ones. The rows of an environment take its variants in turn. `recording` stays as it is: the same
recording in two variants is one recording.
"""

from __future__ import annotations

from collections.abc import Iterator

from nrdata.builders.draws import in_turn
from nrdata.builders.plan import Options, Row
from nrdata.builders.synthesis import augment, rooms
from nrdata.errors import UserError
from nrdata.keyed import plan_rng
from nrdata.labels import variant_of
from nrdata.progress import Progress


def vary(rows: list[Row], options: Options) -> list[Row]:
    """The rows with their rooms and augmentations; R rooms and A augmentations give R x A variants."""
    if not (options.rooms or options.augment):
        return rows
    if any("noise" not in row for row in rows):
        raise UserError(
            "--rooms and --augment need speech and noise apart: --source folders or synthetic", kind="bad_option"
        )
    chains = max(1, options.augment)
    turns: dict[tuple[str, str], Iterator[int]] = {}
    made: dict[tuple[str, int], Row] = {}
    result = []
    with Progress(len(rows), "drawing rooms") as progress:
        for row in rows:
            key = row["split"], row["env_id"]
            count = range(max(1, options.rooms) * chains)
            turn = turns.setdefault(key, in_turn(count, options.seed, "variants", *key))
            k = next(turn)
            place = row["env_id"], k
            if place not in made:
                made[place] = _variant(*place, chains, options)
            result.append(_applied(row, k, made[place]))
            progress.advance()
    return result


def _variant(env_id: str, k: int, chains: int, options: Options) -> Row:
    """The fields `room` and `augment` of variant k."""
    room, chain = divmod(k, chains)
    key, rate = (options.seed, env_id), options.sample_rate
    return {
        "room": rooms.draw(plan_rng(*key, "room", room), options.t60_s, rate) if options.rooms else None,
        "augment": augment.draw(plan_rng(*key, "augment", chain), rate) if options.augment else None,
    }


def _applied(row: Row, k: int, variant: Row) -> Row:
    meta = dict(row["meta"])
    if room := variant["room"]:
        speech, noise = room["measured_t60_s"]
        meta |= {"asked_t60_s": room["asked_t60_s"], "speech_t60_s": speech, "noise_t60_s": noise}
    if variant["augment"]:
        meta["augment"] = "+".join(step["filter"] for step in variant["augment"]["chain"])
    return {**row, **variant, "env_id": variant_of(row["env_id"], k + 1), "meta": meta}

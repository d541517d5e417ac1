"""Variants of an environment: `env_id~k` is an environment behind a room, a chain of filters, or both.

Drawn once for each (environment, variant), in all splits alike, so that a mixture's noise and its references went
through the same ones. The rows of an environment take its variants in turn. `recording` stays as it is: the same
recording in two variants is one recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nrdata.builders.draws import in_turn
from nrdata.builders.plan import Options
from nrdata.builders.rows import PlanRow
from nrdata.builders.synthesis import augment, rooms
from nrdata.builders.synthesis.augment import Augment
from nrdata.builders.synthesis.rooms import Room
from nrdata.errors import UserError
from nrdata.keyed import plan_rng
from nrdata.labels import variant_of
from nrdata.progress import Progress

Variant = tuple[Room | None, Augment | None]


def vary(rows: list[PlanRow], options: Options) -> list[PlanRow]:
    """The rows with their rooms and augmentations; R rooms and A augmentations give R x A variants."""
    if not (options.rooms or options.augment):
        return rows
    if any(row.noise is None for row in rows):
        raise UserError(
            "--rooms and --augment need speech and noise apart: --source folders or synthetic", kind="bad_option"
        )
    chains = max(1, options.augment)
    turns: dict[tuple[str, str], Iterator[int]] = {}
    made: dict[tuple[str, int], Variant] = {}
    result = []
    with Progress(len(rows), "drawing rooms") as progress:
        for row in rows:
            key = row.split, row.env_id
            count = range(max(1, options.rooms) * chains)
            turn = turns.setdefault(key, in_turn(count, options.seed, "variants", *key))
            k = next(turn)
            place = row.env_id, k
            if place not in made:
                made[place] = _variant(*place, chains, options)
            result.append(_applied(row, k, made[place]))
            progress.advance()
    return result


def _variant(env_id: str, k: int, chains: int, options: Options) -> Variant:
    """The room and the filters of variant k."""
    room, chain = divmod(k, chains)
    key, rate = (options.seed, env_id), options.sample_rate
    return (
        rooms.draw(plan_rng(*key, "room", room), options.t60_s, rate) if options.rooms else None,
        augment.draw(plan_rng(*key, "augment", chain), rate) if options.augment else None,
    )


def _applied(row: PlanRow, k: int, variant: Variant) -> PlanRow:
    room, filters = variant
    meta = dict(row.meta)
    if room:
        speech, noise = room.measured_t60_s
        meta |= {"asked_t60_s": room.asked_t60_s, "speech_t60_s": speech, "noise_t60_s": noise}
    if filters:
        meta["augment"] = "+".join(step.filter for step in filters.chain)
    return replace(row, room=room, augment=filters, env_id=variant_of(row.env_id, k + 1), meta=meta)

"""Which runs may be compared: the configurations of two, without what does not matter, must be equal but for what is
under study."""

from __future__ import annotations

from typing import Any

from nrdata.errors import UserError
from nrdata.options import affecting
from nrdata.sampling.laws import parse_law
from nrmodel.training.config import COMPARED, TrainConfig, entry, ref_range


def comparable(config: TrainConfig) -> dict[str, Any]:
    """What a run learns from, every choice made, one spelling for one meaning."""
    from nrmodel.training.settled import model_for, settled

    if config.init_from and config.preset is None:
        raise UserError("a run that starts from init_from must name its preset in a plan")
    model_config, law = model_for(config, 16000, None), parse_law(config.ref_mode)
    names = affecting(TrainConfig, *COMPARED)
    values = {name: value for name, value in settled(config, model_config).items() if name in names}
    values |= {"conditioning": model_config.conditioning, "ref_mode": str(law)}
    values["ref_seconds"] = sorted(set(ref_range(config)))
    if "none" in law.modes:
        values["ref_dropout"] = 0.0
    return values


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The entries in which two comparable configurations differ. What concerns references alone does not count where
    one of the two has none."""
    names = one.keys() | other.keys()
    if "none" in (one["ref_mode"], other["ref_mode"]):
        names = names - affecting(TrainConfig, "reference")
    return {name for name in names if entry(one, name) != entry(other, name)}


def check_comparable(
    name: str, mine: dict[str, Any], other_name: str, its: dict[str, Any], factor: tuple[str, ...]
) -> None:
    """Raises `UserError` where two finished runs (`config` comparable, `fingerprint`, `seed`) differ in more than the
    factor under study."""
    differs = differing(mine["config"], its["config"]) - set(factor)
    if mine["fingerprint"] != its["fingerprint"]:
        differs.add("training data")
    if mine["seed"] != its["seed"]:
        differs.add("seed")
    if differs:
        under = ", ".join(factor) or "nothing"
        raise UserError(
            f"{name} and {other_name} are not compared: beside {under} they differ in {', '.join(sorted(differs))}",
            "incomparable",
        )

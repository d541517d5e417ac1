"""What an evaluation is asked: `nr evaluate`'s options, and what a plan's `[evaluate]` may hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nrdata.options import check, option
from nrdata.sampling.pool import MIN_REF_SECONDS

MODES = ("none", "oracle", "disjoint", "env", "mismatch")


@dataclass(frozen=True)
class EvaluationRequest:
    """Of a data set `split` counts, of plain folders `clean` and `noisy`, perhaps with `ref`."""

    split: str = option("test", "Split of the data set.", main=True)
    modes: tuple[str, ...] = option(
        MODES, "References: these, zeros, white, spectrum, leak:DB; +eq or +mp3 behind one that has sound.", main=True
    )
    ref_seconds: tuple[float, ...] = option((1.0,), "Lengths of the clips.", at_least=MIN_REF_SECONDS, unit="s")
    nfe: tuple[int, ...] | None = option(None, "Numbers of network calls.", at_least=1, unset="the model's own")
    sampler: str = option(
        "budget", "budget: what suits --nfe. published: SGMSE+'s predictor and corrector. Or the name of one."
    )
    seeds: tuple[int, ...] = option((0,), "Seeds of clips and sampler noise.", at_least=0)
    peers: tuple[str, ...] = option((), "Other enhancers on the same files, or all (extra: peers).", flag="peer")
    limit: int | None = option(None, "That many files, drawn evenly from the split.", at_least=1, main=True)
    clean: Path | None = option(None, "Plain folders instead of shards: the clean files,", affects="place")
    noisy: Path | None = option(
        None, "the noisy ones of the same names (alone: DNSMOS, extra dnsmos),", affects="place"
    )
    ref: Path | None = option(None, "a noise clip for each,", affects="place")
    enhanced: Path | None = option(None, "and estimates made elsewhere (by key, with --shards).", affects="place")
    workers: int | None = option(None, "Processes that score.", at_least=1, unset="half of the cores", affects="speed")
    force: bool = option(False, "Start anew where --out holds another evaluation.", affects="place")

    def __post_init__(self) -> None:
        """Every value is judged here, before data is opened or a model loaded."""
        from nrmodel.evaluation.peers import chosen
        from nrmodel.evaluation.rungs import parse_rung

        check(self)
        for mode in self.modes:
            parse_rung(mode)
        chosen(self.peers)

"""What an evaluation is asked: `nr evaluate`'s options, and what a plan's `[evaluate]` may hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nrdata.builders.synthesis.rooms import LONGEST_T60, SHORTEST_T60
from nrdata.errors import UserError
from nrdata.options import check, option
from nrdata.sampling.channel import NAMED
from nrdata.sampling.pool import MIN_REF_SECONDS

KINDS = ("two-noises", "talker")  # of --selective (nrmodel.evaluation.selective)
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
    channel: str | None = option(None, "All through this channel.", choices=NAMED, unset="none")
    room: float | None = option(
        None, "The speech in a room of that T60; noise and clip stay dry.", at_least=SHORTEST_T60, at_most=LONGEST_T60,
        unit="s", unset="none",
    )  # fmt: skip
    snr_db: float | None = option(
        None, "The noise brought to that SNR.", at_least=-40, at_most=60, unit="dB", unset="as it is", flag="snr"
    )
    selective: str | None = option(
        None, "Instead: mixtures of two sounds, the clip from one; decibels taken from each part.", choices=KINDS
    )
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
        conditions = [name for name in ("channel", "room", "snr_db") if getattr(self, name) is not None]
        folders = self.clean or self.noisy or self.enhanced
        if conditions and folders:
            raise UserError(f"{conditions[0]} is for --shards: {folders} is taken as it is", "bad_option")
        if self.selective and (conditions or folders):
            text = f"selective makes its own mixtures from --shards: without {folders or conditions[0]}"
            raise UserError(text, "bad_option")
        for mode in self.modes:
            parse_rung(mode)
        chosen(self.peers)

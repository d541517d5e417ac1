"""What the stream is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from nrdata.errors import UserError
from nrdata.options import check, option
from nrdata.sampling.laws import parse_law
from nrdata.sampling.pool import MIN_REF_SECONDS


@dataclass(frozen=True)
class StreamConfig:
    batch_size: int = option(help="Items of the global batch.", at_least=1)
    crop_samples: int = option(help="Samples of an item; shorter ones are padded with zeros at their end.", at_least=1)
    law: str = option("none", "A mode, or a mixture such as disjoint:0.5,env:0.2,none:0.3.")
    ref_seconds: float | tuple[float, float] = option(
        1.0, "Length of the clip, or a range drawn per batch.", at_least=MIN_REF_SECONDS, unit="s"
    )
    ref_dropout: float = option(
        0.0, "Share of items without their reference; 0 where the law itself names none.", at_least=0, at_most=1
    )
    on_missing_ref: str = option(
        "refuse", "none: items that the law cannot serve get no reference, and are counted.", choices=("refuse", "none")
    )
    seed: int = option(0, "Of every draw.")
    window: int | None = option(
        None, "Samples shuffled and paired at once.", at_least=1, unset="the whole split below 10^6"
    )
    remix: bool = option(False, "Pair clean with the noise of another row, anew in every epoch.")
    remix_snr_db: tuple[float, float] = option((-5.0, 15.0), "SNR of remixed items.", unit="dB")
    clean_share: float = option(0.02, "Share of remixed items with noise 60 dB down.", at_least=0, at_most=1)
    noise_share: float = option(0.02, "Share of remixed items without speech.", at_least=0, at_most=1)
    shortest_crop_samples: int | None = option(
        None, "Crops are drawn per batch from here to crop_samples.", at_least=1, unset="all as long"
    )
    channel_share: float = option(
        0.0, "Share of items whose mixture, target and clip went through one drawn channel.", at_least=0, at_most=1
    )
    room_share: float = option(
        0.0, "Share of remixed items with a room around the speech, which the target keeps.", at_least=0, at_most=1
    )
    two_noise_share: float = option(
        0.0, "Share of remixed items with a second noise of another environment.", at_least=0, at_most=1
    )
    talker_share: float = option(
        0.0, "Share of remixed items with another speaker as the noise, and a clip of his.", at_least=0, at_most=1
    )
    keep_share: float = option(
        0.0, "Share of those two, where there is a clip, whose target keeps all that the clip does not hold.",
        at_least=0, at_most=1,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self, "stream configuration: ")
        without_clips = parse_law(self.law).modes == ("none",)
        harder = (self.room_share, self.two_noise_share, self.talker_share, self.keep_share)
        wrong = {
            "clean_share and noise_share must lie in 0 to 1 together": self.clean_share + self.noise_share > 1,
            "rooms, two noises, talkers and keep need remix": any(harder) and not self.remix,
            "talkers and keep need a reference law: without a clip nobody says what is noise": without_clips
            and max(self.talker_share, self.keep_share) > 0,
            "shortest_crop_samples must be at most crop_samples": (self.shortest_crop_samples or 0) > self.crop_samples,
        }
        for message, holds in wrong.items():
            if holds:
                raise UserError(f"stream configuration: {message}", "bad_option")

    @property
    def ref_range(self) -> tuple[float, float]:
        """Shortest and longest clip that is asked for, in seconds."""
        if isinstance(self.ref_seconds, (int, float)):
            return float(self.ref_seconds), float(self.ref_seconds)
        low, high = self.ref_seconds
        return float(low), float(high)

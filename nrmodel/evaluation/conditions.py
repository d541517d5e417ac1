"""Evaluation under harder conditions: the same files and clips in a room, at another SNR, through a named channel.

Everything that is scored goes through them, so that the model, the peers and the unprocessed sound are asked the same.
In this order: the speech in a room of a given reverberation time (noise and clip stay dry, the target keeps the room);
the noise brought to a given SNR; mixture, clean sound and clip through one channel (nrdata.sampling.channel).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nrdata.keyed import condition_rng
from nrdata.sampling import channel as channels
from nrdata.sampling.echo import echo, heard_in
from nrdata.sampling.transforms import noise_gain
from nrmodel.evaluation.folders import Sounds
from nrmodel.evaluation.request import EvaluationRequest
from nrmodel.evaluation.rungs import ShownClip

ROOMS = 16  # of each reverberation time; a file's is keyed by its key


@dataclass(frozen=True)
class Conditions:
    """What is changed; the default is nothing."""

    channel: str | None = None  # a name in nrdata.sampling.channel.NAMED
    room: float | None = None  # T60 in seconds
    snr_db: float | None = None

    def told(self) -> dict[str, Any]:
        """What stands in the request of an evaluation: nothing where nothing is changed."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def conditions_of(asked: EvaluationRequest) -> Conditions:
    return Conditions(asked.channel, asked.room, asked.snr_db)


class Changed:
    """Files of a data set (`nrmodel.evaluation.evaluate.ShardFiles`) under `conditions`."""

    def __init__(self, files: Any, conditions: Conditions):
        self.files, self.conditions = files, conditions
        self.channel = channels.named(conditions.channel) if conditions.channel else None
        self.rows, self.sample_rate, self.fingerprint = files.rows, files.sample_rate, files.fingerprint
        self.key, self.fault, self.inputs = files.key, files.fault, files.inputs

    def facts(self, row: int, sounds: Sounds) -> dict[str, Any]:
        asked = self.conditions.snr_db
        facts: dict[str, Any] = self.files.facts(row, sounds)
        return facts | ({} if asked is None else {"snr_db": asked})

    def sounds(self, row: int) -> Sounds:
        raw = self._before_channel(row)
        if self.channel is None:
            return raw
        noisy, (clean,), _ = channels.apply(self.channel, raw.noisy, [raw.clean], [], raw.sample_rate)
        return Sounds(clean, noisy, noisy - clean, raw.sample_rate)

    def reference(self, row: int, sounds: Sounds, mode: str, ref_seconds: float, seed: int) -> ShownClip | None:
        found: ShownClip | None = self.files.reference(row, sounds, mode, ref_seconds, seed)
        if found is None or found.sound is None or self.channel is None:
            return found
        raw = self._before_channel(row)
        _, _, (sound,) = channels.apply(self.channel, raw.noisy, [], [found.sound], raw.sample_rate)
        return ShownClip(sound, found.relation, found.source, found.span, found.distance_db)

    def _before_channel(self, row: int) -> Sounds:
        raw, asked = self.files.sounds(row), self.conditions
        clean, noise = raw.clean, raw.noise
        if asked.room is not None:
            number = int(condition_rng(self.key(row)).integers(ROOMS))
            wet = heard_in(clean, echo(0, number, raw.sample_rate, (asked.room, asked.room)).speech)
            clean = wet * np.float32(np.sqrt(np.sum(np.square(clean)) / max(float(np.sum(np.square(wet))), 1e-12)))
        if asked.snr_db is not None:
            noise = np.float32(noise_gain(clean, noise, asked.snr_db)) * noise
        return Sounds(clean, clean + noise, noise, raw.sample_rate)

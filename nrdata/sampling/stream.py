"""What training sees: a sequence of global batches that is a pure function of its position.

`Stream.batch(epoch, index)` depends on nothing but (seed, epoch, index), the data set's fingerprint and the
configuration: not on the batches before it, the number of loader workers, or the number of ranks (rank r of R takes
items r::R of the global batch). So resuming needs two integers and reads nothing that came before. Clean and noisy
sound do not depend on the law, the dropout or the length of the reference: each draws from numbers of its own. Only
a talker in the place of the noise always has his clip, and what keeps the rest needs one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nrdata.errors import UserError
from nrdata.keyed import CHANNEL, LAW, LENGTH, SHORT, generator, key_of
from nrdata.protocols import Samples
from nrdata.sampling import channel
from nrdata.sampling.config import StreamConfig
from nrdata.sampling.laws import parse_law
from nrdata.sampling.order import Order
from nrdata.sampling.pool import Pool
from nrdata.sampling.remix import At, Mixer
from nrdata.sampling.shortfall import Shortfall, check_law, refuse_shortfall


@dataclass
class Batch:
    noisy: np.ndarray  # float32 (B, crop), zeros after `frames`; as long in all items of a batch
    clean: np.ndarray  # float32 (B, crop): the target
    frames: np.ndarray  # int64 (B,) valid samples
    ref: np.ndarray  # float32 (B, R), zeros after `ref_frames`; R = 0 under the law "none"
    ref_frames: np.ndarray  # int64 (B,); 0: the null reference
    mode: list[str]
    relation: list[str]  # "none" under a mode other than none: the reference is missing
    env_id: list[str]  # "speaker/<name>" where a talker is the noise
    key: list[str]  # "<clean>+<noise>" where remixed, "+<second noise>" behind it
    invented: list[bool]  # noise and reference went through an equaliser of their own
    keep: np.ndarray  # bool (B,): the target keeps what the clip does not hold (nrdata.sampling.harder)

    @property
    def missing(self) -> int:
        """Items whose law could not be served."""
        return sum(r == "none" and m != "none" for m, r in zip(self.mode, self.relation, strict=True))


class Stream:
    """Batches of one split of a data set. Raises `UserError` where the law cannot be served (see `on_missing_ref`)."""

    def __init__(self, dataset: Samples, split: str, config: StreamConfig):
        self.dataset, self.split, self.config = dataset, split, config
        self.index = dataset.index(split)
        if len(self.index.key) == 0:
            raise UserError(f"split {split!r} of {dataset.name} holds no sample; choose another or build it")
        self.law = parse_law(config.law)
        self.dropout = 0.0 if "none" in self.law.modes else config.ref_dropout
        self.key = key_of(config.seed, dataset.fingerprint, split)
        self.order = Order(self.key, np.bincount(self.index.shard), config.window)
        self.pool = Pool(self.index, dataset.sample_rate)
        self._pools: dict[tuple[int, int], Pool] = {}
        self.mixer = Mixer(self._read, self.index, dataset.sample_rate, self.key, config)
        self.shortfalls: list[Shortfall] = check_law(self.pool, self.law, config.crop_samples)
        if config.on_missing_ref == "refuse":
            refuse_shortfall(self.shortfalls)

    @property
    def batches_per_epoch(self) -> int:
        """The last partial batch is dropped; an epoch smaller than one batch repeats its rows."""
        return max(len(self.index.key) // self.config.batch_size, 1)

    def next(self, epoch: int, index: int) -> tuple[int, int]:
        """The position after (epoch, index)."""
        return (epoch, index + 1) if index + 1 < self.batches_per_epoch else (epoch + 1, 0)

    def batch(self, epoch: int, index: int, rank: int = 0, ranks: int = 1) -> Batch:
        """Items rank::ranks of the global batch at (epoch, index), at the same cost at any position."""
        config = self.config
        if config.batch_size % ranks:
            raise UserError(f"a batch of {config.batch_size} cannot be shared by {ranks} ranks; choose a multiple")
        if not (0 <= index < self.batches_per_epoch and 0 <= rank < ranks and epoch >= 0):
            raise IndexError(f"no batch ({epoch}, {index}) for rank {rank} of {ranks}")
        size = config.batch_size // ranks
        width = self._ref_frames(epoch, index)
        crop = self._crop_samples(epoch, index)
        noisy, clean = np.zeros((2, size, crop), np.float32)  # at once: half the page faults
        batch = Batch(
            noisy=noisy,
            clean=clean,
            frames=np.zeros(size, np.int64),
            ref=np.zeros((size, width), np.float32),
            ref_frames=np.zeros(size, np.int64),
            mode=[], relation=[], env_id=[], key=[], invented=[], keep=np.zeros(size, bool),
        )  # fmt: skip
        for i in range(size):
            self._fill(batch, i, (epoch, index * config.batch_size + i * ranks + rank))
        return batch

    def _fill(self, batch: Batch, i: int, at: At) -> None:
        """Make the item at `at` row `i` of the batch."""
        epoch, position = at[0], at[1] % len(self.index.key)
        number, window = self.order.window_at(epoch, position)
        row = int(window.rows[position - window.first])
        pool, crop, mode = self._window_pool(epoch, number, window.rows), batch.noisy.shape[1], self._law(at)
        if self.config.remix:
            heard = self.mixer.remixed(at, row, pool, crop, mode)
        else:
            heard = self.mixer.stored(at, row, crop)
        clip = self.mixer.clip(at, heard, pool, mode, batch.ref.shape[1])
        noisy, target, sound = self._through_channel(at, heard.noisy, heard.target(clip), clip.sound if clip else None)
        frames = len(noisy)
        batch.noisy[i, :frames], batch.clean[i, :frames], batch.frames[i] = noisy, target, frames
        if sound is not None:
            batch.ref[i, : len(sound)], batch.ref_frames[i] = sound, len(sound)
        batch.keep[i] = heard.keep and clip is not None
        batch.mode.append(clip.mode if clip else mode)
        batch.relation.append(clip.relation if clip else "none")
        batch.env_id.append(heard.env_id)
        batch.key.append(heard.key)
        batch.invented.append(heard.eq_db is not None)

    def _through_channel(
        self, at: At, noisy: np.ndarray, target: np.ndarray, clip: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """What is heard, as it comes out of the channel that is drawn for its share of the items."""
        rng = generator(self.key, CHANNEL, *at)
        if rng.random() >= self.config.channel_share:
            return noisy, target, clip
        clips = [] if clip is None else [clip]
        drawn = channel.draw_channel(rng)
        noisy, (target,), clips = channel.apply(drawn, noisy, [target], clips, self.dataset.sample_rate)
        return noisy, target, clips[0] if clips else None

    def _law(self, at: At) -> str:
        rng = generator(self.key, LAW, *at)
        mode = self.law.mode(rng.random())
        return "none" if rng.random() < self.dropout else mode

    def _ref_frames(self, epoch: int, index: int) -> int:
        """Samples of the clips of one batch; the same on every rank."""
        if self.law.modes == ("none",):
            return 0
        seconds = generator(self.key, LENGTH, epoch, index).uniform(*self.config.ref_range)
        return round(seconds * self.dataset.sample_rate)

    def _crop_samples(self, epoch: int, index: int) -> int:
        """Samples of the crops of one batch, even in log length; the same on every rank."""
        longest, shortest = self.config.crop_samples, self.config.shortest_crop_samples
        if shortest is None:
            return longest
        u = generator(self.key, SHORT, epoch, index).random()
        drawn: int = round(shortest * (longest / shortest) ** u)
        return drawn

    def _window_pool(self, epoch: int, number: int, rows: np.ndarray) -> Pool:
        if self.order.single:
            return self.pool
        if (epoch, number) not in self._pools:
            while len(self._pools) >= 2:
                self._pools.pop(next(iter(self._pools)))
            self._pools[epoch, number] = Pool(self.index, self.dataset.sample_rate, rows)
        return self._pools[epoch, number]

    def _read(self, row: int, field: str, start: int, stop: int | None) -> np.ndarray:
        return self.dataset.read(self.split, row, field, start, stop)

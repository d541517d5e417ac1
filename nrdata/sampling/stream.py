"""What training sees: a sequence of global batches that is a pure function of its position.

`Stream.batch(epoch, index)` depends on nothing but (seed, epoch, index), the data set's fingerprint and the
configuration: not on the batches before it, the number of loader workers, or the number of ranks (rank r of R takes
items r::R of the global batch). So resuming needs two integers and reads nothing that came before. Clean and noisy
sound do not depend on the law, the dropout or the length of the reference: each draws from numbers of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nrdata.errors import UserError
from nrdata.keyed import CLIP, CROP, LAW, LENGTH, REMIX, generator, key_of
from nrdata.options import check, option
from nrdata.protocols import Samples
from nrdata.sampling import transforms
from nrdata.sampling.clips import Listener, draw_clip
from nrdata.sampling.laws import Item, parse_law
from nrdata.sampling.order import Order
from nrdata.sampling.pool import MIN_REF_SECONDS, Pool
from nrdata.sampling.shortfall import Shortfall, check_law, refuse_shortfall

EQ_SHARE = 0.5  # of remixed items are in an invented environment
CLEAN_SNR_DB = 60.0
PARTNERS = 4  # noise rows tried for one that is as long as the speech


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

    def __post_init__(self) -> None:
        check(self, "stream configuration: ")
        if self.clean_share + self.noise_share > 1:
            raise UserError("stream configuration: clean_share and noise_share must lie in 0 to 1 together")
        parse_law(self.law)

    @property
    def ref_range(self) -> tuple[float, float]:
        """Shortest and longest clip that is asked for, in seconds."""
        if isinstance(self.ref_seconds, (int, float)):
            return float(self.ref_seconds), float(self.ref_seconds)
        low, high = self.ref_seconds
        return float(low), float(high)


@dataclass
class Batch:
    noisy: np.ndarray  # float32 (B, crop_samples), zeros after `frames`
    clean: np.ndarray  # float32 (B, crop_samples)
    frames: np.ndarray  # int64 (B,) valid samples
    ref: np.ndarray  # float32 (B, R), zeros after `ref_frames`; R = 0 under the law "none"
    ref_frames: np.ndarray  # int64 (B,); 0: the null reference
    mode: list[str]
    relation: list[str]  # "none" under a mode other than none: the reference is missing
    env_id: list[str]
    key: list[str]  # "<clean>+<noise>" where remixed
    invented: list[bool]  # noise and reference went through an equaliser of their own

    @property
    def missing(self) -> int:
        """Items whose law could not be served."""
        return sum(r == "none" and m != "none" for m, r in zip(self.mode, self.relation, strict=True))


class Heard(NamedTuple):
    """One item before its reference: float32 (frames,) each, and what a law needs to know."""

    noisy: np.ndarray
    clean: np.ndarray
    item: Item
    eq_db: np.ndarray | None
    key: str


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
        noisy, clean = np.zeros((2, size, config.crop_samples), np.float32)  # at once: half the page faults
        batch = Batch(
            noisy=noisy,
            clean=clean,
            frames=np.zeros(size, np.int64),
            ref=np.zeros((size, width), np.float32),
            ref_frames=np.zeros(size, np.int64),
            mode=[], relation=[], env_id=[], key=[], invented=[],
        )  # fmt: skip
        for i in range(size):
            self._fill(batch, i, epoch, index * config.batch_size + i * ranks + rank)
        return batch

    def _fill(self, batch: Batch, i: int, epoch: int, position: int) -> None:
        """Make the item at `position` of the epoch row `i` of the batch."""
        number, window = self.order.window_at(epoch, position % len(self.index.key))
        row = int(window.rows[position % len(self.index.key) - window.first])
        pool = self._window_pool(epoch, number, window.rows)
        heard = self._remixed(epoch, position, row, pool) if self.config.remix else self._stored(epoch, position, row)
        frames = len(heard.noisy)
        batch.noisy[i, :frames], batch.clean[i, :frames], batch.frames[i] = heard.noisy, heard.clean, frames
        mode, relation, listener = self._law(epoch, position), "none", Listener(self._read)
        rng = generator(self.key, CLIP, epoch, position)
        clip = draw_clip(heard.item, pool, mode, batch.ref.shape[1], rng, listener)
        if clip is not None:
            sound, relation = listener.clip(clip), clip.relation
            if heard.eq_db is not None:
                sound = transforms.apply_eq(sound, heard.eq_db, self.dataset.sample_rate)
            batch.ref[i, : len(sound)], batch.ref_frames[i] = sound, len(sound)
        batch.mode.append(mode)
        batch.relation.append(relation)
        batch.env_id.append(self.index.env_names[self.index.env[heard.item.row]])
        batch.key.append(heard.key)
        batch.invented.append(heard.eq_db is not None)

    def _stored(self, epoch: int, position: int, row: int) -> Heard:
        """A crop of the sample as it is stored."""
        start, stop, clean = self._clean_crop(generator(self.key, CROP, epoch, position), row)
        noisy = self._read(row, "noisy", start, stop)
        return Heard(noisy, clean, Item(row, start, stop), None, self._name(row))

    def _remixed(self, epoch: int, position: int, row: int, pool: Pool) -> Heard:
        """Clean of `row` with the noise of another row of the window, perhaps in an invented environment.

        The reference belongs to the noise: it follows the noise's row, through the same filter.
        """
        config = self.config
        start, stop, clean = self._clean_crop(generator(self.key, CROP, epoch, position), row)
        rng = generator(self.key, REMIX, epoch, position)
        partners = pool.rows[rng.integers(len(pool.rows), size=PARTNERS)]
        lengths = self.index.frames[partners]
        partner = int(partners[np.argmax(np.minimum(lengths, stop - start))])
        snr_db = rng.uniform(*config.remix_snr_db)
        kind = rng.random()
        eq_db = transforms.draw_eq(rng) if rng.random() < EQ_SHARE else None
        frames = min(stop - start, int(self.index.frames[partner]))
        at = transforms.crop_start(int(self.index.frames[partner]), frames, rng)
        noise, clean = self._read(partner, "noise", at, at + frames), clean[:frames]
        if eq_db is not None:
            noise = transforms.apply_eq(noise, eq_db, self.dataset.sample_rate)
        if kind < config.noise_share:
            clean = np.zeros_like(clean)
        elif kind < config.noise_share + config.clean_share:
            snr_db = CLEAN_SNR_DB
        noisy = clean + np.float32(transforms.noise_gain(clean, noise, snr_db)) * noise
        return Heard(noisy, clean, Item(partner, at, at + frames), eq_db, f"{self._name(row)}+{self._name(partner)}")

    def _clean_crop(self, rng: np.random.Generator, row: int) -> tuple[int, int, np.ndarray]:
        """(start, stop, clean): a uniform crop; where that is digital silence, one with sound in it."""
        frames, crop = int(self.index.frames[row]), self.config.crop_samples
        start = transforms.crop_start(frames, crop, rng)
        clean = self._read(row, "clean", start, min(start + crop, frames))
        if frames > crop and not clean.any():
            whole = self._read(row, "clean", 0, None)
            start = transforms.sounding_start(whole, crop, rng) or 0
            clean = whole[start : start + crop]
        return start, min(start + crop, frames), clean

    def _law(self, epoch: int, position: int) -> str:
        rng = generator(self.key, LAW, epoch, position)
        mode = self.law.mode(rng.random())
        return "none" if rng.random() < self.dropout else mode

    def _ref_frames(self, epoch: int, index: int) -> int:
        """Samples of the clips of one batch; the same on every rank."""
        if self.law.modes == ("none",):
            return 0
        seconds = generator(self.key, LENGTH, epoch, index).uniform(*self.config.ref_range)
        return round(seconds * self.dataset.sample_rate)

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

    def _name(self, row: int) -> str:
        return bytes(self.index.key[row]).decode()

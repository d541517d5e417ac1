"""What training sees: a sequence of global batches that is a pure function of its position.

`Stream.batch(epoch, index)` depends on nothing but (seed, epoch, index), the data set's fingerprint and the
configuration: not on the batches before it, the number of loader workers, or the number of ranks (rank r of R takes
items r::R of the global batch). So resuming needs two integers and reads nothing that came before. Clean and noisy
sound do not depend on the law, the dropout or the length of the reference: each draws from numbers of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nrdata.errors import UserError
from nrdata.sampling import channel, harder, transforms
from nrdata.sampling.keyed import CHANNEL, CLIP, CROP, KEEP, LAW, LENGTH, REMIX, SHORT, generator, key_of
from nrdata.sampling.order import Order
from nrdata.sampling.pool import MIN_REF_SECONDS, Pool
from nrdata.sampling.references import Clip, Item, Listener, draw_clip, parse_law
from nrdata.sampling.shortfall import Shortfall, check_law, refuse_shortfall

EQ_SHARE = 0.5  # of remixed items are in an invented environment
CLEAN_SNR_DB = 60.0
PARTNERS = 4  # noise rows tried for one that is as long as the speech


@dataclass(frozen=True)
class StreamConfig:
    batch_size: int  # of the global batch
    crop_frames: int  # samples of an item; shorter samples are padded with zeros at their end
    law: str = "none"  # a mode, or a mixture such as "disjoint:0.5,env:0.2,none:0.3"
    ref_seconds: float | tuple[float, float] = 1.0  # length of the clip, or a range drawn per batch
    ref_dropout: float = 0.0  # share of items without their reference; 0 where the law itself names none
    on_missing_ref: str = "refuse"  # "none": items that the law cannot serve get no reference, and are counted
    seed: int = 0
    window: int | None = None  # samples shuffled and paired at once; None: the whole split below 10^6
    remix: bool = False  # pair clean with the noise of another row, anew in every epoch
    remix_snr_db: tuple[float, float] = (-5.0, 15.0)
    clean_share: float = 0.02  # of remixed items: noise 60 dB down
    noise_share: float = 0.02  # of remixed items: no speech at all
    shortest_crop_frames: int | None = None  # crops drawn per batch from here to crop_frames; None: all as long
    channel_share: float = 0.0  # of items: mixture, target and clip went through one drawn channel
    room_share: float = 0.0  # of remixed items: a room around the speech, which the target keeps
    two_noise_share: float = 0.0  # of remixed items: a second noise of another environment
    talker_share: float = 0.0  # of remixed items: another speaker as the noise, with a clip of his
    keep_share: float = 0.0  # of items with two noises or a talker and a clip: only what the clip holds goes

    def __post_init__(self) -> None:
        low, high = self.ref_range
        share = (self.ref_dropout, self.clean_share, self.noise_share, self.clean_share + self.noise_share)
        harder_shares = (self.room_share, self.two_noise_share, self.talker_share, self.keep_share)
        shares = (*share, self.channel_share, *harder_shares)
        wrong = {
            "batch_size must be 1 or more": self.batch_size < 1,
            "crop_frames must be 1 or more": self.crop_frames < 1,
            f"ref_seconds must be finite, {MIN_REF_SECONDS} or more, low before high": not (
                MIN_REF_SECONDS <= low <= high < math.inf
            ),
            "ref_dropout, clean_share and all shares must lie in 0 to 1": not all(0 <= s <= 1 for s in shares),
            "talkers need a reference law: without a clip nobody says who is the noise": self.talker_share > 0
            and parse_law(self.law).modes == ("none",),
            "rooms, two noises, talkers and keep need remix": any(harder_shares) and not self.remix,
            "shortest_crop_frames must be 1 or more and at most crop_frames": self.shortest_crop_frames is not None
            and not 1 <= self.shortest_crop_frames <= self.crop_frames,
            "on_missing_ref must be 'refuse' or 'none'": self.on_missing_ref not in ("refuse", "none"),
            "window must be 1 or more": self.window is not None and self.window < 1,
            "remix_snr_db must be finite, low before high": not (
                -math.inf < self.remix_snr_db[0] <= self.remix_snr_db[1] < math.inf
            ),
        }
        for sentence, is_wrong in wrong.items():
            if is_wrong:
                raise UserError(f"stream configuration: {sentence}")
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
    noisy: np.ndarray  # float32 (B, crop_frames), zeros after `frames`
    clean: np.ndarray  # float32 (B, crop_frames)
    frames: np.ndarray  # int64 (B,) valid samples
    ref: np.ndarray  # float32 (B, R), zeros after `ref_frames`; R = 0 under the law "none"
    ref_frames: np.ndarray  # int64 (B,); 0: the null reference
    mode: list[str]
    relation: list[str]  # "none" under a mode other than none: the reference is missing
    env_id: list[str]
    key: list[str]  # "<clean>+<noise>" where remixed
    invented: list[bool]  # noise and reference went through an equaliser of their own
    keep: np.ndarray  # bool (B,): the target keeps what the clip does not hold (nrdata.sampling.harder)

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
    echo: np.ndarray | None = None  # the response that noise and clip are heard through
    second: harder.Second | None = None
    rest: np.ndarray | None = None  # the second noise as it is in the mixture,
    second_gain: float = 1.0  # and what it was scaled by against the first
    talker: harder.Talker | None = None
    keep: bool = False  # asked for; given where there is a clip


class Stream:
    """Batches of one split of a data set. Raises `UserError` where the law cannot be served (see `on_missing_ref`)."""

    def __init__(self, dataset: Any, split: str, config: StreamConfig):
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
        self.shortfalls: list[Shortfall] = check_law(self.pool, self.law, config.crop_frames)
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
        noisy, clean = np.zeros((2, size, self._crop_frames(epoch, index)), np.float32)  # at once: half the page faults
        batch = Batch(
            noisy=noisy,
            clean=clean,
            frames=np.zeros(size, np.int64),
            ref=np.zeros((size, width), np.float32),
            ref_frames=np.zeros(size, np.int64),
            mode=[], relation=[], env_id=[], key=[], invented=[], keep=np.zeros(size, bool),
        )  # fmt: skip
        for i in range(size):
            self._fill(batch, i, epoch, index * config.batch_size + i * ranks + rank)
        return batch

    def _fill(self, batch: Batch, i: int, epoch: int, position: int) -> None:
        """Make the item at `position` of the epoch row `i` of the batch."""
        number, window = self.order.window_at(epoch, position % len(self.index.key))
        row = int(window.rows[position % len(self.index.key) - window.first])
        pool = self._window_pool(epoch, number, window.rows)
        crop, mode = batch.noisy.shape[1], self._law(epoch, position)
        heard = (
            self._remixed(epoch, position, row, pool, crop, mode)
            if self.config.remix
            else self._stored(epoch, position, row, crop)
        )
        noisy, target = heard.noisy, heard.clean
        sound, relation, holds_both = self._clip(heard, pool, mode, batch.ref.shape[1], epoch, position)
        if sound is not None and heard.keep:
            batch.keep[i] = True
            if relation == "other-environment":
                target = noisy
            elif heard.rest is not None and not holds_both:
                target = target + heard.rest
        rng = generator(self.key, CHANNEL, epoch, position)
        if self.config.channel_share and rng.random() < self.config.channel_share:
            clips = [] if sound is None else [sound]
            drawn = channel.draw_channel(rng)
            noisy, (target,), clips = channel.apply(drawn, noisy, [target], clips, self.dataset.sample_rate)
            sound = clips[0] if clips else None
        frames = len(noisy)
        batch.noisy[i, :frames], batch.clean[i, :frames], batch.frames[i] = noisy, target, frames
        if sound is not None:
            batch.ref[i, : len(sound)], batch.ref_frames[i] = sound, len(sound)
        batch.mode.append("disjoint" if heard.talker and sound is not None else mode)
        batch.relation.append(relation)
        batch.env_id.append(self._place(heard))
        batch.key.append(heard.key)
        batch.invented.append(heard.eq_db is not None)

    def _clip(
        self, heard: Heard, pool: Pool, mode: str, width: int, epoch: int, position: int
    ) -> tuple[np.ndarray | None, str, bool]:
        """(the clip as it sounds, its relation, whether it holds both noises); None, "none", False: no reference."""
        rng = generator(self.key, CLIP, epoch, position)
        if heard.talker is not None and width:
            clip: Any = harder.talker_clip(heard.talker, width, rng)
            sound = self._heard(clip.row, clip.field, clip.start, clip.stop, heard.echo)
            return sound, clip.relation, False
        if mode == "none":
            return None, "none", False
        listener = Listener(self._read)
        clip = draw_clip(heard.item, pool, mode, width, rng, listener)
        if clip is None:
            return None, "none", False
        sound = self._as_heard(clip, listener, heard.eq_db, heard.echo)
        if heard.second is None or not heard.second.both:
            return sound, clip.relation, False
        other = draw_clip(heard.second.item, pool, mode, len(sound), rng, listener)
        if other is None or other.relation == "other-environment":
            return sound, clip.relation, False
        of_other = self._as_heard(other, listener, heard.second.eq_db, heard.echo)
        frames = min(len(sound), len(of_other))
        return sound[:frames] + np.float32(heard.second_gain) * of_other[:frames], clip.relation, True

    def _as_heard(
        self, clip: Clip, listener: Listener, eq_db: np.ndarray | None, response: np.ndarray | None
    ) -> np.ndarray:
        sound = listener.clip(clip)
        if response is not None:
            sound = self._heard(clip.row, clip.field, clip.start, clip.stop, response)
        return sound if eq_db is None else transforms.apply_eq(sound, eq_db, self.dataset.sample_rate)

    def _place(self, heard: Heard) -> str:
        if heard.talker is not None:
            return f"speaker/{self.index.speaker_names[self.index.speaker[heard.talker.row]]}"
        return self.index.env_names[self.index.env[heard.item.row]]

    def _stored(self, epoch: int, position: int, row: int, crop: int) -> Heard:
        """A crop of the sample as it is stored."""
        start, stop, clean = self._clean_crop(generator(self.key, CROP, epoch, position), row, crop)
        noisy = self._read(row, "noisy", start, stop)
        return Heard(noisy, clean, Item(row, start, stop), None, self._name(row))

    def _remixed(self, epoch: int, position: int, row: int, pool: Pool, crop: int, mode: str) -> Heard:
        """Clean of `row` with the noise of another row of the window, perhaps in an invented environment.

        The reference belongs to the noise: it follows the noise's row, through the same filter.
        """
        config, at_item = self.config, (epoch, position)
        start, stop, clean = self._clean_crop(generator(self.key, CROP, epoch, position), row, crop)
        rate = self.dataset.sample_rate
        room, noise_too = harder.draw_echo(self.key, config.room_share, config.seed, rate, at_item)
        if room is not None:
            clean = self._heard(row, "clean", start, stop, room.speech)
        rng = generator(self.key, REMIX, epoch, position)
        partners = pool.rows[rng.integers(len(pool.rows), size=PARTNERS)]
        lengths = self.index.frames[partners]
        partner = int(partners[np.argmax(np.minimum(lengths, stop - start))])
        snr_db = rng.uniform(*config.remix_snr_db)
        kind = rng.random()
        eq_db = transforms.draw_eq(rng) if rng.random() < EQ_SHARE else None
        frames = min(stop - start, int(self.index.frames[partner]))
        at = transforms.crop_start(int(self.index.frames[partner]), frames, rng)
        talker = harder.draw_talker(self.key, config.talker_share, at_item, pool, row, frames)
        second = harder.draw_second(self.key, config.two_noise_share, at_item, pool, partner, frames, EQ_SHARE)
        response = room.noise if room is not None and (noise_too or talker is not None) else None
        if talker is not None:
            eq_db, snr_db = None, talker.snr_db
            noise = self._heard(talker.row, "clean", talker.start, talker.start + frames, response)
        else:
            noise = self._heard(partner, "noise", at, at + frames, response)
        clean = clean[:frames]
        if eq_db is not None:
            noise = transforms.apply_eq(noise, eq_db, rate)
        rng_keep = generator(self.key, KEEP, epoch, position)
        apart = second is not None or talker is not None
        keep = config.keep_share > 0 and rng_keep.random() < (config.keep_share if apart else harder.KEEP_ALONE)
        no_speech = keep and second is not None and mode != "none" and rng_keep.random() < harder.KEEP_NO_SPEECH
        if kind < config.noise_share or no_speech:
            clean = np.zeros_like(clean)
        elif kind < config.noise_share + config.clean_share:
            snr_db = CLEAN_SNR_DB
        rest, second_gain, whole = None, 1.0, noise
        if second is not None:
            rest = self._heard(second.item.row, "noise", second.item.start, second.item.stop, response)
            if second.eq_db is not None:
                rest = transforms.apply_eq(rest, second.eq_db, rate)
            second_gain = transforms.noise_gain(noise, rest, second.relative_db)
            rest = np.float32(second_gain) * rest
            whole = noise + rest
        gain = np.float32(transforms.noise_gain(clean, whole, snr_db))
        key = f"{self._name(row)}+{self._name(partner if talker is None else talker.row)}"
        if second is not None:
            key += f"+{self._name(second.item.row)}"
        return Heard(
            clean + gain * whole, clean, Item(partner, at, at + frames), eq_db, key, response, second,
            None if rest is None else gain * rest, second_gain, talker, keep,
        )  # fmt: skip

    def _clean_crop(self, rng: np.random.Generator, row: int, crop: int) -> tuple[int, int, np.ndarray]:
        """(start, stop, clean): a uniform crop; where that is digital silence, one with sound in it."""
        frames = int(self.index.frames[row])
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

    def _crop_frames(self, epoch: int, index: int) -> int:
        """Samples of the crops of one batch, even in log length; the same on every rank."""
        longest, shortest = self.config.crop_frames, self.config.shortest_crop_frames
        if shortest is None:
            return longest
        u = generator(self.key, SHORT, epoch, index).random()
        return round(shortest * (longest / shortest) ** u)

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

    def _heard(self, row: int, field: str, start: int, stop: int, response: np.ndarray | None) -> np.ndarray:
        return harder.heard(self._read, row, field, start, stop, response, self.dataset.sample_rate)

    def _name(self, row: int) -> str:
        return bytes(self.index.key[row]).decode()

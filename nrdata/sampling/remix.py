"""One item of the stream: a sample as it is stored, or one made anew from the speech of one row and the noise of
another of its window, plain or harder (`harder`).

The reference belongs to the noise: it follows the noise's row, through the same equaliser and the same room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nrdata.keyed import CLIP, CROP, KEEP, REMIX, generator
from nrdata.sampling import harder, transforms
from nrdata.sampling.clips import Clip, Listener, draw_clip
from nrdata.sampling.config import StreamConfig
from nrdata.sampling.laws import Item
from nrdata.sampling.pool import Pool
from nrdata.store.index import SplitIndex

EQ_SHARE = 0.5  # of remixed items are in an invented environment
CLEAN_SNR_DB = 60.0
PARTNERS = 4  # noise rows tried for one that is as long as the speech

At = tuple[int, int]  # epoch and position: what every draw is keyed by


class Heard(NamedTuple):
    """One item before its reference: float32 (frames,) each, and what a law needs to know."""

    noisy: np.ndarray
    clean: np.ndarray
    item: Item
    key: str
    env_id: str
    eq_db: np.ndarray | None = None
    response: np.ndarray | None = None  # that noise and clip are heard through
    second: harder.Second | None = None
    rest: np.ndarray | None = None  # the second noise as it is in the mixture,
    rest_gain: float = 1.0  # and what it was scaled by against the first
    talker: harder.Talker | None = None
    keep: bool = False  # asked for; given where there is a clip

    def target(self, clip: HeardClip | None) -> np.ndarray:
        """Clean speech; under `keep` with all that the clip does not hold, which is everything for a clip of neither
        noise."""
        if clip is None or not self.keep:
            return self.clean
        if clip.relation == "other-environment":
            return self.noisy
        return self.clean if self.rest is None or clip.holds_both else self.clean + self.rest


class HeardClip(NamedTuple):
    """A reference as it sounds, float32 (frames,); `holds_both` noises of its item."""

    sound: np.ndarray
    mode: str
    relation: str
    holds_both: bool = False


@dataclass(frozen=True)
class Mixer:
    """Makes items of one split; `read(row, field, start, stop)` gives float32 sound at `sample_rate`."""

    read: Callable[[int, str, int, int | None], np.ndarray]
    index: SplitIndex
    sample_rate: int
    key: np.ndarray  # of the stream's draws
    config: StreamConfig

    def stored(self, at: At, row: int, crop: int) -> Heard:
        """A crop of the sample as it is stored."""
        start, stop, clean = self._clean_crop(at, row, crop)
        noisy = self.read(row, "noisy", start, stop)
        return Heard(noisy, clean, Item(row, start, stop), self._name(row), self._place(row))

    def remixed(self, at: At, row: int, pool: Pool, crop: int, mode: str) -> Heard:
        """Clean of `row` with the noise of another row of the window, perhaps in an invented environment."""
        config = self.config
        start, stop, clean = self._clean_crop(at, row, crop)
        room, noise_too = harder.draw_echo(self.key, config.room_share, config.seed, self.sample_rate, at)
        if room is not None:
            clean = self._heard(row, "clean", start, stop, room.speech)
        rng = generator(self.key, REMIX, *at)
        partners = pool.rows[rng.integers(len(pool.rows), size=PARTNERS)]
        lengths = self.index.frames[partners]
        partner = int(partners[np.argmax(np.minimum(lengths, stop - start))])
        snr_db = rng.uniform(*config.remix_snr_db)
        kind = rng.random()
        eq_db = transforms.draw_eq(rng) if rng.random() < EQ_SHARE else None
        frames = min(stop - start, int(self.index.frames[partner]))
        begin = transforms.crop_start(int(self.index.frames[partner]), frames, rng)
        item, names = Item(partner, begin, begin + frames), [row, partner]
        talker = harder.draw_talker(self.key, config.talker_share, at, pool, self.index, row, frames)
        second = harder.draw_second(self.key, config.two_noise_share, at, pool, partner, frames, EQ_SHARE)
        response = room.noise if room is not None and (noise_too or talker is not None) else None
        if talker is None:
            noise, place = self._noise(item, eq_db, response), self._place(partner)
        else:
            eq_db, snr_db, names = None, talker.snr_db, [row, talker.row]
            noise = self._heard(talker.row, "clean", talker.start, talker.start + frames, response)
            place = harder.speaker_place(self.index, talker.row)
        whole, rest, rest_gain = noise, None, 1.0
        if second is not None:
            rest = self._noise(second.item, second.eq_db, response)
            rest_gain = transforms.noise_gain(noise, rest, second.relative_db)
            rest = np.float32(rest_gain) * rest
            whole, names = noise + rest, [*names, second.item.row]
        keep, speechless = self._keep(at, second is not None, talker is not None, mode)
        clean = clean[:frames]
        if kind < config.noise_share or speechless:
            clean = np.zeros_like(clean)
        elif kind < config.noise_share + config.clean_share:
            snr_db = CLEAN_SNR_DB
        gain = np.float32(transforms.noise_gain(clean, whole, snr_db))
        return Heard(
            clean + gain * whole, clean, item, "+".join(map(self._name, names)), place, eq_db, response, second,
            None if rest is None else gain * rest, rest_gain, talker, keep,
        )  # fmt: skip

    def clip(self, at: At, heard: Heard, pool: Pool, mode: str, ref_frames: int) -> HeardClip | None:
        """The reference of an item under a mode; a talker's is of his other words, whatever the mode."""
        rng = generator(self.key, CLIP, *at)
        if heard.talker is not None:
            words = harder.talker_clip(heard.talker, ref_frames, rng)
            sound = self._heard(words.row, words.field, words.start, words.stop, heard.response)
            return HeardClip(sound, words.mode, words.relation)
        listener = Listener(self.read)
        clip = draw_clip(heard.item, pool, mode, ref_frames, rng, listener)
        if clip is None:
            return None
        sound = self._as_heard(clip, listener, heard.eq_db, heard.response)
        if heard.second is None or not heard.second.both:
            return HeardClip(sound, mode, clip.relation)
        other = draw_clip(heard.second.item, pool, mode, len(sound), rng, listener)
        if other is None or other.relation == "other-environment":
            return HeardClip(sound, mode, clip.relation)
        of_other = self._as_heard(other, listener, heard.second.eq_db, heard.response)
        frames = min(len(sound), len(of_other))
        both = sound[:frames] + np.float32(heard.rest_gain) * of_other[:frames]
        return HeardClip(both, mode, clip.relation, holds_both=True)

    def _keep(self, at: At, two_noises: bool, talker: bool, mode: str) -> tuple[bool, bool]:
        """Whether the target is to keep the rest, and whether the item holds no speech for it."""
        share, rng = self.config.keep_share, generator(self.key, KEEP, *at)
        if share == 0 or rng.random() >= (share if two_noises or talker else harder.KEEP_ALONE):
            return False, False
        return True, two_noises and mode != "none" and rng.random() < harder.KEEP_NO_SPEECH

    def _clean_crop(self, at: At, row: int, crop: int) -> tuple[int, int, np.ndarray]:
        """(start, stop, clean): a uniform crop; where that is digital silence, one with sound in it."""
        rng, frames = generator(self.key, CROP, *at), int(self.index.frames[row])
        start = transforms.crop_start(frames, crop, rng)
        clean = self.read(row, "clean", start, min(start + crop, frames))
        if frames > crop and not clean.any():
            whole = self.read(row, "clean", 0, None)
            start = transforms.sounding_start(whole, crop, rng) or 0
            clean = whole[start : start + crop]
        return start, min(start + crop, frames), clean

    def _noise(self, item: Item, eq_db: np.ndarray | None, response: np.ndarray | None) -> np.ndarray:
        sound = self._heard(item.row, "noise", item.start, item.stop, response)
        return sound if eq_db is None else transforms.apply_eq(sound, eq_db, self.sample_rate)

    def _as_heard(
        self, clip: Clip, listener: Listener, eq_db: np.ndarray | None, response: np.ndarray | None
    ) -> np.ndarray:
        """A clip through what its noise went through."""
        if response is None:
            sound = listener.clip(clip)
        else:
            sound = self._heard(clip.row, clip.field, clip.start, clip.stop, response)
        return sound if eq_db is None else transforms.apply_eq(sound, eq_db, self.sample_rate)

    def _heard(self, row: int, field: str, start: int, stop: int, response: np.ndarray | None) -> np.ndarray:
        return harder.heard(self.read, row, field, start, stop, response, self.sample_rate)

    def _place(self, row: int) -> str:
        return str(self.index.env_names[self.index.env[row]])

    def _name(self, row: int) -> str:
        return bytes(self.index.key[row]).decode()

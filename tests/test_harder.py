"""Harder items: what goes and what stays, told from known sounds; and draws that hang on nothing but position."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from in_memory import InMemory, small

from nrdata.errors import UserError
from nrdata.sampling import echo, harder, loader
from nrdata.sampling.stream import Batch, Stream, StreamConfig

RATE, CROP = 16000, 8000
LAW = "disjoint:0.6,mismatch:0.2,none:0.2"
ALL = {
    "channel_share": 0.5, "two_noise_share": 0.6, "talker_share": 0.3, "keep_share": 0.7, "shortest_crop_samples": 4000
}  # fmt: skip


class Tones(InMemory):
    """Speech of row i is a tone at 200 Hz + 7 i; the noise of environment e one at 2000 Hz + 500 e: parts can be told
    apart. Rows 0 to 11 are one speaker, the others each another."""

    sample_rate = RATE

    def __init__(self, n: int = 24):
        super().__init__(small(n, frames=5 * RATE, ref_frames=RATE))
        self.columns.speaker = np.maximum(np.arange(n) - 11, 0).astype(np.int32)
        self.columns.speaker_names = [f"local/p{i}" for i in range(n)]

    def read(self, split, row, field, start=0, stop=None):
        if field == "noisy":
            return self.read(split, row, "clean", start, stop) + self.read(split, row, "noise", start, stop)
        frames = int(self.columns.ref_frames[row] if field == "ref" else self.columns.frames[row])
        hz = 200 + 7 * row if field == "clean" else 2000 + 500 * int(self.columns.env[row])
        t = np.arange(*slice(start, stop).indices(frames)) / RATE
        return (0.1 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def stream(**config) -> Stream:
    given = {"batch_size": 8, "crop_samples": CROP, "law": LAW, "ref_seconds": 0.5, "remix": True, "clean_share": 0.0}
    return Stream(Tones(), "train", StreamConfig(**{**given, "noise_share": 0.0, **config}))


def level(x: np.ndarray, hz: float) -> float:
    """Amplitude of a tone in a sound."""
    window = np.hanning(len(x))
    t = np.arange(len(x)) / RATE
    return float(2 * np.abs(np.sum(window * x * np.exp(-2j * np.pi * hz * t))) / window.sum())


def items(s: Stream, batches: int = 6):
    """(batch, i, the sound that is noisy less target, target, clip) of every item."""
    for index in range(batches):
        batch = s.batch(index // s.batches_per_epoch, index % s.batches_per_epoch)
        for i, frames in enumerate(batch.frames):
            noisy, target = batch.noisy[i, :frames], batch.clean[i, :frames]
            yield batch, i, noisy - target, target, batch.ref[i, : batch.ref_frames[i]]


def rows(key: str) -> list[int]:
    return [int(part[-7:]) for part in key.split("+")]


def noise_hz(row: int) -> float:
    return 2000 + 500 * (row % 4)


@pytest.fixture(autouse=True)
def no_equaliser(monkeypatch):
    """An invented environment would change the tones' levels."""
    monkeypatch.setattr("nrdata.sampling.remix.EQ_SHARE", 0.0)


def test_clean_takes_both_noises_and_keep_the_clips_alone():
    seen = set()
    for batch, i, removed, target, clip in items(stream(two_noise_share=1.0, keep_share=0.5, law="disjoint")):
        speech, first, second = rows(batch.key[i])
        assert noise_hz(first) != noise_hz(second)
        both = level(clip, noise_hz(second)) > 0.01
        assert level(clip, noise_hz(first)) > 0.02  # the clip belongs to the first
        assert level(removed, noise_hz(first)) > 1e-3 and level(target, noise_hz(first)) < 1e-4
        keeps = bool(batch.keep[i]) and not both
        assert (level(target, noise_hz(second)) > 1e-3) == keeps
        assert (level(removed, noise_hz(second)) > 1e-3) != keeps
        speechless = level(target, 200 + 7 * speech) < 1e-4
        assert not speechless or batch.keep[i]
        seen.add((bool(batch.keep[i]), both, speechless))
    assert {(True, False, False), (True, True, False), (False, False, False), (True, False, True)} <= seen


def test_the_two_noises_lie_within_the_stated_levels_and_the_snr_is_of_their_sum():
    s = stream(two_noise_share=1.0, law="disjoint", remix_snr_db=(-12.0, -12.0))
    for batch, i, removed, target, _ in items(s, 4):
        _, first, second = rows(batch.key[i])
        ratio_db = 20 * np.log10(level(removed, noise_hz(first)) / level(removed, noise_hz(second)))
        assert abs(ratio_db) < 8.2
        assert 10 * np.log10(np.sum(target**2) / np.sum(removed**2)) == pytest.approx(-12, abs=0.1)


def test_a_clip_of_neither_takes_nothing_away_under_keep_and_no_clip_means_clean():
    kept = 0
    for batch, i, removed, _, clip in items(stream(two_noise_share=1.0, keep_share=1.0, law="mismatch:0.5,none:0.5")):
        if len(clip):
            assert batch.keep[i] and not removed.any()
            kept += 1
        else:
            assert not batch.keep[i] and removed.any()
    assert kept > 10


def test_a_talker_is_another_speaker_and_the_clip_is_his_other_words():
    s, found = stream(talker_share=1.0, keep_share=0.0), 0
    for batch, i, removed, target, clip in items(s):
        own, other = rows(batch.key[i])
        if not batch.env_id[i].startswith("speaker/"):
            continue
        speakers = s.index.speaker
        assert speakers[own] != speakers[other] and batch.env_id[i].endswith(s.index.speaker_names[speakers[other]])
        assert level(clip, 200 + 7 * other) > 0.05 and level(removed, 200 + 7 * other) > 1e-3
        assert level(target, 200 + 7 * own) > 0.05 and batch.mode[i] == "disjoint"
        found += 1
    assert found > 30


def test_a_talkers_clip_and_words_do_not_overlap():
    s = stream()
    for i in range(200):
        talker = harder.draw_talker(s.key, 1.0, (0, i), s.pool, s.index, 0, CROP)
        clip = harder.talker_clip(talker, CROP, np.random.default_rng(i))
        assert clip.stop <= talker.start or clip.start >= talker.start + CROP
        assert 0 <= clip.start < clip.stop <= s.index.frames[talker.row]


def test_a_room_delays_nothing_keeps_the_level_and_stays_in_the_target(monkeypatch):
    monkeypatch.setattr(harder, "BANK", 2)
    click = np.zeros(8000, np.float32)
    click[1000] = 1.0
    for number in range(2):
        responses = echo.echo(0, number, RATE)
        for response in responses:
            wet = echo.heard_in(click, response)
            assert np.flatnonzero(np.abs(wet) > 0.5 * np.abs(wet).max())[0] == pytest.approx(1000, abs=1)
            assert np.sum(wet**2) == pytest.approx(1, abs=0.05) and np.abs(wet[:900]).max() < 1e-3
            tail = np.abs(wet[1200:]).max()
            assert tail > 0.005
            sound = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
            late = echo.heard_in(sound, response, lead=3000)
            assert np.array_equal(late, echo.heard_in(sound, response)[3000:])
    dry, wet = stream(law="none", batch_size=2), stream(law="none", batch_size=2, room_share=1.0)
    a, b = dry.batch(0, 0), wet.batch(0, 0)
    assert a.key == b.key and not np.allclose(a.clean, b.clean)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Batch)]
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_and_any_position_gives_the_same(workers):
    s = stream(**ALL)
    batches = loader.batches(s, (0, 1), workers=workers)
    for _, (at, batch) in zip(range(4), batches, strict=False):
        assert same(batch, stream(**ALL).batch(*at))
    batches.close()


def test_ranks_share_the_global_batch():
    s = stream(**ALL)
    whole = s.batch(0, 1)
    for rank in range(2):
        part = s.batch(0, 1, rank, 2)
        assert np.array_equal(part.noisy, whole.noisy[rank::2]) and np.array_equal(part.keep, whole.keep[rank::2])


def test_one_share_does_not_move_what_the_others_draw():
    straight, channels = stream().batch(0, 0), stream(channel_share=1.0).batch(0, 0)
    assert straight.key == channels.key and straight.mode == channels.mode
    assert np.array_equal(straight.frames, channels.frames) and not np.array_equal(straight.noisy, channels.noisy)
    two = stream(two_noise_share=1.0).batch(0, 0)
    assert np.array_equal(two.clean, straight.clean) and two.mode == straight.mode
    assert all(key.startswith(f"{before}+") for key, before in zip(two.key, straight.key, strict=True))


def test_crops_are_drawn_per_batch_between_the_shortest_and_the_longest():
    widths = {stream(shortest_crop_samples=3000).batch(0, index).noisy.shape[1] for index in range(3)}
    assert len(widths) == 3 and all(3000 <= width <= CROP for width in widths)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"two_noise_share": 0.5, "remix": False}, "need remix"),
        ({"channel_share": 1.5}, "0 to 1"),
        ({"talker_share": 0.1, "law": "none"}, "talkers and keep need a reference law"),
        ({"keep_share": 0.1, "law": "none"}, "talkers and keep need a reference law"),
        ({"shortest_crop_samples": CROP + 1}, "at most crop_samples"),
    ],
)
def test_what_makes_no_sense_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        stream(**config)

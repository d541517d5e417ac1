"""Leaks: planted ones are found by their kind, honest data has none."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
from helpers import RATE, make_dataset, noise, sample_fields, speech

import nrdata
from cli.main import run
from nrdata import audio
from nrdata.audio.match import best_match
from nrdata.checks.leaks import distinct, find_leaks, thinned
from nrdata.store.gather import write_manifest
from nrdata.store.shard import ShardWriter
from nrdata.store.triplet import mix


def write(folder, rows):
    """rows: split -> list of (clean, noise, ref or None, changes to the fields)."""
    folder.mkdir()
    for s, (split, samples) in enumerate(rows.items()):
        with ShardWriter(folder / f"{split}-000000.tar", RATE, samples[0][2] is not None) as writer:
            for i, (clean, bed, ref, change) in enumerate(samples):
                fields = sample_fields(split, s, i, 10 * s + i, (0, len(clean)))
                fields["meta"] |= change.pop("meta", {})
                writer.write(f"{split}-{i + 1:07d}", mix(clean, bed, 5.0, ref), {**fields, **change})
    write_manifest(folder)
    return folder


def honest(seed, seconds=2.0):
    return [speech(seconds, seed), noise(seconds, seed % 3, seed), None, {}]


def test_honest_data_has_none(tiny_dataset, capsys):
    assert find_leaks(tiny_dataset) == ([], [])
    assert run(["verify-shards", "--leaks", str(tiny_dataset)]) == 0
    assert "no faults, no leaks" in capsys.readouterr().out


def kinds(folder):
    return {(leak.kind, leak.splits) for leak in find_leaks(folder)[0]}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"speaker": "local/s0"}, "speaker"),
        ({"recording": "local/env0/train0", "stretch": [40000, 72000]}, "recording"),
    ],
)
def test_shared_names(tmp_path, change, kind):
    folder = write(tmp_path / "d", {"test": [[*honest(1)[:3], change]], "train": [honest(2)]})
    # the split written first is test: give train the names above
    second = {"speaker": {"speaker": "local/s0"}, "recording": {"recording": "local/env0/train0"}}[kind]
    folder2 = write(tmp_path / "e", {"test": [[*honest(1)[:3], change]], "train": [[*honest(2)[:3], second]]})
    assert kinds(folder) == set()
    assert kinds(folder2) == {(kind, "test and train")}


def test_overlapping_stretches(tmp_path):
    same = {"recording": "local/env0/r"}
    a = [*honest(1)[:3], {**same, "stretch": [0, 32000]}]
    b = [*honest(2)[:3], {**same, "stretch": [31999, 63999]}]
    c = [*honest(3)[:3], {**same, "stretch": [63999, 95999]}]
    assert kinds(write(tmp_path / "d", {"test": [a], "train": [b], "seen": [c]})) == {
        ("recording", "test and train"),
        ("stretch", "test and train"),
    }


def test_a_split_seen_may_share_recordings(tmp_path):
    same = {"recording": "local/env0/r"}
    a = [*honest(1)[:3], {**same, "stretch": [0, 32000]}]
    b = [*honest(2)[:3], {**same, "stretch": [48000, 80000]}]
    assert kinds(write(tmp_path / "d", {"seen": [a], "train": [b]})) == set()


def test_identical_sound_under_other_names(tmp_path):
    clean, bed = honest(4)[:2]
    folder = write(tmp_path / "d", {"test": [[clean, bed, None, {}]], "train": [[clean, honest(5)[1], None, {}]]})
    assert ("same_clean", "test and train") in kinds(folder)
    folder = write(tmp_path / "e", {"test": [[clean, bed, None, {}]], "train": [[clean, bed, None, {}]]})
    assert ("same_noise", "test and train") in kinds(folder)


def degraded(x: np.ndarray, how: str) -> np.ndarray:
    if how == "gain":
        return 0.13 * x
    if how == "rate":
        return audio.resample(audio.resample(x, RATE, 44100), 44100, RATE)
    if how == "device":
        return x - 0.6 * np.concatenate([[0.0], x[:-1]])
    memory = io.BytesIO()
    sf.write(memory, x, RATE, format=how)
    memory.seek(0)
    return sf.read(memory, dtype="float32")[0]


@pytest.mark.parametrize("how", ["gain", "rate", "device", "MP3", "OGG"])
def test_copies_at_another_offset_gain_and_codec(tmp_path, how):
    bed = noise(5.0, 1, 8)
    copy = degraded(bed[20000:52000], how)[:32000].astype(np.float32)
    folder = write(
        tmp_path / "d",
        {"test": [[speech(2.0, 1), bed[8000:40000], None, {}]], "train": [honest(7), [speech(2.0, 2), copy, None, {}]]},
    )
    leaks, _ = find_leaks(folder)
    assert [(leak.kind, leak.count) for leak in leaks] == [("same_sound", 1)]
    assert "test-0000001 and train-0000002" in leaks[0].examples[0] and "+0.75 s" in leaks[0].examples[0]
    assert run(["verify-shards", "--leaks", str(folder)]) == 1


def test_sounds_of_one_kind_are_no_copies():
    rng = np.random.default_rng(0)

    def drops(seed):  # impulsive: what plain phase correlation takes for copies
        rng = np.random.default_rng(seed)
        x = 1e-3 * rng.standard_normal(3 * RATE)
        x[rng.integers(0, len(x), 40)] += rng.standard_normal(40)
        return x.astype(np.float32)

    hum = np.sin(2 * np.pi * 100 * np.arange(3 * RATE) / RATE) * 0.1
    hums = [(hum + 0.01 * rng.standard_normal(len(hum))).astype(np.float32) for _ in range(2)]
    for a, b in ((drops(1), drops(2)), (noise(3, 1, 1), noise(3, 1, 2)), hums, (np.zeros(RATE), drops(1))):
        assert best_match(a, b, RATE) is None
    x = drops(5)
    match = best_match(x, x[8000:40000], RATE)
    assert match is not None and abs(match.lag_seconds - 0.5) < 1e-3 and match.correlation > 0.9


def test_silence_is_like_no_silence():
    """Tails of rounding noise, and of a converter's offset, behind sounds of different kinds."""
    rng = np.random.default_rng(4)
    tails = [np.full(2 * RATE, -131.0), np.tile([4.0, 4, 5, 4, 2, 2, 4], 2 * RATE // 7 + 1)[: 2 * RATE]]
    tails += [np.rint(rng.standard_normal(2 * RATE)), np.zeros(2 * RATE)]
    heads = [30000 * noise(1.0, i, i) for i in range(4)]
    sounds = [np.concatenate(parts).astype(np.float32) / 32768 for parts in zip(heads, tails, strict=True)]
    for i, a in enumerate(sounds):
        for b in sounds[i + 1 :]:
            assert best_match(a, b, RATE) is None


def test_a_clip_that_overlaps_its_mixture(tmp_path):
    bed = noise(4.0, 1, 8)
    rows = [
        [speech(2.0, 1), bed[:32000], bed[20000:36000], {}],  # only the sound tells: 0.75 s are too short, see below
        [speech(2.0, 2), bed[:32000], bed[10000:26000], {}],  # the sound tells
        [speech(2.0, 3), bed[:32000], bed[48000:], {"meta": {"ref_stretch": [31000, 47000]}}],  # the JSON tells
        [speech(2.0, 4), bed[:32000], bed[48000:], {"meta": {"ref_stretch": [48000, 64000]}}],  # honest
    ]
    (leak,) = find_leaks(write(tmp_path / "d", {"train": rows}))[0]
    assert (leak.kind, leak.splits, leak.count) == ("reference_overlaps", "train", 2)
    assert "train-0000002 (correlation" in leak.examples[0] and "train-0000003 (stretch" in leak.examples[1]


def test_many_pairs_are_thinned():
    for n, m in ((10, 10), (11572, 824), (824, 11572), (10**6, 3)):
        a, b = thinned(list(range(n)), list(range(m)))
        assert len(a) * len(b) <= 200_000 + min(n, m) and (len(a) == n or len(b) == m)
        assert len(a) * len(b) > min(n * m, 190_000) * 0.99
    assert thinned([3, 4], [5]) == ([3, 4], [5])


def test_every_stretch_is_compared_once(tmp_path):
    r = {"recording": "local/env0/r"}
    spans = [(0, 32000), (0, 16000), (16000, 32000), (16000, 48000), (48000, 64000), (-1, -1), (-1, -1)]
    rows = [[speech(1, i), noise(1, 0, i), None, {**r, "stretch": list(span)}] for i, span in enumerate(spans)]
    rows.append([speech(1, 9), noise(1, 0, 9), None, {"recording": "local/env0/other", "stretch": [0, 16000]}])
    index = nrdata.open(write(tmp_path / "d", {"train": rows})).index("train")
    assert distinct(replace(index, frames=np.array([32, 16, 16, 32, 16, 16, 16, 16]))) == [0, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("lag", [-20000, -100, 0, 7777, 30000])
def test_lags_of_both_signs(lag):
    x = noise(6.0, 0, 3)
    a, b = x[32000 : 32000 + 40000], x[32000 + lag : 32000 + lag + 40000]
    match = best_match(a, b, RATE)
    if 40000 - abs(lag) >= RATE:
        assert match is not None and abs(match.lag_seconds - lag / RATE) < 1e-3
    else:
        assert match is None


def test_leaks_wait_for_whole_shards(tmp_path, capsys):
    folder = make_dataset(tmp_path / "d", {"train": 2, "test": 2}, seconds=0.3)
    (folder / "train-000000.index.jsonl").unlink()
    assert run(["verify-shards", "--leaks", str(folder)]) == 1
    assert "not looked for until the faults are mended" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["same", "gain", "crop", "device"])
def test_the_same_speech_in_two_data_sets_under_other_names(tmp_path, how):
    """What one has in training and the other in test, once they are opened together."""
    talk = speech(4.0, 4)
    copy = talk[:32000] if how == "same" else talk[9000:41000] if how == "crop" else degraded(talk[:32000], how)
    names = {"speaker": "local/somebody", "recording": "local/elsewhere/x", "env_id": "local/elsewhere"}
    one = write(tmp_path / "one", {"train": [[talk[:32000], noise(2.0, 0, 1), None, {}], honest(6)]})
    rows = [[*honest(7)[:3], {**names}], [np.float32(copy), noise(2.0, 1, 2), None, names]]
    two = write(tmp_path / "two", {"test": rows})
    assert kinds(one) == kinds(two) == set()
    (leak,) = find_leaks(one, two)[0]
    kind = "same_clean" if how == "same" else "same_speech"
    assert (leak.kind, leak.splits, leak.count) == (kind, "test and train", 1)
    assert "1_test-0000002 and 0_train-0000001" in leak.examples[0]
    assert run(["verify-shards", "--leaks", str(one), str(two)]) == 1


@pytest.mark.parametrize("how", ["same", "MP3"])
def test_the_same_noise_in_two_data_sets_under_other_names(tmp_path, how):
    bed = noise(2.0, 1, 8)
    copy = bed if how == "same" else degraded(bed, how)[:32000]
    names = {"recording": "local/elsewhere/x", "env_id": "local/elsewhere", "speaker": "local/somebody"}
    one = write(tmp_path / "one", {"train": [honest(6), [speech(2.0, 1), bed, None, {}]]})
    two = write(tmp_path / "two", {"test": [[speech(2.0, 2), np.float32(copy), None, names]]})
    found = {(leak.kind, leak.splits) for leak in find_leaks(one, two)[0]}
    assert found == {("same_sound", "test and train")}  # never the same to the bit: each is scaled to its SNR

"""What is mixed with what: the laws of the draws, and plan files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nrdata import manifests
from nrdata.builders import splits
from nrdata.builders.draws import NoiseFile, SpeechFile, mixtures
from nrdata.builders.plan import SAMPLES_PER_SHARD, Options, Plan, read_plan, shards
from nrdata.builders.units import Levels, cut
from nrdata.errors import UserError
from nrdata.keyed import plan_rng

RATE = 4000
OPTIONS = Options("folders", sample_rate=RATE, per_cell=2)


def speech_files(split: str, count: int, seconds: float = 4.0) -> list[SpeechFile]:
    levels = Levels.of([np.random.default_rng(1).standard_normal(int(seconds * RATE)).astype(np.float32)], RATE)
    return [SpeechFile("a", f"{split}{i}.wav", f"{split}-{i % 3}", split, levels) for i in range(count)]


def noise_files(split: str, counts: dict[str, int], seconds: float = 5.0) -> list[NoiseFile]:
    x = np.random.default_rng(0).standard_normal(int(seconds * RATE)).astype(np.float32)
    levels = Levels.of([x], RATE)
    return [
        NoiseFile("b", f"{env}/{split}{i}.wav", env, f"{split}{i}", split, levels, cut(levels, RATE)[0])
        for env, count in counts.items()
        for i in range(count)
    ]


def example(**options) -> Plan:
    speech = [f for split in ("train", "valid", "test") for f in speech_files(split, 12)]
    noise = noise_files("train", {"rain": 20, "boat": 1, "cafe": 4}, seconds=12.0)
    noise += noise_files("valid", {"rain": 2}) + noise_files("test", {"rain": 2, "siren": 3})
    return mixtures(speech, noise, replace(OPTIONS, **options))


def test_training_hears_every_environment_equally_often_and_every_unit_and_speaker():
    rows = [r for r in example().rows if r.split == "train"]
    by_environment = Counter(r.env_id for r in rows)
    assert set(by_environment) == {"b/rain", "b/boat", "b/cafe"}
    assert max(by_environment.values()) - min(by_environment.values()) <= 1
    rain = Counter((r.noise.path, r.meta["unit"]) for r in rows if r.env_id == "b/rain")
    assert len(rain) == 40 or sum(rain.values()) < 40
    assert max(rain.values()) - min(rain.values()) <= 1
    speech = Counter(r.speech.path for r in rows)
    assert len(speech) == 12 and max(speech.values()) - min(speech.values()) <= 1
    assert all(-5 <= r.asked_snr_db <= 15 for r in rows)
    assert np.std([r.asked_snr_db for r in rows]) > 3


def test_hours_say_how_much_training_there_is():
    rows = [r for r in example(hours=0.1).rows if r.split == "train"]
    seconds = sum(r.noise.stop - r.noise.start for r in rows) / RATE
    assert 360 <= seconds < 365


def test_cells_of_test_are_equally_full():
    rows = [r for r in example(snr_test_db=(-5.0, 10.0)).rows if r.split == "test"]
    cells = Counter((r.env_id, r.asked_snr_db) for r in rows)
    assert cells == dict.fromkeys([("b/rain", -5.0), ("b/rain", 10.0), ("b/siren", -5.0), ("b/siren", 10.0)], 2)


def test_noise_is_never_repeated_and_never_touches_the_reserved_clip():
    plan = example(seen_split=True)
    assert {r.split for r in plan.rows} == {"train", "valid", "test", "seen"}
    for row in plan.rows:
        noise, ref, speech = row.noise, row.ref, row.speech
        assert noise.stop - noise.start == speech.stop - speech.start >= RATE
        assert ref.start >= noise.stop + RATE or ref.stop <= noise.start - RATE


def test_the_seen_split_is_other_time_of_training_recordings():
    plan = example(seen_split=True)
    train = [r for r in plan.rows if r.split == "train"]
    seen = [r for r in plan.rows if r.split == "seen"]
    assert {r.recording for r in seen} <= {r.recording for r in train}
    assert {r.speaker for r in seen} <= {r.speaker for r in plan.rows if r.split == "test"}
    heard = {}
    for r in train:
        heard.setdefault(r.recording, []).extend([r.noise, r.ref])
    for r in seen:
        for part in (r.noise, r.ref):
            assert all(part.stop <= o.start or part.start >= o.stop for o in heard[r.recording])


def test_rows_and_refused_are_all_there_is():
    plan = example(hours=0.005)
    used = {r.speech.path for r in plan.rows}
    used |= {f"{r.noise.path}#{r.meta['unit']}" for r in plan.rows}
    refused = {r.item for r in plan.refused}
    everything = {f"{s}{i}.wav" for s in ("train", "valid", "test") for i in range(12)}
    everything |= {
        f"{e}/train{i}.wav#{u}" for e, n in (("rain", 20), ("boat", 1), ("cafe", 4)) for i in range(n) for u in (0, 1)
    }
    everything |= {f"rain/valid{i}.wav#0" for i in range(2)} | {f"rain/test{i}.wav#0" for i in range(2)}
    everything |= {f"siren/test{i}.wav#0" for i in range(3)}
    assert used | refused == everything and not used & refused
    assert {r.kind for r in plan.refused} == {"not_drawn"}


def test_the_same_seed_draws_the_same_plan_and_another_does_not():
    assert example().sha256() == example().sha256() != example(seed=1).sha256()


def test_keys_count_up_in_each_split():
    for split in ("train", "test"):
        keys = [r.key for r in example().rows if r.split == split]
        assert keys == [f"{split}-{n:07d}" for n in range(1, len(keys) + 1)]


def test_shards_hold_a_split_each_in_order():
    row = example().rows[0]
    count = 3 * SAMPLES_PER_SHARD
    rows = [replace(row, key=f"k{i}", split="valid" if i % 3 else "train") for i in range(count)]
    found = shards(Plan(rows))
    assert [s.name for s in found] == ["train-000000", "valid-000000", "valid-000001"]
    assert [r.key for r in found[0].rows] == [f"k{i}" for i in range(0, count, 3)]


def test_keyed_generators_differ_by_every_part_of_their_key():
    draws = [plan_rng(*key).random() for key in [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a1", "")]]
    assert len(set(draws)) == len(draws) and plan_rng(0, "a", 1).random() == draws[0]


def test_no_training_data_is_a_sentence():
    with pytest.raises(UserError, match="no noise for training"):
        mixtures(speech_files("train", 3), noise_files("test", {"rain": 2}), OPTIONS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: [*rows, rows[0]], "appears twice"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "speaker"}], "line 1 lacks speaker"),
        (lambda rows: [rows[0] | {"split": "dev"}], "none of train"),
        (lambda rows: [], "no rows"),
        (lambda rows: [rows[0] | {"speech": {"path": "a.wav", "start": "0"}}], "line 1 start is '0', int expected"),
        (lambda rows: [rows[0] | {"speech": {"start": 0}}], "line 1 speech lacks path"),
        (lambda rows: [rows[0] | {"snr": 5.0}], "line 1 row has an unknown snr"),
        (lambda rows: [rows[0] | {"noisy": rows[0]["noise"]}], "line 1 needs either noise or noisy"),
        (lambda rows: [rows[0] | {"room": {"size_m": [3.0, 4.0]}}], "line 1 room lacks absorption"),
    ],
)
def test_a_bad_plan_file_is_refused_by_line(tmp_path, change, sentence):
    path = tmp_path / "plan.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in change([row.to_json() for row in example().rows[:3]])))
    with pytest.raises(UserError, match=sentence):
        read_plan(path)


def test_a_plan_file_gives_the_plan_back(tmp_path):
    path = tmp_path / "plan.jsonl"
    path.write_text(example().text())
    assert read_plan(path) == Plan(example().rows)
    for file in (path, manifests.FOLDER / "test-plan.jsonl"):
        assert read_plan(file).text() == file.read_text()


def test_speakers_are_split_whole_and_every_split_has_some():
    names = [f"s{i}" for i in range(23)]
    drawn = splits.speakers(names, seed=3)
    assert Counter(drawn.values()) == {"train": 16, "valid": 2, "test": 5}
    assert splits.speakers(names[::-1], seed=3) == drawn != splits.speakers(names, seed=4)
    with pytest.raises(UserError, match="2 speakers found"):
        splits.speakers(["a", "b", "a"], seed=0)


def test_recordings_of_a_place_are_split_whole():
    assert Counter(splits.recordings([f"r{i}" for i in range(10)], "rain", False, 0).values()) == {
        "train": 7,
        "valid": 1,
        "test": 2,
    }
    assert splits.recordings(["a"], "boat", False, 0) == {"a": "train"}
    assert set(splits.recordings(["a", "b"], "boat", False, 0).values()) == {"train", "test"}
    assert splits.recordings(["a", "b"], "siren", True, 0) == {"a": "test", "b": "test"}

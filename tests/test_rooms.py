"""Rooms: geometry, reverberation times as asked, the same for mixture noise and clip, and the same bytes always."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyroomacoustics
import pytest
import soundfile as sf
from corpora import bare_folders, build, digests, indexed, voicebank
from helpers import RATE, noise, speech
from scipy.signal import fftconvolve

import nrdata
from nrdata.builders import build as engine
from nrdata.builders import plan as planning
from nrdata.builders.plan import Options
from nrdata.builders.render import render
from nrdata.builders.rows import decoded
from nrdata.builders.synthesis import rooms
from nrdata.builders.synthesis.seeded import seeded
from nrdata.checks.leaks import find_leaks
from nrdata.checks.verify import verify
from nrdata.errors import UserError
from nrdata.keyed import plan_rng
from nrdata.store.triplet import energy_snr_db


def states() -> tuple:
    """Every global generator that a library might move."""
    of_rooms = pyroomacoustics.random.get_rng().bit_generator.state
    return random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2:], json.dumps(of_rooms)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Two rooms and two chains of filters for each of two environments: four variants of each."""
    speech, sounds = indexed(tmp_path_factory.mktemp("corpus"))
    argv = ("--source", "folders", "--speech-index", speech, "--noise-index", sounds, "--per-cell", 1, "--hours", 0.02)
    return tuple(map(str, (*argv, "--snr-test", "0,5", "--rooms", 2, "--augment", 2, "--t60", "0.2:0.3")))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SAMPLES_PER_SHARD", 9)
    monkeypatch.setattr(engine, "SMALL_BUILD", 0)


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "set"
    before = states()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "SAMPLES_PER_SHARD", 9)
        assert build(*corpus, "--out", out, "--workers", 1, "--strict") == 0
    assert states() == before, "a global generator was moved"
    return out


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines()]


def a_room(seed: int = 0, t60: tuple[float, float] = (0.2, 0.3)) -> rooms.Room:
    return rooms.draw(plan_rng("test", seed), t60, RATE)


@pytest.mark.parametrize("seed", range(3))
def test_the_direct_path_stands_at_the_geometric_delay(seed):
    """B5: without reflections, sound arrives distance / c later: cross-correlation of dry and direct, +-1 sample."""
    room = replace(a_room(seed), order=0)
    dry = noise(0.5, seed=seed)
    for name, response in zip(("speech_m", "noise_m"), rooms.responses(room, RATE), strict=True):
        distance = np.linalg.norm(np.subtract(getattr(room, name), room.microphone_m))
        expected = distance / pyroomacoustics.constants.get("c") * RATE
        wet = rooms.reverberant(dry, response)
        lag = int(np.argmax(fftconvolve(wet, dry[::-1]))) - (len(dry) - 1)
        assert abs(lag - expected) <= 1
        assert len(wet) == len(dry)


def test_the_first_arrival_of_a_whole_response_is_the_direct_path():
    room = a_room(1)
    for name, response in zip(("speech_m", "noise_m"), rooms.responses(room, RATE), strict=True):
        distance = np.linalg.norm(np.subtract(getattr(room, name), room.microphone_m))
        arrival = distance / pyroomacoustics.constants.get("c") * RATE
        first = int(np.argmax(np.abs(response) > 0.5 * np.max(np.abs(response))))
        assert first == pytest.approx(arrival, abs=3)
        assert np.sum(response[: int(arrival) - 45] ** 2) < 1e-6 * np.sum(response**2)


@pytest.mark.parametrize("seed", range(4))
def test_the_measured_reverberation_is_the_asked_one(seed):
    """T60 by a line through the decay, by our own arithmetic: within 20 %, and that is what the plan says."""
    room = a_room(seed, (0.2, 0.4))
    for told, response in zip(room.measured_t60_s, rooms.responses(room, RATE), strict=True):
        decay = np.cumsum(response[::-1] ** 2)[::-1]
        decay_db = 10 * np.log10(decay / decay[0] + 1e-20)
        part = (decay_db < -5) & (decay_db > -35)
        slope = np.polyfit(np.flatnonzero(part) / RATE, decay_db[part], 1)[0]
        assert -60 / slope == pytest.approx(told, rel=0.03)
        assert abs(told - room.asked_t60_s) <= 0.2 * room.asked_t60_s


def test_a_draw_that_is_off_is_drawn_again(monkeypatch):
    """The first four responses miss the asked time: the room that is kept comes later."""
    measured = iter([1.0, 0.25, 0.25, 0.1])
    real = rooms.t60
    asked = a_room(5)
    monkeypatch.setattr(rooms, "t60", lambda h, rate: next(measured, None) or real(h, rate))
    again = a_room(5)
    assert again.asked_t60_s == asked.asked_t60_s and again.size_m != asked.size_m
    assert all(abs(m - again.asked_t60_s) <= 0.2 * again.asked_t60_s for m in again.measured_t60_s)


@pytest.mark.parametrize("t60", [(0.01, 0.02), (5.0, 6.0), (0.0, 0.0), (-1.0, 0.3)])
def test_what_no_room_has_is_refused_with_what_can_be_had(t60):
    with pytest.raises(UserError, match=r"--t60 .* between 0\.15 and 0\.6"):
        a_room(0, t60)


def test_an_order_that_would_be_cut_is_refused():
    with pytest.raises(UserError, match="order 61"):
        rooms.responses(replace(a_room(), order=61), RATE)


def test_unreachable_times_are_resampled_when_the_plan_is_made():
    """Half of the range cannot be had: every room that is drawn still is what its row says."""
    asked = [a_room(seed, (0.02, 0.35)).asked_t60_s for seed in range(4)]
    assert min(asked) > 0.1


def test_the_same_seed_gives_the_same_bits_after_other_draws():
    room = a_room(2)
    first = [h.copy() for h in rooms.responses(room, RATE)]
    rooms._simulated.cache_clear()
    random.random(), np.random.random(), pyroomacoustics.random.get_rng().random()
    pyroomacoustics.constants.set("num_threads", 2)
    again = rooms.responses(room, RATE)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert pyroomacoustics.constants.get("num_threads") == 2


def test_the_guard_seeds_inside_and_restores_after_an_exception_too():
    def drawn() -> tuple:
        return random.random(), np.random.random(), pyroomacoustics.random.get_rng().random()

    before = states()
    with seeded(7):
        first = drawn()
        assert pyroomacoustics.constants.get("num_threads") == 1
    with pytest.raises(KeyError), seeded(7):
        assert drawn() == first
        raise KeyError
    assert states() == before


def test_every_row_of_a_plan_is_built_and_says_its_room(built):
    assert (built / "refused.jsonl").read_text().count("truncated") == 0
    assert not verify(built).faults
    data, rows = nrdata.open(built), rows_of(built)
    assert sum(len(data.index(s)) for s in data.splits) == len(rows)
    for row in rows[::5]:
        meta = data.sample(row["key"]).meta
        assert meta["asked_t60_s"] == row["room"]["asked_t60_s"]
        assert [meta["speech_t60_s"], meta["noise_t60_s"]] == row["room"]["measured_t60_s"]
        assert meta["augment"] == "+".join(s["filter"] for s in row["augment"]["chain"])


def test_a_variant_is_one_room_and_one_chain_of_one_environment(built):
    rows = rows_of(built)
    places = {row["env_id"] for row in rows}
    assert places == {f"local/place{e}~{k}" for e in range(2) for k in range(1, 5)}
    told = {(row["env_id"], json.dumps([row["room"], row["augment"]])) for row in rows}
    assert len(told) == len(places)
    assert len({json.dumps(row["room"]) for row in rows}) == 4  # two rooms of each environment
    assert all("~" not in row["recording"] and row["recording"].startswith("local/place") for row in rows)
    data = nrdata.open(built)
    assert set(data.index("train").env_names) == places


def test_the_parts_are_the_sounds_in_the_room_at_the_asked_ratio(tmp_path):
    """By longhand: clean is the whole reverberant speech; noise and clip share response and gain."""
    folder_of_speech, folder_of_noise = bare_folders(tmp_path)
    out = tmp_path / "out"
    argv = ("--source", "folders", "--speech", folder_of_speech, "--noise", folder_of_noise, "--per-cell", 1)
    assert build(*argv, "--hours", 0.004, "--rooms", 1, "--t60", "0.2:0.3", "--out", out, "--workers", 1) == 0
    data = nrdata.open(out)
    assert not find_leaks(out)[0]
    for row in rows_of(out)[:4]:
        sample = data.sample(row["key"])
        of_speech, of_noise = rooms.responses(decoded(rooms.Room, row["room"], "room"), RATE)
        talk, _ = sf.read(folder_of_speech / row["speech"]["path"])
        bed, _ = sf.read(folder_of_noise / row["noise"]["path"])
        gains = []
        for stored, x, part, response in (
            (sample.clean, talk, row["speech"], of_speech),
            (sample.noise, bed, row["noise"], of_noise),
            (sample.ref, bed, row["ref"], of_noise),
        ):
            wet = np.convolve(x[part["start"] : part["stop"]], response)[: part["stop"] - part["start"]]
            gains.append(np.dot(stored, wet) / np.dot(wet, wet))
            assert np.max(np.abs(stored - gains[-1] * wet)) < 1.5 / 32768
        assert gains[1] == pytest.approx(gains[2], rel=0.01)
        assert gains[0] == pytest.approx(sample.meta["gain"], rel=0.01)
        assert energy_snr_db(sample.clean, sample.noise) == pytest.approx(row["snr_db"], abs=0.05)


def test_two_workers_and_a_plan_file_give_the_same_bytes(built, corpus, tmp_path):
    assert build(*corpus, "--out", tmp_path / "two", "--workers", 2) == 0
    assert digests(tmp_path / "two") == digests(built)
    source = corpus[: corpus.index("--rooms")]
    plan = built / "plan.jsonl"
    assert build(*source, "--out", tmp_path / "planned", "--plan", plan, "--workers", 1) == 0
    assert digests(tmp_path / "planned") == digests(built)


def test_sample_17_alone_is_sample_17_of_the_whole_bit_for_bit(built, corpus):
    """B6, and the global generators stay where they are."""
    options = Options("folders", speech_index=Path(corpus[3]), noise_index=Path(corpus[5]))
    row = planning.read_plan(built / "plan.jsonl").rows[17]
    rooms._simulated.cache_clear()
    random.seed(3)
    np.random.seed(4)
    before = states()
    with engine.builder("folders").sources(options) as sources:
        mixture, _ = render(row, sources)
    assert states() == before
    sample = nrdata.open(built).sample(row.key)
    for stored, made in ((sample.clean, mixture.clean16), (sample.noise, mixture.noise16), (sample.ref, mixture.ref16)):
        assert np.array_equal(np.rint(stored * 32768), made)


def test_ready_pairs_have_no_rooms(tmp_path, capsys):
    voicebank(tmp_path / "vb")
    argv = ("--source", "voicebank-demand", "--root", tmp_path / "vb", "--out", tmp_path / "out")
    for more in (("--rooms", 1), ("--augment", 1)):
        assert build(*argv, *more) == 2
        assert "speech and noise apart" in capsys.readouterr().err


def test_a_room_adds_a_tail_and_keeps_silence_silent():
    of_speech, _ = rooms.responses(a_room(), RATE)
    x = speech(1.0)
    x[RATE // 2 :] = 0
    wet = rooms.reverberant(x, of_speech)
    assert np.sqrt(np.mean(wet[RATE // 2 : RATE // 2 + 800] ** 2)) > 100 * np.sqrt(np.mean(wet[-800:] ** 2))
    assert not rooms.reverberant(np.zeros(100), of_speech).any()

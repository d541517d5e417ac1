"""The laws of the reference, as properties over random pools, and the draws of evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import RATE, InMemory, columns, small

from cli.main import run
from nrdata.errors import UserError
from nrdata.sampling.clips import Listener, draw_clip, draw_reference, evaluation_reference
from nrdata.sampling.laws import LAWS, Item, Law, LawMixture, Source, Span, Unserved, parse_law
from nrdata.sampling.pool import Pool
from nrdata.sampling.shortfall import check_law, refuse_shortfall

GAP, SHORTEST = RATE, RATE // 4


@st.composite
def pools(draw):
    """One to twelve samples in one to three places, with variants, few recordings and some unknown stretches."""
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        place = draw(st.sampled_from(["a/x", "a/y", "b/x", "b/unknown"]))
        frames = draw(st.sampled_from([100, 400, 1500, 3000, 6000]))
        start = draw(st.integers(0, 4)) * 2500
        rows.append(
            {
                "env": place + draw(st.sampled_from(["", "", "~1"])),
                "recording": f"{place}/r{draw(st.integers(0, 1))}",
                "frames": frames,
                "stretch": draw(st.sampled_from([(start, start + frames), (start, start + frames), (-1, -1)])),
                "ref_frames": draw(st.sampled_from([0, 100, 1000, 2000])),
                "noise_dbfs": draw(st.sampled_from([-20.0, -21.5])),
            }
        )
    return Pool(columns(rows), RATE)


def overlap(a, b) -> bool:
    return max(a[0], b[0]) < min(a[1], b[1])


@settings(max_examples=300, deadline=None)
@given(pools(), st.data())
def test_laws(pool, data):
    """Whatever the pool, a clip obeys its law, and there is none exactly where `check_law` says so."""
    index = pool.index
    row = data.draw(st.integers(0, len(index.key) - 1))
    crop = data.draw(st.sampled_from([500, 2000]))
    length = data.draw(st.sampled_from([250, 1000, 2000]))
    frames = int(index.frames[row])
    start = data.draw(st.integers(0, max(frames - crop, 0)))
    item = Item(row, start, min(start + crop, frames))
    place = {i: name.split("~")[0] for i, name in enumerate(index.env_names)}
    for mode in LAWS.keys() - {"none"}:
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        clip = draw_clip(item, pool, mode, length, rng)
        short = {s.env_id: s for s in check_law(pool, parse_law(mode), crop)}.get(index.env_names[index.env[row]])
        if short is None or short.missing == 0:
            assert clip is not None
        if short is not None and short.missing == short.rows:
            assert clip is None
        if clip is None:
            continue
        other = clip.row
        member = index.ref_frames[other] if clip.field == "ref" else index.frames[other]
        assert clip.start >= 0 and clip.stop <= member
        assert SHORTEST <= clip.stop - clip.start <= length
        if mode in ("oracle", "env", "mismatch"):
            assert clip.field == "noise" and clip.stop - clip.start == min(length, member)
        if mode == "oracle":
            assert other == row and clip.relation == "overlap"
        if mode == "disjoint":
            assert other == row and clip.relation == "same-recording"
            if clip.field == "noise":
                assert clip.stop <= item.start - GAP or clip.start >= item.stop + GAP
        if mode == "env":
            assert other != row and clip.relation == "same-environment"
            assert index.env[other] == index.env[row]
            peers = [r for r in range(len(index.key)) if index.env[r] == index.env[row] and index.frames[r] >= SHORTEST]
            if any(index.recording[r] != index.recording[row] for r in peers):
                assert index.recording[other] != index.recording[row]
            elif min(index.stretch[row, 0], index.stretch[other, 0]) >= 0:
                assert not overlap(index.stretch[row], index.stretch[other])
            else:
                same = (index.frames[other], index.noise_dbfs[other]) == (index.frames[row], index.noise_dbfs[row])
                assert not same and short is not None and short.unknown > 0
                known = [r for r in peers if min(index.stretch[row, 0], index.stretch[r, 0]) >= 0]
                assert all(overlap(index.stretch[row], index.stretch[r]) for r in known)  # else one of these is taken
        if mode == "mismatch":
            assert place[index.env[other]] != place[index.env[row]] and clip.relation == "other-environment"


@settings(max_examples=15, deadline=None)
@given(pools(), st.integers(300, 4000))
def test_disjoint_shortfall_is_the_share_of_crops(pool, crop):
    """The expected share of crops without a `disjoint` clip equals a count over all crop positions."""
    missing = sum(s.missing for s in check_law(pool, parse_law("disjoint"), crop))
    rng, counted = np.random.default_rng(0), 0.0
    for row, frames in enumerate(pool.index.frames):
        starts = range(max(int(frames) - crop, 0) + 1)
        items = (Item(row, s, min(s + crop, int(frames))) for s in starts)
        counted += sum(draw_clip(item, pool, "disjoint", 1000, rng) is None for item in items) / len(starts)
    assert missing == pytest.approx(counted)


def test_check_law_names_the_environments():
    rows = small(8, environments=2)
    rows += [{"env": "local/lone", "recording": "local/lone/r", "frames": 3000, "stretch": (0, 3000)}]
    rows += [{"env": "vbd/cafe", "recording": "vbd/cafe/r", "frames": 3000 + i, "ref_frames": 0} for i in range(3)]
    pool = Pool(columns(rows), RATE)
    found = {(s.mode, s.env_id): s for s in check_law(pool, parse_law("env:0.5,disjoint:0.5"), 2000)}
    assert found["env", "local/lone"].missing == 1
    assert found["env", "vbd/cafe"].missing == 0 and found["env", "vbd/cafe"].unknown == 3
    assert found["disjoint", "local/lone"].missing == 1
    assert ("env", "local/e0") not in found and ("disjoint", "local/e0") not in found
    with pytest.raises(UserError, match=r"env: local/lone: 1 of 1 items without reference.*--on-missing-ref none"):
        refuse_shortfall(list(found.values()))
    refuse_shortfall([found["env", "vbd/cafe"]])
    assert check_law(pool, parse_law("none"), 2000) == []
    assert len(check_law(Pool(columns(small(4, 1)), RATE), parse_law("mismatch"), 2000)) == 1


def test_an_unknown_environment_has_no_other_recording():
    rows = small(4, 1) + [row | {"env": "local/unknown~1"} for row in small(4, 1)]
    pool = Pool(columns(rows), RATE)
    (short,) = check_law(pool, parse_law("env"), 2000)
    assert (short.env_id, short.missing) == ("local/unknown~1", 4)
    for row, name in enumerate(pool.index.env_names[code] for code in pool.index.env):
        clip = draw_clip(Item(row, 0, 2000), pool, "env", 1000, np.random.default_rng(0))
        assert (clip is None) == (name == "local/unknown~1")


def test_mismatch_is_uniform_over_environments():
    """Ten samples of one other environment and one of another are drawn equally often; variants are one place."""
    rows = [{"env": "a/own", "recording": "a/own/r", "frames": 3000}]
    rows += [{"env": f"a/many~{i % 2}", "recording": "a/many/r", "frames": 3000} for i in range(10)]
    rows += [{"env": "a/rare", "recording": "a/rare/r", "frames": 3000}]
    pool, rng = Pool(columns(rows), RATE), np.random.default_rng(0)
    drawn = [draw_clip(Item(0, 0, 1000), pool, "mismatch", 1000, rng).row for _ in range(2000)]
    assert np.mean(np.array(drawn) == 11) == pytest.approx(0.5, abs=0.04)
    assert set(drawn) == set(range(1, 12))


def test_env_is_uniform_over_samples_of_other_recordings():
    pool, rng = Pool(columns(small(24, environments=2)), RATE), np.random.default_rng(0)
    drawn = [draw_clip(Item(0, 0, 1000), pool, "env", 1000, rng).row for _ in range(3000)]
    rows, count = np.unique(drawn, return_counts=True)
    assert rows.tolist() == [2, 6, 10, 14, 18, 22]
    assert count.min() > 400


def test_another_unit_never_overlaps():
    """In an environment with one recording every unit without overlap is drawn, touching ones too, and no other."""
    starts = [0, 1000, 2900, 3000, 5999, 6000, 8000]
    rows = [{"env": "a/x", "recording": "a/x/r", "frames": 3000, "stretch": (s, s + 3000)} for s in starts]
    pool, rng = Pool(columns(rows), RATE), np.random.default_rng(0)
    for row, start in enumerate(starts):
        drawn = {draw_clip(Item(row, 0, 3000), pool, "env", 1000, rng).row for _ in range(150)}
        assert drawn == {r for r, other in enumerate(starts) if abs(other - start) >= 3000}


def test_known_stretches_go_before_unknown_ones():
    stretches = [(0, 3000), (0, 3000), (5000, 8000)] + [(-1, -1)] * 40
    lone = {"env": "a/x", "recording": "a/x/r"}
    rows = [{**lone, "frames": 3000 + i, "stretch": stretch} for i, stretch in enumerate(stretches)]
    pool, rng = Pool(columns(rows), RATE), np.random.default_rng(0)
    drawn = {row: {draw_clip(Item(row, 0, 3000), pool, "env", 1000, rng).row for _ in range(60)} for row in (0, 2, 5)}
    assert drawn[0] == {2} and drawn[2] == {0, 1} and 5 not in drawn[5] and len(drawn[5]) > 20


def test_disjoint_prefers_neither_reserve_nor_far_noise():
    pool, rng = Pool(columns(small(1, frames=8000)), RATE), np.random.default_rng(0)
    drawn = [draw_clip(Item(0, 0, 1000), pool, "disjoint", 500, rng).field for _ in range(1000)]
    assert np.mean(np.array(drawn) == "ref") == pytest.approx(0.5, abs=0.06)


def test_a_source_shorter_than_asked_keeps_its_length():
    pool = Pool(columns(small(1, frames=2000, ref_frames=400)), RATE)
    clip = draw_clip(Item(0, 0, 2000), pool, "disjoint", 1000, np.random.default_rng(0))
    assert (clip.field, clip.start, clip.stop) == ("ref", 0, 400)
    far = Pool(columns(small(1, frames=9000, ref_frames=400)), RATE)  # longer noise beyond the gap serves whole
    assert draw_clip(Item(0, 0, 2000), far, "disjoint", 1000, np.random.default_rng(0)).field == "noise"


def test_clips_are_drawn_where_there_is_sound():
    """An impulsive noise: one burst of 0.1 s in 6 s; every clip holds it, and each sample is decoded once or twice."""
    noise = np.full(6000, 1e-5, np.float32)
    noise[2000:2100] = 0.5
    level = 10 * np.log10(np.mean(noise**2))
    data = InMemory(small(1, frames=6000, noise_dbfs=level), {(0, "noise"): noise})
    for seed in range(30):
        data.reads = 0
        listener = Listener(lambda *clip: data.read("train", *clip))
        pool, rng = Pool(data.columns, RATE), np.random.default_rng(seed)
        clip = draw_clip(Item(0, 0, 6000), pool, "oracle", 500, rng, listener)
        sound = listener.clip(clip)
        assert np.array_equal(sound, noise[clip.start : clip.stop])
        assert sound.max() == 0.5
        assert data.reads <= 2


def test_where_all_is_silent_the_loudest_is_taken():
    noise = np.zeros(6000, np.float32)
    noise[5500:] = 1e-4
    data = InMemory(small(1, frames=6000, noise_dbfs=0.0), {(0, "noise"): noise})
    listener = Listener(lambda *clip: data.read("train", *clip))
    rng = np.random.default_rng(3)
    clip = draw_clip(Item(0, 0, 6000), Pool(data.columns, RATE), "oracle", 500, rng, listener)
    assert clip.stop > 5500
    silent = InMemory(small(1, frames=6000, noise_dbfs=0.0), {(0, "noise"): np.zeros(6000, np.float32)})
    listener = Listener(lambda *clip: silent.read("train", *clip))
    assert draw_clip(Item(0, 0, 6000), Pool(silent.columns, RATE), "oracle", 500, rng, listener) is not None


def test_mixture_shares():
    law, rng = parse_law("oracle:0.5,env:0.4,none:0.1"), np.random.default_rng(0)
    assert law == LawMixture((("oracle", 0.5), ("env", 0.4), ("none", 0.1)))
    assert parse_law(str(law)) == law and parse_law("env") == LawMixture((("env", 1.0),))
    assert str(parse_law("env")) == "env"
    pool = Pool(columns(small()), RATE)
    drawn = [draw_reference(Item(0, 0, 2000), pool, law, 1000, rng) for _ in range(4000)]
    modes = np.array(["none" if clip is None else clip.mode for clip in drawn])
    for mode, share in law.shares:
        assert np.mean(modes == mode) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("noise", "'noise'.*unknown; choose from none, oracle, disjoint, env, mismatch"),
        ("env:0.5,env:0.5", "twice"),
        ("env:0.5,oracle:0.4", "add up to 0.9"),
        ("env,oracle", "no share"),
        ("env:nan,oracle:1", "must be a number"),
        ("env:x", "must be a number"),
        ("env:-1,oracle:2", "must be a number"),
        ("env:0,oracle:1", "must be a number"),
        ("", "unknown"),
    ],
)
def test_law_refused(text, says):
    with pytest.raises(UserError, match=says):
        parse_law(text)


def test_evaluation_reference():
    """Keyed by (seed, key): the order of calls does not matter; `disjoint` is the reserve, since all is heard."""
    rows = small()
    data = InMemory(rows)
    drawn = {(r, m): evaluation_reference(data, "test", r, m, 1.0, 0) for r in range(8) for m in LAWS.keys() - {"none"}}
    for (row, mode), (sound, clip) in reversed(drawn.items()):
        again, same = evaluation_reference(data, "test", row, mode, 1.0, 0)
        assert same == clip and np.array_equal(again, sound) and sound.dtype == np.float32
        assert len(sound) == RATE
        assert np.array_equal(sound, data.read("test", clip.row, clip.field, clip.start, clip.stop))
    assert all(clip.field == "ref" for (_, mode), (_, clip) in drawn.items() if mode == "disjoint")
    other = [evaluation_reference(data, "test", r, "mismatch", 1.0, 1)[1] for r in range(8)]
    assert other != [drawn[r, "mismatch"][1] for r in range(8)]
    # The same key in a data set where rows come in another order gets the same `oracle` clip.
    keyed = [{**row, "key": f"test-{i:07d}"} for i, row in enumerate(rows)]
    forward, backward = InMemory(keyed), InMemory(keyed[::-1])
    _, a = evaluation_reference(forward, "test", 3, "oracle", 1.0, 0)
    _, b = evaluation_reference(backward, "test", len(rows) - 4, "oracle", 1.0, 0)
    assert (a.start, a.stop) == (b.start, b.stop)


def test_evaluation_reference_where_none_can_be_had():
    lone = InMemory(small(1, ref_frames=0))
    assert evaluation_reference(lone, "test", 0, "none", 1.0, 0) is None
    for mode in ("disjoint", "env", "mismatch"):
        assert evaluation_reference(lone, "test", 0, mode, 1.0, 0) is None
    with pytest.raises(UserError, match="too short"):
        evaluation_reference(lone, "test", 0, "oracle", 0.1, 0)
    with pytest.raises(UserError, match="unknown"):
        evaluation_reference(lone, "test", 0, "orcale", 1.0, 0)


def test_a_law_is_one_row_of_the_table(monkeypatch, tiny_dataset, tmp_path, capsys):
    """Added there alone, a toy law trains, may have `lambda_env`, is refused where it cannot serve, and is a rung."""

    def draw(item, pool, rng):
        row = int(pool.rows[(np.searchsorted(pool.rows, item.row) + 1) % len(pool.rows)])
        return Source(row, (Span("noise", 0, int(pool.index.frames[row])),))

    def shortfall(pool, crop_samples):
        return Unserved(np.zeros(len(pool.rows)), np.zeros(len(pool.rows), bool))

    train = f"train --ref-mode toy --shards {tiny_dataset} --max-steps 2 --batch-size 2 --crop-frames 16 --threads 1"
    train += " --validate-every 2 --loader-workers 0 --lambda-env 0.1 --out"
    assert run([*train.split(), str(tmp_path / "without")]) == 2
    assert "choose from none, oracle, disjoint, env, mismatch" in capsys.readouterr().err
    monkeypatch.setitem(LAWS, "toy", Law(draw, shortfall, "next-row", same_place=True))
    assert run([*train.split(), str(tmp_path / "run")]) == 0, capsys.readouterr().err
    told = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any(line.get("validation", {}).get("mode") == "toy" for line in told)
    evaluate = f"evaluate --checkpoint {tmp_path}/run --shards {tiny_dataset} --modes none,toy --limit 2 --workers 1"
    assert run([*evaluate.split(), "--out", str(tmp_path / "table")]) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "table" / "rows.jsonl").read_text().splitlines()]
    assert {(row["mode"], row["relation"]) for row in rows} >= {("none", "none"), ("toy", "next-row")}
    assert "toy" in capsys.readouterr().out  # the table

    def serves_nobody(pool, crop_samples):
        return Unserved(np.ones(len(pool.rows)), np.zeros(len(pool.rows), bool))

    monkeypatch.setitem(LAWS, "toy", Law(draw, serves_nobody, "next-row", same_place=False))
    assert run([*train.split(), str(tmp_path / "refused")]) == 2
    assert "toy gives none of it" in capsys.readouterr().err
    assert run([*train.replace("--lambda-env 0.1 ", "").split(), str(tmp_path / "refused")]) == 2
    assert "toy: local/env0: 4 of 4 items without reference" in capsys.readouterr().err

"""The stream is a pure function of its position: golden keys, ranks, resume, windows, laws, remixing."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import InMemory, small

import nrdata
from nrdata.errors import UserError
from nrdata.keyed import key_of
from nrdata.sampling.order import Order
from nrdata.sampling.stream import Batch, Stream, StreamConfig

CROP = 2000


def stream(data=None, **config) -> Stream:
    return Stream(data or InMemory(small()), "train", StreamConfig(**{"batch_size": 6, "crop_samples": CROP} | config))


def same(a: Batch, b: Batch) -> bool:
    """Bit for bit."""
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Batch)]
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)


def numbers(batch: Batch) -> list[int]:
    return [int(key[-7:]) for key in batch.key]


def test_golden_keys():
    """The order of three epochs, written down: it may change only with a note in the changelog."""
    s = stream()
    found = [numbers(s.batch(epoch, 0)) for epoch in range(3)]
    assert found == [[13, 0, 5, 9, 6, 23], [14, 0, 18, 12, 5, 2], [4, 14, 18, 19, 11, 10]]


@pytest.mark.parametrize("law", ["none", "disjoint:0.5,env:0.3,none:0.2"])
def test_any_number_of_ranks(law):
    """Ranks share the global batch item by item; all batches are equal in size."""
    s = stream(batch_size=12, law=law, ref_seconds=(0.25, 1.0))
    for index in range(s.batches_per_epoch):
        whole = s.batch(1, index)
        for ranks in (1, 2, 3, 4):
            for rank in range(ranks):
                part = s.batch(1, index, rank, ranks)
                for field in dataclasses.fields(Batch):
                    mine, all_ = getattr(part, field.name), getattr(whole, field.name)
                    assert np.array_equal(mine, all_[rank::ranks]), field.name
    with pytest.raises(UserError, match="12 cannot be shared by 5 ranks"):
        s.batch(0, 0, 0, 5)


def test_any_number_of_shards():
    """Within one window the cut into shards does not matter: fewer shards than ranks or workers is no error."""
    for sizes in ([24], [20, 4], [1, 9, 3, 3, 8]):
        assert same(stream(InMemory(small(), shards=sizes)).batch(1, 1, 2, 3), stream().batch(1, 1, 2, 3))


def test_resume_at_every_position():
    """From any position on a new stream gives the rest, whatever the other one read before."""
    s = stream(law="env:0.5,none:0.5", ref_seconds=(0.25, 1.0), remix=True)
    position, sequence = (0, 0), []
    for _ in range(3 * s.batches_per_epoch + 1):
        sequence.append((position, s.batch(*position)))
        position = s.next(*position)
    assert [at for at, _ in sequence][:5] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    for at, batch in reversed(sequence):
        assert same(batch, stream(law="env:0.5,none:0.5", ref_seconds=(0.25, 1.0), remix=True).batch(*at))
        assert same(batch, s.batch(*at))


def test_an_epoch_holds_every_sample_once_in_another_order():
    s = stream(batch_size=5)
    epochs = [[n for i in range(s.batches_per_epoch) for n in numbers(s.batch(e, i))] for e in range(4)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 20  # 24 samples: the last partial batch is dropped
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({n for epoch in epochs for n in epoch}) == 24  # what is dropped differs


def test_an_epoch_smaller_than_a_batch_repeats():
    s = stream(InMemory(small(4)), batch_size=6)
    assert s.batches_per_epoch == 1 and s.next(0, 0) == (1, 0)
    batch = s.batch(0, 0)
    assert sorted(Counter(numbers(batch)).values()) == [1, 1, 2, 2]
    repeated = [i for i in range(6) if numbers(batch)[i] == numbers(batch)[0]]
    assert not np.array_equal(*batch.clean[repeated])  # another crop


def test_order_depends_on_seed_and_fingerprint_alone():
    other = InMemory(small())
    assert same(stream().batch(2, 1), stream(other).batch(2, 1))
    other.name = "renamed"
    assert same(stream().batch(2, 1), stream(other).batch(2, 1))
    other.fingerprint = "0" * 64
    assert not same(stream().batch(2, 1), stream(other).batch(2, 1))
    assert not same(stream().batch(2, 1), stream(seed=1).batch(2, 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30), st.integers(0, 3))
def test_windows(sizes, window, epoch):
    """Any window gives a permutation; windows are whole shards, no more than needed; any position can be first."""
    order = Order(key_of(0), sizes, window)
    total = sum(sizes)
    found = [order.window_at(epoch, p) for p in range(total)]
    rows = [int(w.rows[p - w.first]) for p, (_, w) in enumerate(found)]
    assert sorted(rows) == list(range(total))
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    for _, w in found:
        shards = set(shard_of[w.rows])
        assert len(w.rows) == sum(sizes[s] for s in shards)
        assert order.single or len(w.rows) - max(sizes[s] for s in shards) < window
    for p in random.Random(0).sample(range(total), min(total, 5)):
        number, w = Order(key_of(0), sizes, window).window_at(epoch, p)
        assert (number, int(w.rows[p - w.first])) == (found[p][0], rows[p])


def test_windows_bound_pool_and_memory():
    """With windows, references come from the window of their item, and only two windows are ever held."""
    data = InMemory(small(48, environments=2), shards=[8] * 6)
    s = stream(data, window=16, law="mismatch")
    for epoch in range(3):
        for index in range(s.batches_per_epoch):
            s.batch(epoch, index)
            assert len(s._pools) <= 2 and len(s.order._windows) <= 2
            assert s._pools and all(len(pool.rows) == 16 for pool in s._pools.values())


LAWS = ["oracle", "disjoint", "env", "mismatch", "oracle:0.5,env:0.4,none:0.1"]


@pytest.mark.parametrize("remix", [False, True])
def test_sound_does_not_depend_on_the_law(remix):
    plain = stream(remix=remix).batch(1, 2)
    assert plain.ref.shape == (6, 0) and plain.mode == ["none"] * 6
    for config in [{"law": law} for law in LAWS] + [
        {"law": "env", "ref_dropout": 0.5},
        {"law": "env", "ref_seconds": 0.5},
        {"law": "env", "ref_seconds": (0.25, 1.0)},
    ]:
        batch = stream(remix=remix, **config).batch(1, 2)
        for field in ("noisy", "clean", "frames", "key", "env_id"):
            assert np.array_equal(getattr(plain, field), getattr(batch, field)), (config, field)


def test_crops_are_the_stored_sound():
    data = InMemory(small())
    batch = stream(data).batch(0, 0)
    for i, row in enumerate(numbers(batch)):
        whole = data.read("train", row, "clean")
        starts = [s for s in range(len(whole) - CROP + 1) if whole[s] == batch.clean[i, 0]]
        assert len(starts) == 1 and np.array_equal(whole[starts[0] :][:CROP], batch.clean[i])
        assert np.array_equal(data.read("train", row, "noisy")[starts[0] :][:CROP], batch.noisy[i])
    assert (batch.frames == CROP).all()


def test_short_samples_are_padded_and_their_frames_told():
    data = InMemory(small(6, frames=1500))
    batch = stream(data, law="disjoint").batch(0, 0)
    assert (batch.frames == 1500).all() and (batch.ref_frames == 1000).all()
    for i, row in enumerate(numbers(batch)):
        assert np.array_equal(batch.clean[i, :1500], data.read("train", row, "clean"))
    assert not batch.clean[:, 1500:].any() and not batch.noisy[:, 1500:].any()


def test_no_crop_of_digital_silence():
    """Speech of 1 s and 9 s of zeros: every crop holds some of the speech."""
    clean = np.zeros(10_000, np.float32)
    clean[3000:4000] = 0.1
    data = InMemory(small(1, frames=10_000), {(0, "clean"): clean})
    s = stream(data, batch_size=1)
    crops = [s.batch(epoch, 0).clean[0] for epoch in range(60)]
    assert all(crop.any() for crop in crops)
    assert len({int(np.flatnonzero(crop)[0]) for crop in crops}) > 10
    silent = InMemory(small(1, frames=10_000), {(0, "clean"): np.zeros(10_000, np.float32)})
    assert not stream(silent, batch_size=1).batch(0, 0).clean.any()


def test_reference_dropout():
    law = "disjoint"
    s = stream(law=law, ref_dropout=0.25)
    modes = [m for e in range(60) for i in range(s.batches_per_epoch) for m in s.batch(e, i).mode]
    assert np.mean(np.array(modes) == "none") == pytest.approx(0.25, abs=0.04)
    batch = s.batch(0, 0)
    assert [frames == 0 for frames in batch.ref_frames] == [mode == "none" for mode in batch.mode]
    assert batch.missing == 0 and stream(law="env:0.9,none:0.1", ref_dropout=0.9).dropout == 0
    kept = stream(law=law).batch(0, 0)
    for i in np.flatnonzero(batch.ref_frames):
        assert np.array_equal(batch.ref[i], kept.ref[i])  # who keeps a reference keeps the same


def test_drawn_length():
    """One length a batch, the same on all ranks, over the whole range."""
    s = stream(law="disjoint", ref_seconds=(0.25, 1.0))
    widths = [s.batch(e, i).ref.shape[1] for e in range(20) for i in range(s.batches_per_epoch)]
    assert min(widths) >= 250 and max(widths) <= 1000 and len(set(widths)) > 40
    batch = s.batch(3, 1)
    assert (batch.ref_frames == batch.ref.shape[1]).all()
    assert s.batch(3, 1, 1, 2).ref.shape[1] == batch.ref.shape[1]


def test_missing_references():
    """Refused by name; or given none, and counted."""
    rows = [*small(11), {"env": "local/lone", "recording": "local/lone/r", "frames": 3000, "stretch": (0, 3000)}]
    with pytest.raises(UserError, match="env: local/lone: 1 of 1 items"):
        stream(InMemory(rows), law="env")
    s = stream(InMemory(rows), law="env", on_missing_ref="none", batch_size=12)
    batch = s.batch(0, 0)
    lone = batch.env_id.index("local/lone")
    assert batch.missing == 1 and [x.env_id for x in s.shortfalls] == ["local/lone"]
    assert (batch.mode[lone], batch.relation[lone], batch.ref_frames[lone]) == ("env", "none", 0)
    assert not batch.ref[lone].any()


def test_references_are_what_the_laws_say():
    data = InMemory(small())
    places = dict(enumerate(data.columns.env_names))
    for law, relation in {"env": "same-environment", "mismatch": "other-environment"}.items():
        batch = stream(data, law=law).batch(0, 1)
        assert batch.relation == [relation] * 6
        for i in range(6):
            sources = [
                r for r in range(24)
                if np.isin(data.read("train", r, "noise"), batch.ref[i, :1]).any()
                and set(batch.ref[i]) <= set(data.read("train", r, "noise"))
            ]  # fmt: skip
            assert len(sources) == 1 and sources[0] != numbers(batch)[i]
            assert (places[data.columns.env[sources[0]]] == batch.env_id[i]) == (law == "env")


def test_remix():
    """Another pairing and SNR in each epoch; the mixture is clean plus scaled noise of the row that the key names."""
    data = InMemory(small())
    s = stream(data, batch_size=24, remix=True, remix_snr_db=(-5, 5), clean_share=0, noise_share=0)
    pairs, levels, by_position = set(), [], set()
    for epoch in range(8):
        batch = s.batch(epoch, 0)
        by_position.add(round(float(np.sum((batch.noisy[0] - batch.clean[0]) ** 2) / np.sum(batch.clean[0] ** 2)), 3))
        for i, key in enumerate(batch.key):
            clean_row, noise_row = (int(part[-7:]) for part in key.split("+"))
            pairs.add((clean_row, noise_row))
            assert batch.env_id[i] == data.columns.env_names[data.columns.env[noise_row]]
            noise = batch.noisy[i] - batch.clean[i]
            levels.append(10 * np.log10(np.sum(batch.clean[i] ** 2) / np.sum(noise**2)))
            assert set(batch.clean[i]) <= set(data.read("train", clean_row, "clean"))
    assert len(pairs) > 100 and len(by_position) == 8
    assert -5.01 < min(levels) < -4 and 4 < max(levels) < 5.01
    assert not same(s.batch(0, 0), s.batch(1, 0))


def test_remix_shares():
    s = stream(batch_size=24, remix=True, clean_share=0.3, noise_share=0.2)
    batches = [s.batch(epoch, 0) for epoch in range(20)]
    clean = np.concatenate([b.clean for b in batches])
    noise = np.concatenate([b.noisy for b in batches]) - clean
    no_speech = ~clean.any(axis=1)
    quiet = np.sum(noise**2, axis=1) < 2e-6 * np.sum(clean**2, axis=1)
    assert no_speech.mean() == pytest.approx(0.2, abs=0.05) and quiet.mean() == pytest.approx(0.3, abs=0.06)
    assert all(noise[no_speech].any(axis=1))


def test_remix_filters_mixture_and_reference_alike():
    """The reference's spectrum over the stored clip's is the mixture's noise over the stored noise's: one curve."""
    rows = [{**row, "frames": 8000} for row in small(8, environments=2)]
    data = InMemory(rows)
    s = stream(data, batch_size=8, crop_samples=8000, law="oracle", ref_seconds=8.0, remix=True,
               clean_share=0, noise_share=0)  # fmt: skip
    batch = s.batch(0, 0)
    filtered = 0
    for i, key in enumerate(batch.key):
        stored = data.read("train", int(key[-7:]), "noise")
        mixed = batch.noisy[i] - batch.clean[i]
        gain = np.dot(mixed, batch.ref[i]) / np.dot(batch.ref[i], batch.ref[i])
        assert np.allclose(mixed, gain * batch.ref[i], atol=1e-5)
        filtered += not np.allclose(stored, batch.ref[i], atol=1e-4)
    assert 0 < filtered < 8


def test_global_generators_are_untouched():
    import torch

    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state().clone(), np.random.get_state()[1].copy(), random.getstate()
    stream(law="env", remix=True).batch(0, 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1]) and before[2] == random.getstate()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"crop_samples": 0}, "crop_samples"),
        ({"ref_seconds": 0.1}, "ref_seconds"),
        ({"ref_seconds": (1.0, 0.5)}, "ref_seconds"),
        ({"ref_seconds": float("nan")}, "ref_seconds"),
        ({"ref_dropout": 1.5}, "ref_dropout"),
        ({"clean_share": 0.6, "noise_share": 0.6}, "clean_share"),
        ({"on_missing_ref": "skip"}, "on_missing_ref"),
        ({"window": 0}, "window"),
        ({"remix_snr_db": (5.0, -5.0)}, "remix_snr_db"),
        ({"law": "match"}, "match"),
    ],
)
def test_configuration_refused(config, says):
    with pytest.raises(UserError, match=says):
        stream(**config)


def test_on_shards(tiny_dataset):
    """On real shards through the front door: crops are what `sample` says, references from where they should be."""
    data = nrdata.open(tiny_dataset)
    config = {"batch_size": 4, "crop_samples": 16000, "ref_seconds": 0.5}
    batches = {law: data.stream("train", law=law, **config).batch(0, 0) for law in ("none", *LAWS)}
    for i, key in enumerate(batches["none"].key):
        triplet = data.sample(key)
        crops = np.lib.stride_tricks.sliding_window_view(triplet.clean, 16000)
        start = int(np.flatnonzero((crops == batches["none"].clean[i]).all(axis=1))[0])
        assert np.array_equal(batches["none"].noisy[i], triplet.noisy[start : start + 16000])
        assert all(np.array_equal(batch.noisy, batches["none"].noisy) for batch in batches.values())
        clips = np.lib.stride_tricks.sliding_window_view(triplet.ref, 8000)
        assert (clips == batches["disjoint"].ref[i]).all(axis=1).any()
        assert batches["env"].env_id[i] == triplet.env_id
    assert batches["mismatch"].missing == 0
    with pytest.raises(UserError, match="no split"):
        data.stream("dev", **config)

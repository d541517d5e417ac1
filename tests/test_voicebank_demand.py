"""Source `voicebank-demand`, on a miniature in the published layout with lines of the published logs."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from corpora import TEST_LOG, TRAIN_LOG, build, digests, voicebank, write
from helpers import noise
from helpers import speech as voice

import nrdata
from nrdata import manifests
from nrdata.builders.plan import Options
from nrdata.checks.verify import verify

SHARED = Path(__file__).parents[1].parent / "shared"


def vbd(root: Path, out: Path, *more: object) -> int:
    return build("--source", "voicebank-demand", "--root", root, "--out", out, *more)


def refused(out: Path) -> dict[str, str]:
    return {r["item"]: r["kind"] for r in map(json.loads, (out / "refused.jsonl").read_text().splitlines())}


def zipped(root: Path, folder: Path) -> Path:
    """The corpus as the zips that are published, each holding a folder of its own name; the logs flat in theirs."""
    folder.mkdir()
    for part in sorted(p for p in root.iterdir() if p.is_dir()):
        with zipfile.ZipFile(folder / f"{part.name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(part.iterdir()):
                archive.write(path, path.name if part.name == "logfiles" else f"{part.name}/{path.name}")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return voicebank(tmp_path_factory.mktemp("vbd") / "corpus")


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "vbd"
    assert vbd(corpus, out, "--strict") == 0
    return out


def test_every_line_of_the_log_is_a_sample(built):
    data = nrdata.open(built)
    assert not verify(built).faults and not data.has_ref and data.sample_rate == 16000
    found = {}
    for split in data.splits:
        for key in data.index(split).key:
            sample = data.sample(key.decode())
            assert sample.stretch == (-1, -1) and sample.split == split
            found[sample.meta["utterance"]] = (split, sample.env_id, sample.speaker, sample.meta["logged_snr_db"])
    assert found == {
        "p236_002": ("train", "demand/babble", "voicebank/p236", 15.0),
        "p236_003": ("train", "demand/babble", "voicebank/p236", 10.0),
        "p236_005": ("train", "demand/babble", "voicebank/p236", 5.0),
        "p226_001": ("valid", "demand/cafeteria", "voicebank/p226", 0.0),
        "p287_001": ("valid", "demand/kitchen", "voicebank/p287", 15.0),
        "p243_001": ("train", "demand/ssn", "voicebank/p243", 5.0),
        "p257_001": ("test", "demand/bus", "voicebank/p257", 17.5),
        "p257_002": ("test", "demand/bus", "voicebank/p257", 12.5),
        "p232_003": ("test", "demand/psquare", "voicebank/p232", 7.5),
    }


def test_noise_is_the_difference_at_48_khz_resampled(built, corpus):
    data = nrdata.open(built)
    sample = data.sample("train-0000001")
    clean, _ = sf.read(corpus / "clean_trainset_28spk_wav" / "p236_002.wav", dtype="float32")
    noisy, _ = sf.read(corpus / "noisy_trainset_28spk_wav" / "p236_002.wav", dtype="float32")
    assert len(sample.clean) == len(clean) // 3
    for stored, x in ((sample.clean, clean), (sample.noise, noisy - clean)):
        y = soxr.resample(x, 48000, 16000, quality="VHQ") * sample.meta["gain"]
        assert np.max(np.abs(stored - y)) <= 0.51 / 32768


def test_zips_give_the_same_bytes_as_folders(built, corpus, tmp_path):
    """Read member by member, logs flat in their zip; and a corpus half unpacked, deeper below the root."""
    zips = zipped(corpus, tmp_path / "zips")
    assert vbd(zips, tmp_path / "z") == 0
    assert digests(tmp_path / "z") == digests(built)
    deep = zipped(corpus, tmp_path / "deep")
    (deep / "a" / "b").mkdir(parents=True)
    with zipfile.ZipFile(deep / "clean_testset_wav.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(deep / "clean_testset_wav.zip", "w") as archive:
        for name, data in contents.items():  # what is unpacked goes before what is still packed
            (deep / "a" / "b" / name).parent.mkdir(exist_ok=True)
            (deep / "a" / "b" / name).write_bytes(data)
            archive.writestr(name, b"an old download")
    assert vbd(deep, tmp_path / "d") == 0
    assert digests(tmp_path / "d") == digests(built)


def test_broken_items_are_refused_and_nothing_else_is_lost(built, tmp_path, capsys):
    """The five of the issue, then those a corpus can have besides."""
    root = voicebank(tmp_path / "corpus")
    train, test = (root / f"noisy_{part}_wav" for part in ("trainset_28spk", "testset"))
    (train / "p236_002.wav").write_text("not a sound file")
    (train / "p236_003.wav").unlink()
    write(train / "p236_005.wav", noise(1.2, rate=44100), 44100)
    write(test / "p257_001.wav", noise(1.0, rate=48000), 48000)
    log = root / "logfiles" / "log_testset.txt"
    log.write_text(TEST_LOG + "p257_434 cafe 2.5\n")
    out = tmp_path / "out"
    assert vbd(root, out) == 0
    five = {
        "noisy_trainset_28spk_wav/p236_002.wav": "unreadable",
        "noisy_trainset_28spk_wav/p236_003.wav": "missing_pair",
        "noisy_trainset_28spk_wav/p236_005.wav": "wrong_rate",
        "noisy_testset_wav/p257_001.wav": "length_mismatch",
        "noisy_testset_wav/p257_434.wav": "no_file",
    }
    assert refused(out) == five
    summary = capsys.readouterr().out
    assert "5 items refused (1 length_mismatch, 1 missing_pair, 1 no_file, 1 unreadable, 1 wrong_rate)" in summary
    assert vbd(root, out, "--strict") == 1
    data, whole = nrdata.open(out), nrdata.open(built)
    kept = {d.sample(k.decode()).meta["utterance"] for d in (data,) for s in d.splits for k in d.index(s).key}
    everything = {line.split()[0] for line in (TRAIN_LOG + TEST_LOG).splitlines()}
    assert kept == everything - {"p236_002", "p236_003", "p236_005", "p257_001"}
    assert np.array_equal(data.sample("valid-0000001").noisy, whole.sample("valid-0000001").noisy)
    log.write_text(TEST_LOG.replace("p232_003 psquare 7.500000e+00", "p257_001 bus 2.5\np257_002\n"))
    assert vbd(root, tmp_path / "two") == 0
    kinds = refused(tmp_path / "two")
    assert kinds["log_testset.txt line 3"] == "duplicate"
    assert kinds["noisy_testset_wav/p232_003.wav"] == "no_log_line"
    assert kinds["log_testset.txt line 4"] == "bad_log" and len(kinds) == 7


def test_a_wrong_rate_names_both_and_16_khz_copies_are_asked_for(tmp_path, capsys):
    root = voicebank(tmp_path / "copies", rate=16000)
    assert vbd(root, tmp_path / "out") == 2
    assert "48000 Hz expected, 16000 found" in capsys.readouterr().err
    assert vbd(root, tmp_path / "out", "--source-rate", "16000", "--force", "--strict") == 0
    assert nrdata.open(tmp_path / "out").sample_rate == 16000


def test_deviations_from_the_logged_snr_are_listed_not_refused(tmp_path, capsys):
    root = voicebank(tmp_path / "corpus")
    log = root / "logfiles" / "log_testset.txt"
    log.write_text(TEST_LOG.replace("p257_002 bus 1.250000e+01", "p257_002 bus 2.500000e+00"))
    assert vbd(root, tmp_path / "out", "--strict") == 0
    out = capsys.readouterr().out
    assert "1 samples differ from the logged SNR" in out and "test-0000002: logged 2.5 dB, measured 12." in out
    assert vbd(root, tmp_path / "out") == 0
    assert "1 samples differ" in capsys.readouterr().out


def test_a_corpus_without_its_log_is_a_sentence(tmp_path, capsys):
    root = voicebank(tmp_path / "corpus")
    (root / "logfiles" / "log_testset.txt").unlink()
    assert vbd(root, tmp_path / "out") == 2
    assert "log_testset.txt is nowhere below" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert vbd(tmp_path / "empty", tmp_path / "out") == 2
    assert "no pair of VoiceBank-DEMAND" in capsys.readouterr().err


def test_a_damaged_zip_member_is_one_refused_file(built, corpus, tmp_path):
    zips = zipped(corpus, tmp_path / "zips")
    path = zips / "noisy_testset_wav.zip"
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("noisy_testset_wav/p257_002.wav")
    data = bytearray(path.read_bytes())
    for i in range(200, 260):
        data[entry.header_offset + i] ^= 0x55
    path.write_bytes(data)
    assert vbd(zips, tmp_path / "out") == 0
    assert refused(tmp_path / "out") == {"noisy_testset_wav/p257_002.wav": "unreadable"}


def test_one_alias_table_joins_the_names_of_voicebank_and_demand():
    names = manifests.load("voicebank-demand")["environments"]
    assert names["cafeteria"] == "PCAFETER" and names["living"] == "DLIVING" and len(names) == 15


@pytest.mark.skipif(not (SHARED / "data/voicebank-logs").exists(), reason="the published logs are not here")
def test_the_published_logs_give_the_published_counts(tmp_path):
    """11 572 and 824 pairs; 770 utterances of p226 and p287 for validation."""
    from collections import Counter

    from nrdata.builders import voicebank_demand

    for part in ("trainset_28spk", "testset"):
        log = SHARED / "data" / "voicebank-logs" / f"log_{part}.txt"
        (tmp_path / log.name).symlink_to(log)
        utterances = [line.split()[0] for line in log.read_text().splitlines()]
        for side in ("clean", "noisy"):
            with zipfile.ZipFile(tmp_path / f"{side}_{part}_wav.zip", "w") as archive:
                for name in utterances:
                    archive.writestr(f"{side}_{part}_wav/{name}.wav", b"")
    plan = voicebank_demand.plan(Options("voicebank-demand", root=tmp_path))
    assert Counter(row.split for row in plan.rows) == {"train": 10802, "valid": 770, "test": 824}
    train = Counter(row.env_id for row in plan.rows if row.split != "test")
    assert train["demand/babble"] == 1158 and train["demand/traffic"] == 1152 and len(train) == 10
    test = [row for row in plan.rows if row.split == "test"]
    assert Counter(row.speaker for row in test) == {"voicebank/p232": 393, "voicebank/p257": 431}
    assert not {row.env_id for row in test} & train.keys() and not plan.refused


@pytest.mark.skipif(not (SHARED / "data/voicebank-sample").exists(), reason="the real pairs are not here")
def test_genuine_pairs_agree_with_their_logs(tmp_path, capsys):
    """40 real pairs at 16 kHz, laid out as published: all are made, measured SNRs within the known slack."""
    sample = SHARED / "data" / "voicebank-sample"
    logs = {
        part: dict(
            line.split(maxsplit=1) for line in (SHARED / f"data/voicebank-logs/log_{part}.txt").read_text().splitlines()
        )
        for part in ("trainset_28spk", "testset")
    }
    count = 0
    for part, log in logs.items():
        lines = []
        for path in sorted((sample / "noisy").iterdir()):
            if path.stem in log:
                for side in ("clean", "noisy"):
                    target = tmp_path / "in" / f"{side}_{part}_wav" / f"{path.stem}.flac"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(sample / side / path.name)
                lines.append(f"{path.stem} {log[path.stem]}\n")
        (tmp_path / "in" / f"log_{part}.txt").write_text("".join(lines))
        count += len(lines)
    assert vbd(tmp_path / "in", tmp_path / "out", "--source-rate", "16000", "--strict") == 0
    data = nrdata.open(tmp_path / "out")
    assert sum(len(data.index(s)) for s in data.splits) == count >= 36
    differences = [
        s.snr_db - s.meta["logged_snr_db"]
        for split in data.splits
        for s in (data.sample(k.decode()) for k in data.index(split).key)
    ]
    assert -3 < np.median(differences) < 0


def test_what_needs_a_decoder_is_named(corpus, tmp_path):
    root = tmp_path / "corpus"
    shutil.copytree(corpus, root)
    side = next(p for p in sorted(root.iterdir()) if p.name.startswith("noisy"))
    for name in ("memo.m4a", "call.3gp", "talk.WEBM"):
        (side / name).write_bytes(bytes(100))
    assert vbd(root, tmp_path / "out") == 0
    named = {f"{side.name}/{name}": "needs_decoder" for name in ("memo.m4a", "call.3gp", "talk.WEBM")}
    assert named.items() <= refused(tmp_path / "out").items()


def test_speech_of_training_in_test_is_told_and_kept_since_the_splits_are_published(tmp_path, capsys):
    root = tmp_path / "corpus"
    voicebank(root)
    for i, name in enumerate(("p257_001", "p257_002", "p232_003")):  # the miniature says the same things in both parts
        clean, bed = 0.3 * voice(1.2, seed=50 + i, rate=48000), 0.05 * noise(1.2, i, seed=60 + i, rate=48000)
        write(root / f"clean_testset_wav/{name}.wav", clean, 48000)
        write(root / f"noisy_testset_wav/{name}.wav", clean + bed, 48000)
    assert vbd(root, tmp_path / "apart") == 0
    assert "same speech" not in capsys.readouterr().out
    clean, rate = sf.read(root / "clean_trainset_28spk_wav/p236_005.wav", dtype="float32")
    write(root / "clean_testset_wav/p257_002.wav", clean, rate)
    write(root / "noisy_testset_wav/p257_002.wav", clean + 0.05 * noise(1.2, 1, seed=70, rate=rate), rate)
    assert vbd(root, tmp_path / "out", "--strict") == 0
    told = capsys.readouterr().out
    assert "clean_trainset_28spk_wav/p236_005.wav (train) is clean_testset_wav/p257_002.wav (test): kept" in told
    assert refused(tmp_path / "out") == {}

"""Source `folders`: bare folders and indexes, odd files, and the physics of what is mixed."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from corpora import bare_folders, build, indexed, table, write
from helpers import RATE, noise, speech

import nrdata
from nrdata.builders import folders as source
from nrdata.builders.plan import Options
from nrdata.builders.sources import Folder, stretch
from nrdata.checks.leaks import find_leaks
from nrdata.checks.verify import verify
from nrdata.store.triplet import energy_snr_db

SHARED = Path(__file__).parents[1].parent / "shared"


def folders(root: Path, out: Path, *more: object) -> int:
    options = ("--source", "folders", "--speech", root / "speech", "--noise", root / "noise")
    return build(*options, "--out", out, "--per-cell", 1, "--hours", 0.01, "--workers", 1, *more)


def refused(out: Path) -> dict[str, str]:
    """Item -> kind."""
    rows = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    assert len({r["item"] for r in rows}) == len(rows)
    return {r["item"]: r["kind"] for r in rows}


def plan_rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines()]


def test_bare_folders_are_split_by_speaker_and_recording(tmp_path, capsys):
    bare_folders(tmp_path, environments=5)
    assert folders(tmp_path, tmp_path / "out") == 0
    data = nrdata.open(tmp_path / "out")
    assert not verify(tmp_path / "out").faults and set(data.splits) == {"train", "valid", "test"}
    environments = {s: set(data.index(s).env_names) for s in data.splits}
    unseen = environments["test"] - environments["train"]
    assert len(unseen) == 1 and f"unseen in training: {min(unseen).removeprefix('local/')}" in capsys.readouterr().out
    for names in ("speaker_names", "recording_names"):
        sets = [set(getattr(data.index(s), names)) for s in data.splits]
        assert sum(map(len, sets)) == len(set.union(*sets))
    assert {row["speaker"] for row in plan_rows(tmp_path / "out")} <= {f"local/s{i}" for i in range(4)}


def test_unseen_environments_are_kept_from_training(tmp_path, capsys):
    bare_folders(tmp_path)
    assert folders(tmp_path, tmp_path / "out", "--unseen", "place1") == 0
    data = nrdata.open(tmp_path / "out")
    assert "local/place1" in data.index("test").env_names
    assert "local/place1" not in data.index("train").env_names + data.index("valid").env_names
    assert folders(tmp_path, tmp_path / "none", "--unseen", "") == 0
    assert set(nrdata.open(tmp_path / "none").index("train").env_names) == {f"local/place{i}" for i in range(3)}
    assert folders(tmp_path, tmp_path / "bad", "--unseen", "moon") == 2
    assert "no such environment (place0, place1, place2)" in capsys.readouterr().err


def test_unseen_with_an_index_refuses_the_training_recordings(tmp_path):
    speech, sounds = indexed(tmp_path)
    argv = ("--source", "folders", "--speech-index", speech, "--noise-index", sounds, "--per-cell", 1, "--hours", 0.01)
    assert build(*argv, "--out", tmp_path / "out", "--unseen", "place0") == 0
    kinds = refused(tmp_path / "out")
    assert Counter(kinds.values())["unseen"] == 4 and "noise/place0/train0.flac" in kinds


def test_our_own_recipe_has_no_leaks_with_a_seen_split(tmp_path):
    """`seen`: other time of training recordings, test speakers; nothing heard twice."""
    bare_folders(tmp_path, environments=2)
    for e in range(2):
        for r in range(4):
            write(tmp_path / "noise" / f"place{e}" / f"r{r}.wav", noise(11.0, e, seed=r))
    assert folders(tmp_path, tmp_path / "out", "--seen-split", "--unseen", "") == 0
    data = nrdata.open(tmp_path / "out")
    assert set(data.splits) == {"train", "valid", "test", "seen"}
    assert set(data.index("seen").recording_names) <= set(data.index("train").recording_names)
    assert set(data.index("seen").speaker_names) <= set(data.index("test").speaker_names)
    assert find_leaks(tmp_path / "out")[0] == []


def test_names_stand_before_the_slash_and_index_columns_in_meta(tmp_path):
    speech, sounds = indexed(tmp_path, more={"mood": "calm"})
    argv = ("--source", "folders", "--speech-index", speech, "--noise-index", sounds, "--per-cell", 1, "--hours", 0.01)
    assert build(*argv, "--out", tmp_path / "out", "--speech", f"books:{tmp_path}", "--workers", 1) == 0
    data = nrdata.open(tmp_path / "out")
    sample = data.sample("train-0000001")
    assert sample.speaker.startswith("books/s") and sample.env_id.startswith("local/place")
    assert sample.recording == f"{sample.env_id}/{sample.meta['noise'].split('/')[-1].removesuffix('.flac')}"
    assert sample.meta["speech_mood"] == sample.meta["noise_mood"] == "calm"


@pytest.mark.parametrize("bed_db", [0.0, -30.0, 30.0])
def test_the_stored_snr_is_the_asked_one_whatever_the_levels(tmp_path, bed_db):
    """CASES S6 and S5: half of the speech is pause, levels far apart, rates and lengths odd; the sum is exact."""
    for seed, split in enumerate(("train", "valid", "test")):
        talk = speech(44117 / 44100 * 3, seed, rate=44100)
        talk[len(talk) // 2 :] = 0
        talk = np.append(talk, talk[:17])
        write(tmp_path / f"{split}.wav", talk if split != "valid" else np.clip(10 * talk, -1, 0.9999), 44100)
        bed = noise(160001 / 48000, 1, rate=48000) * 10 ** (bed_db / 20)
        write(tmp_path / f"{split}-bed.wav", bed, 48000, subtype="FLOAT")
        write(tmp_path / f"{split}-low.wav", noise(4.0, 2, rate=22050), 22050)
    rows = [{"path": f"{s}.wav", "split": s, "speaker": s} for s in ("train", "valid", "test")]
    beds = [
        {"path": f"{s}-{kind}.wav", "split": s, "environment": kind, "recording": s}
        for s in ("train", "valid", "test")
        for kind in ("bed", "low")
    ]
    index = table(tmp_path / "speech.csv", rows), table(tmp_path / "noise.csv", beds)
    out = tmp_path / "out"
    argv = ("--source", "folders", "--speech-index", index[0], "--noise-index", index[1], "--out", out, "--strict")
    assert build(*argv, "--snr", "-20:-20", "--snr-test", "5", "--per-cell", 2, "--hours", 0.002, "--workers", 1) == 0
    data = nrdata.open(out)
    for row in plan_rows(out):
        s = data.sample(row["key"])
        clean, noisy, bed = (np.rint(x * 32768).astype(int) for x in (s.clean, s.noisy, s.noise))
        assert np.array_equal(noisy, clean + bed) and np.max(np.abs(noisy)) < 32768
        assert len(clean) == row["speech"]["stop"] - row["speech"]["start"] >= RATE
        expected = -20 if row["split"] == "train" else 5
        assert energy_snr_db(clean, bed) == pytest.approx(expected, abs=0.05) == s.snr_db


def test_a_reserve_that_is_too_long_refuses_the_short_and_keeps_shards_uniform(tmp_path):
    """CASES S3: half of the recordings are too short for --reserve-ref."""
    bare_folders(tmp_path, environments=2)
    for r in range(4):
        write(tmp_path / "noise" / "place0" / f"short{r}.wav", noise(3.5, 0, seed=50 + r))
    out = tmp_path / "out"
    assert folders(tmp_path, out, "--reserve-ref", "2.5") == 0
    kinds = refused(out)
    assert {f"place0/short{r}.wav#0" for r in range(4)} <= {i for i, k in kinds.items() if k == "too_short"}
    data = nrdata.open(out)
    assert all((data.index(s).ref_frames == 2.5 * RATE).all() for s in data.splits)
    assert folders(tmp_path, tmp_path / "none", "--reserve-ref", "0") == 0
    plain = nrdata.open(tmp_path / "none")
    assert not plain.has_ref and all((plain.index(s).ref_frames == 0).all() for s in plain.splits)


def test_the_clip_is_the_reserved_stretch_of_the_same_recording(tmp_path):
    """The stored noise and clip are one gain away from the file, at the places the plan names."""
    bare_folders(tmp_path)
    assert folders(tmp_path, tmp_path / "out") == 0
    data = nrdata.open(tmp_path / "out")
    for row in plan_rows(tmp_path / "out")[:6]:
        sample = data.sample(row["key"])
        x, _ = sf.read(tmp_path / "noise" / row["noise"]["path"])
        for part, stored in ((row["noise"], sample.noise), (row["ref"], sample.ref)):
            original = x[part["start"] : part["stop"]]
            gain = np.dot(stored, original) / np.dot(original, original)
            assert np.max(np.abs(stored - gain * original)) < 2 / 32768
        ref, heard = x[row["ref"]["start"] : row["ref"]["stop"]], sample.ref
        assert np.dot(heard, ref) / np.dot(ref, ref) == pytest.approx(
            np.dot(sample.noise, x[row["noise"]["start"] : row["noise"]["stop"]])
            / np.sum(x[row["noise"]["start"] : row["noise"]["stop"]] ** 2),
            rel=0.01,
        )


def test_twelve_kinds_of_broken_files_are_as_many_reasons(tmp_path, capsys):
    """B7: nothing disappears."""
    bare_folders(tmp_path)
    places = tmp_path / "noise" / "place0"
    good = write(tmp_path / "x.wav", noise(5.0)).read_bytes()
    (places / "empty.wav").write_bytes(b"")
    (places / "text.wav").write_text("this is no sound")
    (places / "cut.wav").write_bytes(good[:9000])
    flac = write(tmp_path / "x.flac", noise(5.0)).read_bytes()
    (places / "half.flac").write_bytes(flac[: len(flac) // 2])
    write(places / "half.wav", noise(5.0, 9))
    write(places / "silent.wav", np.zeros(80000))
    write(places / "short.wav", noise(2.0))
    bad = noise(5.0)
    bad[20000] = np.nan
    write(places / "nan.wav", bad, subtype="FLOAT")
    quiet = noise(5.0)
    quiet[:17000] = quiet[63000:] = 1e-6
    write(places / "ends.wav", quiet)
    write(tmp_path / "noise" / "nowhere.wav", noise(5.0))
    (tmp_path / "speech" / "s0" / "text.wav").write_text("nothing said")
    write(tmp_path / "speech" / "s0" / "short.wav", speech(0.6))
    (tmp_path / "speech" / "s0" / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    (places / "._r0.wav").write_bytes(bytes(4096))  # what a Mac leaves is no item
    (places / ".DS_Store").write_bytes(bytes(4096))
    (places / "notes.txt").write_text("not sound either")
    out = tmp_path / "out"
    assert folders(tmp_path, out) == 0
    kinds = refused(out)
    expected = {
        "place0/empty.wav": "empty",
        "place0/text.wav": "unreadable",
        "place0/cut.wav": "truncated",
        "place0/half.flac": "truncated",
        "place0/half.wav": "ambiguous",  # two recordings of one name
        "place0/silent.wav": "silent_noise",
        "place0/short.wav#0": "too_short",
        "place0/nan.wav": "not_finite",
        "place0/ends.wav#0": "mostly_silent",
        "nowhere.wav": "no_environment",
        "s0/text.wav": "unreadable",
        "s0/short.wav": "too_short",
        "s0/dangling.wav": "missing",
    }
    assert {i: k for i, k in kinds.items() if k != "not_drawn"} == expected
    rows = plan_rows(out)
    used = {r["speech"]["path"] for r in rows} | {f"{r['noise']['path']}#{r['meta']['unit']}" for r in rows}
    everything = {f"s{s}/{n}.wav" for s in range(4) for n in range(2)} | expected.keys()
    everything |= {f"place{e}/r{r}.wav#0" for e in range(3) for r in range(4)}
    assert used | kinds.keys() == everything
    assert "13 items refused" in capsys.readouterr().out or len(kinds) > 13
    assert folders(tmp_path, out, "--strict") == 1


def test_channels_that_cancel_are_named_and_the_first_is_taken(tmp_path, capsys):
    """CASES I3."""
    speech_index, noise_index = indexed(tmp_path)
    x = sf.read(tmp_path / "speech/s3/a.flac")[0]
    write(tmp_path / "speech/s3/a.flac", np.stack([x, -x], axis=1))
    argv = ("--source", "folders", "--speech-index", speech_index, "--noise-index", noise_index, "--per-cell", 1)
    assert build(*argv, "--hours", 0.01, "--out", tmp_path / "out", "--workers", 1) == 0
    assert "speech/s3/a.flac: the channels cancel" in capsys.readouterr().out
    assert build(*argv, "--hours", 0.01, "--out", tmp_path / "out") == 0
    assert "speech/s3/a.flac: the channels cancel" in capsys.readouterr().out
    test = nrdata.open(tmp_path / "out")
    row = next(r for r in plan_rows(tmp_path / "out") if r["split"] == "test")
    clean = test.sample(row["key"]).clean
    original = x[row["speech"]["start"] : row["speech"]["stop"]]
    assert np.corrcoef(clean, original)[0, 1] > 0.999


def test_extensible_24_bit_stereo_and_streamed_flac_are_sources_like_any(tmp_path):
    """CASES I1 and I2: the header with tag 65534; STREAMINFO that says 0 samples."""
    bare_folders(tmp_path, environments=1)
    stereo = np.stack([noise(5.0, 3, rate=44100)] * 2, axis=1)
    write(tmp_path / "noise" / "place0" / "field.wav", stereo, 44100, format="WAVEX", subtype="PCM_24")
    path = write(tmp_path / "speech" / "s0" / "streamed.flac", speech(2.5, seed=9))
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    out = tmp_path / "out"
    assert folders(tmp_path, out, "--hours", 0.05, "--per-cell", 8, "--strict") == 0
    rows = plan_rows(out)
    assert {"s0/streamed.flac"} <= {r["speech"]["path"] for r in rows}
    assert {"place0/field.wav"} <= {r["noise"]["path"] for r in rows}
    streamed = [r for r in rows if r["speech"]["path"] == "s0/streamed.flac"]
    assert max(r["speech"]["stop"] for r in streamed) <= 40000
    assert not verify(out).faults


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize(("start", "stop"), [(0, 16000), (7, 20007), (32001, 45678), (60000, 79990)])
def test_a_stretch_of_a_resampled_file_is_the_stretch_of_the_whole(tmp_path, rate, start, stop):
    """Positions agree to the sample at any rate, though only the neighbourhood is read."""
    t = np.arange(5 * rate) / rate
    x = np.sin(2 * np.pi * (200 + 100 * t) * t) * 0.5
    write(tmp_path / "x.wav", x, rate, subtype="FLOAT")
    y = stretch(Folder(tmp_path), "x.wav", start, stop, RATE)
    t = np.arange(start, stop) / RATE
    inner = slice(400, -400)
    assert len(y) == stop - start
    assert np.max(np.abs(y - np.sin(2 * np.pi * (200 + 100 * t) * t) * 0.5)[inner]) < 2e-3
    whole = stretch(Folder(tmp_path), "x.wav", 0, None, RATE)[start:stop]
    assert np.max(np.abs(y - whole)) < 1e-5


def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path):
    """I2: ten minutes of 48 kHz stereo, 230 MB as float, with sound in the last seconds."""
    bare_folders(tmp_path, environments=1)
    path = tmp_path / "noise" / "place0" / "long.wav"
    with sf.SoundFile(path, "w", 48000, 2, "PCM_16") as file:
        for second in range(600):
            file.write(np.stack([noise(1.0, 2, seed=second, rate=48000)] * 2, axis=1) * (0.01 if second < 590 else 1))
    tracemalloc.start()
    try:
        plan = source.plan(
            Options("folders", speech=(("a", tmp_path / "speech"),), noise=(("b", tmp_path / "noise"),), per_cell=1)
        )
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
    long = [r for r in plan.rows if r.noise.path == "place0/long.wav"]
    assert {r.meta["unit"] for r in long} == {59}  # the others are 40 dB under the recording
    assert min(r.noise.start for r in long) >= 590 * RATE


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,split,speaker\n", "no rows"),
        ("path,speaker\na.wav,x\n", "no column split"),
        ("path,split,speaker\na.wav,dev,x\n", "line 2: split 'dev'"),
        ("path,split,speaker\na.wav,train,\n", "may not be empty"),
        ("path,split,speaker\na.wav,train,x\na.wav,train,x\n", "line 3: a.wav appears twice"),
        ("path,split,speaker\nno.wav,train,x\n", "none of the 1 files"),
    ],
)
def test_a_bad_index_is_refused_by_line(tmp_path, text, sentence, capsys):
    _, sounds = indexed(tmp_path)
    (tmp_path / "bad.csv").write_text(text)
    argv = ("--source", "folders", "--speech-index", tmp_path / "bad.csv", "--noise-index", sounds)
    assert build(*argv, "--out", tmp_path / "out") == 2
    assert sentence in capsys.readouterr().err


def test_odd_names_become_plain_identifiers(tmp_path):
    """D4: source names live in the JSON, keys do not know them."""
    speech_dir, noise_dir = bare_folders(tmp_path, speakers=3, environments=1)
    (speech_dir / "s0").rename(speech_dir / "Ann Ébène~2")
    (noise_dir / "place0").rename(noise_dir / "Große Halle #1")
    (noise_dir / "Große Halle #1" / "r0.wav").rename(noise_dir / "Große Halle #1" / "a {x}? b.WAV")
    (noise_dir / "Große Halle #1" / "r1.wav").rename(
        noise_dir / "Große Halle #1" / "r1\x1b[2J\n\N{SNOWMAN}\udcff\r.wav"
    )
    assert folders(tmp_path, tmp_path / "out", "--hours", 0.03, "--per-cell", 4, "--strict") == 0
    data = nrdata.open(tmp_path / "out")
    assert {e for s in data.splits for e in data.index(s).env_names} == {"local/große-halle-#1"}
    assert "local/ann-ébène-2" in {n for s in data.splits for n in data.index(s).speaker_names}
    assert any(n.endswith("r1-[2j-\N{SNOWMAN}-") for s in data.splits for n in data.index(s).recording_names)
    assert any("a-{x}?-b" in n for s in data.splits for n in data.index(s).recording_names)
    assert not verify(tmp_path / "out").faults


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data/corpus/noise.csv").exists(), reason="the real corpus is not here")
def test_the_plan_of_the_real_corpus_keeps_its_splits():
    corpus = SHARED / "data" / "corpus"
    plan = source.plan(
        Options("folders", speech_index=corpus / "speech.csv", noise_index=corpus / "noise.csv", per_cell=1, hours=1.0)
    )
    sets = {
        split: {getattr(r, name) for r in plan.rows if r.split == split for name in ("recording", "speaker")}
        for split in ("train", "valid", "test")
    }
    assert not sets["train"] & sets["test"] and not sets["train"] & sets["valid"] and not sets["valid"] & sets["test"]
    unseen = {r.env_id for r in plan.rows if r.split == "test"} - {
        r.env_id for r in plan.rows if r.split == "train"
    }
    assert len(unseen) == 6 and "local/siren" in unseen


def test_sound_of_every_kind_is_used_and_what_needs_a_decoder_is_named(tmp_path, capsys):
    bare_folders(tmp_path)
    for i, (ending, kind) in enumerate((("sph", "NIST"), ("SND", "AU"), ("voc", "VOC"))):
        for place, x in (("speech/s1", speech(2.0, seed=40 + i)), ("noise/place1", noise(5.0, 1, seed=40 + i))):
            sf.write(tmp_path / place / f"more{i}.{ending}", x, RATE, "PCM_16", format=kind)
    foreign = ["s1/memo.m4a", "s1/call.amr", "s0/film.MKV", "place0/street.wma"]
    for name in foreign:
        (tmp_path / ("noise" if name.startswith("place") else "speech") / name).write_bytes(bytes(100))
    assert folders(tmp_path, tmp_path / "out") == 0
    kinds = refused(tmp_path / "out")
    assert {item for item, kind in kinds.items() if kind == "needs_decoder"} == set(foreign)
    assert "4 needs_decoder" in capsys.readouterr().out
    everything = {r["speech"]["path"] for r in plan_rows(tmp_path / "out")} | kinds.keys()
    assert {"s1/more0.sph", "s1/more1.SND", "s1/more2.voc"} <= everything
    reasons = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert all("convert" in r["reason"] for r in reasons if r["item"] in foreign)


def test_a_folder_of_nothing_but_films_says_so(tmp_path, capsys):
    bare_folders(tmp_path)
    for path in (tmp_path / "speech").rglob("*.wav"):
        path.rename(path.with_suffix(".mp4"))
    assert folders(tmp_path, tmp_path / "out") == 2
    assert ".mp4 files need another decoder" in capsys.readouterr().err

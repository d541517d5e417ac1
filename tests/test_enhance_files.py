"""`nr enhance` through the front door: formats, names, references, batches, interruptions, full disks."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import noise, speech, spoken
from stand_ins import tiny_checkpoint

from cli.main import run
from nrmodel.enhancement import clip, log
from nrmodel.enhancement import files as enhance_files

RATE = 16000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nr(checkpoint, here, capsys):
    """`nr(*arguments)` -> (exit code, stdout, stderr)."""

    def call(*arguments) -> tuple[int, str, str]:
        code = run(["enhance", "--checkpoint", str(checkpoint), *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def mixture(seconds: float = 0.5, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return speech(seconds, seed, rate) + noise(seconds, 1, seed, rate)


def read(path) -> np.ndarray:
    return sf.read(path, dtype="float32")[0]


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "subtype", "kept"),
    [
        ("WAV", "PCM_16", "PCM_16"), ("WAV", "PCM_U8", "PCM_16"), ("WAV", "ULAW", "PCM_16"),
        ("WAV", "PCM_24", "PCM_24"), ("WAVEX", "PCM_24", "PCM_24"), ("WAV", "PCM_32", "PCM_32"),
        ("WAV", "FLOAT", "FLOAT"), ("WAV", "DOUBLE", "FLOAT"),
        ("FLAC", "PCM_24", "PCM_24"), ("OGG", "VORBIS", "PCM_16"), ("MP3", "MPEG_LAYER_III", "PCM_16"),
        ("AIFF", "PCM_16", "PCM_16"),
    ],
)  # fmt: skip
def test_rate_length_channels_and_depth_are_kept(nr, file_format, subtype, kept):
    x = np.stack([mixture(0.3, 1, 44100), mixture(0.3, 2, 44100)], axis=1)
    sf.write("in.bin", 0.5 * x, 44100, subtype, format=file_format)
    declared = sf.info("in.bin").frames
    assert nr("in.bin", "--out", "o")[0] == 0
    info = sf.info("o/in.bin.wav")
    assert (info.frames, info.channels, info.samplerate, info.subtype) == (declared, 2, 44100, kept)
    assert np.abs(read("o/in.bin.wav")).max() > 0.01


def test_flac_of_unknown_length_is_whole(nr, here):
    sf.write("s.flac", mixture(1.0), RATE)
    data = bytearray(Path("s.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    Path("s.flac").write_bytes(data)
    assert nr("s.flac", "--out", "o")[0] == 0
    assert sf.info("o/s.wav").frames == RATE


def test_opposite_channels_stay_opposite(nr):
    x = mixture()
    sf.write("x.wav", np.stack([x, -x], axis=1), RATE)
    assert nr("x.wav", "--out", "o")[0] == 0
    y = read("o/x.wav")
    assert np.corrcoef(y.T)[0, 1] < -0.99
    assert y.std() > 0.01


def test_integers_do_not_wrap_and_one_gain_is_told(nr):
    x = mixture()
    x *= 1.8 / np.abs(x).max()
    sf.write("float.wav", x, RATE, "FLOAT")
    sf.write("clipped.wav", np.clip(x, -0.999, 0.999), RATE)
    code, _, err = nr("float.wav", "clipped.wav", "--out", "o", "--residual")
    assert code == 0
    row = {r["out"]: r for r in map(json.loads, Path("o/enhance.jsonl").read_text().splitlines())}
    assert row["float.wav"]["gain"] == 1.0
    assert row["clipped.wav"]["gain"] < 1.0
    assert f"scaled by {20 * np.log10(row['clipped.wav']['gain']):.2f} dB" in err
    full = np.abs(read("o/clipped.wav")) >= 32767 / 32768
    assert not (full[2:] & full[1:-1] & full[:-2]).any()
    # Another depth of the same sound, without quantisation or gain, tells what it should have been.
    sf.write("clipped24.wav", np.clip(x, -0.999, 0.999), RATE, "FLOAT")
    nr("clipped24.wav", "--out", "o")
    assert np.abs(read("o/clipped.wav") - row["clipped.wav"]["gain"] * read("o/clipped24.wav")).max() < 1e-3


def test_output_and_residual_add_up_to_the_input(nr):
    x = np.stack([mixture(12.0, 1), mixture(12.0, 2)], axis=1)
    sf.write("x.wav", np.clip(3 * x / np.abs(x).max(), -0.999, 0.999), RATE)
    assert nr("x.wav", "--out", "o", "--residual")[0] == 0
    gain = json.loads(Path("o/enhance.jsonl").read_text())["gain"]
    assert gain < 1
    total = read("o/x.wav") + read("o/x.residual.wav")
    assert np.abs(total - gain * read("x.wav")).max() <= 1.01 / 32768
    assert np.abs(read("o/x.residual.wav")).max() > 0.01


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_file_cut_short_gives_its_readable_part_and_exit_1(nr):
    sf.write("x.wav", mixture(1.0), RATE)
    data = Path("x.wav").read_bytes()
    Path("x.wav").write_bytes(data[: 44 + RATE])
    code, _, err = nr("x.wav", "--out", "o", "--residual")
    assert code == 1
    assert "0.50 s" in err
    assert sf.info("o/x.wav").frames == RATE // 2
    code, _, err = nr("x.wav", "--out", "o", "--residual")
    assert code == 1
    assert "cut short" in err


def test_one_bad_file_alone_is_exit_2_and_leaves_nothing(nr, here):
    x = mixture(2.0)
    x[20000] = np.nan
    sf.write("nan.wav", x, RATE, "FLOAT")
    Path("text.wav").write_text("no sound")
    Path("empty.wav").touch()
    Path("folder").mkdir()
    sentences = set()
    for name in ("nan.wav", "text.wav", "empty.wav", "folder", "missing.wav"):
        code, _, err = nr(name, "--out", "o")
        assert code == 2, name
        assert err.count("\n") == 1 and name in err
        sentences.add(err.replace(name, ""))
        assert not list(here.glob("o/*"))
    assert len(sentences) == 5
    assert any("1.25 s" in s for s in sentences)


def test_a_batch_goes_on_after_a_bad_file(nr):
    x = mixture()
    names = ["talk.v1.2 (final).wav", "talk.v1.wav", "-x.wav", "noext", "b.mp3"]
    names += ["new\nline.wav", "\N{OWL}.wav", "\udcff.wav"]
    for name in names:
        with open(name, "wb") as file:  # noqa: PTH123 (a name that is no UTF-8 needs Python's own open)
            sf.write(file, x, RATE, format="MP3" if name == "b.mp3" else "WAV")
    Path("text.wav").write_text("no sound")
    code, out, err = nr("--out", "o", "--", *names, "text.wav")
    assert code == 1
    assert "8 of 9 files whole" in out and "failed: text.wav" in out
    made = {path.name for path in Path("o").iterdir()}
    assert made == {*(n for n in names if n.endswith(".wav")), "noext.wav", "b.wav", "enhance.jsonl"}
    assert "\\x0a" in out and "\\xff" in out and "\x1b" not in out + err


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.wav", "a.flac"),
        ("a.wav", "a.wav"),
        ("a.wav", "a.residual.wav", "--residual"),
        ("a.wav", "--ref", "missing.wav"),
        ("a.wav", "--ref", "a.wav", "--ref-span", "auto"),
        ("a.wav", "--ref-span", "2-1"),
        ("a.wav", "--ref-span", "nan-1"),
        ("a.wav", "--ref-span", "-1"),
        ("a.wav", "--nfe", "0"),
        ("a.wav", "--seed", "-1"),
        ("a.wav", "--seed", "inf"),
        ("a.wav", "--pairs", "pairs.csv"),
        ("--pairs", "missing.csv"),
        (),
    ],
)
def test_what_cannot_be_meant_is_exit_2_before_any_work(nr, arguments):
    for name in ("a.wav", "a.flac", "a.residual.wav"):
        sf.write(name, mixture(), RATE)
    code, _, err = nr(*arguments, "--out", "o")
    assert code == 2
    assert err.count("\n") == 1
    assert not Path("o").exists()


def test_an_input_is_never_overwritten(nr, here):
    sf.write("a.wav", mixture(), RATE)
    before = Path("a.wav").read_bytes()
    (here / "link").symlink_to(here)
    for out in (".", "link"):
        code, _, err = nr("a.wav", "--out", out, "--force")
        assert code == 2 and "overwritten" in err
    assert Path("a.wav").read_bytes() == before


def test_an_output_that_its_container_cannot_hold_is_refused_first(nr, here):
    sf.write("nine.wav", np.stack([mixture()] * 9, axis=1), RATE)
    Path("o").mkdir()
    for name in ("out.flac", "out.mp4"):
        (here / "o" / name).write_bytes(b"old")
        Path("p.csv").write_text(f"noisy,ref,out\nnine.wav,,{name}\n")
        code, _, err = nr("--pairs", "p.csv", "--out", "o", "--force")
        assert code == 2 and name in err
        assert (here / "o" / name).read_bytes() == b"old"
        assert listed(here / "o") == sorted({"out.flac", name})


# --- finished, unfinished, interrupted --------------------------------------------------------------------------------


def test_the_same_command_again_keeps_and_another_is_refused(nr):
    for name in ("a.wav", "b.wav"):
        sf.write(name, mixture(seed=ord(name[0])), RATE)
    assert nr("a.wav", "--out", "o")[0] == 0
    first = Path("o/a.wav").stat()
    code, out, _ = nr("a.wav", "b.wav", "--out", "o")
    assert code == 0 and "kept" in out
    assert Path("o/a.wav").stat().st_mtime_ns == first.st_mtime_ns
    code, _, err = nr("a.wav", "b.wav", "--out", "o", "--seed", "1")
    assert code == 2 and "--force" in err
    assert nr("a.wav", "b.wav", "--out", "o", "--seed", "1", "--force")[0] == 0
    assert Path("o/a.wav").stat().st_mtime_ns != first.st_mtime_ns
    sf.write("b.wav", mixture(seed=99), RATE)
    assert nr("b.wav", "--out", "o", "--seed", "1")[0] == 2  # another input under the old name


def test_a_file_of_someone_else_is_not_overwritten(nr):
    sf.write("a.wav", mixture(), RATE)
    Path("o").mkdir()
    Path("o/a.wav").write_bytes(b"mine")
    code, _, err = nr("a.wav", "--out", "o")
    assert code == 2 and "not made by this command" in err
    assert Path("o/a.wav").read_bytes() == b"mine"


def test_an_interrupted_batch_is_finished_by_the_same_command(nr, monkeypatch):
    names = [f"{i}.wav" for i in range(3)]
    for i, name in enumerate(names):
        sf.write(name, mixture(seed=i), RATE)
    assert nr(*names, "--out", "whole", "--residual")[0] == 0
    real, calls = enhance_files.audio.writer, []

    def writer(*arguments):
        calls.append(arguments)
        if len(calls) == 4:  # the second file's output; its residual is there
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(enhance_files.audio, "writer", writer)
    assert nr(*names, "--out", "o", "--residual")[0] == 130
    assert listed(Path("o")) == ["0.residual.wav", "0.wav", "enhance.jsonl"]
    code, out, _ = nr(*names, "--out", "o", "--residual")
    assert code == 0 and out.count("kept") == 1
    for path in Path("whole").glob("*.wav"):
        assert (Path("o") / path.name).read_bytes() == path.read_bytes()


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(nr):
    sf.write("a.wav", mixture(2.0), RATE, "FLOAT")
    Path("o").mkdir()
    Path("o/a.wav").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
    try:
        code, _, err = nr("a.wav", "--out", "o", "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and err.count("\n") == 1 and "too large" in err
    assert Path("o/a.wav").read_bytes() == b"old"
    assert listed(Path("o")) == ["a.wav"]


def test_the_log_says_what_an_output_was_made_with(nr):
    sf.write("a.wav", mixture(), RATE)
    sf.write("room.wav", noise(1.0), RATE)
    nr("a.wav", "--ref", "room.wav", "--out", "o", "--seed", "3")
    row = json.loads(Path("o/enhance.jsonl").read_text())
    assert row["settings"]["seed"] == 3 and row["settings"]["nfe"] == 1 and len(row["settings"]["model"]) == 64
    assert {"revision", "versions", "python"} <= row["made_with"].keys()
    assert str(Path.cwd()) not in Path("o/enhance.jsonl").read_text()


def test_json_output_is_one_object(nr):
    sf.write("a.wav", mixture(), RATE)
    code, out, _ = nr("a.wav", "--out", "o", "--json")
    assert code == 0
    assert json.loads(out)["files"][0]["status"] == "enhanced"


@pytest.mark.slow
def test_three_hours_need_no_memory_for_three_hours(checkpoint, here):
    """A sparse WAV; the address space is bounded too, above what loading torch takes."""
    data = 2 * 3 * 3600 * RATE
    head = b"RIFF" + (36 + data).to_bytes(4, "little") + b"WAVEfmt " + bytes.fromhex("10000000010001")
    head += bytes(1) + RATE.to_bytes(4, "little") + (2 * RATE).to_bytes(4, "little") + bytes.fromhex("02001000")
    with Path("long.wav").open("wb") as file:
        file.write(head + b"data" + data.to_bytes(4, "little"))
        file.truncate(44 + data)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)); from cli.main import run; "
    )
    code += f"code = run(['enhance', 'long.wav', '--out', 'o', '--checkpoint', {str(checkpoint)!r}]); "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sf.info("o/long.wav").frames == data // 2
    assert int(done.stderr.split()[-1]) < 1_200_000  # kB; torch alone takes 400_000


# --- references -------------------------------------------------------------------------------------------------------


def test_pairs_name_input_reference_and_output(nr):
    Path("in").mkdir()
    for name in ("a.wav", "b.wav"):
        sf.write(f"in/{name}", mixture(seed=ord(name[0])), RATE)
    sf.write("in/room.wav", noise(1.0, 2), RATE)
    Path("in/p.csv").write_text("noisy,ref,out\na.wav,room.wav,sub/x.wav\nb.wav,,\nb.wav,room.wav,y.flac\n")
    code, _, _ = nr("--pairs", "in/p.csv", "--out", "o")
    assert code == 0
    assert sf.info("o/y.flac").format == "FLAC"
    nr("in/a.wav", "--ref", "in/room.wav", "--out", "o2")
    nr("in/b.wav", "--out", "o2")
    assert np.array_equal(read("o/sub/x.wav"), read("o2/a.wav"))
    assert np.array_equal(read("o/b.wav"), read("o2/b.wav"))
    assert not np.array_equal(read("o/y.flac"), read("o/b.wav"))
    sf.write("in/hall.wav", noise(1.0, 0), RATE)
    sf.write("in/c.wav", 0.5 * read("in/b.wav"), RATE, "FLOAT")
    Path("in/p.csv").write_text("noisy,ref,out\na.wav,hall.wav,1.wav\na.wav,room.wav,2.wav\nc.wav,,3.flac\n")
    assert nr("--pairs", "in/p.csv", "--out", "o3")[0] == 0
    assert np.array_equal(read("o3/2.wav"), read("o2/a.wav"))
    assert not np.array_equal(read("o3/1.wav"), read("o2/a.wav"))
    assert sf.info("o3/3.flac").subtype == "PCM_24"
    Path("bad.csv").write_text("clean,ref\na,b\n")
    assert nr("--pairs", "bad.csv")[0] == 2


def test_a_clip_that_jobs_share_is_read_and_hashed_once(nr, monkeypatch):
    for name in ("a.wav", "b.wav", "c.wav"):
        sf.write(name, mixture(seed=ord(name[0])), RATE)
    sf.write("room.wav", noise(1.0, 2), RATE)
    counted = {"read": [], "hashed": []}
    for what, module, name in (("read", clip, "beginning"), ("hashed", log.files, "sha256")):
        real = getattr(module, name)

        def wrapped(path, *more, real=real, what=what):
            if path.parent == Path():  # an input
                counted[what].append(path.name)
            return real(path, *more)

        monkeypatch.setattr(module, name, wrapped)
    Path("p.csv").write_text(
        "noisy,ref,out\na.wav,room.wav,1.wav\nb.wav,,2.wav\nc.wav,room.wav,3.wav\na.wav,room.wav,4.wav\n"
    )
    assert nr("--pairs", "p.csv", "--out", "o")[0] == 0
    assert counted["read"] == ["room.wav"] and sorted(counted["hashed"]) == ["a.wav", "b.wav", "c.wav", "room.wav"]


def test_a_clip_of_another_rate_is_converted_and_both_rates_are_said(nr):
    sf.write("a.wav", mixture(), RATE)
    sf.write("room.wav", np.stack([noise(1.0, 2, rate=22050)] * 2, axis=1), 22050, "FLOAT")
    code, out, _ = nr("a.wav", "--ref", "room.wav", "--out", "o")
    assert code == 0 and "22050 -> 16000" in out


def test_clips_that_cannot_serve_are_told_and_missing(nr):
    sf.write("a.wav", mixture(), RATE)
    nr("a.wav", "--out", "none")
    sf.write("short.wav", np.stack([noise(1.0, rate=44100)[:5000]] * 2, axis=1), 44100)
    sf.write("silent.wav", np.zeros(RATE), RATE)
    sf.write("voice.wav", spoken(2.0, 5), RATE)
    sf.write("copy.flac", 0.7 * read("a.wav"), RATE)
    for ref, said in (("short.wav", "very short"), ("silent.wav", "silent"), ("copy.flac", "noisy file itself"),
                      ("voice.wav", "is speech")):  # fmt: skip
        code, out, err = nr("a.wav", "--ref", ref, "--out", f"o-{Path(ref).stem}")
        assert code == 0 and said in err and "reference: none" in out
        assert np.array_equal(read(f"o-{Path(ref).stem}/a.wav"), read("none/a.wav"))
    code, _, err = nr("a.wav", "--ref", "a.wav", "--out", "o-self")
    assert code == 0 and "noisy file itself" in err


def test_a_clip_cut_short_is_used_as_far_as_it_goes_and_told(nr):
    sf.write("a.wav", mixture(), RATE)
    sf.write("half.wav", noise(1.0, 2)[: RATE // 2], RATE)
    sf.write("cut.wav", noise(1.0, 2), RATE)
    Path("cut.wav").write_bytes(Path("cut.wav").read_bytes()[: 44 + RATE])
    nr("a.wav", "--ref", "half.wav", "--out", "o1")
    code, _, err = nr("a.wav", "--ref", "cut.wav", "--out", "o2")
    assert code == 0 and "cut short" in err
    assert np.array_equal(read("o1/a.wav"), read("o2/a.wav"))


def test_a_span_is_that_stretch_of_the_file(nr):
    x = mixture(2.0)
    sf.write("a.wav", x, RATE, "FLOAT")
    sf.write("clip.wav", x[8000:20000], RATE, "FLOAT")
    nr("a.wav", "--ref", "clip.wav", "--out", "o1")
    code, out, _ = nr("a.wav", "--ref-span", "0.5-1.25", "--out", "o2")
    assert code == 0 and "0.50-1.25 s of the file itself" in out
    assert np.array_equal(read("o1/a.wav"), read("o2/a.wav"))
    code, _, err = nr("a.wav", "--ref-span", "0.5-2.5", "--out", "o3")
    assert code == 2 and "2.00 s" in err
    code, _, err = nr("a.wav", "--ref-span", "0.5-0.6", "--out", "o4")
    assert code == 0 and "very short" in err


def test_of_a_long_span_the_beginning_is_read(nr, monkeypatch):
    monkeypatch.setattr(clip, "MAX_REF_SECONDS", 1.0)
    sf.write("a.wav", mixture(2.0), RATE, "FLOAT")
    code, out, _ = nr("a.wav", "--ref-span", "0.25-2", "--out", "o")
    assert code == 0 and "0.25-1.25 s of the file itself" in out


def test_auto_finds_the_pause_or_says_that_there_is_none(nr):
    x = 0.05 * noise(8.0, 1)
    x[: 5 * RATE] += spoken(5.0, 1)
    x[int(6.2 * RATE) :] += spoken(1.8, 2)
    sf.write("a.wav", x, RATE)
    code, out, _ = nr("a.wav", "--ref-span", "auto", "--out", "o")
    assert code == 0
    start, stop = map(float, out.split("reference: ")[1].split(" s of")[0].split("-"))
    assert 4.9 <= start < stop <= 6.3 and stop - start > 0.25
    sf.write("b.wav", noise(0.2), RATE)
    code, out, err = nr("b.wav", "--ref-span", "auto", "--out", "o")
    assert code == 0 and "no speech-free stretch" in err and "reference: none" in out

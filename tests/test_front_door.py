"""The front door of `nr enhance`: what may be named, what comes of one file's failure, and two at one output."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import noise, speech
from stand_ins import tiny_checkpoint

import nrmodel
from cli.main import run
from nrdata import locks
from nrmodel.enhancement import files as enhance_files
from nrmodel.enhancement import intake
from nrmodel.enhancement.files import share_left

RATE = 16000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nr(checkpoint, here, capsysbinary):
    """`nr(*arguments)` -> (exit code, stdout, stderr); stdout in bytes where it is sound."""

    def call(*arguments) -> tuple[int, str, str]:
        code = run(["enhance", "--checkpoint", str(checkpoint), *map(str, arguments)])
        out, err = capsysbinary.readouterr()
        assert b"Traceback" not in err and b"internal error" not in err
        return code, out if out.startswith(b"RIFF") else out.decode(), err.decode()

    return call


@pytest.fixture
def no_model(monkeypatch):
    """What can be known before the model is loaded is said before it."""

    def load(path):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(nrmodel, "load", load)


def sound(path: str, seed: int = 0, **more) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, speech(0.5, seed) + noise(0.5, 1, seed), RATE, **more)
    return path


def read(path) -> np.ndarray:
    return sf.read(path, dtype="float32")[0]


def below(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.*") if path.is_file())


class Piped:
    """A pipe with bytes in it; a thread feeds it."""

    def __init__(self, data: bytes):
        self.reads, writes = os.pipe()

        def feed():
            with os.fdopen(writes, "wb") as file:
                file.write(data)

        self.thread = threading.Thread(target=feed)
        self.thread.start()

    @contextlib.contextmanager
    def as_stdin(self):
        with os.fdopen(self.reads, "r") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            yield
        self.thread.join()


# --- folders and names ------------------------------------------------------------------------------------------------


def test_a_folder_is_its_files_and_recursive_keeps_the_structure(nr):
    for i, name in enumerate(("in/a.wav", "in/sub/a.wav", "in/sub/deep/b.FLAC", "in/.hidden/c.wav")):
        sound(name, i, format="FLAC" if name.endswith("FLAC") else "WAV")
    Path("in/notes.txt").write_text("no sound")
    Path("in/sub/loop").symlink_to(Path("in").absolute())
    os.mkfifo("in/pipe.wav")  # would be waited for
    code, _, err = nr("in", "--out", "o")
    assert code == 0 and below("o") == ["a.wav", "enhance.jsonl"]
    assert "1 .txt" in err and "--recursive" in err
    code, _, _ = nr("in", "--recursive", "--out", "in/made")
    wanted = ["a.wav", "enhance.jsonl", "sub/a.wav", "sub/deep/b.wav", "sub/deep/enhance.jsonl", "sub/enhance.jsonl"]
    assert code == 0 and below("in/made") == wanted
    code, out, _ = nr("in", "--recursive", "--out", "in/made")  # what was made is no input
    assert code == 0 and out.count("kept") == 3
    Path("none").mkdir()
    code, _, err = nr("none", "--out", "o2")
    assert code == 2 and "without sound files" in err


def test_a_name_for_several_is_refused_first(nr, no_model):
    sound("a.wav")
    sound("b.wav", 1)
    for arguments in (("a.wav", "b.wav", "-o", "x.wav"), (".", "-o", "x.wav"), ("a.wav", "-o", "x.wav", "--format",
                      "flac"), ("a.wav", "--pairs", "p.csv"), ("a.wav", "b.wav", "-o", "-")):  # fmt: skip
        code, _, err = nr(*arguments)
        assert code == 2 and err.count("\n") == 1


def test_what_was_named_is_written_there(nr):
    sound("a.wav")
    assert nr("a.wav", "-o", "sub/clean.flac")[0] == 0
    assert sf.info("sub/clean.flac").format == "FLAC"
    assert nr("a.wav", "-o", "o", "--format", "flac")[0] == 0
    assert np.array_equal(read("o/a.flac"), read("sub/clean.flac"))
    Path("folder.wav").mkdir()
    assert nr("a.wav", "-o", "folder.wav")[0] == 0 and Path("folder.wav/a.wav").is_file()


def test_two_inputs_of_one_output_are_refused_first(nr, no_model):
    for name in ("a/x.wav", "b/x.wav", "f/x.wav"):
        sound(name)
    sound("f/x.flac")
    sound("u/caf\u00e9.wav")
    sound("v/cafe\u0301.wav")
    for inputs in (("a/x.wav", "b/x.wav"), ("f",), ("a", "b"), ("a", "a/x.wav"), ("u", "v")):
        code, _, err = nr(*inputs, "--out", "o")
        assert code == 2 and "would both become" in err, inputs
        assert not Path("o").exists()


@pytest.mark.parametrize("name", ["https://example.org/a.wav", "s3://bucket/a.wav", "file:///a.wav", "ftp://h/a.flac"])
def test_an_address_is_told_as_one(nr, no_model, name):
    sound("a.wav")
    Path("p.csv").write_text(f"noisy,ref,out\n{name},,\n")
    for arguments in ((name,), ("a.wav", "--ref", name), ("--pairs", "p.csv")):
        code, _, err = nr(*arguments, "--out", "o")
        assert code == 2 and f"{name} is an address" in err and err.count("\n") == 1


# --- pipes ------------------------------------------------------------------------------------------------------------


def test_stdin_and_pipes_are_read(nr, monkeypatch):
    is_stream = intake._is_stream
    data = Path(sound("a.wav")).read_bytes()
    sf.write("room.wav", noise(1.0, 2), RATE)
    assert nr("a.wav", "--ref", "room.wav", "--out", "o")[0] == 0
    for name in ("-", "/dev/stdin"):
        if name != "-":  # of this process it is another one
            monkeypatch.setattr("nrmodel.enhancement.intake._is_stream", lambda path: str(path) == "/dev/stdin")
        with Piped(data).as_stdin():
            code, out, err = nr(name, "--ref", "room.wav", "--out", f"o{len(name)}")
        assert code == 0 and "stdin" in err and out.count("stdin ->") == 1
        assert np.array_equal(read(f"o{len(name)}/stdin.wav"), read("o/a.wav"))
    monkeypatch.setattr("nrmodel.enhancement.intake._is_stream", is_stream)
    pipe, clip = Piped(data), Piped(Path("room.wav").read_bytes())
    code, _, _ = nr(f"/dev/fd/{pipe.reads}", "--ref", f"/dev/fd/{clip.reads}", "--out", "o3")
    os.close(pipe.reads)
    os.close(clip.reads)
    assert code == 0 and np.array_equal(read(next(Path("o3").glob("*.wav"))), read("o/a.wav"))
    os.mkfifo("fifo")
    feed = threading.Thread(target=lambda: Path("fifo").write_bytes(data))
    feed.start()
    code, _, _ = nr("fifo", "--ref", "room.wav", "--out", "o4")
    feed.join()
    assert code == 0 and np.array_equal(read("o4/fifo.wav"), read("o/a.wav"))


def test_a_pipe_that_is_empty_or_asked_for_twice_is_told(nr, no_model):
    with Piped(b"").as_stdin():
        code, _, err = nr("-", "--out", "o")
    assert code == 2 and "stdin gave nothing" in err
    with Piped(b"RIFF").as_stdin():
        code, _, err = nr("-", "--ref", "-", "--out", "o")
    assert code == 2 and "twice" in err


def test_out_to_stdout_is_a_wav_alone(nr):
    sound("a.wav")
    code, out, err = nr("a.wav", "--out", "-")
    assert code == 0 and "model:" in err and "a.wav -> stdout" in err
    nr("a.wav", "--out", "o")
    assert out == Path("o/a.wav").read_bytes()
    code, out, err = nr("missing.wav", "--out", "-")
    assert code == 2 and out == "" and "missing.wav" in err


# --- strength ---------------------------------------------------------------------------------------------------------


def test_strength_mixes_and_a_reduction_is_limited(nr):
    sound("a.wav", subtype="FLOAT")
    x = read("a.wav")
    nr("a.wav", "-o", "full.wav")
    removed = x - read("full.wav")
    for option, value, left in (("--strength", 0.25, 0.75), ("--strength", 0, 1.0), ("--max-reduction-db", 12, 0.2512)):
        assert nr("a.wav", option, value, "-o", "y.wav", "--residual", "--force")[0] == 0
        assert np.abs(read("y.wav") - (read("full.wav") + left * removed)).max() < 1e-4
        assert np.abs(read("y.wav") + read("y.residual.wav") - x).max() < 1e-6
    assert np.array_equal(share_left(0.5, 20.0), 0.5) and share_left(1.0, 20.0) == pytest.approx(0.1)
    assert nr("a.wav", "--strength", 0.5, "-o", "full.wav")[0] == 2  # made by another command
    for value in ("nan", "-1", "1.5", "much"):
        assert nr("a.wav", "--strength", value, "-o", "z.wav")[0] == 2
        assert value == "1.5" or nr("a.wav", "--max-reduction-db", value, "-o", "z.wav")[0] == 2


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["noisy, ref, out", "Noisy,REF ,Out", "\ufeffnoisy,ref,out", '"noisy","ref","out"'])
def test_blanks_and_case_in_a_header_do_not_count(nr, header):
    sound("a.wav")
    sf.write("room.wav", noise(1.0, 2), RATE)
    Path("p.csv").write_text(f"{header}\na.wav, room.wav , x.wav\n\n,,\n", encoding="utf-8")
    code, out, _ = nr("--pairs", "p.csv", "--out", "o")
    assert code == 0 and "reference: room.wav" in out and Path("o/x.wav").is_file()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("noisy,reference,out\na.wav,a.wav,x.wav\n", "did you mean 'ref'"),
        ("noisy,refs,out\na.wav,a.wav,x.wav\n", "did you mean 'ref'"),
        ("nosiy,ref,out\na.wav,,x.wav\n", "did you mean 'noisy'"),
        ("noisy,ref,output\na.wav,,x.wav\n", "did you mean 'out'"),
        ("noisy;ref;out\na.wav;;x.wav\n", "with commas"),
        ("noisy,ref,ref\na.wav,,x.wav\n", "twice"),
        ("noisy,ref,out\na.wav,b.wav\n", "line 2: 2 values for 3 columns"),
        ("noisy,ref,out\na, b.wav,,x.wav\n", "line 2: 4 values"),
        ("noisy,ref,out\n ,,x.wav\n", "line 2"),
        ("noisy,ref,out\n", "lists no files"),
        ("", "no column 'noisy'"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused_first(nr, no_model, text, said):
    sound("a.wav")
    Path("p.csv").write_text(text)
    code, _, err = nr("--pairs", "p.csv", "--out", "o")
    assert code == 2 and said in err and err.count("\n") == 1
    Path("p.csv").write_bytes(text.encode("utf-16"))
    assert nr("--pairs", "p.csv", "--out", "o")[0] == 2


def test_columns_that_mean_nothing_are_named(nr):
    sound("a.wav")
    Path("p.csv").write_text("noisy,speaker,snr_db\na.wav,p1,3\n")
    code, _, err = nr("--pairs", "p.csv", "--out", "o")
    assert code == 0 and "not used: speaker, snr_db" in err


# --- one file's failure -----------------------------------------------------------------------------------------------


def test_what_one_file_cannot_is_known_first_and_the_others_are_made(nr):
    for i, name in enumerate("abcd"):
        sound(f"{name}.wav", i)
    Path("o/folder.wav").mkdir(parents=True)
    Path("o/file").write_text("")
    long = "x" * 300
    Path("p.csv").write_text(
        f"noisy,ref,out\na.wav,,folder.wav\nb.wav,,file/y.wav\nc.wav,,{long}.wav\nd.wav,missing.wav,z.wav\nd.wav,,ok.wav\n"
    )
    code, out, err = nr("--pairs", "p.csv", "--out", "o")
    assert code == 1 and "1 of 5 files whole" in out
    assert Path("o/ok.wav").is_file()
    for name, said in (("a.wav", "is a folder"), ("b.wav", "is a file"), ("c.wav", "too long"), ("d.wav", "missing")):
        assert f"failed: {name}" in out and any(name in line and said in line for line in err.splitlines())
    assert out.index("failed") < out.index("model:")  # before the model


OF_ONE_FILE = (errno.EIO, errno.EDQUOT, errno.EACCES, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG)


@pytest.mark.parametrize("number", OF_ONE_FILE)
def test_an_error_of_the_system_is_that_file_s(nr, monkeypatch, number):
    sound("a.wav")
    sound("b.wav", 1)
    real = enhance_files.audio.writer

    def writer(path, *more):
        if not Path("o/a.wav").exists() and writer.calls == 0:
            writer.calls += 1
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *more)

    writer.calls = 0
    monkeypatch.setattr(enhance_files.audio, "writer", writer)
    code, out, err = nr("a.wav", "b.wav", "--out", "o")
    assert code == 1 and "failed: a.wav" in out and Path("o/b.wav").is_file()
    assert ".partial" not in err and not list(Path("o").glob(".nr-*"))


@pytest.mark.parametrize("what", ["full", "lost"])
def test_a_full_disk_or_a_lost_folder_ends_it(nr, monkeypatch, what):
    for i, name in enumerate("abc"):
        sound(f"{name}.wav", i)
    real = enhance_files.audio.writer

    def writer(path, *more):
        writer.calls += 1
        if writer.calls == 2:
            if what == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            Path("o").rename("away")
        return real(path, *more)

    writer.calls = 0
    monkeypatch.setattr(enhance_files.audio, "writer", writer)
    code, _, err = nr("a.wav", "b.wav", "c.wav", "--out", "o")
    assert code == 2 and writer.calls == 2
    assert ("No space left" if what == "full" else "o has gone") in err


def test_a_name_of_253_bytes_is_written(nr):
    name = "\u9a12\u97f3" * 41 + "\u306e"
    assert len(f"{name}.wav".encode()) == 253
    sound(f"{name}.wav")
    assert nr(f"{name}.wav", "--out", "o")[0] == 0 and Path(f"o/{name}.wav").is_file()


# --- two at one output ------------------------------------------------------------------------------------------------


def test_an_output_that_another_is_making_is_left_to_it(nr, monkeypatch):
    sound("a.wav")
    sound("b.wav", 1)
    Path("o").mkdir()
    real = locks.held

    def held(path, what, shared=False):
        if "a.wav" in what:
            stack.append(real(path, "first"))
            stack[0].__enter__()
        return real(path, what, shared)

    stack: list = []
    monkeypatch.setattr(enhance_files.locks, "held", held)
    code, out, err = nr("a.wav", "b.wav", "--out", "o")
    stack[0].__exit__(None, None, None)
    assert code == 1 and "another nr enhance is making o/a.wav" in err and "failed: a.wav" in out
    assert not Path("o/a.wav").exists() and Path("o/b.wav").is_file()


@pytest.mark.parametrize("force", [False, True])
def test_what_another_has_made_meanwhile_stays(nr, monkeypatch, force):
    sound("a.wav")
    sound("b.wav", 1)
    real = locks.held

    def held(path, what, shared=False):
        if "b.wav" in what and not Path("o/b.wav").exists():
            Path("o/b.wav").write_bytes(b"other")
        return real(path, what, shared)

    monkeypatch.setattr(enhance_files.locks, "held", held)
    code, out, err = nr("a.wav", "b.wav", "--out", "o", *(["--force"] if force else []))
    assert code == 1 and "made o/b.wav meanwhile" in err and "failed: b.wav" in out
    assert Path("o/b.wav").read_bytes() == b"other" and Path("o/a.wav").is_file()


def test_kept_means_that_the_bytes_are_those(nr):
    sound("a.wav")
    nr("a.wav", "--out", "o")
    data = bytearray(Path("o/a.wav").read_bytes())
    data[-2] ^= 1
    Path("o/a.wav").write_bytes(data)
    code, _, err = nr("a.wav", "--out", "o")
    assert code == 2 and "--force" in err


# --- what is told -----------------------------------------------------------------------------------------------------


def test_the_summary_has_the_median_real_time_factor(nr):
    for i, name in enumerate("abc"):
        sound(f"{name}.wav", i)
    code, out, _ = nr("a.wav", "b.wav", "c.wav", "--out", "o")
    assert code == 0 and "3 of 3 files whole, 2 s of sound, median real-time factor " in out
    _, out, _ = nr("a.wav", "--out", "o2", "--json")
    assert json.loads(out)["files"][0]["real_time_factor"] > 0


def test_a_misspelt_command_or_option_is_suggested(capsys):
    for line, said in (("enhnace", "mean enhance?"), ("trian", "mean train?"), ("evalute x", "mean evaluate?"),
                       ("enhance --reff x", "--ref")):  # fmt: skip
        assert run(line.split()) == 2
        assert said in capsys.readouterr().err
    assert run(["xyzzy"]) == 2 and "there are build-shards, " in capsys.readouterr().err


def test_nr_alone_prints_its_help(capsys):
    assert run([]) == 0
    alone = capsys.readouterr()
    assert alone.err == "" and "\\x0a" not in alone.out and len(alone.out.splitlines()) > 10
    assert run(["--help"]) == 0 and capsys.readouterr().out == alone.out


def test_results_stand_on_lines_of_their_own_beside_progress(nr, monkeypatch):
    """On a terminal the bar is rewritten in place; a result never shares its line."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    sound("a.wav")
    sound("b.wav", 1)
    assert nr("a.wav", "b.wav", "--out", "o")[0] == 0
    shown = terminal.getvalue()
    assert "seconds of sound" in shown
    for name in ("a", "b"):
        line = next(line for line in shown.replace("\r", "\n").split("\n") if f"{name}.wav ->" in line)
        assert "seconds of sound" not in line

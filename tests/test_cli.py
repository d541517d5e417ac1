"""The entry point: exit codes, closed pipes, full outputs, signals, what is imported, text from data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import tiny_checkpoint

from cli import main
from cli.main import COMMANDS, run
from nrdata.errors import UserError
from nrdata.labels import printable

ROOT = Path(__file__).parents[1]
NR = [sys.executable, "-m", "cli.main"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def shell(arguments: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run([*NR, *arguments], env=ENV, stderr=subprocess.PIPE, timeout=120, check=False, **options)


@pytest.fixture
def command(monkeypatch):
    """`command(function)`: what `nr probe` does from then on."""

    def install(function):
        made = click.Command("probe", callback=function)
        monkeypatch.setattr(main.Commands, "get_command", lambda self, ctx, name: made)

    monkeypatch.delenv("NR_DEBUG", raising=False)
    return install


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments):
    code = f"import sys; from cli.main import run; run({arguments}); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True, timeout=60)
    assert "nr" in done.stdout
    heavy = ("torch", "scipy", "webdataset", "matplotlib", "numpy", "librosa", "pyroomacoustics", "audiomentations")
    assert not [name for name in heavy if f"'{name}'" in done.stderr]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_refuses_what_it_does_not_know(name, capsys):
    assert run([name, "--help"]) == 0
    assert "Example: nr " in " ".join(capsys.readouterr().out.split())
    assert run([name, "--no-such-option"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_command_is_exit_2_and_unknown_ones_are_named(capsys):
    assert run(["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("x.wav is empty: record it again"), 2, "nr: x.wav is empty: record it again\n"),
        (KeyboardInterrupt(), 130, "nr: interrupted\n"),
        (main.Terminated(), 143, "nr: terminated\n"),
        (OSError(28, "No space left on device", "out.wav"), 2, "nr: No space left on device (out.wav)\n"),
        (click.UsageError("two\nlines"), 2, "nr: two\\x0alines\n"),
        (ZeroDivisionError("oops"), 1, "nr: internal error, ZeroDivisionError: oops (NR_DEBUG=1 shows where)\n"),
        (BrokenPipeError(32, "x"), 1, "nr: a process that was being written to has ended (NR_DEBUG=1 shows where)\n"),
        (SystemExit(3), 3, ""),
        (SystemExit("no"), 1, "nr: no\n"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(command, capfd, error, code, said):
    cleaned = []

    def fail():
        try:
            raise error
        finally:
            cleaned.append(True)

    command(fail)
    stdout = os.dup(1)  # a closed pipe turns it to nowhere
    try:
        assert run(["probe"]) == code
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    assert cleaned
    assert capfd.readouterr().err == said


def test_debug_shows_the_traceback(command, monkeypatch):
    def fail():
        raise UserError("x")

    command(fail)
    monkeypatch.setenv("NR_DEBUG", "1")
    with pytest.raises(UserError):
        run(["probe"])


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_commands_result_is_the_exit_code(command, result, code):
    command(lambda: result)
    assert run(["probe"]) == code


def test_warnings_are_one_line(command, capsys):
    command(lambda: warnings.warn("the channels\x1b[2J cancel", UserWarning, stacklevel=1))
    assert run(["probe"]) == 0
    assert capsys.readouterr().err == "nr: warning: the channels\\x1b[2J cancel\n"


def test_a_closed_pipe_is_quiet_while_a_command_prints(tmp_path):
    (tmp_path / "probe.py").write_text(
        "import click, sys\nfrom cli import main\n"
        "def probe():\n    for _ in range(9999):\n        click.echo('x' * 99)\n"
        "main.Commands.get_command = lambda *a: click.Command('probe', callback=probe)\n"
        "sys.exit(main.run(['probe']))\n"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, tmp_path / "probe.py"], env=ENV, stdout=write, stderr=-1, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_pipe_is_quiet_and_a_full_output_is_told():
    read, write = os.pipe()
    os.close(read)
    done = shell(["--help"], stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        for arguments in (["--help"], ["--version"]):
            done = shell(arguments, stdout=full)
            assert done.returncode == 2
            assert done.stderr.count(b"\n") == 1 and b"No space left" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_running_command_with_cleanup(tmp_path, number, code):
    checkpoint = tiny_checkpoint(tmp_path)
    rng = np.random.default_rng(0)
    sf.write(tmp_path / "long.wav", 0.1 * rng.standard_normal(600 * 16000), 16000)
    arguments = ["enhance", "long.wav", "--out", "o", "--checkpoint", str(checkpoint)]
    with subprocess.Popen([*NR, *arguments], env=ENV, cwd=tmp_path, stdout=-1, stderr=-1) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b"model:")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.count(b"\n") == 1
    assert not list(tmp_path.glob("o/*"))


def test_names_from_data_reach_an_ascii_terminal_unharmed(tmp_path):
    name = os.fsdecode(b"=1+1<script>\x1b[2J\n\xff \xc3\xa9.wav")
    env = {**ENV, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    arguments = ["enhance", name, "--out", "o", "--checkpoint", str(tiny_checkpoint(tmp_path))]
    done = subprocess.run([*NR, *arguments], env=env, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr + done.stdout
    assert b"\\x1b[2J\\x0a\\xff" in done.stderr and done.stderr.isascii() and b"Traceback" not in done.stderr


@given(st.text())
def test_printable_text_is_printable_and_plain_text_unchanged(text):
    shown = printable(text)
    assert shown.isprintable() and "\n" not in shown
    assert (shown == text) == text.isprintable()


def test_bytes_that_are_no_text_are_shown_as_such():
    assert printable(os.fsdecode(b"a\x1b\n\xff\x00")) == "a\\x1b\\x0a\\xff\\x00"


@pytest.mark.parametrize(("more", "told"), [(["-vv"], ["model", "sampler"]), (["-v"], ["model"]), ([], [])])
def test_verbose_tells_what_is_silent_otherwise(tmp_path, capsys, more, told):
    checkpoint = tiny_checkpoint(tmp_path)
    sf.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 16000)
    argv = ["enhance", str(tmp_path / "a.wav"), "--out", str(tmp_path / "o"), "--checkpoint", str(checkpoint)]
    assert run([*more, *argv, "--nfe", "1"]) == 0
    words = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert all(line[0] == "nr:" for line in words)
    assert [line[1] for line in words if line[1] in ("model", "sampler")] == told

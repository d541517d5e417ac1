"""`nr doctor`: what loads, what does not, and the remedy."""

from __future__ import annotations

import json
import sys

import pytest

from cli.main import run
from nrmodel import doctor


@pytest.fixture
def broken_torchaudio(tmp_path, monkeypatch):
    """Installed, but its library cannot be loaded, as beside a torch of another build."""
    (tmp_path / "torchaudio.py").write_text("raise OSError('Could not load this library:\\n_torchaudio.so')\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)


def test_everything_required_loads_here(capsys):
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("python", "torch", "torchaudio", "webdataset", "soundfile", "soxr", "pesq", "pystoi",
                 "pyroomacoustics", "audiomentations"):  # fmt: skip
        assert any(line.split()[:2] == [name, "ok"] for line in lines), name
    assert any("libsndfile" in line for line in lines)
    assert any("threads" in line and "bf16" in line for line in lines)


def test_a_library_that_cannot_load_is_one_line_with_the_remedy(broken_torchaudio, capsys):
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("torchaudio"))
    assert "broken" in line and "Could not load this library" in line and "install the torchaudio" in line
    assert "Traceback" not in out


def test_missing_packages_by_whether_they_are_required(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "REQUIRED", {"numpy": "numpy", "no-such-required": "nothing"})
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-optional": ("nothing", "peers")})
    assert run(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    by_name = {finding["name"]: finding for finding in found["findings"]}
    assert not found["healthy"]
    assert by_name["no-such-required"]["status"] == "missing"
    assert by_name["no-such-required"]["remedy"] == "pip install no-such-required"
    assert by_name["no-such-optional"]["status"] == "optional"
    assert by_name["no-such-optional"]["remedy"] == "pip install 'nr[peers]'"
    monkeypatch.setattr(doctor, "REQUIRED", {"numpy": "numpy"})
    assert run(["doctor"]) == 0


def test_every_required_dependency_of_the_package_is_looked_at():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {entry.split(">")[0] for entry in project["dependencies"]} == doctor.REQUIRED.keys()


def test_every_extra_is_looked_at():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {extra for _, extra in doctor.OPTIONAL.values()} == project["optional-dependencies"].keys()

"""An option is one field: flag, file, check, page and rules follow from it.

`python tests/test_options.py` writes the tables of the pages anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from cli.main import run
from cli.options import Command, from_fields, given
from nrdata.builders.plan import Options
from nrdata.errors import UserError
from nrdata.options import affecting, check, decode, option, options, plain, read_toml, table, to_toml
from nrmodel.evaluation.request import EvaluationRequest
from nrmodel.presets import PRESETS
from nrmodel.training.config import COMPARED, FIXED, TrainConfig

ROOT = Path(__file__).parents[1]
TABLES = {ROOT / "docs" / "training.md": TrainConfig}


@dataclass(frozen=True)
class Toy(TrainConfig):
    """A training with one option more."""

    temper: float = option(0.5, "How it trains.", at_least=0, at_most=2, unit="K", affects="speed", flag="mood")


@dataclass(frozen=True)
class Kinds:
    folder: Path | None = option(None, "Where.")
    numbers: tuple[int, ...] = option((1, 2), "How many.", at_least=1)
    span: tuple[float, float] = option((-5.0, 5.0), "From and to.", unit="dB")
    names: tuple[str, ...] | None = option(None, "Who.", unset="all")
    several: tuple[str, ...] = option((), "Again and again.", repeated=True, main=True)
    loud: bool = option(False, "Loudly.")
    colour: str = option("red", "Which.", choices=("red", "blue"), above=None)
    plain_field: int = 3  # not described: no option

    def __post_init__(self) -> None:
        check(self)


def called(cls, *argv: str) -> dict:
    """What a command made from `cls` is given."""
    seen = {}

    @click.command(cls=Command)
    @from_fields(cls)
    def command(**flags):
        seen.update(given(cls, flags))

    command.main([*argv], standalone_mode=False)
    return seen


def test_one_field_more_is_an_option_everywhere(tmp_path, capsys):
    file = tmp_path / "toy.toml"
    file.write_text('shards = "a"\nout = "b"\ntemper = 1\n')
    assert Toy(**read_toml(Toy, file)).temper == 1
    assert Toy(**read_toml(Toy, file) | called(Toy, "--mood", "1.5")).temper == 1.5
    with pytest.raises(UserError, match=re.escape("temper (--mood) must lie in 0 to 2, not 3")):
        Toy(**read_toml(Toy, file) | {"temper": 3})
    called(Toy, "--help")
    assert "--mood FLOAT" in (told := capsys.readouterr().out) and "0.5 K" in told
    assert "| `--mood` | `0.5 K` | How it trains. |" in table(Toy)
    assert "temper = 0.5\n" in to_toml(plain(Toy(shards=("a",), out="b")))
    assert "temper" not in affecting(Toy, *FIXED) | affecting(Toy, *COMPARED)  # it may differ
    assert {"seed", "batch_size"} <= affecting(Toy, *FIXED) and "max_steps" in affecting(Toy, *COMPARED)


def test_flags_of_every_kind_and_what_was_not_given_is_silent():
    assert called(Kinds) == {}
    argv = ["--folder", "x", "--numbers", "3,4", "--span", "0:1", "--names", "", "--several", "a", "--several", "b"]
    asked = called(Kinds, *argv, "--loud")
    assert asked == {"folder": Path("x"), "numbers": (3, 4), "span": (0.0, 1.0), "names": (), "several": ("a", "b"),
                     "loud": True}  # fmt: skip
    assert Kinds(**asked).colour == "red" and len(options(Kinds)) == 7


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"numbers": (1, 0)}, "numbers must be 1 or more, not 0"),
        ({"span": (2.0, 1.0)}, "span is 2.0 to 1.0: the lower number stands first"),
        ({"span": (0.0, float("inf"))}, "span must be a finite number, not inf"),
        ({"colour": "green"}, "colour 'green' is unknown: red, blue"),
    ],
)
def test_what_a_description_excludes_is_refused(values, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Kinds(**values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loud = 1", "loud = 1 should be of type bool"),
        ("numbers = 1", "numbers = 1 should be of type list of int"),
        ("numbers = [1, 2.5]", "should be of type list of int"),
        ("numbers = [true]", "should be of type list of int"),
        ("colour = ['red']", "should be of type str"),
        ("plain_field = 1", "unknown entry 'plain_field'"),
        ("loud", "is not TOML"),
        (None, "no such configuration file"),
    ],
)
def test_a_file_is_read_strictly(tmp_path, text, said):
    file = tmp_path / "k.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(file)) + ".*" + re.escape(said)):
        read_toml(Kinds, file)


def test_a_file_of_every_kind_and_back(tmp_path):
    file = tmp_path / "k.toml"
    file.write_text('folder = "x"\nnumbers = [3]\nspan = [0, 1]\nseveral = "a"\nloud = true\n')
    values = read_toml(Kinds, file)
    assert values == {"folder": Path("x"), "numbers": (3,), "span": (0, 1), "several": ("a",), "loud": True}
    told = plain(Kinds(numbers=(3,), several=("a",)))
    assert told["span"] == [-5.0, 5.0] and "plain_field" not in told
    file.write_text(to_toml(told))
    assert Kinds(**read_toml(Kinds, file)) == Kinds(numbers=(3,), several=("a",))
    assert decode(TrainConfig, {"cooldown": 3}, "x") == decode(TrainConfig, {"cooldown_steps": 3}, "x")


def test_help_shows_main_options_first_with_choices_and_defaults(capsys):
    assert run(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    main, other = text.split("Other options:")
    for shown in ("--shards TEXT", "--preset [nano|small|base]", "--max-steps INTEGER", "[default: 5000]"):
        assert shown in main
    for shown in ("--encoder [conv|stats] Noise encoder. [default: conv]", "[default: the last fifth]", "--dry-run"):
        assert shown in other


def test_a_row_of_a_table_is_a_choice(monkeypatch):
    with pytest.raises(UserError, match="preset 'toy' is unknown: nano, small, base"):
        TrainConfig(shards=("a",), out="b", preset="toy")
    monkeypatch.setitem(PRESETS, "toy", {"z_dim": 8})
    from nrmodel.config import preset

    assert TrainConfig(shards=("a",), out="b", preset="toy") and preset("toy").z_dim == 8


def test_help_needs_no_network():
    import subprocess
    import sys

    code = "import sys, cli.train, cli.evaluate, cli.build_shards, cli.experiment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("cls", [TrainConfig, EvaluationRequest, Options])
def test_every_field_is_described(cls):
    described = {o.name: o for o in options(cls)}
    assert list(described) == list(cls.__dataclass_fields__)
    assert all(o.of.help for o in described.values())


def with_table(text: str, cls: type) -> str:
    """A page with the table between its markers made anew."""
    begin, end = f"<!-- table of {cls.__name__} -->\n", "<!-- end of the table -->"
    assert text.count(begin) == text.count(end) == 1
    return text[: text.index(begin) + len(begin)] + table(cls) + text[text.index(end) :]


@pytest.mark.parametrize("page", TABLES, ids=lambda page: page.name)
def test_the_tables_of_the_pages_are_in_step(page):
    text = page.read_text(encoding="utf-8")
    assert text == with_table(text, TABLES[page]), "python tests/test_options.py writes it anew"


if __name__ == "__main__":
    for page, cls in TABLES.items():
        page.write_text(with_table(page.read_text(encoding="utf-8"), cls), encoding="utf-8")

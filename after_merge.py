"""Run once, after the branches are merged: `python after_merge.py` in the root. Then delete this file.

The wheel gets `nrcli` (the folder cli/) and `nrdata/facts` (the folder manifests/) in place of `cli` and `manifests`:
* inside cli/ every import of cli is relative, so that the folder works under both names;
* `manifests/__init__.py` becomes `nrdata/manifests.py`, which finds the folder beside it or, in a tree, beside nrdata.
"""

import re
import subprocess
import sys
from pathlib import Path


def edit(path: str | Path, *changes: tuple[str, str]) -> None:
    text = Path(path).read_text(encoding="utf-8")
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count, f"{path} has no {pattern}: look at it by hand"
    Path(path).write_text(text, encoding="utf-8")


for path in Path("cli").glob("*.py"):
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^(\s*)from cli import ", r"\1from . import ", text, flags=re.MULTILINE)
    path.write_text(re.sub(r"^(\s*)from cli\.(\w+) import ", r"\1from .\2 import ", text, flags=re.MULTILINE))
edit(
    "cli/main.py",
    (r'\("cli\.(\w+)", ', r'("\1", '),
    (
        r"importlib\.import_module\(COMMANDS\[name\]\[0\]\)",
        'importlib.import_module(f".{COMMANDS[name][0]}", __package__)',
    ),
    (r"^# name -> \(module, ", "# name -> (module of this folder, "),
)

subprocess.run(["git", "mv", "manifests/__init__.py", "nrdata/manifests.py"], check=True)
edit(
    "nrdata/manifests.py",
    (r"resources\.files\(__name__\)", "FOLDER"),
    (
        r"^(from importlib import resources)$",
        r"\1\nfrom pathlib import Path",
    ),
    (
        r"\A([\s\S]*?\n)\n\n(?=def|class|@)",
        r"\1\n"
        r"# A wheel carries the folder manifests/ as nrdata/facts (pyproject.toml); in a tree it lies beside nrdata."
        r"\n"
        r'_CARRIED = resources.files("nrdata") / "facts"\n'
        r'FOLDER = _CARRIED if _CARRIED.is_dir() else Path(__file__).parents[1] / "manifests"\n\n\n',
    ),
)
for folder in ("nrdata", "nrmodel", "cli", "tests", "benchmarks"):
    for path in Path(folder).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        new = re.sub(r"^(\s*)import manifests$", r"\1from nrdata import manifests", text, flags=re.MULTILINE)
        new = re.sub(r"^(\s*)from manifests import ", r"\1from nrdata.manifests import ", new, flags=re.MULTILINE)
        if new != text:
            path.write_text(new, encoding="utf-8")

edit("tests/README.md", (r"\| `nrdata/builders/corpora`, ", "| `nrdata/manifests.py`, `nrdata/builders/corpora`, "))
edit("tests/test_house.py", (r'LEVELS = \{"manifests": 0, ', "LEVELS = {"))
edit(
    "pyproject.toml",
    (r'^nr = "cli\.main:main"', 'nr = "nrcli.main:main"'),
    (r'^    "cli", "manifests",$', '    "nrcli", "nrdata.facts",'),
    (r'^"manifests" = \[.*\]$', '"nrdata.facts" = ["*.toml", "*.jsonl"]'),
    (
        r"^\[tool\.setuptools\.package-data\]$",
        '[tool.setuptools.package-dir]\n"nrcli" = "cli"\n"nrdata.facts" = "manifests"\n\n\\g<0>',
    ),
)
subprocess.run([Path(sys.executable).with_name("ruff"), "check", "--fix", "--select", "I", "."], check=True)

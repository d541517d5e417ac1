"""`make demo`: the whole road on embedded data, in minutes, through the commands that a user types."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import time
from pathlib import Path

from .main import run

DEMO = Path("demo")
STEPS = 400  # of training, or as many as fit into ...
TRAINING_SECONDS = 80.0  # ... so much time at the rate of ...
FIRST_STEPS = 20
FILES = 24  # of evaluations


def main() -> int:
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    begun = time.monotonic()
    shards, trained, table = DEMO / "shards", DEMO / "run", DEMO / "evaluation"
    steps = [
        (
            "Build a data set: synthetic speech and noise in shards of (clean, noisy, noise) with a reference clip",
            ["build-shards", "--source", "synthetic", "--out", str(shards)],
        ),
        ("Look at it", ["inspect", str(shards)]),
        (
            "Train `nano` on references from the same place, the same environment, and none; first a few steps, timed",
            f"train --shards {shards} --out {trained} --max-steps {FIRST_STEPS} --validate-every {STEPS}".split(),
        ),
        (
            "Go on with it",
            f"train --shards {shards} --out {trained} --max-steps MEASURED --validate-every {STEPS}".split(),
        ),
        (
            "Compare references: none, from the same moment, the same place, the same environment, another one",
            f"evaluate --checkpoint {trained} --shards {shards} --split test".split()
            + f"--modes none,oracle,disjoint,env,mismatch --limit {FILES} --out {table}".split(),
        ),
    ]
    count = STEPS
    for number, (what, command) in enumerate(steps, 1):
        code = _step(f"{number}/{len(steps) + 2}  {what}", [str(count) if c == "MEASURED" else c for c in command])
        if code:
            return code
        if str(FIRST_STEPS) in command:
            logged = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
            count = affordable([line["rate"] for line in logged if "rate" in line][-1])
            print(f"   {count} steps in all, at most {STEPS}: what this machine does in some {TRAINING_SECONDS:.0f} s")
    code = _shipped(f"{len(steps) + 1}/{len(steps) + 2}  The model that ships with nr, on the same files", shards)
    if code:
        return code
    last = len(steps) + 2
    code = _enhance_one(f"{last}/{last}  Enhance one noisy file with its reference", shards, trained)
    if code:
        return code
    minutes = (time.monotonic() - begun) / 60
    print(
        f"\nDone in {minutes:.1f} minutes. A demo of this length is too short to conclude anything about references: "
        "docs/findings.md has the answer from long training.\n"
        f"The table is {table}/table.md, the picture {DEMO}/enhanced.png, the enhanced file {DEMO}/out/noisy.wav."
    )
    return 0


def affordable(steps_per_second: float) -> int:
    """Steps of training in all: those of `TRAINING_SECONDS` at that rate, at most `STEPS`."""
    return min(STEPS, FIRST_STEPS + int(TRAINING_SECONDS * steps_per_second))


def _step(what: str, command: list[str]) -> int:
    print(f"\n== {what}\n   $ nr {' '.join(command)}", flush=True)
    begun = time.monotonic()
    code = run(command)
    print(f"   ({time.monotonic() - begun:.0f} s)", flush=True)
    return code


def _shipped(what: str, shards: Path) -> int:
    """The shipped model's means beside those above: of its table only that part."""
    with contextlib.redirect_stdout(io.StringIO()):
        command = f"evaluate --shards {shards} --split test --modes none,disjoint --limit {FILES} --out {DEMO}/shipped"
        begun = time.monotonic()
        code = run(command.split())
    print(f"\n== {what}\n   $ nr {command}   ({time.monotonic() - begun:.0f} s)")
    if code == 0:
        table = (DEMO / "shipped" / "table.md").read_text()
        print(table[table.index("## Means") :].split("\n## ")[0], flush=True)
    return code


def _enhance_one(what: str, shards: Path, trained: Path) -> int:
    """Write a test sample as files, enhance it through the command, draw what happened."""
    import numpy as np

    import nrdata
    from nrdata import audio
    from nrmodel.pictures import spectrograms

    dataset = nrdata.open(shards)
    index = dataset.index("test")
    quiet_talk = [name.endswith("/cafe") for name in index.env_names]  # babble is taken for speech, with a warning
    row = int((abs(index.snr_db - 5.0) + 100 * np.array(quiet_talk)[index.env]).argmin())
    triplet = dataset.sample(index.key[row].decode())
    for name in ("clean", "noisy", "ref"):
        audio.write(DEMO / f"{name}.wav", getattr(triplet, name)[:, None], triplet.sample_rate)
    command = ["enhance", str(DEMO / "noisy.wav"), "--ref", str(DEMO / "ref.wav")]
    code = _step(what, [*command, "--checkpoint", str(trained), "--out", str(DEMO / "out"), "--force"])
    if code == 0:
        enhanced, _ = audio.read(DEMO / "out" / "noisy.wav")
        spectrograms(
            {"clean": triplet.clean, "noisy": triplet.noisy, "enhanced": enhanced[:, 0]},
            triplet.sample_rate,
            DEMO / "enhanced.png",
            f"{triplet.env_id}, {triplet.snr_db:.0f} dB",
        )
    return code


if __name__ == "__main__":
    sys.exit(main())

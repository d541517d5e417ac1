"""Two models side by side: differences of the same files, from planted scores."""

from __future__ import annotations

import json

import numpy as np

from cli.results import make
from nrmodel.evaluation.against import write_against


def planted(folder, shift, system="nr:1", plain=0.1, peers=()):
    """40 files of 10 environments and 10 speakers; without clip `plain` over noisy, with it `shift` more ESTOI."""
    folder.mkdir(parents=True)
    lines = []
    own = ("noisy", "none", 0.0), (system, "none", plain), (system, "disjoint", plain + shift)
    for name, mode, more in (*own, *peers):
        for i in range(40):
            base = 0.4 + 0.002 * i
            lines.append(
                {"key": f"k{i}", "system": name, "mode": mode, "env_id": f"e{i % 10}", "speaker": f"s{i // 4}",
                 "ref_seconds": float(mode == "disjoint"), "nfe": int(name != "noisy"), "sampler": "", "seed": 0,
                 "recording": "r", "snr_db": 0.0, "seen": None,
                 "pesq_wb": 1.5, "estoi": base + more, "si_sdr": None if i == 3 else 10 * (base + more)}
            )  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_differences_are_paired_and_the_peers_stand_below(tmp_path):
    planted(tmp_path / "telephone-first", 0.04, plain=0.08, peers=[("peer:dtln", "none", 0.05)])
    planted(tmp_path / "telephone-shipped", 0.05, "nr:2")
    (tmp_path / "against.toml").write_text('before = "first"\nafter = "shipped"\nconditions = ["telephone"]\n')
    write_against(tmp_path, tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    told = next(line for line in lines if line.startswith("| telephone | 40"))
    assert "+0.030 [+0.030, +0.030]" in told and "+0.050 [+0.050, +0.050]" in told and "+0.30" in told
    assert f"/ {np.mean([0.4 + 0.002 * i for i in range(40)]):.3f} /" in told
    peer = next(line for line in lines if "| dtln |" in line)
    assert "+0.100 [+0.100, +0.100]" in peer


def test_make_results_rebuilds_it(tmp_path):
    for name, shift in (("room-first", 0.0), ("room-shipped", 0.01)):
        planted(tmp_path / "recorded" / name, shift)
    (tmp_path / "recorded" / "against.toml").write_text('before = "first"\nafter = "shipped"\nconditions = ["room"]\n')
    make(tmp_path / "recorded", tmp_path)
    assert "| room | 40 |" in (tmp_path / "table.md").read_text()

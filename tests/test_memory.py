"""Memory of long sound, in a process of its own, with a stand-in for the network: what surrounds it must not grow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 1 << 30
CODE = """
import resource, sys
import numpy as np
import soundfile as sf
from pathlib import Path
from nrmodel.enhancement.enhance import enhance_array
from nrmodel.enhancement.files import enhance_files
from nrmodel.enhancement.jobs import Job
from stand_ins import Local

class Half(Local):
    def enhance_window(self, noisy, z_r, nfe, noise, sampler="budget"):
        return 0.5 * noisy

what, rate, minutes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
minute = (0.05 * np.random.default_rng(0).standard_normal((60 * rate, 1))).astype(np.float32)
if what == "array":
    x = np.empty(minutes * 60 * rate, np.float32)
    for i in range(minutes):
        x[i * 60 * rate : (i + 1) * 60 * rate] = minute[:, 0]
    assert len(enhance_array(Half(), x, rate)) == len(x)
else:
    with sf.SoundFile("x.wav", "w", rate, 1, "PCM_16") as file:
        for _ in range(minutes):
            file.write(minute)
    (outcome,) = enhance_files(Half(), [Job(Path("x.wav"), Path("y.wav"), residual=True)])
    assert outcome.status == "enhanced" and sf.info("y.wav").frames == minutes * 60 * rate
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, what: str, rate: int, minutes: int) -> int:
    """Greatest resident memory in bytes."""
    tests = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", CODE, what, str(rate), str(minutes)]
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_an_hour_of_48_khz_stays_under_one_and_a_half_gib(tmp_path):
    assert peak(tmp_path, "file", 48000, 60) < 1.5 * GIB


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "minutes"), [(16000, 60), (48000, 20)])
def test_an_array_needs_little_beside_what_goes_in_and_comes_out(tmp_path, rate, minutes):
    one_sound = 4 * minutes * 60 * rate
    assert peak(tmp_path, "array", rate, minutes) - 2 * one_sound < GIB

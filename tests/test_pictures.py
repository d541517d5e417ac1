"""Spectrogram pictures: one panel a signal."""

from __future__ import annotations

import matplotlib.image
from helpers import RATE, noise, speech

from nrmodel.pictures import spectrograms


def test_a_panel_a_signal(tmp_path):
    clean = speech(0.5)
    signals = {"clean": clean, "noisy": clean + noise(0.5)}
    heights = []
    for count in (1, 2):
        path = tmp_path / f"{count}.png"
        spectrograms(dict(list(signals.items())[:count]), RATE, path, "a talk")
        picture = matplotlib.image.imread(path)
        assert picture[..., :3].std() > 0.05
        heights.append(picture.shape)
    assert heights[0] != heights[1]

"""The Mel scale (O'Shaughnessy 1987, as in HTK), in Hz and Mel."""

from __future__ import annotations

import numpy as np


def to_mel(hertz: np.ndarray | float) -> np.ndarray:
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def to_hertz(mel: np.ndarray | float) -> np.ndarray:
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)

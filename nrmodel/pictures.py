"""Spectrogram pictures, one panel a signal, on one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nrdata import drawing

COLUMNS = 8000  # about as many at most, of a sound of minutes


def spectrograms(
    signals: dict[str, np.ndarray], sample_rate: int, path: Path, title: str = "", width: float = 8.0
) -> None:
    """Write a PNG, `width` inches wide: spectrograms of named signals `(samples,)` under each other, in dB on one scale
    of 70 dB."""
    from scipy.signal import stft

    plt = drawing.pyplot()
    levels = {}
    hop = int(np.clip(max(map(len, signals.values())) // COLUMNS, 128, 512))
    for name, signal in signals.items():
        _, _, values = stft(signal, sample_rate, nperseg=512, noverlap=512 - hop)
        levels[name] = 20 * np.log10(np.abs(values) + 1e-7)
    top = max(level.max() for level in levels.values())
    figure, axes = plt.subplots(len(signals), 1, figsize=(width, 1.9 * len(signals)), sharex=True, layout="constrained")
    for axis, (name, level) in zip(np.atleast_1d(axes), levels.items(), strict=True):
        length = len(signals[name]) / sample_rate
        image = axis.imshow(
            level, origin="lower", aspect="auto", extent=(0, length, 0, sample_rate / 2000),
            vmin=top - 70, vmax=top, cmap="magma",
        )  # fmt: skip
        axis.set_ylabel(f"{name}\nkHz")
    np.atleast_1d(axes)[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="dB", shrink=0.6)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)

"""A toy of each kind that an evaluation knows by a table: what is added is one row and one function."""

from __future__ import annotations

import numpy as np

from nrmodel.diffusion.choice import Sampler
from nrmodel.evaluation.metrics import Metric
from nrmodel.evaluation.peers import Peer


def rms_error(clean, estimate):
    """Less is better."""
    return float(np.sqrt(np.mean(np.square(clean - estimate))))


def answer_is_noisy(model, y, z_r, noise, *, callback=None):
    """The noisy spectrogram itself, without a network call."""
    if callback is not None:
        callback(0, 0.0, y)
    return y


def silencer(noisy, ref):
    return 0.5 * noisy


TOY_METRIC = ("rms_error", Metric(rms_error, "Toy error", "FS", 4, 0.001, "#777777", better=-1))
TOY_SAMPLER = ("toy", Sampler(answer_is_noisy, lambda nfe, config: {}))
TOY_PEER = ("toy", lambda: Peer(silencer, 16000))

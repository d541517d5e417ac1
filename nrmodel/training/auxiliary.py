"""Auxiliary losses on the reference's embedding, both off by default."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nrdata.labels import is_unknown, place_of
from nrdata.sampling.laws import LAWS
from nrdata.sampling.stream import Batch
from nrmodel.model import Model

TEMPERATURE = 0.1


def consistency(model: Model, x0: Tensor, y: Tensor, t: Tensor, z_r: Tensor, samples: Tensor, heard: Tensor) -> Tensor:
    """Seed 6: d(E(r), E(y - x0)), the cosine distance of embeddings, mean over items that have a reference.

    In the compressed domain y - x0 is no noise: both are expanded to waves, subtracted there, and embedded like a clip.
    Small t weighs most (at large t the estimate is a mean: what it leaves out is no noise). Neither E(r) nor the
    encoder in E(y - x0) is trained by it: an encoder that says the same of everything would satisfy it.
    """
    spectrogram, process = model.spectrogram, model.process
    assert model.reference is not None
    length = min(int(samples.max()), (y.shape[-1] - 1) * spectrogram.hop)
    removed = spectrogram.inverse(y, length) - spectrogram.inverse(x0, length)
    weights = {name: p.detach() for name, p in model.reference.named_parameters()}
    of_removed = torch.func.functional_call(model.reference, weights, (removed, samples.clamp(max=length)))
    size = model.reference.z_dim
    apart = 1 - F.cosine_similarity(z_r[:, :size].detach(), of_removed[:, :size], dim=1)
    s = process.std(t) / process.mean_weights(t)[0]
    sd2 = model.config.precondition.sigma_data**2
    weight = heard * sd2 / (s**2 + sd2)
    return (weight * apart).sum() / weight.sum().clamp(min=1e-3)


def environment_contrast(of_clip: Tensor, of_noise: Tensor, pairs: Pairs) -> Tensor:
    """Ties z_r to the environment: a clip's embedding is to lie nearer to the mixtures' noises of its own environment
    than to those of other places.

    Supervised contrastive loss (Khosla et al. 2020, eq. 2), in float32, between two views: clips `of_clip (B, D)` and
    noises `of_noise (B, D)`. Zero without an anchor. Where a batch is shared by ranks, each contrasts its own part.
    """
    with torch.autocast(of_clip.device.type, enabled=False):
        cosine = F.normalize(of_clip.float(), dim=1) @ F.normalize(of_noise.float(), dim=1).T
        compared = pairs.same | pairs.apart
        log_share = F.log_softmax((cosine / TEMPERATURE).masked_fill(~compared, -torch.inf), dim=1)
        each = -log_share.masked_fill(~pairs.same, 0.0).sum(1) / pairs.same.sum(1)
        return (each * pairs.anchor).sum() / pairs.anchor.sum().clamp(min=1)


class Pairs(NamedTuple):
    """Which clip (row) and which noise (column) of a batch are of one environment, which of different places. Neither:
    two rooms or equalisations of one place, which are not one sound, nor another place's."""

    same: Tensor  # bool (B, B), true on the diagonal
    apart: Tensor  # bool (B, B)
    anchor: Tensor  # bool (B,): clips that are of their mixture's environment at all


def pairs_of(batch: Batch, device: torch.device) -> Pairs:
    """By `env_id`; an unknown environment, or an invented one (`Batch.invented`), is like nobody else's."""
    own = [f"{env} {i}" if is_unknown(env) else env for i, env in enumerate(batch.env_id)]
    place = np.array([place_of(env) for env in own])
    item = np.arange(len(own))
    invented = np.array(batch.invented, dtype=bool)
    alike = (np.array(own)[:, None] == own) & ~invented[:, None] & ~invented
    same = alike | (item[:, None] == item)
    of_the_place = {law.relation for law in LAWS.values() if law.same_place}
    anchor = np.array([relation in of_the_place for relation in batch.relation])
    return Pairs(*(torch.from_numpy(a).to(device) for a in (same, place[:, None] != place, anchor)))

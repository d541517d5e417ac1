"""Auxiliary losses on the reference's embedding, both off by default."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nrdata.sampling.stream import Batch
from nrmodel.model import Model

TEMPERATURE = 0.1
OF_THE_PLACE = frozenset({"overlap", "same-recording", "same-environment"})  # relations


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


def environment_contrast(of_clip: Tensor, of_noise: Tensor, positive: Tensor, anchor: Tensor) -> Tensor:
    """Ties z_r to the environment: a clip's embedding is to lie nearer to the mixtures' noises of its own environment
    than to those of the batch's others.

    Supervised contrastive loss (Khosla et al. 2020, eq. 2) between two views, clips `of_clip (B, D)` and noises
    `of_noise (B, D)`; `positive (B, B)`: clip i and noise j are of one environment; `anchor (B,)`: clips that count.
    Zero without an anchor. Where a batch is shared by ranks, each contrasts its own part.
    """
    cosine = F.normalize(of_clip.float(), dim=1) @ F.normalize(of_noise.float(), dim=1).T
    log_share = F.log_softmax(cosine / TEMPERATURE, dim=1)
    each = -(log_share * positive).sum(1) / positive.sum(1).clamp(min=1)
    return (each * anchor).sum() / anchor.sum().clamp(min=1)


def same_environment(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """`positive` and `anchor` of a batch: one `env_id`; clips that are of the mixture's environment at all."""
    numbers = {name: k for k, name in enumerate(sorted(set(batch.env_id)))}
    env = torch.tensor([numbers[name] for name in batch.env_id], device=device)
    anchor = torch.tensor([relation in OF_THE_PLACE for relation in batch.relation], device=device)
    return env[:, None] == env[None, :], anchor

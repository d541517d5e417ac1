"""One training step's mathematics: the draws of a batch and its loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nrdata.keyed import step_seed
from nrdata.sampling.stream import Batch
from nrmodel.config import ModelConfig
from nrmodel.diffusion import objective
from nrmodel.diffusion.process import start
from nrmodel.model import Model, pad_frames
from nrmodel.training.auxiliary import consistency, environment_contrast, pairs_of

Average = Callable[[Tensor], Tensor]


def draw(
    seed: int, step: int, size: int, frames: int, model_config: ModelConfig, device: torch.device, rank: int = 0,
    ranks: int = 1,
) -> dict[str, Tensor]:  # fmt: skip
    """Times, shares and noise of rows rank::ranks of a global batch of `size` items of `frames` STFT frames.

    Keyed by (seed, step) alone: the same whatever the law, the encoder and the number of ranks.
    """
    key = step_seed(seed, step)
    generator = torch.Generator(device=device).manual_seed(key)
    shape = (2, size, 1, model_config.spectrogram.bins, frames)
    uniform = torch.rand(3, size, generator=generator, device=device)[:, rank::ranks]
    z = torch.randn(shape, generator=generator, device=device, dtype=torch.cfloat)[:, rank::ranks]
    return {"u": uniform[0], "start": uniform[1], "own": uniform[2], "z": z[0], "z_own": z[1]}


def batch_loss(
    model: Model,
    batch: Batch,
    draws: dict[str, Tensor],
    model_config: ModelConfig,
    own_share: float = 0.0,
    bf16: bool = False,
    z_r: Tensor | None = None,
    lambda_ref: float = 0.0,
    lambda_env: float = 0.0,
    average: Average = lambda x: x,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch under given draws, and its parts; `z_r` in place of the batch's own references where given.

    `average` takes the mean over ranks, so that several ranks' mean loss is the loss of the global batch; the auxiliary
    losses are means over each rank's own items.
    """
    device, process, aim = model.device, model_config.process, model_config.objective
    noisy, clean = (torch.from_numpy(a).to(device) for a in (batch.noisy, batch.clean))
    samples = torch.from_numpy(batch.frames).to(device)
    level = model.level(noisy, samples).clamp(min=1e-5)[:, None]
    multiple = model.network.frame_multiple
    y, x0 = (pad_frames(model_config.spectrogram.forward(w / level), multiple, "zeros") for w in (noisy, clean))
    z, z_own = (pad_frames(draws[name], multiple, "zeros") for name in ("z", "z_own"))
    ref_samples = torch.from_numpy(batch.ref_frames).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        if z_r is None:
            keep = torch.from_numpy(batch.keep).to(device) if model_config.keep else None
            z_r = model.embed_batch(torch.from_numpy(batch.ref).to(device), ref_samples, keep)
        t, at_start = objective.draw_times(draws["u"], draws["start"], aim, process)
        origin = x0
        own = ((draws["own"] < own_share) & ~at_start).nonzero()[:, 0]
        if len(own):  # the network's own one-call estimate in the kernel; the target stays the true x0
            with torch.no_grad():
                T = torch.full_like(t[own], process.T)
                given = None if z_r is None else z_r[own].detach()
                guess = model.denoised(start(process, y[own], z_own[own]), y[own], T, given)
            origin = x0.index_copy(0, own, guess.to(x0.dtype))
        x_t = objective.state(origin, y, t, z, at_start, process)
        estimates = model.estimates(x_t, y, t, z_r)
        value, parts = objective.loss(
            estimates, x0, y, x_t, t, objective=aim, precondition=model_config.precondition, process=process,
            spectrogram=model_config.spectrogram, samples=samples, average=average,
        )  # fmt: skip
        if lambda_ref and model.reference is not None and z_r is not None:
            heard = ref_samples > 0
            apart = consistency(model, estimates["x0"], y, t, z_r, samples, heard)
            value, parts = value + lambda_ref * apart, {**parts, "consistency": apart}
        if lambda_env and model.reference is not None and z_r is not None:
            size = model.reference.z_dim
            of_noise = model.reference(noisy - clean, samples)[:, :size]
            contrast = environment_contrast(z_r[:, :size], of_noise, pairs_of(batch, device))
            value, parts = value + lambda_env * contrast, {**parts, "contrast": contrast}
    return value, parts

"""A published checkpoint without our code: NCSN++ (v1) from its flat list of layers, the transform, the process and the
predictor-corrector, in numpy and double precision. `python tests/flat.py` writes the checkpoint and the arrays of
`tests/golden/published.*` that every clone compares with.

The list is what Lightning stores: `all_modules.<i>`, numbered in the order of calls, `output_layer` before all others.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from longhand import ROOT_2, conv, dense, down, norm, silu, up

GOLDEN = Path(__file__).parent / "golden"
HYPER = {
    **{"backbone": "ncsnpp", "sde": "ouve", "theta": 1.5, "sigma_min": 0.05, "sigma_max": 0.5, "N": 30, "t_eps": 0.03},
    **{"n_fft": 510, "hop_length": 128, "window": "hann", "spec_factor": 0.15, "spec_abs_exponent": 0.5, "sr": 16000},
    **{"nf": 8, "ch_mult": [1, 1, 2], "num_res_blocks": 1, "attn_resolutions": [64], "centered": True, "lr": 1e-4},
    **{"loss_type": "score_matching", "transform_type": "exponent", "normalize": "noisy", "num_frames": 64},
}
SECONDS, STEPS = 0.2, 2

Weights = dict[str, np.ndarray]


class Flat:
    """The network of the options `hyper`, its layers taken from the list one after the other."""

    def __init__(self, hyper: dict, weights: Weights):
        self.hyper, self.weights = hyper, weights

    def layer(self) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """`(weight, bias)` of the next layer, or of what is named inside it."""
        i = next(self.at)

        def part(inside: str = "", w: str = "weight", b: str = "bias") -> tuple[np.ndarray, np.ndarray]:
            name = f"all_modules.{i}." + (f"{inside}." if inside else "")
            return self.weights[name + w], self.weights[name + b]

        part.shortcut = f"all_modules.{i}.Conv_2.weight" in self.weights  # type: ignore[attr-defined]
        return part

    def block(self, x, embedding, resample=None):
        part = self.layer()
        h = silu(norm(x, *part("GroupNorm_0")))
        if resample:
            h, x = resample(h), resample(x)
        h = conv(h, *part("Conv_0")) + dense(silu(embedding), *part("Dense_0"))[:, None, None]
        h = conv(silu(norm(h, *part("GroupNorm_1"))), *part("Conv_1"))
        return ((conv(x, *part("Conv_2")) if part.shortcut else x) + h) / ROOT_2

    def attention(self, x):
        part, shape = self.layer(), x.shape
        h = norm(x, *part("GroupNorm_0")).reshape(len(x), -1)
        matrices = [part(f"NIN_{i}", "W", "b") for i in range(4)]  # stored as (in, out)
        q, k, v = (w.T @ h + b[:, None] for w, b in matrices[:3])
        logits = q.T @ k / math.sqrt(len(x))
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        out = v @ (shares / shares.sum(axis=1, keepdims=True)).T
        w, b = matrices[3]
        return (x + (w.T @ out + b[:, None]).reshape(shape)) / ROOT_2

    def __call__(self, state: np.ndarray, cond: np.ndarray, t: float) -> np.ndarray:
        """Complex (F, T) twice and a time -> complex (F, T)."""
        hyper, levels = self.hyper, len(self.hyper["ch_mult"])
        self.at: Iterator[int] = iter(range(10**6))
        angle = 2 * np.pi * math.log(t) * self.weights[f"all_modules.{next(self.at)}.W"]
        first, second = self.layer(), self.layer()
        embedding = dense(silu(dense(np.concatenate([np.sin(angle), np.cos(angle)]), *first())), *second())
        rows = [256 >> level for level in range(levels)]
        x = np.stack([state.real, state.imag, cond.real, cond.imag])
        h, pyramid = conv(x, *self.layer()()), x
        skips = [h]
        for level in range(levels):
            for _ in range(hyper["num_res_blocks"]):
                h = self.block(h, embedding)
                h = self.attention(h) if rows[level] in hyper["attn_resolutions"] else h
                skips.append(h)
            if level < levels - 1:
                h, pyramid = self.block(h, embedding, down), down(pyramid)
                h = h + conv(pyramid, *self.layer()("Conv_0"))
                skips.append(h)
        h = self.block(self.attention(self.block(h, embedding)), embedding)
        output = 0.0
        for level in reversed(range(levels)):
            for _ in range(hyper["num_res_blocks"] + 1):
                h = self.block(np.concatenate([h, skips.pop()]), embedding)
            h = self.attention(h) if rows[level] in hyper["attn_resolutions"] else h
            normed, head = self.layer(), self.layer()
            share = conv(silu(norm(h, *normed())), *head())
            output = share if level == levels - 1 else up(output) + share
            h = self.block(h, embedding, up) if level else h
        assert not skips and f"all_modules.{next(self.at)}.weight" not in self.weights
        real, imaginary = conv(output / t, self.weights["output_layer.weight"], self.weights["output_layer.bias"])
        return real + 1j * imaginary


# --- the transform ------------------------------------------------------------------------------------------------


def window(n: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


def forward(wave: np.ndarray, hyper: dict) -> np.ndarray:
    """(samples,) -> compressed complex (F, T)."""
    n, hop = hyper["n_fft"], hyper["hop_length"]
    padded = np.pad(wave, n // 2, mode="reflect")
    frames = [padded[i : i + n] * window(n) for i in range(0, len(wave) // hop * hop + 1, hop)]
    spec = np.fft.rfft(np.stack(frames)).T
    return hyper["spec_factor"] * np.abs(spec) ** hyper["spec_abs_exponent"] * np.exp(1j * np.angle(spec))


def inverse(spec: np.ndarray, samples: int, hyper: dict) -> np.ndarray:
    n, hop = hyper["n_fft"], hyper["hop_length"]
    magnitude = (np.abs(spec) / hyper["spec_factor"]) ** (1 / hyper["spec_abs_exponent"])
    frames = np.fft.irfft((magnitude * np.exp(1j * np.angle(spec))).T, n) * window(n)
    wave = np.zeros(n + hop * (len(frames) - 1))
    weight = np.zeros_like(wave)
    for i, frame in enumerate(frames):
        wave[i * hop : i * hop + n] += frame
        weight[i * hop : i * hop + n] += window(n) ** 2
    return (wave / np.maximum(weight, 1e-11))[n // 2 : n // 2 + samples]


# --- process and sampler --------------------------------------------------------------------------------------------


def std(t: float, hyper: dict) -> float:
    theta, low, ratio = hyper["theta"], hyper["sigma_min"], math.log(hyper["sigma_max"] / hyper["sigma_min"])
    return low * math.sqrt((math.exp(2 * ratio * t) - math.exp(-2 * theta * t)) * ratio / (theta + ratio))


def sample(network: Flat, y: np.ndarray, draws: np.ndarray, hyper: dict, steps: int) -> np.ndarray:
    """Annealed Langevin (snr 0.5), then reverse diffusion, `steps` times; the mean of the last state."""
    low, ratio = hyper["sigma_min"], math.log(hyper["sigma_max"] / hyper["sigma_min"])
    left = iter(draws)
    x = y + std(1.0, hyper) * next(left)
    times = np.linspace(1.0, hyper["t_eps"], steps)
    for i, t in enumerate(times):
        size = 2 * (0.5 * std(t, hyper)) ** 2
        x = x - size * network(x, y, t) + math.sqrt(2 * size) * next(left)  # the score is minus what the network gives
        dt = t - times[i + 1] if i < steps - 1 else t
        g = low * math.exp(ratio * t) * math.sqrt(2 * ratio * dt)
        mean = x - hyper["theta"] * (y - x) * dt - g**2 * network(x, y, t)
        x = mean + g * next(left)
    return mean


# --- the golden files -----------------------------------------------------------------------------------------------


def weights_for(hyper: dict, seed: int) -> dict[str, torch.Tensor]:
    """Random weights under the published names, at a size that keeps all paths alive."""
    from nrmodel.network.ncsnpp import NCSNpp
    from nrmodel.published.convert import to_published
    from nrmodel.published.hyperparameters import configuration

    network = NCSNpp(configuration(hyper, "golden").network)
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, tensor in to_published(network.state_dict(), network).items():
        size = rng.standard_normal(tensor.shape)
        if name == "all_modules.0.W":
            size *= 16
        elif tensor.dim() > 1:
            inputs = tensor.shape[0] if name.endswith(".W") else tensor[0].numel()
            size /= math.sqrt(inputs)
        else:
            size = 0.1 * size + float("GroupNorm" in name and name.endswith("weight"))
        drawn[name] = torch.from_numpy(size.astype(np.float32))
    return drawn


def write() -> None:
    shadow = weights_for(HYPER, 0)
    module = types.ModuleType("sgmse.data_module")
    module.SpecsDataModule = type("SpecsDataModule", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    sys.modules |= {"sgmse": types.ModuleType("sgmse"), module.__name__: module}
    content = {
        "epoch": 0,
        "global_step": 2,
        "pytorch-lightning_version": "2.1.4",
        # Names and shapes count; of what nobody reads one number is stored.
        "state_dict": {f"dnn.{name}": torch.zeros(1).expand(t.shape) for name, t in shadow.items()},
        "hparams_name": "kwargs",
        "hyper_parameters": {**HYPER, "data_module_cls": module.SpecsDataModule},
        "ema": {"decay": 0.999, "num_updates": 2, "shadow_params": list(shadow.values()), "collected_params": []},
    }
    torch.save(content, GOLDEN / "published.ckpt")
    rng = np.random.default_rng(1)
    network = Flat(HYPER, {name: t.double().numpy() for name, t in shadow.items()})
    wave = (0.2 * rng.standard_normal(int(SECONDS * HYPER["sr"]))).astype(np.float32)
    state, cond = (rng.integers(-64, 65, (2, 2, 256, 8)) / 64).astype(np.float32)
    state, cond = (a[0] + 1j * a[1] for a in (state, cond))
    spec = forward(wave / np.abs(wave).max(), HYPER)
    y = np.pad(spec, ((0, 0), (0, -spec.shape[1] % 64)))
    draws = rng.integers(-2, 3, (1 + 2 * STEPS, 2, *y.shape)).astype(np.int8)  # in halves: E|z|^2 = 1
    noise = (draws[:, 0] + 1j * draws[:, 1]) / 2
    estimate = sample(network, y, noise, HYPER, STEPS)
    arrays = {
        **{"wave": wave, "spec": spec.astype(np.complex64), "state": state, "cond": cond, "t": np.float32(0.4)},
        **{"out": network(state, cond, float(np.float32(0.4))).astype(np.complex64), "draws": draws},
        "estimate": estimate[:, : spec.shape[1]].astype(np.complex64),
        "enhanced": (inverse(estimate, len(wave), HYPER) * np.abs(wave).max()).astype(np.float32),
    }
    np.savez_compressed(GOLDEN / "published.npz", **arrays)


if __name__ == "__main__":
    write()

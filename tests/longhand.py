"""NCSN++ written out in numpy and double precision, sum by sum: slow, and independent of torch's operators.

Every function takes maps (C, F, T) of one item and a dictionary of weights under the names of our `state_dict`.
"""

from __future__ import annotations

import math

import numpy as np

ROOT_2 = math.sqrt(2)
TAPS = np.array([1.0, 3.0, 3.0, 1.0])


def conv(x, w, b):
    """Zero-padded convolution of odd size: each output is a sum over the window around it."""
    half = w.shape[2] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half)))
    out = np.empty((len(w), *x.shape[1:]))
    for f in range(x.shape[1]):
        for t in range(x.shape[2]):
            window = padded[:, f : f + w.shape[2], t : t + w.shape[3]]
            out[:, f, t] = (w * window).sum(axis=(1, 2, 3)) + b
    return out


def dense(x, w, b):
    return w @ x + b


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x, w, b):
    groups = min(len(x) // 4, 32)
    out = np.empty_like(x)
    size = len(x) // groups
    for g in range(groups):
        part = x[g * size : (g + 1) * size]
        mean, variance = part.mean(), ((part - part.mean()) ** 2).mean()
        out[g * size : (g + 1) * size] = (part - mean) / np.sqrt(variance + 1e-6)
    return out * w[:, None, None] + b[:, None, None]


def filtered(x):
    """The full-rate filter on padded maps: (C, F + 3, T + 3) -> (C, F, T)."""
    kernel = np.outer(TAPS, TAPS) / 64
    out = np.zeros((len(x), x.shape[1] - 3, x.shape[2] - 3))
    for i in range(4):
        for j in range(4):
            out += kernel[i, j] * x[:, i : i + out.shape[1], j : j + out.shape[2]]
    return out


def down(x):
    return filtered(np.pad(x, ((0, 0), (1, 1), (1, 1))))[:, ::2, ::2]


def up(x):
    with_zeros = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2]))
    with_zeros[:, ::2, ::2] = x
    return 4 * filtered(np.pad(with_zeros, ((0, 0), (2, 1), (2, 1))))


def part(weights, name):
    """(weight, bias) of a layer."""
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def time_embedding(t, weights, name="time"):
    angle = np.log(t) * weights[f"{name}.frequencies"] * 2 * np.pi
    h = dense(np.concatenate([np.sin(angle), np.cos(angle)]), *part(weights, f"{name}.dense_1"))
    return dense(silu(h), *part(weights, f"{name}.dense_2"))


def res_block(x, embedding, weights, name, resample=None, film=None):
    """`embedding`: the time embedding before its activation; `film`: (2 C,) scale and shift, or None."""
    h = silu(norm(x, *part(weights, f"{name}.norm_1")))
    if resample is not None:
        h, x = resample(h), resample(x)
    h = conv(h, *part(weights, f"{name}.conv_1"))
    h = h + dense(silu(embedding), *part(weights, f"{name}.time"))[:, None, None]
    h = norm(h, *part(weights, f"{name}.norm_2"))
    if film is not None:
        scale, shift = np.split(film, 2)
        h = h * (1 + scale[:, None, None]) + shift[:, None, None]
    h = conv(silu(h), *part(weights, f"{name}.conv_2"))
    if f"{name}.shortcut.weight" in weights:
        x = conv(x, *part(weights, f"{name}.shortcut"))
    return (x + h) / ROOT_2


def attention(x, weights, name):
    channels = len(x)
    h = norm(x, *part(weights, f"{name}.norm")).reshape(channels, -1)
    q, k, v = (part(weights, f"{name}.{which}") for which in ("query", "key", "value"))
    q, k, v = (w @ h + b[:, None] for w, b in (q, k, v))
    out = np.empty_like(h)
    for i in range(h.shape[1]):
        logits = k.T @ q[:, i] / np.sqrt(channels)
        shares = np.exp(logits - logits.max())
        out[:, i] = v @ (shares / shares.sum())
    w, b = part(weights, f"{name}.out")
    return (x + (w @ out + b[:, None]).reshape(x.shape)) / ROOT_2


def network(state, cond, t, weights, config, z_r=None, film=False):
    """complex (F, T), complex (F, T), t, weights, NCSNppConfig -> complex (F, T)."""
    x = np.stack([state.real, state.imag, cond.real, cond.imag])
    if not config.centered:
        x = 2 * x - 1
    embedding = time_embedding(t, weights)
    if z_r is not None and not film:
        embedding = embedding + dense(z_r, *part(weights, "embed"))

    def block(h, name, resample=None):
        scale_shift = dense(z_r, *part(weights, f"{name}.film")) if film else None
        return res_block(h, embedding, weights, name, resample, scale_shift)

    def attend(h, name):
        return attention(h, weights, name) if f"{name}.norm.weight" in weights else h

    levels = len(config.ch_mult)
    h, pyramid = conv(x, *part(weights, "stem")), x
    skips = [h]
    for i in range(levels):
        for j in range(config.num_res_blocks):
            h = attend(block(h, f"down.{i}.blocks.{j}"), f"down.{i}.attend.{j}")
            skips.append(h)
        if i < levels - 1:
            h = block(h, f"down.{i}.shrink", down)
            if config.input_pyramid:
                pyramid = down(pyramid)
                h = h + conv(pyramid, *part(weights, f"down.{i}.combine.conv"))
            skips.append(h)
    h = block(attend(block(h, "middle.before"), "middle.attend"), "middle.after")
    output = None
    for i in range(levels):
        for j in range(config.num_res_blocks + 1):
            h = block(np.concatenate([h, skips.pop()]), f"up.{i}.blocks.{j}")
        h = attend(h, f"up.{i}.attend")
        if f"up.{i}.head.conv.weight" in weights:
            share = conv(silu(norm(h, *part(weights, f"up.{i}.head.norm"))), *part(weights, f"up.{i}.head.conv"))
            output = share if output is None else up(output) + share
        if i < levels - 1:
            h = block(h, f"up.{i}.grow", up)
    if config.version == "v1":
        output = output / t
    out = conv(output, *part(weights, "output"))
    if config.version == "48k":
        out = out / t
    return out[0] + 1j * out[1]

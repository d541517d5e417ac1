"""The hyperparameters of the SGMSE+ project's checkpoints -> our configuration. Every one is read or known to concern
nothing here; an unknown one is refused by name, since it may stand for another network.
"""

from __future__ import annotations

from typing import Any

from nrdata.errors import UserError
from nrmodel.config import ModelConfig
from nrmodel.diffusion.objective import Objective, Preconditioning
from nrmodel.diffusion.process import OUVE, SBVE
from nrmodel.diffusion.spectrogram import Spectrogram
from nrmodel.network.ncsnpp import NCSNppConfig

_NEEDED = ("backbone", "sde", "n_fft", "hop_length", "spec_factor", "spec_abs_exponent")
_READ = (
    *_NEEDED,
    *("window", "transform_type", "sr", "t_eps", "theta", "sigma_min", "sigma_max", "k", "c", "eps", "N"),
    *("loss_type", "loss_weighting", "network_scaling", "c_in", "c_out", "c_skip", "sigma_data", "l1_weight"),
    *("nf", "ch_mult", "num_res_blocks", "attn_resolutions", "centered", "progressive", "progressive_input"),
)
# What only training, logging or their scripts ask for. Enhancement divides by max|y| whatever `normalize` was.
_UNUSED = (
    *("lr", "ema_decay", "num_eval_files", "pesq_weight", "data_module_cls", "sampler_type", "normalize", "num_frames"),
    *("base_dir", "format", "batch_size", "num_workers", "dummy", "gpus", "eval_start", "nolog", "sde_n", "wandb_name"),
    *("ckpt", "log_dir", "save_ckpt_interval", "no_wandb", "accelerator", "devices", "strategy", "max_epochs"),
)
# Options of the network that have one published value; any other would be another network.
_FIXED: dict[str, Any] = {
    "nonlinearity": "swish",
    "resamp_with_conv": True,
    "conditional": True,
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive_combine": "sum",
    "embedding_type": "fourier",
    "fourier_scale": 16,
    "image_size": 256,
    "init_scale": 0.0,
    "dropout": 0.0,
    "scale_by_sigma": True,
}
_LOSSES = {"score_matching": "score", "mse": "score", "denoiser": "denoiser", "data_prediction": "data"}
_VERSIONS = {"ncsnpp": "v1", "ncsnpp_v2": "v2", "ncsnpp_48k": "48k"}


def configuration(hyper: dict[str, Any], file: str, sample_rate: int | None = None) -> ModelConfig:
    """Every hyperparameter of a published checkpoint read, the unknown ones refused by name. `sample_rate` overrides
    what the file says."""
    for name in _NEEDED:
        if name not in hyper:
            raise UserError(f"{file} lacks the hyperparameter '{name}': what it was trained with cannot be known")
    for name, value in hyper.items():
        if name in _FIXED:
            if value != _FIXED[name] and list(_sequence(value)) != list(_sequence(_FIXED[name])):
                raise UserError(f"{file} has {name} = {value}: only {_FIXED[name]} is supported")
        elif name not in _READ and name not in _UNUSED:
            raise UserError(f"{file} has the unknown hyperparameter '{name}': it is not a network that nr knows")

    version = _one_of(hyper, "backbone", _VERSIONS, file)
    process = _process(hyper, file)
    objective, precondition = _objective(hyper, version, process, file)
    steps = int(hyper.get("N", 30))
    if isinstance(process, SBVE):
        nfe = steps if 1 <= steps <= 100 else 50
    else:  # N = 1000 is the number of steps of the discretised training process, not the sampler's
        nfe = 2 * steps if 1 <= steps <= 100 else 60
    return ModelConfig(
        preset="converted",
        sample_rate=sample_rate or _sample_rate(hyper, version, file),
        spectrogram=Spectrogram(
            n_fft=int(hyper["n_fft"]),
            hop=int(hyper["hop_length"]),
            window=hyper.get("window", "hann"),
            transform=hyper.get("transform_type", "exponent"),
            exponent=float(hyper["spec_abs_exponent"]),
            factor=float(hyper["spec_factor"]),
        ),
        process=process,
        network=_network(hyper, version, file),
        precondition=precondition,
        objective=objective,
        conditioning="none",
        level="max",
        pad="zeros" if version == "v1" else "reflection",
        nfe=nfe,
    )


def _network(hyper: dict[str, Any], version: str, file: str) -> NCSNppConfig:
    at_48k = version == "48k"  # its defaults differ
    return NCSNppConfig(
        version=version,
        nf=int(hyper.get("nf", 128)),
        ch_mult=tuple(int(m) for m in hyper.get("ch_mult", NCSNppConfig.ch_mult)),
        num_res_blocks=int(hyper.get("num_res_blocks", 2)),
        attn_resolutions=tuple(int(r) for r in _sequence(hyper.get("attn_resolutions", () if at_48k else (16,)))),
        output_pyramid=_pyramid(hyper, "progressive", "output_skip", at_48k, file),
        input_pyramid=_pyramid(hyper, "progressive_input", "input_skip", at_48k, file),
        centered=bool(hyper.get("centered", True)),
    )


def _pyramid(hyper: dict[str, Any], name: str, kind: str, at_48k: bool, file: str) -> bool:
    return bool(_one_of({name: hyper.get(name, "none" if at_48k else kind)}, name, {kind: True, "none": False}, file))


def _process(hyper: dict[str, Any], file: str) -> OUVE | SBVE:
    t_eps = float(hyper.get("t_eps", 0.03))
    if _one_of(hyper, "sde", {"ouve": "ouve", "sbve": "sbve"}, file) == "sbve":
        k, c, eps = (float(hyper.get(name, value)) for name, value in (("k", 2.6), ("c", 0.4), ("eps", 1e-8)))
        return SBVE(k=k, c=c, eps=eps, t_eps=t_eps)
    theta, low, high = (float(hyper.get(n, v)) for n, v in (("theta", 1.5), ("sigma_min", 0.05), ("sigma_max", 0.5)))
    return OUVE(theta=theta, sigma_min=low, sigma_max=high, t_eps=t_eps)


def _objective(
    hyper: dict[str, Any], version: str, process: OUVE | SBVE, file: str
) -> tuple[Objective, Preconditioning]:
    kind = _one_of({"loss_type": "score_matching", **hyper}, "loss_type", _LOSSES, file)
    if (kind == "data") != isinstance(process, SBVE):
        loss = hyper.get("loss_type", "score_matching")
        raise UserError(f"{file} has loss_type {loss} with sde {hyper['sde']}: no sampler fits the two")
    if version != "v2" and kind == "data":
        raise UserError(f"{file} has loss_type data_prediction with {hyper['backbone']}: only ncsnpp_v2 knows it")
    objective = Objective(
        kind=kind,
        weighting=str(hyper.get("loss_weighting", "sigma^2")),
        start_share=0.0,
        own_share=0.0,
        l1_weight=float(hyper.get("l1_weight", 0.001)),
    )
    if version != "v2":
        return objective, Preconditioning(form="v1", predicts="score")
    scaling = hyper.get("network_scaling")
    choices = {"network_scaling": "none" if scaling in (None, "None") else scaling}
    for name, default in (("c_in", "1"), ("c_out", "1"), ("c_skip", "0")):
        choices[name] = str(hyper.get(name, default))
    known = {
        "network_scaling": ("none", "1/sigma", "1/t"),
        "c_in": ("1", "edm"),
        "c_out": ("1", "sigma", "1/sigma", "edm"),
        "c_skip": ("0", "edm"),
    }
    for name, values in known.items():
        _one_of(choices, name, {v: v for v in values}, file)
    sigma_data = float(hyper.get("sigma_data", 0.1))
    return objective, Preconditioning(form="v2", predicts=kind, sigma_data=sigma_data, **choices)


def _sample_rate(hyper: dict[str, Any], version: str, file: str) -> int:
    """The 48 kHz model is known by its backbone or its transform: its `sr` is often left at the default."""
    if version == "48k" or (hyper["n_fft"], hyper["hop_length"]) == (1534, 384):
        return 48000
    if "sr" in hyper:
        return int(hyper["sr"])
    if (hyper["n_fft"], hyper["hop_length"]) == (510, 128):
        return 16000
    raise UserError(f"{file} does not say its sample rate: name it with --sample-rate")


def _one_of(hyper: dict[str, Any], name: str, choices: dict[str, Any], file: str) -> Any:
    if hyper[name] not in choices:
        raise UserError(f"{file} has {name} = {hyper[name]}: known are {', '.join(choices)}")
    return choices[hyper[name]]


def _sequence(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)

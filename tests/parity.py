"""What the published implementation computed (`../shared/data/reference-parity`), and ours of the same arrays.

`Replay(name).ours(array)` gives our value of one array of `ref-<name>.npz`; `LIMITS` says how close it must be.
"""

from __future__ import annotations

import dataclasses
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nrmodel.diffusion import bridge, sampler
from nrmodel.diffusion.objective import Objective, Preconditioning, draw_times, loss, state
from nrmodel.diffusion.process import SBVE, start
from nrmodel.model import load, pad_frames
from nrmodel.published.convert import convert, name_table, read_published, to_ours

FOLDER = Path(__file__).parents[1].parent / "shared" / "data" / "reference-parity"
NAMES = ("a", "b", "c")
needed = pytest.mark.skipif(not FOLDER.is_dir(), reason="the parity data are not beside this checkout")

# Drawn or chosen, not computed: what the other arrays are computed from.
GIVEN = {
    *("wave", "net_x", "net_y", "net_t", "sde_t", "loss_x", "loss_y", "loss_z", "loss_u", "draws"),
    *("trace_index", "grad_names", "enh_steps_kind", "variant_config"),
}
# (relative to the largest absolute value of the array)
LIMITS = {
    **dict.fromkeys(("stft", "spec_fwd", "istft_roundtrip", "istft_nolength", "enh_Y", "enh_norm_factor"), 1e-6),
    **dict.fromkeys(("sde_mean_x0coef", "sde_mean_ycoef", "sde_std", "sde_diffusion", "sde_drift_x1_y2"), 1e-6),
    **dict.fromkeys(("sb_sigma_t", "sb_sigma_T", "sb_sigma_bar", "sb_alpha_t", "sb_alpha_T", "sb_alpha_bar"), 1e-6),
    **dict.fromkeys(("loss_t", "loss_ema_weights", "resume_losses"), 1e-5),
    "variant_loss": 1e-5,
    "grad_norm": 1e-3,
    # At rtol 1e-4 both solutions are 1.7e-2 from the true one, and the adaptive steps amplify rounding: 1e-7 more at
    # the start moves the end by 1e-3, another processor's rounding (with bit-equal `model_out`) by 2.6e-3.
    "ode_sample": 1e-2,
    "sb_grid": 1e-6,
    "sb_ode_weights": 2e-4,  # the first row cancels in float32
    "enh_sample_f64": 1e-6,
}
LIMIT = 1e-4
LOOSE_C = {"enh_sample": 2e-2, "enh_wave": 2e-2, "script_wave": 2e-2, "enh_steps_sub": 2e-2, "enh_steps_norm": 2e-2}


def limit(name: str, array: str) -> float:
    if name == "c" and array in LOOSE_C:
        return LOOSE_C[array]
    return LIMITS.get(array, LIMIT)


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"ref-{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def array_names() -> list[tuple[str, str]]:
    """(file, array) of every array in the three files; nothing where they are absent."""
    if not FOLDER.is_dir():
        return []
    return [(name, key) for name in NAMES for key in arrays(name) if key not in GIVEN]


@cache
def replay(name: str) -> Replay:
    return Replay(name)


class Replay:
    """One checkpoint, converted and loaded as a user does it, and the recorded draws."""

    def __init__(self, name: str):
        import tempfile

        self.name, self.given = name, {k: torch.from_numpy(v) for k, v in arrays(name).items() if v.dtype.kind in "fci"}
        self.path = FOLDER / f"ref-{name}.ckpt"
        with tempfile.TemporaryDirectory() as folder:
            convert(self.path, Path(folder))
            self.model = load(folder)
        self.net = tuple(self.given[key] for key in ("net_x", "net_y", "net_t"))

    def ours(self, array: str) -> np.ndarray:
        """Our value of an array: the method of that name, or an entry of what one of the groups computes."""
        if hasattr(self, array):
            value = getattr(self, array)
        else:
            groups = (self.rows, self.traces, self.steps, self.enhancement, self.variants, self.gradients)
            value = next(group[array] for group in (g() for g in groups) if array in group)
        return value.detach().resolve_conj().numpy() if isinstance(value, Tensor) else np.asarray(value)

    # waves --------------------------------------------------------------------------------------------------------

    @property
    def stft(self):
        return self.model.spectrogram.stft(self.given["wave"])[:, 0]

    @property
    def spec_fwd(self):
        return self.model.spectrogram.forward(self.given["wave"])[:, 0]

    @property
    def istft_roundtrip(self):
        return self.model.spectrogram.inverse(self.given["spec_fwd"][:, None], self.given["wave"].shape[1])

    @property
    def istft_nolength(self):
        spec = self.given["stft"][:, None]
        return self.model.spectrogram.istft(spec, (spec.shape[-1] - 1) * self.model.spectrogram.hop)

    # process ------------------------------------------------------------------------------------------------------

    @cache  # noqa: B019 (the replay lives as long as the tests)
    def rows(self) -> dict[str, Tensor | np.ndarray]:
        process, t = self.model.process, self.given["sde_t"]
        of_x0, of_y = process.mean_weights(t)
        rows = {"sde_mean_x0coef": of_x0, "sde_mean_ycoef": of_y, "sde_std": process.std(t)}
        rows["sde_diffusion"] = process.diffusion(t)
        if isinstance(process, SBVE):
            passed, left, whole = process.variances(t)
            rows |= {"sb_sigma_t": passed.sqrt(), "sb_sigma_bar": left.sqrt()}
            rows["sb_sigma_T"] = torch.full_like(t, whole**0.5)
            rows |= dict.fromkeys(("sb_alpha_t", "sb_alpha_T", "sb_alpha_bar"), torch.ones_like(t))
            times, rows["sb_ode_weights"] = bridge.bridge_ode_weights(process, 5)
            rows["sb_sde_weights"] = bridge.bridge_sde_weights(process, 5)[1]
            rows["sb_grid"] = np.concatenate([[1.0], times])
        else:
            rows["sde_drift_x1_y2"] = process.drift(torch.ones_like(t), 2 * torch.ones_like(t), t)
        return rows

    # network ------------------------------------------------------------------------------------------------------

    @cached_property
    def dnn_out(self):
        x, y, t = self.net
        return self.model.network(*self.model.config.precondition.inputs(x, y, t, self.model.process), t)

    @cached_property
    def model_out(self):
        return self.model_value(*self.net)

    def model_value(self, x, y, t, model=None):
        model = model or self.model
        return model.denoised(x, y, t) if self.name == "c" else model.score(x, y, t)

    @cached_property
    def raw(self):
        """The model with the training weights in place of the averaged ones."""
        import copy

        content = read_published(self.path)
        model = copy.deepcopy(self.model)
        names = [n.removeprefix("dnn.") for n in content["state_dict"]]
        published = dict(zip(names, content["ema"]["collected_params"], strict=True))
        model.network.load_state_dict(to_ours(published, model.network))
        return model

    @cached_property
    def model_out_raw(self):
        return self.model_value(*self.net, model=self.raw)

    @cache  # noqa: B019
    def traces(self) -> dict[str, np.ndarray]:
        """Shape, mean, deviation and head of what each layer of the published list gives, in order of calls."""
        from nrmodel.network.blocks import NormSiLU
        from nrmodel.published.convert import published_layers

        network, seen = self.model.network, []
        layers = dict(published_layers(network))
        order = {name: i for i, name in enumerate(layers)}

        def record(name):
            def hook(module, inputs, out):
                if isinstance(module, NormSiLU):  # there the activation is no layer
                    out = torch.nn.functional.group_norm(
                        inputs[0], module.num_groups, module.weight, module.bias, module.eps
                    )
                seen.append((order.get(name, -1), out))

            return hook

        features = network.time.features
        network.time.features = lambda t: seen.append((0, features(t))) or seen[-1][1]
        hooks = [layer.register_forward_hook(record(name)) for name, layer in layers.items() if layer is not None]
        hooks.append(network.output.register_forward_hook(record("output")))
        try:
            self.model_value(*self.net)
        finally:
            del network.time.features
            for hook in hooks:
                hook.remove()
        given = self.given["trace_index"].tolist()
        assert [i for i, _ in seen] == given, "layers are called in another order"
        outs = [out.double() for _, out in seen]
        return {
            "trace_shape": np.array([[*out.shape, 0, 0][:4] for out in outs]),
            "trace_mean": np.array([out.mean().item() for out in outs]),
            "trace_std": np.array([out.std(correction=0).item() for out in outs]),
            "trace_head": np.stack([out[0].contiguous().flatten()[:8].numpy() for out in outs]),
        }

    # training -----------------------------------------------------------------------------------------------------

    def batch_loss(self, model, objective: Objective | None = None, precondition: Preconditioning | None = None):
        x0, y, z, u = (self.given[f"loss_{key}"] for key in "xyzu")
        objective, precondition = objective or model.config.objective, precondition or model.config.precondition
        t, at_start = draw_times(u, torch.ones_like(u), objective, model.process)
        x_t = state(x0, y, t, z, at_start, model.process)
        out = model.network(*precondition.inputs(x_t, y, t, model.process), t)
        estimates = precondition.outputs(out, x_t, y, t, model.process)
        about = {"objective": objective, "precondition": precondition, "process": model.process}
        return loss(estimates, x0, y, x_t, t, spectrogram=model.spectrogram, **about)[0]

    @property
    def loss_t(self):
        objective = self.model.config.objective
        u = self.given["loss_u"]
        return draw_times(u, torch.ones_like(u), objective, self.model.process)[0]

    @property
    def loss_ema_weights(self):
        return self.batch_loss(self.model)

    @cache  # noqa: B019
    def gradients(self) -> dict[str, np.ndarray]:
        """Gradients with the training weights; then one Adam step that continues the checkpoint's optimiser and one
        update of the average."""
        content = read_published(self.path)
        import copy

        model = copy.deepcopy(self.raw)
        network = model.network.requires_grad_(True)
        network.time.frequencies.requires_grad_(False)
        table, parameters = name_table(network), dict(network.named_parameters())
        before = self.batch_loss(model)
        before.backward()
        names = arrays(self.name)["grad_names"].tolist()
        grads = {name: parameters[table[name][0]].grad for name in names}
        first = grads["output_layer.weight"].clone()
        norms = np.array([g.double().norm().item() for g in grads.values()])

        averaged = self.model.network.state_dict()
        ordered = [parameters[ours] for ours, _ in table.values()]
        saved = content["optimizer_states"][0]
        turned = [turned for _, turned in table.values()]
        moments = {
            i: {k: v.t() if turned[i] and v.dim() == 2 else v for k, v in entry.items()}
            for i, entry in saved["state"].items()
        }
        adam = torch.optim.Adam(ordered, lr=content["hyper_parameters"]["lr"])
        adam.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})
        adam.step()
        with torch.no_grad():
            after = self.batch_loss(model).item()
            n = content["ema"]["num_updates"] + 1
            decay = min(content["ema"]["decay"], (1 + n) / (10 + n))
            network.load_state_dict(
                {k: averaged[k] + (1 - decay) * (v - averaged[k]) for k, v in network.state_dict().items()}
            )
            average = self.batch_loss(model).item()
        return {
            "grad_norm": norms,
            "grad_output_layer_weight": first,
            "resume_losses": np.array([before.item(), after, average]),
        }

    @cache  # noqa: B019
    def variants(self) -> dict[str, np.ndarray]:
        """Every combination of loss and scaling of the table, with the weights of ref-b."""
        losses, outs = [], []
        x, y, t = self.net
        for row in arrays(self.name).get("variant_config", ()):
            loss_type, weighting, scaling, c_in, c_out, c_skip = row.tolist()
            kind = {"score_matching": "score", "data_prediction": "data"}.get(loss_type, loss_type)
            precondition = Preconditioning("v2", kind, scaling.replace("None", "none"), c_in, c_out, c_skip)
            objective = dataclasses.replace(self.model.config.objective, kind=kind, weighting=weighting)
            value = self.batch_loss(self.model, objective, precondition)
            if (kind, weighting) == ("denoiser", "edm"):
                value = self.broadcast_loss(objective, precondition)
            losses.append(value.item())
            config = dataclasses.replace(self.model.config, precondition=precondition)
            out = self.model.network(*precondition.inputs(x, y, t, self.model.process), t)
            outputs = config.precondition.outputs(out, x, y, t, self.model.process)
            outs.append(outputs["x0" if kind == "data" else "score"][:, :, ::8, ::4].numpy())
        return {"variant_loss": np.array(losses), "variant_out_sub": np.array(outs)} if losses else {}

    def broadcast_loss(self, objective: Objective, precondition: Preconditioning):
        """The published `edm` weighting of the denoiser: its weight spreads over pairs of the batch, so that the loss
        is B x mean(weight) x mean(loss of an item). Ours weighs each item by its own; here we undo that."""
        plain = dataclasses.replace(objective, weighting="1")
        sigma = self.model.process.std(self.loss_t)
        weight = (sigma**2 + 0.1**2) / (sigma * 0.1) ** 2
        return len(weight) * weight.mean() * self.batch_loss(self.model, plain, precondition)

    # sampling -----------------------------------------------------------------------------------------------------

    def queue(self, draws):
        left = iter(draws)
        return lambda shape: next(left)

    @cache  # noqa: B019
    def steps(self) -> dict[str, Tensor]:
        if self.name == "c":
            return {}
        x, y, t = self.net
        process, z = self.model.process, self.given["loss_z"]
        score = lambda x, t: self.model.score(x, y, t)  # noqa: E731
        pairs = {
            "rd": sampler.PREDICTORS["reverse_diffusion"](score, process, x, y, t, 0.08, lambda _: z),
            "em": sampler.PREDICTORS["euler_maruyama"](score, process, x, y, t, 1 / 5, lambda _: z),
            "ald": sampler.CORRECTORS["ald"](score, process, x, y, t, 0.5, 1, lambda _: z),
            "lang": sampler.CORRECTORS["langevin"](score, process, x, y, t, 0.5, 1, lambda _: z),
        }
        return {
            f"step_{key}_{what}": value[:, :, ::4, ::2]
            for key, pair in pairs.items()
            for what, value in zip(("x", "mean"), pair, strict=True)
        }

    @property
    def ode_sample(self):
        y, z = self.given["net_y"][:1], self.given["loss_z"][:1]
        return sampler.probability_flow(self.model, y, None, lambda _: z, tolerance=1e-4, denoise=False)

    @property
    def pc_nocorr_sample(self):
        noise = self.queue(self.given["draws"][..., :16])
        y = self.given["net_y"][:1]
        return sampler.predictor_corrector(self.model, y, None, noise, steps=3, corrector="none", denoise=False)

    @property
    def sb_sde_sample(self):
        noise = self.queue(self.given["draws"][..., :16])
        return bridge.bridge_sde(self.model, self.given["net_y"][:1], None, noise, steps=4)

    @property
    def enh_norm_factor(self):
        return self.model.level(self.given["wave"])[0]

    @cached_property
    def enh_Y(self):
        return pad_frames(self.model.spectrogram.forward(self.given["wave"] / self.enh_norm_factor), 64, "zeros")

    @property
    def enh_xT(self):
        return start(self.model.process, self.enh_Y, self.given["draws"][0])

    @property
    def script_Y_pad(self):
        y = self.model.spectrogram.forward(self.given["wave"] / self.enh_norm_factor)
        return pad_frames(y, 64, self.model.config.pad)[..., y.shape[-1] :]

    @cache  # noqa: B019
    def enhancement(self) -> dict[str, Tensor | np.ndarray]:
        """The one-call enhancement at N = 5, every state on the way, and the script's padding."""
        sample, states = self.sample(self.enh_Y)
        script = self.sample(pad_frames(self.enh_Y[..., : self.frames], 64, self.model.config.pad))[0]
        return {
            "enh_sample": sample[0, 0],
            "enh_wave": self.to_wave(sample),
            "script_wave": self.to_wave(script),
            "enh_steps_sub": np.stack([s[0, 0, ::16, ::8].numpy() for s in states]),
            "enh_steps_norm": np.array([torch.linalg.vector_norm(s.to(torch.complex128)).item() for s in states]),
        }

    @property
    def frames(self) -> int:
        return self.model.spectrogram.frames(self.given["wave"].shape[1])

    def to_wave(self, sample):
        return self.model.spectrogram.inverse(sample, self.given["wave"].shape[1])[0] * self.enh_norm_factor

    def sample(self, y):
        """(the sample, the states named in enh_steps_kind) for N = 5."""
        model, states = self.model, []
        if self.name == "c":
            watched = Watched(model, states.append)
            return bridge.bridge_ode(watched, y, None, None, steps=5), states

        def correct(*args):
            x, mean = sampler.annealed_langevin(*args)
            states.append(x)
            return x, mean

        def predict(*args):
            x, mean = sampler.reverse_diffusion(*args)
            states.extend([x, mean])
            return x, mean

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sampler.CORRECTORS, "watched", correct)
            patch.setitem(sampler.PREDICTORS, "watched", predict)
            names = {"predictor": "watched", "corrector": "watched"}
            noise = self.queue(self.given["draws"])
            return sampler.predictor_corrector(model, y, None, noise, steps=5, **names), states

    @property
    def enh_sample_f64(self):
        """The bridge in double precision, from the recorded spectrogram."""
        import copy

        y = self.given["enh_Y"].to(torch.complex128)
        model = copy.deepcopy(self.model).double()
        return bridge.bridge_ode(model, y, None, None, steps=5)[0, 0].to(torch.complex64)


class Watched:
    """A model that shows each state it is asked about."""

    def __init__(self, model, see):
        self.model, self.see, self.process = model, see, model.process

    def denoised(self, x, y, t, z_r=None):
        self.see(x)
        return self.model.denoised(x, y, t, z_r)

    def score(self, x, y, t, z_r=None):
        self.see(x)
        return self.model.score(x, y, t, z_r)

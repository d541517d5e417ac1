"""The sizes `nr` offers, as plain data: what differs from the defaults of `ModelConfig` (see `config.from_dict`).

`nano` and `small` are the compact network; `base` is NCSN++ as published (65.6 M parameters).
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "nano": {},
    "small": {
        "network": {"type": "CompactConfig", "widths": [64, 96, 128], "blocks": [2, 2, 2], "recurrent": 256},
    },
    "base": {
        "network": {"type": "NCSNppConfig"},
        "precondition": {
            "type": "Preconditioning", "form": "v2", "predicts": "score", "network_scaling": "1/sigma",
        },
        "objective": {"type": "Objective", "kind": "score", "start_share": 0.0, "own_share": 0.0},
        "conditioning": "additive",
        "level": "max",
        "pad": "reflection",
        "z_dim": 128,
        "nfe": 60,
    },
}  # fmt: skip

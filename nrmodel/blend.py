"""Weights between two models of one training line: share * new + (1 - share) * first, stored in half precision.

What was continued on other sound loses a little where it began; in between, most of the gain is kept and the loss is
gone (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). The share is chosen on validation.

    python -m nrmodel.blend FIRST.safetensors NEW.safetensors 0.35 OUT.safetensors
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from nrdata.errors import UserError
from nrmodel import checkpoint


def blend(first: Path, new: Path, share: float, out: Path) -> str:
    """Write `out`; returns its digest. What `first` lacks (a new switch) is taken whole at share 1 and else left out.

    Raises `UserError` where `new` lacks a tensor of `first` or has it in another shape.
    """
    if not 0 <= share <= 1:
        raise UserError(f"the share of the new weights must lie in 0 to 1, not {share}")
    before = checkpoint.read_model(first)[0]
    after, config, metadata = checkpoint.read_model(new)
    for name, tensor in before.items():
        if name not in after or after[name].shape != tensor.shape:
            raise UserError(f"{new} has no '{name}' such as {first} has: it was not continued from it")
    if share == 1:
        tensors = {name: tensor.half() for name, tensor in after.items()}
    else:
        mixed = {name: share * after[name].float() + (1 - share) * tensor.float() for name, tensor in before.items()}
        tensors = {name: tensor.half() for name, tensor in mixed.items()}
        config = dataclasses.replace(config, keep=config.keep and set(after) == set(before))
    # The training data of `new` are those of `first`, too (nr train --from).
    kept = {name: metadata[name] for name in ("fingerprint", "training_data_sha256", "ref_mode") if name in metadata}
    return checkpoint.save_model(out, tensors, config, step=metadata.get("step", ""), blend=f"{share:g}", **kept)


if __name__ == "__main__":
    print(blend(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))

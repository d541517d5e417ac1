"""Which model is meant where none is named."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from nrdata.errors import UserError

KEEP = "-keep"  # ends the name of the shipped weights that remove only what the clip holds


def default_checkpoint(runs: Path | str = "runs", keep_rest: bool = False) -> tuple[Path, str]:
    """The model that ships with the package, else the only run under `runs`: (path, what to say was taken).

    `keep_rest`: the shipped one that was trained to keep what the clip does not hold.
    Raises `UserError` where there is neither, or a choice of runs, naming them.
    """
    folder = Path(str(resources.files("nrmodel.pretrained")))
    shipped = sorted(path for path in folder.glob("*.safetensors") if path.stem.endswith(KEEP) == keep_rest)
    if shipped:
        return shipped[0], f"the shipped model {shipped[0].stem}"
    runs = Path(runs)
    found = sorted({path.parent for name in ("best", "model") for path in runs.glob(f"*/{name}.safetensors")})
    if len(found) == 1:
        return found[0], f"the only run, {found[0]}"
    if found:
        names = ", ".join(str(path) for path in found)
        raise UserError(f"there are {len(found)} runs: name one with --checkpoint ({names})", kind="ambiguous")
    raise UserError(f"there is no model under {runs}/: train one (nr train) or give --checkpoint", kind="missing")

"""The data card, `README.md` beside the shards. Its head names the tars of each split.

Without it stock loaders take the index and manifest files for data.
"""

from __future__ import annotations

import re
from pathlib import Path

from nrdata import files
from nrdata.store.manifest import Manifest

NAME = "README.md"
MARK = "<!-- written by nr; remove this line to keep your changes -->"


def write_card(folder: Path, manifest: Manifest) -> bool:
    """Write the card of a data set; False, and nothing done, where there is a README that is not ours."""
    path = folder / NAME
    if path.exists() and MARK not in path.read_text(errors="replace"):
        return False
    files.write_text(path, card(manifest))
    return True


def card(manifest: Manifest) -> str:
    """The card's text: YAML head, then what the data set holds in tables."""
    splits = sorted(manifest.splits, key=lambda name: (name != "train", name))
    head = ["---", "license: other", "configs:", "- config_name: default", "  data_files:"]
    for name in splits:
        head += [f"  - split: {name.replace('-', '_')}", f"    path: {name}-*.tar"]
    rows = [
        f"| {name} | {part.samples} | {part.seconds / 3600:.2f} | {part.speakers} | {len(part.environments)} | "
        f"{sum(e.recordings for e in part.environments.values())} |"
        for name, part in ((name, manifest.splits[name]) for name in splits)
    ]
    environments = sorted({env for part in manifest.splits.values() for env in part.environments})
    table = [
        f"| {cell(env)} | "
        + " | ".join(
            f"{part.environments[env].samples}" if env in part.environments else "-"
            for part in (manifest.splits[name] for name in splits)
        )
        + " |"
        for env in environments
    ]
    clip = "`<key>.ref.flac`: a clip of the same place at another time. " if manifest.has_ref else ""
    licences = [f"- {cell(source)}: {cell(text)}" for source, text in sorted(manifest.licenses.items())]
    return "\n".join(
        [
            *head,
            "---",
            MARK,
            "",
            f"# {cell(manifest.name)}",
            "",
            f"Clean speech, noise and their sum at {manifest.sample_rate} Hz, 16 bits, mono, in WebDataset tars.",
            "`<key>.noisy.flac` is `<key>.clean.flac` plus `<key>.noise.flac`, exactly, as integers. " + clip,
            "`<key>.json` says environment, recording, speaker and signal-to-noise ratio.",
            "",
            "| split | samples | hours | speakers | environments | recordings |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "Samples of each environment:",
            "",
            f"| environment | {' | '.join(splits)} |",
            "|---|" + "---|" * len(splits),
            *table,
            "",
            "Licences of the sources:",
            "",
            *(licences or ["- not stated"]),
            "",
            f"Fingerprint: `{manifest.fingerprint}`. Made with "
            + ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
            + ".",
            "",
            "Read it with `nrdata.open(folder)`, stock `webdataset`, or `datasets.load_dataset(folder)` (which decodes",
            "sound only where the package `torchcodec` is installed); check it with `nr verify-shards`.",
            "",
        ]
    )


def cell(text: str) -> str:
    """Text from data made harmless in Markdown: no line ends, table bars or tags."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")

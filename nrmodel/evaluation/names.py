"""What a reader calls a system and its clip, for pictures; tables keep the names of rows."""

from __future__ import annotations

from nrmodel.evaluation.schema import Setting

CLIPS = {
    "none": "no clip",
    "disjoint": "clip of the same place",
    "env": "clip of such a place",
    "mismatch": "clip of another place",
    "oracle": "the noise itself",
    "zeros": "silence for a clip",
    "white": "white noise for a clip",
    "spectrum": "noise of the place's spectrum",
    "leak": "clip with speech",
    "given": "the clip given",
}
TREATMENTS = {"": "", "eq": ", another microphone", "mp3": ", through MP3"}
SYSTEMS = {
    "noisy": "noisy",
    "enhanced": "the estimates",
    "peer:conv-tasnet": "Conv-TasNet",
    "peer:deepfilternet3": "DeepFilterNet3",
    "peer:dtln": "DTLN",
    "peer:mmse-lsa": "MMSE-LSA",
    "peer:rnnoise": "RNNoise",
}


def clip_name(mode: str) -> str:
    """A mode in words; one that has none here (a law of somebody's own) by its name."""
    base, _, treatment = mode.partition("+")
    base, _, level = base.partition(":")
    return f"{CLIPS.get(base, base)}{f' at {level} dB' if level else ''}{TREATMENTS.get(treatment, treatment)}"


def system_name(setting: Setting, models: int = 1) -> str:
    """A system, its clip and what else is not usual of it (a clip of another length than a second, several calls); the
    digest of a model of ours only where there are several."""
    ours = setting.system.startswith("nr:")
    name = setting.system.replace(":", " ") if models > 1 else "nr"
    if not ours:
        name = SYSTEMS.get(setting.system, setting.system.removeprefix("peer:"))
    parts = [name, clip_name(setting.mode) if ours or setting.mode != "none" else ""]
    parts.append(f"{setting.ref_seconds:g} s" if setting.ref_seconds not in (0.0, 1.0) else "")
    parts.append(f"{setting.nfe} calls" if setting.nfe > 1 else "")
    return ", ".join(part for part in parts if part)

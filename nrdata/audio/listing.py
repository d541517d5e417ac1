"""Which files below a folder are sound: those that libsndfile reads, and those that would need another decoder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import soundfile as sf

from nrdata.errors import UserError

# How files of libsndfile's formats are named; a format that is not here has its own name (`.abc` of ABC). RAW has no
# header: rate and bits of such a file are known to nobody.
NAMES = {
    "WAV": ("wav", "wave"), "AIFF": ("aif", "aiff", "aifc", "afc"), "AU": ("au", "snd"), "OGG": ("ogg", "oga", "opus"),
    "MP3": ("mp3", "mp2", "mp1", "mpga"), "NIST": ("sph", "nist", "nis"), "SVX": ("iff", "svx", "8svx", "16sv"),
    "IRCAM": ("sf", "ircam"), "MAT4": ("mat",), "MAT5": ("mat",), "MPC2K": ("snd", "mpc2k"), "WAVEX": ("wav",),
    "RAW": (),
}  # fmt: skip


def extensions(kinds: Iterable[str]) -> tuple[str, ...]:
    """The endings of files of libsndfile's formats, sorted."""
    return tuple(sorted({f".{name}" for kind in kinds for name in NAMES.get(kind, (kind.lower(),))}))


EXTENSIONS = extensions(sf.available_formats())
FOREIGN = (
    ".m4a", ".m4b", ".aac", ".adts", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".3ga", ".amr", ".awb", ".wma", ".asf",
    ".wmv", ".webm", ".weba", ".mkv", ".mka", ".avi", ".flv", ".mpg", ".mpeg", ".vob", ".ac3", ".eac3", ".dts", ".ape",
    ".wv", ".tta", ".tak", ".shn", ".mpc", ".spx", ".ra", ".rm", ".qcp", ".dsf", ".dff", ".raw", ".pcm", ".vox", ".gsm",
)  # fmt: skip


def list_audio(folder: Path | str) -> list[Path]:
    """All sound files under `folder` (by extension, any case), sorted; what operating systems leave is ignored."""
    return sorted(_named(folder, EXTENSIONS))


def list_foreign(folder: Path | str) -> list[Path]:
    """What is sound or film under `folder`, by extension, and cannot be read here; sorted."""
    return sorted(_named(folder, FOREIGN))


def is_foreign(name: Path | str) -> bool:
    """Whether a file is, by its extension, sound or film that cannot be read here."""
    return str(name).lower().endswith(FOREIGN)


def why_foreign(name: Path | str) -> str:
    """The reason, and what to do."""
    suffix = Path(name).suffix.lower()
    if suffix in (".raw", ".pcm"):
        return f"{suffix} files have no header: write them as WAV with their rate and bits"
    return f"{suffix} files need another decoder: convert them to WAV or FLAC (ffmpeg -i IN OUT.flac)"


def _named(folder: Path | str, extensions: tuple[str, ...]) -> Iterator[Path]:
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", kind="missing")
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name != "__MACOSX"]
        yield from (Path(root) / n for n in names if n.lower().endswith(extensions) and not n.startswith("._"))

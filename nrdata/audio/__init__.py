"""The one place that reads, writes, resamples and measures sound.

Arrays are float32 in [-1, 1), shape (frames, channels) from files; 16-bit integers where sound is stored
(`float = int / 32768`).
"""

from nrdata.audio.flac import decode_flac, encode_flac, flac_frames
from nrdata.audio.levels import ChannelsCancel, downmix, energy, power, resample, rms, rms_dbfs, to_mono
from nrdata.audio.listing import EXTENSIONS, is_foreign, list_audio, list_foreign, why_foreign
from nrdata.audio.reading import BLOCK, AudioInfo, blocks, probe, read
from nrdata.audio.writing import container, write, writer

__all__ = [
    "BLOCK", "EXTENSIONS", "AudioInfo", "ChannelsCancel", "blocks", "container", "decode_flac", "downmix",
    "encode_flac", "energy", "flac_frames", "is_foreign", "list_audio", "list_foreign", "power", "probe", "read",
    "resample", "rms", "rms_dbfs", "to_mono", "why_foreign", "write", "writer",
]  # fmt: skip

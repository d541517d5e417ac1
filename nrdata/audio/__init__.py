"""The one place that reads, writes, resamples and measures sound.

Arrays are float32 in [-1, 1), shape (frames, channels) from files; 16-bit integers where sound is stored
(`float = int / 32768`).
"""

from nrdata.audio.flac import decode_flac, encode_flac, flac_frames
from nrdata.audio.levels import ChannelsCancel, energy, power, resample, rms, rms_dbfs, to_mono
from nrdata.audio.listing import EXTENSIONS, list_audio
from nrdata.audio.reading import BLOCK, AudioInfo, blocks, probe, read
from nrdata.audio.writing import container, write, writer

__all__ = [
    "BLOCK", "EXTENSIONS", "AudioInfo", "ChannelsCancel", "blocks", "container", "decode_flac", "encode_flac", "energy",
    "flac_frames", "list_audio", "power", "probe", "read", "resample", "rms", "rms_dbfs", "to_mono", "write", "writer",
]  # fmt: skip

"""Sound that libsndfile does not decode (.m4a, .mp4, .webm, .aac, .wma, films), and the picture beside it: by PyAV
(`nr[video]`), or by ffmpeg where that is installed. A file is read as what its bytes are, never as a list of others.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile as sf

from nrdata import audio
from nrdata.errors import UserError

EXTENSIONS = (".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".mkv", ".mka", ".webm", ".aac", ".wma", ".wmv", ".avi", ".3gp",
              ".flv", ".mpg", ".mpeg", ".ts", ".amr")  # fmt: skip
MUXED = {".mp4": ("mp4", "aac"), ".m4v": ("mp4", "aac"), ".mov": ("mov", "aac"), ".m4a": ("ipod", "aac"),
         ".mkv": ("matroska", "aac"), ".mka": ("matroska", "aac"), ".webm": ("webm", "libopus"),
         ".aac": ("adts", "aac")}  # fmt: skip
FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")  # of the above those that hold a picture
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,asf,avi,flv,mpeg,mpegts,amr,wav,caf,ogg,mp3"  # no playlists
LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")  # by number of channels
GAP_SECONDS = (0.05, 600.0)  # a hole in the time stamps of this length becomes silence, so that lips and sound agree
FFMPEG = ("ffmpeg", "-hide_banner", "-nostdin", "-format_whitelist", DEMUXERS)


@dataclass(frozen=True)
class Media:
    """What a file holds. `seconds` is 0 where that is not known."""

    sample_rate: int
    channels: int
    seconds: float
    picture: bool
    tracks: int


def probe(path: Path) -> Media:
    """Raises `UserError` (no_decoder), or (unreadable) where there is no sound in it."""
    if importlib.util.find_spec("av"):
        return _probe_av(path)
    if shutil.which("ffmpeg"):
        return _probe_ffmpeg(path)
    raise UserError(f"{path} needs a decoder: pip install 'nr[video]', or install ffmpeg", kind="no_decoder")


def decode(path: Path, wave: Path, most_seconds: float = math.inf) -> str:
    """Write the first sound track from the beginning of the film on, at its rate, to `wave` (.w64, float32), a little
    more than `most_seconds` of it at most. Returns what is to be said where it is cut short."""
    return (_decode_av if importlib.util.find_spec("av") else _decode_ffmpeg)(path, wave, most_seconds)


def check_writable(path: Path, channels: int) -> None:
    """Raises `UserError` (no_decoder, container) where a file of this kind cannot be written."""
    if path.suffix.lower() not in MUXED:
        raise UserError(f"{path}: '{path.suffix}' files are read, not written: use .wav, .flac or .mp4", "container")
    if not importlib.util.find_spec("av") and not shutil.which("ffmpeg"):
        raise UserError(f"{path} needs an encoder: pip install 'nr[video]', or install ffmpeg", kind="no_decoder")
    if channels > len(LAYOUTS):
        raise UserError(f"{path} cannot hold {channels} channels: --format wav can", kind="container")


def mux(film: Path | None, wave: Path, file: IO[bytes], suffix: str) -> None:
    """Write the sound of `wave` into the open `file`, of the kind of `suffix`, beside the picture and the subtitles of
    `film`, which are copied as they are."""
    if importlib.util.find_spec("av"):
        _mux_av(film, wave, file, suffix)
    else:
        _mux_ffmpeg(film, wave, file, suffix)


# --- PyAV -------------------------------------------------------------------------------------------------------------


def _open(file: IO[bytes], path: Path) -> Any:
    import av

    try:
        return av.open(file, options={"format_whitelist": DEMUXERS})
    except av.FFmpegError as e:
        raise _unreadable(path, e.strerror) from e


def _unreadable(path: Path, reason: str | None) -> UserError:
    return UserError(f"{path} is not a sound file that can be decoded ({reason})", kind="unreadable")


def _is_picture(stream: Any) -> bool:
    return stream.type == "video" and not stream.disposition & stream.disposition.attached_pic


def _probe_av(path: Path) -> Media:
    with path.open("rb") as file, _open(file, path) as media:
        if not media.streams.audio:
            raise _unreadable(path, "it has no sound")
        sound = media.streams.audio[0]
        picture = any(_is_picture(stream) for stream in media.streams)
        seconds = (media.duration or 0) / 1e6
        return Media(sound.rate, sound.channels, seconds, picture, len(media.streams.audio))


def _decode_av(path: Path, wave: Path, most_seconds: float) -> str:
    import av

    done, cut, declared = 0, "", 0.0
    with path.open("rb") as file, _open(file, path) as media:
        sound, begin = media.streams.audio[0], (media.start_time or 0) / 1e6
        if sound.duration:
            declared = float(sound.duration * sound.time_base)
        frames = media.decode(sound)
        try:
            first = next(frames, None)
        except av.FFmpegError as e:
            raise _unreadable(path, e.strerror) from e
        if first is None:
            raise _unreadable(path, "its sound is empty")
        rate, channels = first.sample_rate, len(first.layout.channels)
        to_float = av.AudioResampler(format="flt", layout=first.layout.name, rate=rate)
        with audio.writer(wave, rate, channels, "FLOAT") as put:
            try:
                for frame in itertools.chain([first], frames):
                    late = (frame.time or 0.0) - begin - done / rate
                    if frame.time is not None and GAP_SECONDS[0] < late < GAP_SECONDS[1]:
                        put(np.zeros((round(late * rate), channels), np.float32))
                        done += round(late * rate)
                    for piece in to_float.resample(frame):
                        put(piece.to_ndarray().reshape(-1, channels))
                        done += piece.samples
                    if done / rate > most_seconds:
                        return ""
            except av.FFmpegError as e:
                cut = f"damaged or cut short ({e.strerror})"
    if not cut and done / rate < declared - 0.5:
        cut = f"cut short: {done / rate:.2f} s of {declared:.2f} s readable"
    return f"{path} is {cut} (the first {done / rate:.2f} s)" if cut else ""


def _mux_av(film: Path | None, wave: Path, file: IO[bytes], suffix: str) -> None:
    import av

    container, codec = MUXED[suffix]
    info = sf.info(wave)
    with av.open(file, "w", format=container) as out:
        if film is None:
            sound = _sound_stream(out, codec, info)
            for _, encoded in _encoded(sound, wave, info, 0.0):
                out.mux(encoded)
            return
        with film.open("rb") as source, _open(source, film) as media:
            kept = {s.index: out.add_stream_from_template(s) for s in media.streams
                    if _is_picture(s) or s.type == "subtitle"}  # fmt: skip
            sound = _sound_stream(out, codec, info)
            out.metadata.update(media.metadata)
            packets = _encoded(sound, wave, info, (media.start_time or 0) / 1e6)
            at = -1.0
            for packet in media.demux(*(media.streams[i] for i in kept)):
                if packet.dts is None:
                    continue
                now = float(packet.dts * packet.time_base)
                while at < now and (more := next(packets, None)) is not None:  # side by side, so that little is held
                    at = more[0]
                    out.mux(more[1])
                packet.stream = kept[packet.stream.index]
                out.mux(packet)
            for _, rest in packets:
                out.mux(rest)


def _sound_stream(out: Any, codec: str, info: Any) -> Any:
    import av

    rates = av.Codec(codec, "w").audio_rates
    rate = info.samplerate if not rates or info.samplerate in rates else 48000
    sound = out.add_stream(codec, rate=rate, layout=LAYOUTS[info.channels - 1])
    sound.bit_rate = _bit_rate(rate, info.channels)
    return sound


def _bit_rate(rate: int, channels: int) -> int:
    return min(96000, 4 * rate) * channels


def _encoded(sound: Any, wave: Path, info: Any, begin: float) -> Iterator[tuple[float, list[Any]]]:
    """(seconds reached, packets) of a sound that starts at `begin`."""
    import av

    codec = sound.codec_context
    if not codec.is_open:  # by the first packet of a picture
        codec.open()
    converter = av.AudioResampler(codec.format, codec.layout, codec.sample_rate, codec.frame_size or None)
    done = 0
    for x in audio.blocks(wave, 1 << 14):
        frame = av.AudioFrame.from_ndarray(x.reshape(1, -1), format="flt", layout=LAYOUTS[info.channels - 1])
        frame.sample_rate, frame.time_base = info.samplerate, Fraction(1, info.samplerate)
        frame.pts = round(begin * info.samplerate) + done
        done += len(x)
        packets = [p for piece in converter.resample(frame) for p in sound.encode(piece)]
        yield begin + done / info.samplerate, packets
    yield float("inf"), [p for piece in [*converter.resample(None), None] for p in sound.encode(piece)]


# --- ffmpeg -----------------------------------------------------------------------------------------------------------


def _run(arguments: list[str], path: Path) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["?"]
        raise _unreadable(path, last[0].rpartition(": ")[2])
    return done


def _url(path: Path) -> str:
    return f"file:{path.absolute()}"


def _probe_ffmpeg(path: Path) -> Media:
    path.open("rb").close()  # what keeps it from being opened is told by the system
    done = _run([*FFMPEG, "-i", _url(path), "-map", "0:a:0", "-frames:a", "1", "-f", "wav", "-"], path)
    head = sf.info(io.BytesIO(done.stdout))
    told = done.stderr.decode(errors="replace").split("\nOutput #")[0]
    streams = re.findall(r"^ *Stream #0:.*$", told, re.MULTILINE)
    length = re.search(r"^ *Duration: (\d+):(\d+):([\d.]+)", told, re.MULTILINE)
    hours, minutes, rest = map(float, length.groups()) if length else (0.0, 0.0, 0.0)
    picture = any(": Video: " in line and "(attached pic)" not in line for line in streams)
    tracks = sum(": Audio: " in line for line in streams)
    return Media(head.samplerate, head.channels, 3600 * hours + 60 * minutes + rest, picture, tracks)


def _decode_ffmpeg(path: Path, wave: Path, most_seconds: float) -> str:
    whole = ["-af", "aresample=async=1:first_pts=0", "-c:a", "pcm_f32le", "-f", "w64", "-y", _url(wave)]
    limit = [] if math.isinf(most_seconds) else ["-t", f"{most_seconds + 0.1:.3f}"]
    done = _run([*FFMPEG, "-v", "error", "-i", _url(path), "-map", "0:a:0", *limit, *whole], path)
    told = done.stderr.decode(errors="replace").strip().splitlines()
    return f"{path} is damaged or cut short ({told[-1]})" if told else ""


def _mux_ffmpeg(film: Path | None, wave: Path, file: IO[bytes], suffix: str) -> None:
    container, codec = MUXED[suffix]
    info = sf.info(wave)
    sources = [*(["-i", _url(film)] if film else []), "-i", _url(wave)]
    maps = ["-map", "0:V", "-map", "0:s?", "-map", "1:a"] if film else ["-map", "0:a"]
    rate = ["-ar", "48000"] if codec == "libopus" else []
    sound = ["-c", "copy", "-c:a", codec, "-b:a", str(_bit_rate(info.samplerate, info.channels)), *rate]
    _run([*FFMPEG, "-v", "error", *sources, *maps, *sound, "-f", container, "-y", _url(Path(file.name))], film or wave)

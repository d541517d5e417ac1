"""Sound that takes a decoder, and films: by PyAV and by ffmpeg, whichever is there; without either, a sentence."""

from __future__ import annotations

import importlib.util
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import noise, speech
from stand_ins import tiny_checkpoint

from cli.main import run
from nrmodel.enhancement import media

RATE = 16000
SECONDS = 1.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def nr(checkpoint, tmp_path, monkeypatch, capsys):
    """`nr(*arguments)` -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments) -> tuple[int, str, str]:
        code = run(["enhance", "--checkpoint", str(checkpoint), *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "internal error" not in err, err
        return code, out, err

    return call


@pytest.fixture(params=["PyAV", "ffmpeg"])
def decoder(request, monkeypatch) -> str:
    """Each in turn; ffmpeg only where it is installed. Test files are made by PyAV."""
    pytest.importorskip("av")
    if request.param == "ffmpeg":
        if not shutil.which("ffmpeg"):
            pytest.skip("no ffmpeg here")
        monkeypatch.setattr(media.importlib.util, "find_spec", lambda name: None)
    return request.param


def mixture(rate: int = RATE) -> np.ndarray:
    return (0.3 * (speech(SECONDS, 0, rate) + noise(SECONDS, 1, 0, rate))).astype(np.float32)


def make(path: str, kind: str, codec: str, rate: int, picture: str | None = None, begin: float = 0.0) -> np.ndarray:
    """A file of sound that starts at `begin`, beside a picture of ten frames a second; returns the sound."""
    import av

    x = mixture(rate)
    with Path(path).open("w+b") as file, av.open(file, "w", format=kind) as out:
        if picture:
            film = out.add_stream(picture, rate=10)
            film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(codec, rate=rate, layout="mono")
        if picture:
            for i in range(int(10 * SECONDS)):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 16 * i, np.uint8), format="rgb24")
                frame.pts = i
                out.mux(film.encode(frame))
            out.mux(film.encode(None))
        sound.bit_rate = 64000
        codec_context = sound.codec_context
        if not codec_context.is_open:
            codec_context.open()
        to_codec = av.AudioResampler(codec_context.format, "mono", rate, codec_context.frame_size or None)
        frame = av.AudioFrame.from_ndarray(x[None], format="flt", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(begin * rate)
        for piece in [*to_codec.resample(frame), *to_codec.resample(None), None]:
            out.mux(sound.encode(piece))
    return x


def sound_of(path: str) -> tuple[np.ndarray, int]:
    media.decode(Path(path), Path("decoded.w64"))
    return sf.read("decoded.w64", dtype="float32")


def pictures(path: str) -> list[bytes]:
    import av

    with av.open(path) as file:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "kind", "codec", "rate"),
    [("a.m4a", "ipod", "aac", 44100), ("a.aac", "adts", "aac", 16000), ("a.webm", "webm", "libopus", 48000),
     ("a.wma", "asf", "wmav2", 44100), ("colon:a.mp4", "mp4", "aac", 16000), ("noext", "mp4", "aac", 22050)],
)  # fmt: skip
def test_sound_that_takes_a_decoder_is_enhanced_like_any(nr, decoder, name, kind, codec, rate):
    x = make(name, kind, codec, rate)
    code, out, err = nr(name, "--out", "o")
    assert code == 0, err
    made = next(Path("o").glob("*.wav"))
    y, found = sf.read(made, dtype="float32")
    assert found == rate and abs(len(y) - len(x)) < 0.15 * rate and "PCM_16" in out
    decoded, _ = sound_of(name)
    sf.write("same.wav", decoded, rate, "FLOAT")
    nr("same.wav", "--out", "o2")
    assert np.abs(y - sf.read("o2/same.wav")[0]).max() < 1e-3
    n = min(len(x), len(decoded))
    if kind not in ("adts", "asf"):  # which do not say by how much their encoders are late
        assert np.corrcoef(x[:n], decoded[:n])[0, 1] > 0.7  # it starts where the sound does


@pytest.mark.parametrize(("name", "kind", "codec", "picture"), [
    ("f.mp4", "mp4", "aac", "mpeg4"), ("f.mkv", "matroska", "aac", "mpeg4"), ("f.webm", "webm", "libopus", "libvpx"),
    ("f.mov", "mov", "aac", "mpeg4"), ("f.avi", "avi", "pcm_s16le", "mpeg4"),
])  # fmt: skip
@pytest.mark.parametrize("begin", [0.0, 0.4])
def test_of_a_film_the_picture_is_kept(nr, decoder, name, kind, codec, picture, begin):
    rate = 48000 if codec == "libopus" else RATE
    make(name, kind, codec, rate, picture, begin if kind != "avi" else 0.0)
    code, _, err = nr(name, "--out", "o", "--residual", "--strength", "0")  # the sound itself, so that it can be found
    assert code == 0, err
    made = f"o/{name.replace('.avi', '.mkv')}"
    assert sorted(path.name for path in Path("o").iterdir()) == sorted(
        ["enhance.jsonl", Path(made).name, "f.residual.wav"]
    )
    assert pictures(made) == pictures(name)
    (x, _), (y, after) = sound_of(name), sound_of(made)
    assert after == rate
    n = min(len(x), len(y))
    assert abs(len(x) - len(y)) < 0.15 * rate
    lag = np.argmax(np.fft.irfft(np.fft.rfft(y[:n], 2 * n) * np.conj(np.fft.rfft(x[:n], 2 * n))))
    assert min(lag, 2 * n - lag) < 0.005 * rate  # lips and sound agree
    assert nr(name, "--out", "o", "--residual", "--strength", "0")[1].count("kept") == 1


def test_of_a_film_the_sound_alone_when_asked(nr, decoder):
    make("f.mp4", "mp4", "aac", RATE, "mpeg4")
    assert nr("f.mp4", "--format", "flac", "--out", "o")[0] == 0 and sf.info("o/f.flac").samplerate == RATE
    sf.write("a.wav", mixture(), RATE)
    assert nr("a.wav", "-o", "a.m4a", "--ref", "f.mp4")[0] == 0 and len(sound_of("a.m4a")[0]) > RATE


def test_what_no_decoder_knows_is_told(nr, decoder):
    Path("memo.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(5000))
    Path("list.m4a").write_text("#EXTM3U\n#EXTINF:1,\n/etc/hostname\n")
    sf.write("a.wav", mixture(), RATE)
    code, out, err = nr("memo.m4a", "list.m4a", "a.wav", "--out", "o")
    assert code == 1 and "1 of 3 files whole" in out and err.count("not a sound file") == 2


def test_without_a_decoder_a_sentence_names_the_extra(nr, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(media.shutil, "which", lambda name: None)
    Path("memo.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(5000))
    sf.write("a.wav", mixture(), RATE)
    for arguments in (("memo.m4a",), ("a.wav", "-o", "x.mp4"), ("a.wav", "--ref", "memo.m4a")):
        code, _, err = nr(*arguments)
        assert code == 2 and "nr[video]" in err and "ffmpeg" in err and err.count("\n") == 1
    Path("memo.m4a").write_bytes(Path("a.wav").read_bytes())
    assert nr("memo.m4a", "--out", "o")[0] == 0  # a name decides nothing

"""Reading, writing and measuring sound: what headers claim, what files are called, what containers can hold."""

from __future__ import annotations

import os
import resource
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from helpers import names, noise, speech
from hypothesis import given, settings
from hypothesis import strategies as st

from nrdata import audio
from nrdata.audio import listing
from nrdata.errors import UserError

X = speech(1.0, 3)
KINDS = ["wav", "flac", "ogg", "opus", "mp3", "aiff", "w64", "rf64"]


def kind_of(function, *args):
    with pytest.raises(UserError) as e:
        function(*args)
    assert "\n" not in str(e.value)
    return e.value.kind


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "w64", "rf64"])
def test_sixteen_bits_survive(tmp_path, suffix):
    x16 = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    audio.write(tmp_path / f"x.{suffix}", x16, 16000)
    got, rate = audio.read(tmp_path / f"x.{suffix}")
    assert rate == 16000 and got.dtype == np.float32 and got.shape == (5000, 1)
    assert np.array_equal(got[:, 0] * 32768, x16)


def test_wav_and_flac_round_alike(tmp_path):
    x = (np.arange(-1000, 1000) + 0.5).astype(np.float32) / 32768  # libsndfile floors these in WAV, rounds them in FLAC
    for suffix in ("wav", "flac"):
        audio.write(tmp_path / f"x.{suffix}", x, 16000)
    a, b = (audio.read(tmp_path / f"x.{s}")[0] for s in ("wav", "flac"))
    assert np.array_equal(a, b)
    assert np.array_equal(a[:, 0] * 32768, np.rint(x.astype(float) * 32768))


@pytest.mark.parametrize(("subtype", "step"), [("PCM_24", 2**-24), ("PCM_32", 2**-24), ("FLOAT", 0), ("PCM_U8", 2**-8)])
def test_depths(tmp_path, subtype, step):
    audio.write(tmp_path / "x.wav", X, 16000, subtype)
    got, _ = audio.read(tmp_path / "x.wav")
    assert audio.probe(tmp_path / "x.wav").subtype == subtype
    assert np.max(np.abs(got[:, 0] - X)) <= step


def test_float_wav_is_never_read_as_integers(tmp_path):
    sf.write(tmp_path / "x.wav", np.full(100, 0.5, np.float32), 16000, "FLOAT")
    assert np.all(audio.read(tmp_path / "x.wav")[0] == 0.5)


def test_extensible_24_bit_stereo(tmp_path):
    x = np.stack([X[:13230], -0.5 * X[:13230]], 1)
    sf.write(tmp_path / "w.wav", x, 44100, format="WAVEX", subtype="PCM_24")
    got, rate = audio.read(tmp_path / "w.wav")
    assert (rate, got.shape) == (44100, (13230, 2))
    assert np.max(np.abs(got - x)) < 2**-22


def test_telephone_ulaw(tmp_path):
    sf.write(tmp_path / "t.wav", audio.resample(X, 16000, 8000), 8000, subtype="ULAW")
    got, rate = audio.read(tmp_path / "t.wav")
    assert (rate, len(got)) == (8000, 8000)


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_keeps_its_length(tmp_path, suffix, channels):
    x = X if channels == 1 else np.stack([X, 0.5 * X], 1)
    audio.write(tmp_path / f"x.{suffix}", x, 16000)
    got, _ = audio.read(tmp_path / f"x.{suffix}")
    assert got.shape == (16000, channels)
    assert np.corrcoef(got[:, 0], X)[0, 1] > 0.9


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("share", [0.999, 0.5, 0.1])
def test_truncated_files_are_told(tmp_path, suffix, share):
    audio.write(tmp_path / f"x.{suffix}", X, 16000)
    data = (tmp_path / f"x.{suffix}").read_bytes()
    (tmp_path / f"x.{suffix}").write_bytes(data[: int(len(data) * share)])
    assert kind_of(audio.read, tmp_path / f"x.{suffix}") in ("truncated", "unreadable")


@pytest.mark.parametrize("suffix", ["flac", "ogg", "opus"])
def test_flipped_bits_are_told_where_the_format_can_tell(tmp_path, suffix):
    audio.write(tmp_path / f"x.{suffix}", X, 16000)
    data = (tmp_path / f"x.{suffix}").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(data)
        damaged[rng.integers(len(data) // 2, len(data))] ^= 1 << rng.integers(8)
        (tmp_path / f"x.{suffix}").write_bytes(damaged)
        assert kind_of(audio.read, tmp_path / f"x.{suffix}") in ("truncated", "unreadable")


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_what_can_be_read_of_a_cut_file_is_read_first(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    audio.write(path, X, 16000)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    got: list[np.ndarray] = []
    with pytest.raises(UserError, match="cut short"):
        got.extend(audio.blocks(path, 1000))
    have = np.concatenate(got)[:, 0]
    assert 8000 < len(have) < 16000
    assert np.allclose(have, X[: len(have)], atol=1 / 32768)


@pytest.mark.parametrize("declared", [0, 2**36 - 1, 2**35])
def test_flac_of_a_streaming_encoder(tmp_path, declared):
    """CASES I2: STREAMINFO says 0 or an impossible number of samples; all 16000 are there."""
    audio.write(tmp_path / "x.flac", X, 16000)
    data = bytearray((tmp_path / "x.flac").read_bytes())
    data[21] = (data[21] & 0xF0) | (declared >> 32)
    data[22:26] = (declared & 0xFFFFFFFF).to_bytes(4, "big")
    (tmp_path / "y.flac").write_bytes(data)
    assert audio.probe(tmp_path / "y.flac").frames is None
    want, _ = audio.read(tmp_path / "x.flac")
    assert np.array_equal(audio.read(tmp_path / "y.flac")[0], want)
    for block in (1000, 4096, 16000, 100000):
        assert np.array_equal(np.concatenate(list(audio.blocks(tmp_path / "y.flac", block))), want)
    assert np.array_equal(audio.read(tmp_path / "y.flac", 5000, 9000)[0], want[5000:9000])
    assert kind_of(audio.read, tmp_path / "y.flac", 0, 16001) == "too_short"


def patched_wav(path: Path, size: int) -> Path:
    audio.write(path, X, 16000)
    data = bytearray(path.read_bytes())
    assert data[36:40] == b"data"
    data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_wav_of_unknown_length_is_read_to_its_end(tmp_path, size):
    path = patched_wav(tmp_path / "x.wav", size)
    with pytest.warns(UserWarning, match="length open"):
        assert len(audio.read(path)[0]) == 16000
    with pytest.warns(UserWarning, match="length open"):
        assert sum(map(len, audio.blocks(path, 777))) == 16000


@pytest.mark.parametrize(("size", "kind"), [(64000, "truncated"), (16000, "header"), (31000, "header")])
def test_wav_headers_that_lie(tmp_path, size, kind):
    assert kind_of(audio.read, patched_wav(tmp_path / "x.wav", size)) == kind


def test_wav_longer_than_32_bits_can_say(tmp_path):
    path = patched_wav(tmp_path / "x.wav", 32000)
    with path.open("r+b") as file:
        file.truncate((1 << 32) + 44 + 32000)  # sparse: 4 GiB more
    with pytest.raises(UserError, match="RF64 or FLAC"):
        audio.read(path)


def test_an_odd_chunk_before_the_sound(tmp_path):
    path = patched_wav(tmp_path / "x.wav", 0)
    data = path.read_bytes()
    path.write_bytes(data[:36] + b"LIST" + struct.pack("<I", 5) + b"INFOx\0" + data[36:])
    with pytest.warns(UserWarning, match="length open"):
        assert np.array_equal(audio.read(path)[0][:, 0], np.rint(X * 32768) / 32768)


def test_ogg_cut_between_pages(tmp_path):
    audio.write(tmp_path / "x.ogg", noise(3.0), 16000)
    data = (tmp_path / "x.ogg").read_bytes()
    (tmp_path / "x.ogg").write_bytes(data[: data.rindex(b"OggS")])
    assert kind_of(audio.read, tmp_path / "x.ogg") == "truncated"


def test_chunks_behind_the_sound_are_no_sound(tmp_path):
    audio.write(tmp_path / "x.wav", X[:15999], 16000, "PCM_U8")  # an odd number of bytes: padded
    data = (tmp_path / "x.wav").read_bytes()
    tagged = data + b"LIST" + struct.pack("<I", 4000) + b"INFO" + bytes(3996)
    for i, content in enumerate((tagged, tagged + b"junk" * 100, data + bytes(128))):
        (tmp_path / f"{i}.wav").write_bytes(content)
        assert len(audio.read(tmp_path / f"{i}.wav")[0]) == 15999


@pytest.mark.parametrize(("content", "kind"), [(b"", "empty"), (b"hello, this is text " * 40, "unreadable")])
def test_no_sound_at_all(tmp_path, content, kind):
    (tmp_path / "x.wav").write_bytes(content)
    assert kind_of(audio.read, tmp_path / "x.wav") == kind


def test_missing_folder_forbidden_are_different_sentences(tmp_path):
    assert kind_of(audio.read, tmp_path / "nothing.wav") == "missing"
    assert kind_of(audio.read, tmp_path) == "folder"
    (tmp_path / "x.wav").write_bytes(b"x")
    (tmp_path / "x.wav").chmod(0)
    if os.getuid():
        assert kind_of(audio.read, tmp_path / "x.wav") == "permission"
    sf.write(tmp_path / "e.wav", np.zeros(0), 16000)
    assert kind_of(audio.read, tmp_path / "e.wav") == "empty"


def test_nan_is_refused_with_place_and_count(tmp_path):
    x = X.copy()
    x[[4000, 9000, 9001]] = np.nan, np.inf, -np.inf
    sf.write(tmp_path / "x.wav", x, 16000, "FLOAT")
    with pytest.raises(UserError, match=r"3 non-finite samples .*first at 0\.25 s") as e:
        audio.read(tmp_path / "x.wav")
    assert e.value.kind == "not_finite"
    assert kind_of(lambda p: list(audio.blocks(p, 500)), tmp_path / "x.wav") == "not_finite"
    assert len(audio.read(tmp_path / "x.wav", 9002)[0]) == 6998


@pytest.mark.parametrize(
    "name", [b" a b.wav", b"a\nb.wav", b"-x.wav", "ü🎤.wav".encode(), b"a\xffb.wav", b"#?%{1..2}.wav"]
)
def test_any_name_works(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    audio.write(path, X, 16000)
    assert len(audio.read(path)[0]) == 16000
    assert audio.list_audio(tmp_path) == [path]


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 16000), length=st.integers(0, 16000), suffix=st.sampled_from(["flac", "wav"]))
def test_a_crop_is_the_part_of_the_whole(tmp_path_factory, start, length, suffix):
    path = tmp_path_factory.getbasetemp() / f"crop.{suffix}"
    if not path.exists():
        audio.write(path, X, 16000)
    stop = min(16000, start + length)
    assert np.array_equal(audio.read(path, start, stop)[0], audio.read(path)[0][start:stop])


@pytest.mark.parametrize("n", [1, 255, 256, 257, 16100])
def test_any_length_from_one_sample_up(tmp_path, n):
    audio.write(tmp_path / "x.flac", np.full(n, 0.25, np.float32), 16000)
    assert np.all(audio.read(tmp_path / "x.flac")[0] == 0.25) and audio.probe(tmp_path / "x.flac").frames == n


@pytest.mark.parametrize(
    ("name", "channels", "rate"),
    [("x.flac", 9, 16000), ("x.mp4", 1, 16000), ("x.mp3", 3, 16000), ("x.opus", 1, 44100), ("x.flac", 1, 700000)],
)
def test_what_a_container_cannot_hold_is_refused_before_writing(tmp_path, name, channels, rate):
    (tmp_path / name).write_bytes(b"old")
    assert kind_of(audio.write, tmp_path / name, np.full((100, channels), 0.1, np.float32), rate) == "container"
    assert (tmp_path / name).read_bytes() == b"old"
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("x", [np.zeros(0, np.float32), np.zeros((2, 3, 4), np.float32)])
def test_no_sound_is_not_written(tmp_path, x):
    assert kind_of(audio.write, tmp_path / "x.flac", x, 16000) == "empty"
    assert not names(tmp_path)


def test_peaks_and_nan_leave_the_old_file(tmp_path):
    audio.write(tmp_path / "x.wav", X, 16000)
    old = (tmp_path / "x.wav").read_bytes()
    assert kind_of(audio.write, tmp_path / "x.wav", 3 * X, 16000) == "over_full_scale"
    assert kind_of(audio.write, tmp_path / "x.wav", np.full(9, np.nan, np.float32), 16000) == "not_finite"
    with pytest.raises(RuntimeError), audio.writer(tmp_path / "x.wav", 16000, 1) as put:
        put(X)
        raise RuntimeError
    assert (tmp_path / "x.wav").read_bytes() == old and names(tmp_path) == ["x.wav"]
    audio.write(tmp_path / "x.wav", 3 * X, 16000, "FLOAT")
    assert np.array_equal(audio.read(tmp_path / "x.wav")[0][:, 0], 3 * X)


def test_more_than_32_bits_can_say_is_refused(tmp_path):
    long = np.broadcast_to(np.float32(0.1), (1 << 31, 1))  # 4 GiB as 16 bits; no memory is behind it
    assert kind_of(audio.write, tmp_path / "x.wav", long, 16000) == "container"
    with pytest.raises(UserError, match=r"\.w64, \.rf64 or \.flac"), audio.writer(tmp_path / "x.wav", 16000, 1) as put:
        put(long[:100])
        put(long)
    assert not names(tmp_path)


def test_full_scale_does_not_wrap(tmp_path):
    audio.write(tmp_path / "x.wav", np.array([1.0, -1.0], np.float32), 16000)
    assert (audio.read(tmp_path / "x.wav")[0][:, 0] * 32768).tolist() == [32767, -32768]


def test_a_full_disk_is_an_oserror_with_the_name(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        import signal

        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limit[1]))
        for suffix in ("flac", "wav"):
            with pytest.raises(OSError) as e:
                audio.write(tmp_path / f"x.{suffix}", noise(2.0), 16000)
            assert e.value.filename.endswith(f"x.{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    assert not names(tmp_path)


def test_long_ogg_does_not_crash(tmp_path):
    audio.write(tmp_path / "x.ogg", np.tile(noise(1.0), 600).reshape(-1, 1)[: 48000 * 60], 48000)
    assert audio.probe(tmp_path / "x.ogg").frames == 48000 * 60


def test_mono_of_opposite_channels_is_the_first_one():
    with pytest.warns(audio.ChannelsCancel):
        assert np.array_equal(audio.to_mono(np.stack([X, -X], 1)), X)
    with pytest.warns(audio.ChannelsCancel):  # the mean is 32 dB under the channels
        assert np.array_equal(audio.to_mono(np.stack([X, -0.95 * X], 1)), X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(audio.to_mono(np.stack([X, X], 1)), X, atol=1e-7)
        assert not audio.to_mono(np.zeros((100, 2), np.float32)).any()
        assert audio.to_mono(np.stack([X, np.zeros_like(X)], 1)).any()
        assert np.allclose(audio.to_mono(np.stack([X, -0.8 * X], 1)), 0.1 * X, atol=1e-6)
        assert audio.to_mono(X) is X


def test_resampling_keeps_tone_and_length():
    t = np.arange(44100) / 44100
    y = audio.resample(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 44100, 16000)
    assert y.dtype == np.float32 and len(y) == 16000
    want = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.max(np.abs(y - want)[500:-500]) < 1e-4
    stereo = audio.resample(np.stack([X, -X], 1), 16000, 48000)
    assert stereo.shape == (48000, 2)


def test_rms_dbfs():
    assert audio.rms_dbfs(np.ones(10)) == 0.0
    assert abs(audio.rms_dbfs(np.full(10, 0.1, np.float32)) + 20) < 1e-5
    assert abs(audio.rms_dbfs(np.full(10, 16384, np.int16)) + 6.0206) < 1e-3
    assert audio.rms_dbfs(np.zeros(5)) == audio.rms_dbfs(np.zeros(0)) == float("-inf")


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9000), seed=st.integers(0, 9), start=st.integers(0, 9000), stop=st.integers(0, 9000))
def test_flac_bytes_are_exact_repeatable_and_croppable(n, seed, start, stop):
    x = np.random.default_rng(seed).integers(-32768, 32768, n).astype(np.int16)
    data = audio.encode_flac(x, 16000)
    assert data == audio.encode_flac(x, 16000)
    assert np.array_equal(audio.decode_flac(data), x)
    assert audio.flac_frames(data) == (n, 16000)
    start, stop = min(start, n), min(max(start, stop), n)
    if start <= stop:
        assert np.array_equal(audio.decode_flac(data, start, stop), x[start:stop])
    with pytest.raises(UserError):
        audio.decode_flac(data, 0, n + 1)


def test_flac_bytes_that_lie_allocate_nothing():
    data = bytearray(audio.encode_flac(np.arange(16000, dtype=np.int16), 16000))
    data[21], data[22:26] = data[21] | 0x0F, b"\xff" * 4
    assert kind_of(audio.decode_flac, bytes(data)) == "unreadable"
    assert kind_of(audio.decode_flac, b"no flac at all") == "unreadable"


def test_list_audio_ignores_what_systems_leave(tmp_path):
    for name in (
        "A.WAV",
        "b.wav",
        "sub/C.Flac",
        "._b.wav",
        ".DS_Store",
        "__MACOSX/d.wav",
        "sub/__MACOSX/._e.wav",
        "t.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in audio.list_audio(tmp_path)] == ["A.WAV", "b.wav", "sub/C.Flac"]
    assert kind_of(audio.list_audio, tmp_path / "no") == "missing"


def test_reading_leaves_no_open_files(tmp_path):
    audio.write(tmp_path / "x.flac", X, 16000)
    before = len(names("/proc/self/fd"))
    for _ in range(20):
        audio.read(tmp_path / "x.flac", 10, 20)
        next(iter(audio.blocks(tmp_path / "x.flac", 100)))
    assert len(names("/proc/self/fd")) <= before + 1


# Formats whose header tells where the sound ends, as libsndfile writes them; the last: the shortest cut that is told.
TOLD = [("AU", "PCM_16"), ("AU", "ULAW"), ("NIST", "PCM_16"), ("NIST", "ALAW"), ("VOC", "PCM_16"), ("VOC", "PCM_U8"),
        ("SVX", "PCM_16"), ("SVX", "PCM_S8"), ("MAT4", "DOUBLE"), ("MAT4", "PCM_16"), ("MAT5", "FLOAT"),
        ("MAT5", "PCM_U8"), ("HTK", "PCM_16"), ("SDS", "PCM_16"), ("SDS", "PCM_S8"), ("AVR", "PCM_16"),
        ("MPC2K", "PCM_16"), ("WVE", "ALAW"), ("CAF", "PCM_24"), ("CAF", "FLOAT"), ("WAVEX", "PCM_16"),
        ("RF64", "PCM_16"), ("W64", "PCM_16")]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype"), TOLD)
@pytest.mark.parametrize("endian", ["FILE", "LITTLE", "BIG"])
def test_cut_files_of_every_kind_are_told_and_whole_ones_are_not_blamed(tmp_path, kind, subtype, endian):
    path = tmp_path / "x"
    for channels in (1, 2):
        x = np.stack([X[:4001]] * channels, 1)
        try:
            sf.write(path, x, 16000, subtype, format=kind, endian=endian)
        except (sf.LibsndfileError, ValueError):
            continue  # mono only, or of one order of bytes
        data = path.read_bytes()
        assert len(audio.read(path)[0]) >= 4001
        for share in (0.99, 0.7, 0.5, 0.2):
            path.write_bytes(data[: int(len(data) * share)])
            assert kind_of(audio.read, path) == "truncated", share


@pytest.mark.parametrize(("kind", "subtype"), [("IRCAM", "FLOAT"), ("PVF", "PCM_16"), ("PAF", "PCM_24")])
@pytest.mark.parametrize("endian", ["FILE", "LITTLE", "BIG"])
def test_where_no_length_is_written_a_cut_inside_a_frame_is_told(tmp_path, kind, subtype, endian):
    path = tmp_path / "x"
    sf.write(path, np.stack([X[:4001]] * 2, 1), 16000, subtype, format=kind, endian=endian)
    assert len(audio.read(path)[0]) >= 4001
    path.write_bytes(path.read_bytes()[:-1])
    assert kind_of(audio.read, path) == "truncated"


def test_an_instrument_that_names_its_length(tmp_path):
    path = tmp_path / "x.xi"
    sf.write(path, X, 16000, "DPCM_16", format="XI")
    data = bytearray(path.read_bytes())
    data[298:302] = (32000).to_bytes(4, "little")  # libsndfile itself writes 0
    path.write_bytes(data)
    assert len(audio.read(path)[0]) == 16000
    path.write_bytes(data[:-2000])
    assert kind_of(audio.read, path) == "truncated"


def test_an_au_file_of_unknown_length_is_read_to_its_end(tmp_path):
    sf.write(tmp_path / "x.au", X, 16000, "PCM_16")
    data = bytearray((tmp_path / "x.au").read_bytes())
    data[8:12] = b"\xff" * 4
    (tmp_path / "x.au").write_bytes(data)
    assert len(audio.read(tmp_path / "x.au")[0]) == 16000


def test_what_libsndfile_reads_is_listed(tmp_path):
    endings = ("sph", "SND", "voc", "nist", "iff", "avr", "pvf", "xi", "htk", "mat", "paf", "sds")
    listed = [f"{letter}.{ending}" for letter, ending in zip("abcdefghijkl", endings, strict=True)]
    for name in (*listed, "m.m4a", "n.Opus", "o.WEBM", "._p.m4a", "q.txt", "r.amr"):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in audio.list_audio(tmp_path)] == [*listed, "n.Opus"]
    assert [p.name for p in audio.list_foreign(tmp_path)] == ["m.m4a", "o.WEBM", "r.amr"]
    assert not {".m4a", ".wma", ".txt", ".raw"} & set(audio.EXTENSIONS)
    assert listing.extensions(["WAV", "OF_LATER"]) == (".of_later", ".wav", ".wave")

"""Arrays and streams: any rate, length, level and channel count; windows that equal the whole; what a clip is worth."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers import noise, speech, spoken
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import Local, tiny_model

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.enhancement import clip as clips
from nrmodel.enhancement import enhance, rumble
from nrmodel.enhancement.enhance import ReferenceWarning, enhance_array, enhance_blocks, frame_noise, measure

REAL = tiny_model()


def mixture(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    return speech(seconds, seed, rate) + noise(seconds, 1, seed, rate)


def error_db(x: np.ndarray, y: np.ndarray) -> float:
    return 10 * np.log10(np.mean((x - y) ** 2) / np.mean(x**2) + 1e-20)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
@pytest.mark.parametrize("shape", [(1,), (1, 2), (255,), (256, 1), (257, 3), (512,), (4100, 8)])
def test_shape_is_kept_at_any_rate_length_and_channel_count(rate, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = enhance_array(REAL, x, rate)
    assert y.shape == shape
    assert y.dtype == np.float32
    assert np.isfinite(y).all()


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 48000])
def test_what_the_model_passes_comes_back_at_its_own_rate_and_time(rate):
    x = audio.resample(mixture(3.0), 16000, rate)
    model = Local()
    y = enhance_array(model, x, rate)
    assert model.windows[0].shape == (1, 3 * 16000)
    inside = slice(rate // 10, -rate // 10)
    assert error_db(x[inside], y[inside]) < -45


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40 * 16000), st.integers(1, 3))
def test_windows_of_any_length_equal_the_whole(frames, channels):
    x = np.random.default_rng(frames).standard_normal((frames, channels)).astype(np.float32)
    taps = (0.5, 0.3, -0.2)
    expected = sum(tap * np.pad(x, ((d, 0), (0, 0)))[: len(x)] for d, tap in enumerate(taps))
    model = Local(taps=taps)
    assert np.abs(enhance_array(model, x, 16000) - expected).max() < 1e-5
    assert max(w.shape[1] for w in model.windows) <= 10 * 16000


def test_windows_share_the_samplers_noise_where_they_overlap(monkeypatch):
    x = mixture(30.0)
    windowed = enhance_array(Local(noise_gain=0.1), x, 16000)
    monkeypatch.setattr(enhance, "WHOLE_SECONDS", 60.0)
    whole = enhance_array(Local(noise_gain=0.1), x, 16000)
    assert np.abs(whole - x).max() > 0.01
    assert np.abs(windowed - whole).max() < 1e-5


def test_noise_belongs_to_seed_call_and_absolute_frame():
    shape = (3, 1, 256, 200)
    source = frame_noise(7, 0)
    first, second = source(shape), source(shape)
    assert torch.equal(frame_noise(7, 50)((3, 1, 256, 100)), first[..., 50:150])
    assert not torch.equal(first, second)
    assert not torch.equal(frame_noise(8, 0)(shape), first)
    assert torch.equal(first[0], first[2])
    assert first.abs().square().mean().item() == pytest.approx(1.0, abs=0.02)
    assert first.real.square().mean().item() == pytest.approx(0.5, abs=0.02)


def test_seed_decides_the_result_and_nothing_else_does():
    x = mixture(1.0)
    a = enhance_array(REAL, x, 16000, seed=1)
    np.random.seed(3)  # the global state must not matter
    torch.manual_seed(4)
    assert np.array_equal(a, enhance_array(REAL, x, 16000, seed=1))
    assert not np.array_equal(a, enhance_array(REAL, x, 16000, seed=2))


def test_level_of_the_input_is_kept_and_does_not_matter():
    x = mixture(0.5)
    loud, quiet = enhance_array(REAL, x, 16000), enhance_array(REAL, np.float32(0.003) * x, 16000)
    assert error_db(loud, quiet / np.float32(0.003)) < -60


def test_one_loud_instant_does_not_move_the_rest():
    x = mixture(4.0) * np.float32(0.02)
    clicked = x.copy()
    clicked[:80] = 1.0
    measured = [measure(REAL, [signal[:, None]], 16000).levels[0] for signal in (x, clicked)]
    assert measured[1] == pytest.approx(measured[0], rel=0.02)


def test_level_of_a_long_sound_is_that_of_its_pieces():
    piece = noise(20.0)[:, None]
    short = measure(REAL, [piece], 16000)
    long = measure(REAL, [piece] * 12, 16000)
    pauses = measure(REAL, [piece, 0 * piece] * 6, 16000)
    assert long.frames == 12 * short.frames
    assert long.levels[0] == pytest.approx(short.levels[0], rel=1e-6)
    assert pauses.levels[0] == pytest.approx(short.levels[0], rel=1e-6)


def test_a_model_that_divides_by_the_peak_divides_a_long_sound_by_its_peak():
    model = tiny_model()
    object.__setattr__(model.config, "level", "max")
    piece = noise(2.0)[:, None]
    long = measure(model, [piece, 3 * piece, 2 * piece, 0.1 * piece], 16000)
    assert long.levels[0] == pytest.approx(3 * np.abs(piece).max(), rel=1e-6)
    assert long.levels[0] == pytest.approx(long.peak, rel=1e-6)


@pytest.mark.parametrize("seconds", [0.5, 25.0])
def test_silence_stays_silence(seconds):
    model = REAL if seconds < 1 else Local(noise_gain=0.1)
    x = np.zeros((round(seconds * 16000), 2), np.float32)
    assert not enhance_array(model, x, 16000).any()
    x[:, 1] = mixture(seconds)
    y = enhance_array(model, x, 16000)
    assert not y[:, 0].any()
    assert np.isfinite(y).all() and y[:, 1].any()


def test_channels_are_enhanced_each_as_if_alone():
    a, b = mixture(0.5, 1), 0.1 * mixture(0.5, 2)
    both = enhance_array(REAL, np.stack([a, b], axis=1), 16000)
    assert error_db(enhance_array(REAL, a, 16000), both[:, 0]) < -80
    assert error_db(enhance_array(REAL, b, 16000), both[:, 1]) < -80


def test_opposite_channels_stay_opposite():
    x = mixture(1.0)
    y = enhance_array(REAL, np.stack([x, -x], axis=1), 16000)
    assert y[:, 0].any()
    assert np.array_equal(y[:, 0], -y[:, 1])


def test_memory_is_bounded_by_the_window():
    model, taken = Local(), 0

    def blocks():
        nonlocal taken
        for _ in range(60):
            taken += 1
            yield np.ones((16000, 1), np.float32)

    measured = measure(model, (np.ones((16000, 1), np.float32) for _ in range(60)), 16000)
    next(enhance_blocks(model, blocks(), measured, 16000, model.null(1), None, 0))
    assert taken <= 11


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_sound_is_refused_with_number_and_place(bad):
    x = mixture(3.0)
    x[[20000, 20001, 30000]] = bad
    with pytest.raises(UserError, match=r"3 non-finite samples, first at 1\.25 s") as error:
        enhance_array(REAL, x, 16000)
    assert error.value.kind == "not_finite"


@pytest.mark.parametrize(
    ("x", "rate", "said"),
    [
        (np.zeros(0, np.float32), 16000, "shape"),
        (np.zeros((2, 3, 4), np.float32), 16000, "shape"),
        (np.ones(100, np.int16), 16000, "int16"),
        (np.ones(100, np.float32), 0, "0 Hz"),
    ],
)
def test_what_is_no_sound_is_refused_in_a_sentence(x, rate, said):
    with pytest.raises(UserError, match=said):
        enhance_array(REAL, x, rate)


def test_non_finite_samples_of_many_blocks_are_counted_from_the_first():
    blocks = [np.full((1000, 2), value, np.float32) for value in (0.1, 0.1, np.nan, 0.1, np.inf)]
    with pytest.raises(UserError, match=r"4000 non-finite samples, first at 2\.00 s"):
        measure(Local(1000), blocks, 1000)


def test_a_model_that_breaks_is_not_written_on():
    model = Local(taps=(float("nan"),))
    with pytest.raises(UserError, match="non-finite"):
        enhance_array(model, mixture(0.5), 16000)


# --- references -------------------------------------------------------------------------------------------------------


def test_a_clip_of_another_rate_and_stereo_is_that_clip():
    clip = noise(1.0, 2, rate=22050)
    x = mixture(1.0)
    direct = enhance_array(REAL, x, 16000, audio.resample(clip, 22050, 16000), 16000)
    stereo = enhance_array(REAL, x, 16000, np.stack([clip, clip], axis=1), 22050)
    assert not np.array_equal(direct, enhance_array(REAL, x, 16000))
    assert np.abs(direct - stereo).max() < 1e-3


def test_opposite_channels_of_a_clip_are_not_silence():
    clip, x = noise(1.0, 2), mixture(1.0)
    with pytest.warns(ReferenceWarning, match="channels cancel"):
        opposite = enhance_array(REAL, x, 16000, np.stack([clip, -clip], axis=1))
    assert np.array_equal(opposite, enhance_array(REAL, x, 16000, clip))


def dithered(x: np.ndarray) -> np.ndarray:
    """16-bit sound with triangular dither."""
    rng = np.random.default_rng(0)
    dither = rng.uniform(-0.5, 0.5, len(x)) + rng.uniform(-0.5, 0.5, len(x))
    return (np.round(x * 32767 + dither) / 32768).astype(np.float32)


def partly(voice: np.ndarray, clip: np.ndarray) -> np.ndarray:
    """A clip in the middle of which somebody speaks."""
    start = (len(clip) - len(voice)) // 2
    return np.float32(0.1) * clip + np.pad(voice, (start, len(clip) - len(voice) - start))


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        (noise(1.0)[:3900], "very short"),
        (noise(1.0)[:1], "very short"),
        (np.zeros(16000, np.float32), "silent"),
        (spoken(1.5), r"is speech \(in \d+% of it\): works without reference"),
        (spoken(1.5) + 0.1 + 0.3 * noise(1.5), "is speech"),
        (np.pad(noise(0.1), (0, 16000 - 1600)), r"silent for the most part \(sound in 1\d%\)"),
        (np.pad(noise(0.1), (7000, 7400)) + 0.02, "silent for the most part"),  # an offset is no sound
        (dithered(np.pad(noise(1.0), (0, 9 * 16000))), "silent for the most part"),
        (dithered(np.zeros(16000)), "is silent"),
    ],
)
def test_a_clip_that_cannot_serve_counts_as_missing(clip, said):
    x = mixture(1.0)
    with pytest.warns(ReferenceWarning, match=said):
        y = enhance_array(REAL, x, 16000, clip)
    assert np.array_equal(y, enhance_array(REAL, x, 16000))


def test_an_embedding_is_used_as_it_is():
    x, clip = mixture(1.0), noise(1.0)
    assert np.array_equal(enhance_array(REAL, x, 16000, REAL.embed(clip, 16000)), enhance_array(REAL, x, 16000, clip))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an experiment may want to know what silence does
        silent = enhance_array(REAL, x, 16000, REAL.embed(np.zeros(16000, np.float32), 16000))
    assert not np.array_equal(silent, enhance_array(REAL, x, 16000))


def test_a_clip_that_is_not_finite_is_refused():
    clip = noise(1.0)
    clip[7] = np.nan
    with pytest.raises(UserError, match="reference holds non-finite"):
        enhance_array(REAL, mixture(1.0), 16000, clip)


def test_a_clip_of_a_quarter_of_a_second_serves():
    x = mixture(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = enhance_array(REAL, x, 16000, noise(0.25))
    assert not np.array_equal(y, enhance_array(REAL, x, 16000))


def test_doubtful_clips_are_used_with_a_warning():
    x = mixture(1.0)
    spoken_in = partly(spoken(0.5, 4), noise(2.0))
    for clip, said in ((np.clip(20 * noise(1.0), -1, 1), "clipped"), (spoken_in, "holds speech")):
        with pytest.warns(ReferenceWarning, match=said):
            y = enhance_array(REAL, x, 16000, clip)
        assert not np.array_equal(y, enhance_array(REAL, x, 16000))


def test_a_model_without_reference_says_so():
    model, x = tiny_model("none"), mixture(1.0)
    with pytest.warns(ReferenceWarning, match="trained without"):
        y = enhance_array(model, x, 16000, noise(1.0))
    assert np.array_equal(y, enhance_array(model, x, 16000))


def test_of_a_long_clip_the_beginning_is_used():
    model, clip = Local(), noise(40.0)
    clip[30 * 16000 :] *= 100
    enhance_array(model, mixture(1.0), 16000, clip)
    assert model.conditions[0].item() == pytest.approx(0.1, rel=0.02)


@given(st.floats(0.01, 1.0), st.floats(1.5, 20.0))
@settings(max_examples=20, deadline=None)
def test_clipping_is_flat_tops_at_full_scale(gain, drive):
    x = noise(0.5, 2) / np.abs(noise(0.5, 2)).max()
    assert not clips.is_clipped(np.float32(gain) * x)
    assert clips.is_clipped(np.clip(np.float32(drive) * x, -1, 1))
    assert not clips.is_clipped(0.9 * np.sin(2 * np.pi * 50 * np.arange(44100) / 44100))  # round, but slow


@given(st.floats(-2.0, 2.0).filter(lambda g: abs(g) > 0.01))
@settings(max_examples=20, deadline=None)
def test_the_same_sound_is_known_at_any_gain(gain):
    x = mixture(1.0)
    assert clips.same_sound(np.float32(gain) * x, x)
    assert not clips.same_sound(np.float32(gain) * x, mixture(1.0, seed=9))
    assert not clips.same_sound(np.float32(gain) * x[:8000], x)


@pytest.mark.parametrize("clip", [spoken(1.5), np.zeros(16000, np.float32), noise(1.0)[:1000]])
def test_what_a_person_says_is_noise_is_used(clip):
    x = mixture(1.0)
    with pytest.warns(ReferenceWarning, match="used as given"):
        y = enhance_array(REAL, x, 16000, clip, ref_as_given=True)
    assert np.array_equal(y, enhance_array(REAL, x, 16000, REAL.embed(clip, 16000)))
    assert not np.array_equal(y, enhance_array(REAL, x, 16000))


# --- layouts and types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8000,), (8000, 1), (1, 8000), (8000, 2), (2, 8000)])
@pytest.mark.parametrize("kind", ["array", "array64", "tensor", "tensor64", "tensor with gradient"])
def test_arrays_and_tensors_of_either_layout(shape, kind):
    a, b = mixture(0.5, 1), 0.1 * mixture(0.5, 2)
    plain = np.stack([a, b], axis=1) if 2 in shape else a[:, None]
    x = (plain.T if shape[0] < 8000 else plain).reshape(shape)
    expected = enhance_array(REAL, plain, 16000, noise(0.5, 2)[:, None])
    given = x.astype(np.float64) if "64" in kind else x
    given = torch.tensor(given, requires_grad="gradient" in kind) if "tensor" in kind else given
    y = REAL.enhance(given, 16000, torch.from_numpy(noise(0.5, 2))[None])
    assert isinstance(y, type(given)) and tuple(y.shape) == shape
    y = np.asarray(y)
    assert y.dtype == np.float32
    assert np.array_equal((y.T if shape[0] < 8000 else y).reshape(expected.shape), expected)


@pytest.mark.parametrize("shape", [(100, 16000), (33, 40), (9, 0), (0,), (), (1, 1, 16000), (2, 1, 16000)])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_a_shape_that_is_no_sound_is_refused_in_a_sentence(shape, convert):
    x, good = convert(np.zeros(shape, np.float32)), mixture(0.5)
    for ask in (lambda: REAL.enhance(x, 16000), lambda: REAL.enhance(good, 16000, x), lambda: REAL.embed(x, 16000)):
        with pytest.raises(UserError, match="has shape"):
            ask()


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_tensors_that_are_no_floats_are_refused(dtype):
    x = torch.ones(1, 16000, dtype=dtype)
    for ask in (lambda: REAL.enhance(x, 16000), lambda: REAL.embed(x, 16000)):
        with pytest.raises(UserError, match="floats"):
            ask()


def test_a_wave_is_no_embedding_and_an_embedding_of_another_model_is_refused():
    x, clip = mixture(1.0), noise(1.0, 2)
    for wave in (torch.from_numpy(clip), torch.from_numpy(clip)[None]):
        assert np.array_equal(enhance_array(REAL, x, 16000, wave), enhance_array(REAL, x, 16000, clip))
        assert torch.equal(REAL.embed(wave, 16000), REAL.embed(clip, 16000))
    with pytest.raises(UserError, match="another model"):
        REAL.enhance(x, 16000, tiny_model("none").embed(clip, 16000))


# --- what nobody hears ------------------------------------------------------------------------------------------------

T = np.arange(4 * 16000) / 16000
UNHEARD = [np.full_like(T, 0.1), np.full_like(T, -0.02), 0.2 * np.sin(2 * np.pi * 7 * T), 0.1 * np.cos(36 * np.pi * T),
           0.05 + 0.1 * np.sin(2 * np.pi * 0.7 * T)]  # fmt: skip


def si_sdr(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    target = x * (x @ y) / (x @ x)
    return 10 * np.log10((target @ target) / ((y - target) @ (y - target)))


@pytest.mark.parametrize("unheard", UNHEARD)
@pytest.mark.parametrize("rate", [16000, 48000])
def test_an_offset_and_rumble_change_nothing_that_is_heard(unheard, rate):
    x = 0.2 * mixture(4.0)
    plain, other = (audio.resample(sound.astype(np.float32), 16000, rate) for sound in (x, x + unheard))
    a, b = enhance_array(REAL, plain, rate), enhance_array(REAL, other, rate)
    assert abs(b.mean()) < 1e-3
    assert measure(REAL, [other[:, None]], rate).levels[0] == pytest.approx(
        measure(REAL, [plain[:, None]], rate).levels[0], rel=0.02
    )
    inside = slice(rate // 5, -rate // 5)
    assert si_sdr(a[inside], b[inside]) > 25


def test_an_offset_in_one_channel_leaves_the_other_and_its_phase():
    x = 0.2 * mixture(2.0)
    both = enhance_array(REAL, np.stack([x + np.float32(0.1), -x], axis=1), 16000)
    assert np.array_equal(both[:, 1], enhance_array(REAL, np.stack([x, -x], axis=1), 16000)[:, 1])
    assert error_db(both[:, 1], -both[:, 0]) < -25


def test_an_offset_in_a_clip_changes_nothing():
    x, clip = mixture(1.0), noise(1.0, 2)
    a, b = (enhance_array(REAL, x, 16000, c) for c in (clip, clip + np.float32(0.3)))
    assert error_db(a, b) < -30
    assert not clips.same_sound(clip + np.float32(0.3), mixture(1.0) + np.float32(0.3))


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=12), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_rumble_is_taken_out_of_blocks_as_of_the_whole(lengths, channels):
    x = np.random.default_rng(0).standard_normal((sum(lengths), channels)).astype(np.float32) + 1
    which = np.arange(channels) != 1
    blocks = np.split(x, np.cumsum(lengths)[:-1])
    y = np.concatenate(list(rumble.removed(blocks, 16000, which)))
    assert len(y) == len(x)
    if len(x) > 2400:
        assert np.abs(y - (x - np.where(which, rumble.low(x, 16000), 0))).max() < 1e-5


def test_sound_without_rumble_passes_to_the_bit():
    model, x = Local(), mixture(12.0)
    assert np.array_equal(rumble.without(x, 16000), x)
    assert not measure(model, [x[:, None]], 16000).rumbling.any()

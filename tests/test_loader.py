"""Worker processes change nothing but speed, and their deaths are sentences; the stage for stock webdataset."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from in_memory import InMemory, small
from test_stream import same, stream

import nrdata.sampling
from nrdata.errors import UserError
from nrdata.sampling import loader
from nrdata.sampling.loader import LoaderError, batches
from nrdata.store.tar import ShardFault

LAW = {"law": "env:0.5,none:0.5", "ref_seconds": (0.25, 1.0), "batch_size": 12}


@pytest.fixture
def quick_poll(monkeypatch):
    monkeypatch.setattr(loader, "POLL_S", 0.5)


def first(n: int, *args, **options):
    source = batches(*args, **options)
    found = list(itertools.islice(source, n))
    source.close()
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    """The same positions and batches, from every start; over more than two epochs."""
    alone = first(6, stream(**LAW))
    assert [at for at, _ in alone] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    for begin in range(0, 6, 2 if workers == 2 else 5):
        found = first(6 - begin, stream(**LAW), alone[begin][0], workers=workers)
        assert [at for at, _ in found] == [at for at, _ in alone[begin:]]
        assert all(same(a, b) for (_, a), (_, b) in zip(alone[begin:], found, strict=True))


def test_workers_and_ranks_from_shards(tiny_dataset):
    """Forked readers of real shards: every rank's share of the global batch, whatever the workers."""
    s = nrdata.open(tiny_dataset).stream("train", batch_size=6, crop_samples=8000, law="disjoint", ref_seconds=0.5)
    whole = [batch for _, batch in first(2, s)]
    for rank in range(2):
        for (_, part), batch in zip(first(2, s, workers=2, rank=rank, ranks=2), whole, strict=True):
            assert np.array_equal(part.noisy, batch.noisy[rank::2]) and part.key == batch.key[rank::2]
            assert np.array_equal(part.ref, batch.ref[rank::2])


def test_stale_environment_variables_change_nothing(monkeypatch):
    alone = first(2, stream(**LAW))
    for name in ("RANK", "WORLD_SIZE", "WORKER", "NUM_WORKERS", "WDS_SEED", "LOCAL_RANK"):
        monkeypatch.setenv(name, "3")
    assert all(same(a, b) for (_, a), (_, b) in zip(alone, first(2, stream(**LAW), workers=1), strict=True))


def test_global_generators_are_untouched():
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state().clone(), random.getstate()
    first(2, stream(**LAW), workers=1)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


class Odd(InMemory):
    """Misbehaves in the reader, as a disk or a memory limit would."""

    def __init__(self, fault):
        super().__init__(small())
        self.fault = fault

    def read(self, *where):
        self.fault()
        return super().read(*where)


def test_a_killed_worker_is_one_sentence(quick_poll):
    source = batches(stream(Odd(lambda: os.kill(os.getpid(), signal.SIGKILL)), **LAW), workers=1)
    with pytest.raises(LoaderError, match=r"^loader worker \(pid \d+\) died .*out of memory\?\); try fewer"):
        next(source)


def test_a_death_between_batches_waits_for_the_next(quick_poll):
    """The parent is not interrupted in whatever it does with a batch, such as writing its state."""
    source = batches(stream(**LAW), workers=1)
    next(source)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(50):
        time.sleep(0.01)  # where torch's own handler would raise
    with pytest.raises(LoaderError, match="died"):
        for _ in range(20):  # some batches are on their way
            next(source)


def test_a_sleeping_source_is_one_sentence(quick_poll):
    source = batches(stream(Odd(lambda: time.sleep(1)), batch_size=1), workers=1, timeout_s=1.0)
    says = r"^no batch for 1 s; shared memory free: \d+ MB, try --loader-workers 0"
    with pytest.raises(LoaderError, match=says) as e:
        next(source)
    assert e.tb and not multiprocessing.active_children()  # even while the traceback is held


FULL_MEMORY = """
from in_memory import InMemory, small
from nrdata.sampling.loader import LoaderError, batches
from nrdata.sampling.stream import Stream, StreamConfig
stream = Stream(InMemory(small(frames=100_000)), "train", StreamConfig(24, 100_000))
try:
    next(batches(stream, workers=1, timeout_s=60))
except LoaderError as e:
    print(e)
"""


@pytest.mark.slow  # starts an interpreter of its own
def test_full_shared_memory_is_one_sentence():
    root = Path(__file__).parents[1]
    small = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("a small /dev/shm needs the right to mount one")
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"}
    run = subprocess.run([*small, sys.executable, "-c", FULL_MEMORY], capture_output=True, text=True, env=environment)
    assert re.match(r"no shared memory for a batch \([012] MB free\), try --loader-workers 0", run.stdout), run
    assert "Traceback" not in run.stderr


def test_a_slow_source_is_waited_for(quick_poll):
    """Longer than one turn of waiting, shorter than the timeout: the batch arrives, and none is lost."""
    slow = Odd(lambda: time.sleep(0.4))
    found = first(2, stream(slow, batch_size=1), workers=1, timeout_s=60)
    assert all(same(a, b) for (_, a), (_, b) in zip(found, first(2, stream(batch_size=1)), strict=True))


class Million(InMemory):
    """A million short samples of one value, in ten environments."""

    def __init__(self, n: int = 1_000_000):
        super().__init__(small(1))
        c = self.columns
        c.key = np.char.add(b"train-", np.char.zfill(np.arange(n).astype("S7"), 7))
        c.env, c.env_names = np.arange(n, dtype=np.int32) % 10, [f"local/e{i}" for i in range(10)]
        c.recording, c.recording_names = np.arange(n, dtype=np.int32), [""] * n
        c.frames, c.ref_frames = np.full(n, 300), np.full(n, 300)
        c.stretch, c.noise_dbfs = np.full((n, 2), -1), np.full(n, -20, np.float32)
        c.shard = np.arange(n) // 1000

    def read(self, split, row, field, start=0, stop=None):
        return np.full(300, 0.1, np.float32)[start:stop]


def fail_shard():
    raise ShardFault("train-000000.tar", "train-0000001", "crc", "bytes differ")


def fail_disk():
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("workers", [0, 1])
def test_faults_arrive_as_they_are(workers):
    with pytest.raises(ShardFault, match=r"^train-000000.tar: train-0000001: bytes differ \(crc\)$") as caught:
        next(batches(stream(Odd(fail_shard), **LAW), workers=workers))
    assert caught.value.key == "train-0000001"
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error$"):
        next(batches(stream(Odd(fail_disk), **LAW), workers=workers))


def test_no_worker_is_left_behind():
    before = set(multiprocessing.active_children())
    source = batches(stream(**LAW), workers=2)
    next(source)
    assert len(set(multiprocessing.active_children()) - before) == 2
    source.close()
    assert not set(multiprocessing.active_children()) - before


def test_open_files_are_constant_over_epochs(tiny_dataset):
    s = nrdata.open(tiny_dataset).stream("train", batch_size=4, crop_samples=4000, law="env", ref_seconds=0.25)
    opened = []
    for epoch in range(100):
        s.batch(epoch, epoch % 3)
        opened.append(len(list(Path("/proc/self/fd").iterdir())))
    assert len(set(opened)) == 1


def private_kb(pid: int) -> int:
    """Memory of a process that it shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_a_million_rows_are_shared_by_the_workers():
    """The index is not copied into a worker, and two epochs of a million rows add under 20 MB to it."""
    s = stream(Million(), batch_size=500, crop_samples=1, law="mismatch", on_missing_ref="none")
    source = batches(s, (0, s.batches_per_epoch - 4), workers=1)  # across the end of an epoch: the next is shuffled
    next(source)
    (worker,) = multiprocessing.active_children()
    before = private_kb(worker.pid)
    found = [next(source) for _ in range(12)]
    after = private_kb(worker.pid)
    source.close()
    assert found[-1][0] == (1, 8)
    assert before < 60_000 and after - before < 20_000, f"{before} kB, then {after} kB"


# webdataset leaves its shards to the garbage collector.
leaks_handles = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def foreign(tiny_dataset, law="env", **options):
    """The pipeline of the docs: stock webdataset, our decoder, our stage."""
    import webdataset

    urls = sorted(str(path) for path in tiny_dataset.glob("train-*.tar"))
    source = webdataset.WebDataset(urls, shardshuffle=False)
    stage = nrdata.sampling.references(law, **options)
    return list(source.decode(nrdata.sampling.transforms.decode_audio).compose(stage))


@leaks_handles
def test_stage_in_a_stock_pipeline(tiny_dataset):
    samples = foreign(tiny_dataset, "env", seed=0, ref_seconds=0.5)
    assert len(samples) == 12
    by_key = {sample["__key__"]: sample for sample in samples}
    for sample in samples:
        clip, rate = sample["ref"]
        other = by_key[sample["ref_key"]]
        assert rate == 16000 and clip.shape == (8000,) and sample["relation"] == "same-environment"
        assert other["json"]["env_id"] == sample["json"]["env_id"]
        assert other["json"]["recording"] != sample["json"]["recording"]
        crops = np.lib.stride_tricks.sliding_window_view(other["noise.flac"][0], 8000)
        assert (crops == clip).all(axis=1).any()
    again = foreign(tiny_dataset, "env", seed=0, ref_seconds=0.5)
    assert all(np.array_equal(a["ref"][0], b["ref"][0]) for a, b in zip(samples, again, strict=True))
    other = foreign(tiny_dataset, "env", seed=1, ref_seconds=0.5)
    assert not all(np.array_equal(a["ref"][0], b["ref"][0]) for a, b in zip(samples, other, strict=True))


@leaks_handles
def test_stage_pool_is_bounded(tiny_dataset):
    """With a pool of 3 a reference comes from at most 2 samples away; nothing is lost, the order stays."""
    samples = foreign(tiny_dataset, "mismatch", pool_size=3)
    keys = [sample["__key__"] for sample in samples]
    assert keys == sorted(keys) and len(keys) == 12
    assert all(abs(keys.index(s["ref_key"]) - i) <= 2 for i, s in enumerate(samples))
    nothing = foreign(tiny_dataset, "env", pool_size=2)  # neighbours are of other environments
    assert {(s["relation"], len(s["ref"][0]), s["ref_key"]) for s in nothing} == {("none", 0, "")}


@leaks_handles
def test_stage_reads_the_reserve(tiny_dataset):
    for sample in foreign(tiny_dataset, "disjoint"):
        assert np.array_equal(sample["ref"][0], sample["ref.flac"][0]) and sample["relation"] == "same-recording"


def test_stage_names_what_is_missing():
    stage = nrdata.sampling.references("env", seed=0)
    sound = (np.ones(9000, np.float32), 16000)
    with pytest.raises(UserError, match="'a' has no env_id"):
        list(stage([{"__key__": "a", "noise.flac": sound, "json": {}}]))
    with pytest.raises(UserError, match=r"'a' has no decoded noise\.flac"):
        list(stage([{"__key__": "a", "noise.flac": b"", "json": {"env_id": "x/y"}}]))
    mixed = [{"__key__": k, "noise.flac": (sound[0], r), "json": {"env_id": "x/y"}} for k, r in (("a", 8000), ("b", 9))]
    with pytest.raises(UserError, match="'b' is at 9 Hz"):
        list(stage(mixed))
    with pytest.raises(UserError, match="pool_size 2"):
        nrdata.sampling.references("env", pool_size=1)


def test_the_stage_and_the_module_of_laws_share_a_name():
    from nrdata.sampling.laws import parse_law

    assert parse_law("env").modes == ("env",)
    assert callable(nrdata.sampling.references)

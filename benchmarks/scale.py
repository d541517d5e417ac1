"""What a data set of 10^8 samples takes, from costs measured here: `python benchmarks/scale.py [--shards FOLDER]`.

Measured: bytes a sample of shards, index and plan in FOLDER; time and memory to load an index, in a process of its own
(its rows again and again up to --rows); the order of an epoch; a shard through the cache over HTTP on loopback. Then
multiplied out. Time is CPU time of one process, so that a busy machine changes it little; memory is the peak.
"""

from __future__ import annotations

import argparse
import http.server
import itertools
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np

import nrdata
from nrdata.keyed import key_of
from nrdata.sampling.order import Order
from nrdata.store.index import load_index
from nrdata.store.manifest import NAME, Shard, read_manifest

SAMPLES, PER_SHARD, BATCH = 10**8, 256, 1024  # of the data set that is worked out; PER_SHARD as nr build-shards has it
MIB, GB = 2**20, 10**9


def report(what: str, value: float, unit: str) -> None:
    print(f"{what:<72} {value:>10.4g} {unit}")


def load(folder: Path, rows: int) -> None:
    """Load `rows` rows (those of the training split, repeated); print CPU seconds and bytes a row, bytes in all."""
    lines = [line for path in sorted(folder.glob("train-*.index.jsonl")) for line in path.open("rb")]
    with tempfile.TemporaryDirectory() as place:
        with (Path(place) / "train-000000.index.jsonl").open("wb") as file:
            file.writelines(itertools.islice(itertools.cycle(lines), rows))
        del lines
        shard = Shard("train-000000.tar", "", 0, rows, 0.0)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        index = load_index([(Path(place) / shard.file, shard)], "train", [""])
        seconds, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    columns = sum(column.nbytes for column in vars(index).values() if isinstance(column, np.ndarray))
    print(seconds / rows, columns / rows, (after - before) * 1024 / rows, after * 1024)


def measure_http(folder: Path) -> tuple[float, float]:
    """(CPU seconds a byte to fetch and check a shard, CPU seconds a read of a member from the filled cache)."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NR_CACHE"] = cache
        local, there = nrdata.open(folder), nrdata.open(f"http://127.0.0.1:{server.server_port}")
        split = min(local.splits, key=lambda name: len(local.index(name)))
        rows = range(min(64, len(there.index(split))))
        start = time.process_time()
        there.read(split, 0, "clean", 0, 100)
        fetched = time.process_time() - start
        costs = []
        for data in (there, local):
            start = time.process_time()
            for row in rows:
                data.read(split, row, "clean", 0, 100)
            costs.append((time.process_time() - start) / len(rows))
    server.shutdown()
    thread.join()
    server.server_close()
    first = there.index(split).shard[0]
    return fetched / there.shards(split)[first][1].bytes, costs[0] - costs[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=Path, default=Path("shards/real"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)  # the process of its own
    given = parser.parse_args()
    if given.load:
        return load(given.shards, given.load)

    manifest = read_manifest(given.shards)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    samples = sum(shard.samples for shard in shards)
    tar = sum(shard.bytes for shard in shards) / samples
    index = sum(path.stat().st_size for path in given.shards.glob("*.index.jsonl")) / samples
    seconds = sum(shard.seconds for shard in shards) / samples
    columns = [m.size.astype(np.int64) for m in map(nrdata.open(given.shards).index, manifest.splits)]
    clean, _, noise, noisy, ref = np.concatenate(columns).mean(0)
    print(f"measured on {given.shards.name}: {samples} samples of {seconds:.1f} s on average, {len(shards)} shards")
    report("bytes of a shard, a sample", tar / 1e3, "kB")
    report("bytes read for an item: noisy, clean, one noise clip", (noisy + clean + max(noise, ref)) / 1e3, "kB")
    report("bytes of its index file, a sample", index, "B")
    told = re.findall(r'\{\s*"file".*?\},?\s*', (given.shards / NAME).read_text(encoding="utf-8"), re.DOTALL)
    entry = sum(map(len, told)) / len(told)
    report("bytes of the manifest, a shard", entry, "B")
    if (plan := given.shards / "plan.jsonl").exists():
        report("bytes of the plan, a sample", plan.stat().st_size / samples, "B")
    command = [sys.executable, __file__, "--shards", str(given.shards), "--load", str(given.rows)]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row_s, row_bytes, row_peak, process = map(float, loaded.split())
    report(f"loading an index of {given.rows} rows, a row", row_s * 1e6, "us CPU")
    report("    columns that stay, a row", row_bytes, "B")
    report("    memory at its peak, a row", row_peak, "B")
    report("    the whole process at its peak", process / MIB, "MiB")
    order = Order(key_of("scale"), np.full(SAMPLES // PER_SHARD, PER_SHARD))
    start = time.process_time()
    order.window_at(1, 0)
    window_s = time.process_time() - start
    report(f"the order of an epoch of {SAMPLES:.0e} and its first window of {order.window:.0e}", window_s, "s CPU")
    fetch_s, read_s = measure_http(given.shards)
    report("a shard over loopback, served, fetched and checked, a MB", fetch_s * 1e9, "ms CPU")
    report("a member from the cache rather than a folder, more by", read_s * 1e6, "us CPU")

    print(f"\n{SAMPLES:.0e} such samples, {PER_SHARD} a shard, global batch {BATCH}")
    report("sound", SAMPLES * seconds / 3600, "h")
    report("shards", SAMPLES / PER_SHARD, "")
    report("bytes of all shards", SAMPLES * tar / 1e12, "TB")
    report("bytes of all index files", SAMPLES * index / GB, "GB")
    report("bytes of the manifest", SAMPLES / PER_SHARD * entry / 1e6, "MB")
    report("memory of the index, a rank (its loader workers share it)", SAMPLES * row_bytes / GB, "GB")
    report("    at its peak, while it loads", SAMPLES * row_peak / GB, "GB")
    report("loading the index, once a process", SAMPLES * row_s / 60, "min CPU")
    report("shards of one window", order.window / PER_SHARD, "")
    report("    their bytes: what the cache must hold", order.window * tar / GB, "GB")
    report("steps an epoch", SAMPLES / BATCH, "")
    report("requests a step and node, on average, once a window is cached", BATCH / PER_SHARD, "")
    report("bytes a step and node from the network", BATCH * tar / 1e6, "MB")


if __name__ == "__main__":
    main()

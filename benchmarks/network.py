"""Speed of NCSN++ against the reference's operators: `python benchmarks/network.py [--device cuda] [--rounds 7]`.

Same architecture and weights everywhere; the contenders take turns in one process, and a ratio is the median over
rounds of (literal / ours). Wall time, and on a CPU also processor time, which a busy machine changes less. Memory is
the peak of a process (CPU) or of the device.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "active")  # as in a program that has the processors to itself
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))

import torch
from literal import literal
from torch import Tensor, nn

from nrmodel.network.conditioning import conditioning as way
from nrmodel.network.ncsnpp import NCSNpp, NCSNppConfig

SMALL = NCSNppConfig(nf=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1)  # on a CPU; only the middle has attention
BASE = NCSNppConfig()
Z_DIM = 128


class Case:
    """A network and its inputs, on a device, in float32 or under bf16 autocast."""

    def __init__(self, network: nn.Module, inputs: tuple[Tensor, ...], bf16: bool = False, z_r: Tensor | None = None):
        self.network, self.inputs, self.bf16, self.z_r = network, inputs, bf16, z_r
        self.device = inputs[0].device

    def forward(self) -> None:
        self.network.eval()
        with torch.no_grad():
            self._run()

    def step(self) -> None:
        """Forward and backward."""
        self.network.train()
        self._run().abs().square().mean().backward()
        self.network.zero_grad(set_to_none=True)

    def _run(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network(*self.inputs) if self.z_r is None else self.network(*self.inputs, self.z_r)


def timed(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """(wall seconds, processor seconds) of one call."""
    wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Times = dict[str, list[tuple[float, float]]]


def compare(cases: dict[str, Callable[[], None]], device: torch.device, rounds: int) -> Times:
    """Times of every case in every round, in turn; two rounds to warm up."""
    for _ in range(2):
        for work in cases.values():
            work()
    times: Times = {name: [] for name in cases}
    for _ in range(rounds):
        for name, work in cases.items():
            times[name].append(timed(work, device))
    return times


def table(title: str, times: Times, device: torch.device) -> None:
    """A line a case: medians, and the ratio of the first case to it."""
    first = next(iter(times.values()))
    print(f"{title:44s}{'wall':>11s}{'faster':>9s}{'processor':>13s}{'cheaper':>9s}")
    for name, own in times.items():
        columns = []
        for clock in (0, 1) if device.type == "cpu" else (0,):
            ratio = median(a[clock] / b[clock] for a, b in zip(first, own, strict=True))
            columns.append(f"{1e3 * median(t[clock] for t in own):8.1f} ms {ratio:6.2f} x")
        print(f"  {name:42s}{'   '.join(columns)}", flush=True)


def drawn(config: NCSNppConfig, device: torch.device, conditioning: str = "none") -> NCSNpp:
    """Random weights of a size at which numbers stay normal (most layers start near zero, where times differ)."""
    torch.manual_seed(0)
    network = NCSNpp(config, Z_DIM, way(conditioning))
    with torch.no_grad():
        for p in network.parameters():
            if p.dim() > 1:
                p.normal_(0, p[0].numel() ** -0.5)
    return network.to(device).train()


def drawn_inputs(batch: int, frames: int, device: torch.device) -> tuple[Tensor, ...]:
    state, cond = (torch.randn(batch, 1, 256, frames, dtype=torch.complex64).to(device) for _ in range(2))
    return state, cond, torch.linspace(0.05, 1, batch).to(device)


CASES = {  # name -> (literal operators?, bf16?)
    "literal operators, float32": (True, False),
    "ours, float32": (False, False),
    "ours, bf16 autocast": (False, True),
}


def cases(config: NCSNppConfig, batch: int, frames: int, device: torch.device, compiled: bool) -> dict[str, Case]:
    """Every contender, the literal operators first."""
    ours, inputs = drawn(config, device), drawn_inputs(batch, frames, device)
    theirs = literal(ours)
    with torch.no_grad():
        a, b = ours(*inputs), theirs(*inputs)
        assert (a - b).abs().max() < 1e-3 * b.abs().max(), "the two compute different things"
    found = {name: Case(theirs if as_literal else ours, inputs, bf16) for name, (as_literal, bf16) in CASES.items()}
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        del found["ours, bf16 autocast"]
    if compiled:
        found["ours, bf16 autocast, torch.compile"] = Case(torch.compile(ours), inputs, bf16=True)
    return found


def conditioned(config: NCSNppConfig, batch: int, frames: int, device: torch.device) -> dict[str, Case]:
    inputs = drawn_inputs(batch, frames, device)
    found = {"no conditioning": Case(drawn(config, device), inputs)}
    for how in ("additive", "film"):
        z_r = torch.randn(batch, Z_DIM).to(device)
        found[how] = Case(drawn(config, device, how), inputs, z_r=z_r)
    return found


def memory(name: str, config: NCSNppConfig, batch: int, frames: int, device: torch.device) -> float:
    """MiB that one training step of a case needs at its peak, beyond what stands before it."""
    as_literal, bf16 = CASES[name]
    network = drawn(config, device)
    case = Case(literal(network) if as_literal else network, drawn_inputs(batch, frames, device), bf16)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        case.step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = peak_of_process()
    case.step()
    return peak_of_process() - before


def peak_of_process() -> float:
    """MiB resident at the peak since the program began (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", metavar="CASE", help="print the peak memory of one case (used by the whole)")
    parser.add_argument("--compile", action="store_true", help="torch.compile as one more contender")
    options = parser.parse_args()
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    config, batch, frames = (BASE, 8, 256) if on_gpu else (SMALL, 4, 64)
    if options.memory:
        print(memory(options.memory, config, batch, frames, device))
        return
    on_cpu = f"{torch.get_num_threads()} threads of {torch.backends.cpu.get_cpu_capability()}"
    where = torch.cuda.get_device_name(device) if on_gpu else on_cpu
    print(f"NCSN++ nf {config.nf}, batch {batch} of 256 x {frames}; {where}; torch {torch.__version__}")
    contenders = cases(config, batch, frames, device, options.compile)
    for title in ("forward", "forward + backward"):
        works = {name: case.forward if title == "forward" else case.step for name, case in contenders.items()}
        table(title, compare(works, device, options.rounds), device)
    with_z = conditioned(config, batch, frames, device)
    for title in ("conditioning: forward", "conditioning: forward + backward"):
        works = {name: case.step if "back" in title else case.forward for name, case in with_z.items()}
        table(title, compare(works, device, options.rounds), device)
    print("peak memory of forward + backward, MiB")
    for name in contenders:
        if "compile" not in name:
            command = [sys.executable, __file__, "--device", options.device, "--memory", name]
            peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"  {name:42s}{float(peak):8.0f}", flush=True)


if __name__ == "__main__":
    main()

"""`nr live`."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from pathlib import Path

import click

from nrdata.labels import printable


@click.command()
@click.option("--ref", type=click.Path(path_type=Path), help="A clip of the noise alone, 0.25 s or longer.")
@click.option("--ref-seconds", type=click.FloatRange(0.25, 30), help="Hear the room alone for so long first.")
@click.option("--chunk-seconds", type=click.FloatRange(0.1, 10), default=0.5, show_default=True, help="Sound at once.")
@click.option("--list", "as_list", is_flag=True, help="List the devices, and stop.")
@click.option("--microphone", help="Name or number of a device. Default: the system's.")
@click.option("--speaker", help="Name or number of a device. Default: the system's.")
@click.option("--input", "source", type=click.Path(path_type=Path), help="A file in place of the microphone.")
@click.option("--output", "out", type=click.Path(path_type=Path), help="A file in place of the loudspeaker.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Run folder or .safetensors. Default: the shipped.")
def command(
    ref: Path | None,
    ref_seconds: float | None,
    chunk_seconds: float,
    as_list: bool,
    microphone: str | None,
    speaker: str | None,
    source: Path | None,
    out: Path | None,
    checkpoint: Path | None,
) -> None:
    """Remove noise from the microphone while you speak, and play it or write it to a file. Ctrl-C ends it.

    Example: nr live --ref-seconds 1 --output clean.wav
    """
    from nrmodel.enhancement import live

    if as_list:
        click.echo(live.sounddevice().query_devices())
        return
    if ref is not None and ref_seconds is not None:
        raise click.UsageError("--ref and --ref-seconds exclude one another")
    if (source and microphone) or (out and speaker):
        raise click.UsageError("a file stands in place of a device: name one of the two")
    if source and out and source.resolve() == out.resolve():
        raise click.UsageError("--output is the input itself: name another file")

    import nrmodel
    from nrdata import audio
    from nrmodel.defaults import default_checkpoint
    from nrmodel.enhancement.streaming import Stream

    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())  # the end of the recording, not of the command
    try:
        with contextlib.ExitStack() as opened:
            ear = live.file_source(source) if source else opened.enter_context(live.microphone(microphone, stop))
            model = nrmodel.load(default_checkpoint()[0] if checkpoint is None else checkpoint)
            clip, clip_rate = audio.read(ref) if ref else (None, ear.sample_rate)
            if ref_seconds is not None:
                click.echo(f"the room alone for {ref_seconds:g} s: say nothing", err=True)
                clip = live.take(ear, ref_seconds)
            stream = Stream(model, ear.sample_rate, clip, clip_rate, chunk_seconds)
            put = opened.enter_context(
                audio.writer(out, ear.sample_rate, ear.channels)
                if out
                else live.loudspeaker(speaker, ear, chunk_seconds / 2)
            )
            click.echo(f"latency {stream.latency_seconds:.2f} s; Ctrl-C ends it", err=True)
            seconds = live.run(ear, stream, put, _meter, stop)
    finally:
        signal.signal(signal.SIGINT, before)
    click.echo(f"{seconds:.2f} s enhanced" + (f" -> {printable(str(out))}" if out else ""))


def _meter(line: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{line}", nl=False, err=True)

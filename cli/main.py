"""The entry point `nr`: finds the command, maps errors to exit codes. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import os
import select
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import click

from nrdata.errors import Failure, UserError
from nrdata.labels import printable

# name -> (module of this folder, one line for --help). The module is imported only when its command runs.
COMMANDS = {
    "build-shards": ("build_shards", "Build a sharded data set of (clean, noisy, noise) triplets from sources."),
    "verify-shards": ("verify_shards", "Check every byte of a data set; --leaks looks across its splits."),
    "inspect": ("inspect", "Hours, speakers, environments and SNRs of a data set."),
    "index": ("index", "Make the index files of shards again, from the tars alone."),
    "sources": ("sources", "Known corpora: size, licence, environments, recordings."),
    "download": ("download", "Fetch a known corpus: resumable, checked, unpacked."),
    "train": ("train", "Train a (reference-conditioned) SGMSE+ on shards."),
    "evaluate": ("evaluate", "Score reference modes on a split, with paired differences and intervals."),
    "enhance": ("enhance", "Remove noise from files, with or without a noise reference."),
    "live": ("live", "Remove noise from the microphone while you speak."),
    "app": ("app", "A page in the browser: bring a talk and its room, hear it before and after."),
    "experiment": ("experiment", "Run a plan of trainings and evaluations; print its verdicts."),
    "convert": ("convert", "Read an SGMSE+ checkpoint of the reference project."),
    "doctor": ("doctor", "What loads on this machine, what does not, what to do."),
}


class Interrupted(BaseException):
    """Ctrl-C."""


class Terminated(BaseException):
    """SIGTERM, raised so that every `finally` and context manager runs."""


class BrokenPipe(BaseException):
    """A `BrokenPipeError`: of stdout, or of another process."""


class Commands(click.Group):
    """Imports a command's module on first use, so that `nr --help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{COMMANDS[name][0]}", __package__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command '{args[0]}': {known}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would print an empty line and make it an Abort
            raise Interrupted from None
        except BrokenPipeError as e:  # click would make it an exit, whatever pipe it was
            raise BrokenPipe from e

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _version(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib import metadata

        try:
            click.echo(f"nr {metadata.version('nr')}")
        except metadata.PackageNotFoundError:
            click.echo("nr (run from its folder, not installed)")
        ctx.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("-v", "--verbose", count=True, help="Tell what is opened, chosen and resumed; -vv: each shard and file.")
@click.pass_context
def cli(ctx: click.Context, verbose: int) -> None:
    """Noise references for diffusion speech enhancement: build data, train, find out, enhance."""
    ctx.with_resource(_told([logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]))


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say(0, self.format(record))


@contextlib.contextmanager
def _told(level: int) -> Iterator[None]:
    """What the packages log, from `level` on, as lines on stderr while a command runs."""
    handler, loggers = _Lines(), [logging.getLogger(name) for name in ("nrdata", "nrmodel")]
    for logger in loggers:
        logger.setLevel(level)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _on_sigterm(signum: int, frame: Any) -> None:
    raise Terminated


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 faults found, 2 user's to mend, 130, 143. An empty one
    asks for help."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        code = _mapped(argv)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
    except OSError as e:
        _close_stdout()
        code = code or _say(2, f"cannot write the output: {e.strerror}")
    return code


def _mapped(argv: list[str]) -> int:
    debug = bool(os.environ.get("NR_DEBUG"))
    try:
        result = cli.main(args=argv or ["--help"], prog_name="nr", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        return _say(2, e.format_message())
    except (Interrupted, KeyboardInterrupt, click.Abort):
        return _say(130, "interrupted")
    except Terminated:
        return _say(143, "terminated")
    except (BrokenPipe, BrokenPipeError) as e:
        if _nobody_reads():
            _close_stdout()
            return 0
        if debug:
            raise e.__cause__ or e from None
        return _say(1, "a process that was being written to has ended (NR_DEBUG=1 shows where)")
    except SystemExit as e:
        if e.code == 1 and _nobody_reads():  # click's exit where its own help met a closed pipe
            _close_stdout()
            return 0
        return e.code if isinstance(e.code, int) else 0 if e.code is None else _say(1, str(e.code))
    except UserError as e:
        if debug:
            raise
        return _say(2, str(e))
    except Failure as e:
        if debug:
            raise
        return _say(1, str(e))
    except OSError as e:
        if debug:
            raise
        return _say(2, f"{e.strerror or e}" + (f" ({e.filename})" if e.filename else ""))
    except Exception as e:  # ours to mend: said in one line here, whole with NR_DEBUG=1
        if debug:
            raise
        return _say(1, f"internal error, {type(e).__name__}: {e} (NR_DEBUG=1 shows where)")


def _say(code: int, message: str) -> int:
    with contextlib.suppress(BrokenPipeError):  # nobody reads errors: the code says it
        click.echo(f"nr: {printable(message)}", err=True)
    return code


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has gone."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except OSError:  # a stream without a descriptor
        return False


def _close_stdout() -> None:
    """Let what is left in the buffer go nowhere, so that the interpreter's own flush at exit finds no fault."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    _say(0, f"warning: {message}")


def main() -> None:
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

"""The entry point `nr`: finds the command, maps errors to exit codes. Imports nothing heavy."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import click

from nrdata.errors import UserError

# name -> (module, one line for --help). The module is imported only when its command runs.
COMMANDS = {
    "build-shards": ("cli.build_shards", "Build a sharded data set of (clean, noisy, noise) triplets from sources."),
    "verify-shards": ("cli.verify_shards", "Check every byte of a data set; --leaks looks across its splits."),
    "inspect": ("cli.inspect", "Hours, speakers, environments and SNRs of a data set."),
    "index": ("cli.index", "Make the index files of shards again, from the tars alone."),
    "train": ("cli.train", "Train a (reference-conditioned) SGMSE+ on shards."),
    "evaluate": ("cli.evaluate", "Score reference modes on a split, with paired differences and intervals."),
    "enhance": ("cli.enhance", "Remove noise from files, with or without a noise reference."),
    "doctor": ("cli.doctor", "What loads on this machine, what does not, what to do."),
}


class Commands(click.Group):
    """Imports a command's module on first use, so that `nr --help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nr")
def cli() -> None:
    """Noise references for diffusion speech enhancement: build data, train, find out, enhance."""


class Terminated(BaseException):
    """SIGTERM, raised so that every `finally` and context manager runs."""


def _on_sigterm(signum: int, frame: Any) -> None:
    raise Terminated


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 faults found, 2 user's to mend, 130, 143."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = cli.main(args=argv, prog_name="nr", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return 2
    except UserError as e:
        if os.environ.get("NR_DEBUG"):
            raise
        click.echo(f"nr: {printable(str(e))}", err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("nr: interrupted", err=True)
        return 130
    except Terminated:
        click.echo("nr: terminated", err=True)
        return 143
    except BrokenPipeError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        return 0
    except OSError as e:
        if os.environ.get("NR_DEBUG"):
            raise
        where = f" ({printable(str(e.filename))})" if e.filename else ""
        click.echo(f"nr: {e.strerror or e}{where}", err=True)
        return 2


def printable(text: str) -> str:
    """Text from data made safe for a terminal: control characters and surrogates as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def main() -> None:
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

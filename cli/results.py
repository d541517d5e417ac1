"""`make results`: every table and picture under results/ again, from the rows and logs committed there.

    rows.jsonl (speed.json)       -> summary.json, table.csv, table.md, means.png, calls.png (several numbers of calls)
    parts.jsonl                   -> summary.json, table.md (`nr evaluate --selective`)
    against.toml                  -> table.md (two models under the same conditions)
    log.jsonl                     -> loss.png
    plan.toml with cells/         -> verdicts.json, report.md and its pictures (`nr experiment`)

Tables come out byte for byte; a picture that shows the same is left as it is. `--check` writes nothing and exits 1
where something would change.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import click

SOURCES = ("rows.jsonl", "parts.jsonl", "against.toml", "log.jsonl", "plan.toml")
TABLES = ("summary.json", "table.csv", "table.md", "verdicts.json", "report.md")


@click.command()
@click.argument("results", type=click.Path(path_type=Path), default=Path("results"))
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where something would change.")
def command(results: Path, check: bool) -> int:
    """Rebuild the tables and pictures under RESULTS.

    Example: python -m cli.results --check
    """
    from nrdata.labels import printable

    changed: list[Path] = []
    count = 0
    for folder in sorted({p.parent for name in SOURCES for p in results.rglob(name)}):
        made, different = rebuild(folder, check)
        count += made
        changed += different
    for path in changed:
        click.echo(f"{'differs' if check else 'rebuilt'}: {printable(str(path))}")
    click.echo(f"{count} tables and pictures under {printable(str(results))}, {len(changed)} changed")
    return int(check and bool(changed))


def rebuild(folder: Path, check: bool) -> tuple[int, list[Path]]:
    """Make what belongs to one folder beside it, and take over what differs; (how many, which differed)."""
    from nrmodel.experiment.plots import same_picture

    with tempfile.TemporaryDirectory(prefix="results-") as made:
        make(folder, Path(made))
        files = sorted(path for path in Path(made).iterdir() if path.name in TABLES or path.suffix == ".png")
        changed = []
        for path in files:
            there, new = folder / path.name, path.read_bytes()
            old = there.read_bytes() if there.exists() else None
            if old == new or (old is not None and path.suffix == ".png" and same_picture(old, new)):
                continue
            changed.append(there)
            if not check:
                shutil.copyfile(path, there)
        return len(files), changed


def make(folder: Path, out: Path) -> None:
    """Tables and pictures of one folder, into `out`."""
    from nrdata.files import write_bytes
    from nrmodel.evaluation.schema import read_rows
    from nrmodel.evaluation.speed import read_speed
    from nrmodel.evaluation.tables import write_tables
    from nrmodel.experiment import plots

    if (folder / "rows.jsonl").exists():
        summary = write_tables(read_rows(folder / "rows.jsonl"), out, read_speed(folder))
        # An experiment's own pictures show its evaluations.
        if folder.parent.name != "evaluations" and (gains := plots.paired_gains(summary)):
            write_bytes(out / "means.png", gains)
        if curves := plots.quality_by_calls(summary):
            write_bytes(out / "calls.png", curves)
    if (folder / "parts.jsonl").exists():
        from nrmodel.evaluation.selective import read_parts, write_summary

        write_summary(read_parts(folder / "parts.jsonl"), out)
    if (folder / "against.toml").exists():
        from nrmodel.evaluation.against import write_against

        write_against(folder, out)
    if (folder / "log.jsonl").exists():
        from nrmodel.training.curve import read_curve

        told = read_curve(folder)
        write_bytes(out / "loss.png", plots.loss_curve(told.steps, told.loss, told.validation, told.own_from))
    if (folder / "plan.toml").exists() and (folder / "cells").is_dir():
        from nrmodel.experiment.plan import read_plan
        from nrmodel.experiment.report import write_tables as write_report_tables

        write_report_tables(read_plan(folder / "plan.toml", folder), folder, out)


def main() -> int:
    from nrdata.errors import UserError

    try:
        return command.main(standalone_mode=False) or 0
    except (UserError, click.ClickException) as e:
        click.echo(f"results: {e}", err=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())

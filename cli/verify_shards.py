"""`nr verify-shards`."""

from __future__ import annotations

import click


@click.command()
@click.argument("folders", nargs=-1)
@click.option("--leaks", is_flag=True, help="Also look for sound, speakers and recordings that splits share.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for machines.")
def command(folders: tuple[str, ...], leaks: bool, as_json: bool) -> int:
    """Check every byte of a data set: a line a fault, exit code 1 where there are any. Of several FOLDERS, --leaks
    finds what one has in training and another in test.

    Example: nr verify-shards shards/real --leaks
    """
    import json
    from dataclasses import asdict

    from nrdata.checks.leaks import find_leaks
    from nrdata.checks.verify import verify
    from nrdata.labels import printable
    from nrdata.store.dataset import default_folder

    folders = folders or (str(default_folder()),)
    folder = " and ".join(folders)
    report = verify(folders[0])
    for other in map(verify, folders[1:]):
        report.shards, report.samples = report.shards + other.shards, report.samples + other.samples
        report.seconds += other.seconds
        report.faults += other.faults
        report.notes += other.notes
    found, notes = find_leaks(*folders) if leaks and not report.faults else ([], [])
    report.notes.extend(notes)
    if as_json:
        click.echo(json.dumps({**asdict(report), "leaks": [asdict(leak) for leak in found]}, indent=1))
        return 1 if report.faults or found else 0
    for line in [*report.notes, *report.faults, *found]:
        click.echo(printable(str(line)))
    if leaks and report.faults:
        click.echo("leaks are not looked for until the faults are mended")
    faults = len(report.faults)
    click.echo(
        printable(
            f"{folder}: {report.shards} shards, {report.samples} samples, {report.seconds / 3600:.2f} h, "
            + (f"{faults} fault{'s' * (faults > 1)}" if faults else "no faults")
            + (f", {len(found) or 'no'} leak{'s' * (len(found) != 1)}" if leaks and not faults else "")
        )
    )
    return 1 if report.faults or found else 0

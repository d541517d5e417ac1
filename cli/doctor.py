"""`nr doctor`."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object for machines.")
def command(as_json: bool) -> int:
    """Print what loads on this machine, what does not, and what to do; exit 1 if something required is missing.

    Example: nr doctor
    """
    from nrmodel import doctor

    findings = doctor.examine()
    healthy = doctor.healthy(findings)
    if as_json:
        click.echo(json.dumps({"healthy": healthy, "findings": [finding.as_dict() for finding in findings]}, indent=1))
        return 0 if healthy else 1

    from nrdata.labels import printable

    for finding in findings:
        remark = "; ".join(filter(None, [finding.detail, finding.remedy]))
        click.echo(printable(f"{finding.name:16} {finding.status:9} {finding.version:14} {remark}").rstrip())
    click.echo("all that is required loads" if healthy else "something required does not load: see above")
    return 0 if healthy else 1

"""`keepstate doctor`: what this machine can do, what is missing, and the command that mends it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from keepstate.cli import keepstate_elsewhere
from keepstate.cli._options import json_option
from keepstate.cli._output import print_json
from keepstate.errors import EXIT_PARTIAL

if TYPE_CHECKING:
    from keepstate.doctor import Finding

DEMO = "keepstate demo"
COLOURS = {"ok": "green", "warn": "yellow", "missing": "red"}


@click.command()
@json_option
@click.option("--quick", is_flag=True, help="Leave out the sandbox's self-test (a second).")
@click.option("--verbose", "-v", is_flag=True, help="Show every check of the sandbox.")
def command(as_json: bool, quick: bool, verbose: bool) -> None:
    """Show what this machine can do and what is missing. Exit 0 if the laptop loop can run, else 1."""
    from keepstate.doctor import can_run_laptop, examine

    findings = examine(sandbox=not quick)
    ready = can_run_laptop(findings)
    if as_json:
        value = {"laptop_ready": ready, "findings": [finding.as_json() for finding in findings]}
        print_json(value)
    else:
        _print(findings, verbose)
        click.echo(f"the laptop loop can run: {DEMO}" if ready else f"{DEMO} makes what is missing and can be made")
        if where := keepstate_elsewhere(DEMO):
            click.echo(where)
    if not ready:
        sys.exit(EXIT_PARTIAL)


def _print(findings: list[Finding], verbose: bool) -> None:
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        mark = click.style(f"{finding.mark:<7}", fg=COLOURS[finding.mark])
        click.echo(f"{mark}  {finding.topic:<{width}}  {finding.text}")
        if finding.mend:
            click.echo(f"{'':9}{'':{width}}  -> {finding.mend}")
        if verbose:
            for rung in finding.details:
                click.echo(f"{'':9}{rung['rung']}: {'usable' if rung['usable'] else rung['reason']}")
                for check in rung["checks"]:
                    click.echo(
                        f"{'':11}{'passed' if check['passed'] else 'FAILED'}  {check['name']}: {check['detail']}"
                    )

"""Where the curves of a training go: a database on this machine by default, a service only where one is named.

`keepstate train RUNTIME --track wandb`. Chooses and checks; the logging itself happens inside Axolotl. Sends nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keepstate.errors import UserError
from keepstate.vocabulary import Tracker

PROJECT = "keepstate"
FOLDER = "tracking"


def check_installed(tracker: Tracker, python: Path) -> None:
    """Refuse a tracker that the training environment lacks.

    Args:
        tracker: Chosen.
        python: Interpreter of the training environment.

    Raises:
        UserError: Names the command that installs it.
    """
    if tracker is Tracker.NONE or any((python.parent.parent / "lib").glob(f"python*/site-packages/{tracker}")):
        return
    # mlflow-skinny has all that logging needs; the whole of MLflow would move versions that the lock pins.
    package = "mlflow-skinny" if tracker is Tracker.MLFLOW else str(tracker)
    raise UserError(
        f"--track {tracker}: {python.parent.parent.name} has no {tracker}", f"{python} -m pip install {package}"
    )


def config_keys(tracker: Tracker, run: str) -> dict[str, Any]:
    """Axolotl's own keys for the services that it logs to itself."""
    match tracker:
        case Tracker.WANDB:
            return {"use_wandb": True, "wandb_project": PROJECT, "wandb_name": run}
        case Tracker.MLFLOW:
            uri = {"mlflow_tracking_uri": named} if (named := os.environ.get("MLFLOW_TRACKING_URI")) else {}
            return {"use_mlflow": True, "mlflow_experiment_name": PROJECT, "mlflow_run_name": run} | uri
    return {}


def environment(tracker: Tracker, output: Path, run: str) -> dict[str, str]:
    """Variables for the plugin, which writes trackio's database: beside the adapters, one for all of them."""
    if tracker is not Tracker.TRACKIO:
        return {}
    return {"KEEPSTATE_TRACK": run, "TRACKIO_DIR": str(output.parent / FOLDER)}


def dashboard(output: Path, python: Path) -> str:
    """The command that shows trackio's curves."""
    return f"TRACKIO_DIR={output.parent / FOLDER} {python.parent / 'trackio'} show --project {PROJECT}"

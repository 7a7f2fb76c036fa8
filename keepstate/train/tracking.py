"""Where the curves of a training go: a database on this machine by default, a service only where one is named.

`keepstate train RUNTIME --track wandb`. Chooses and checks; the logging itself happens inside Axolotl. Sends nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from keepstate.errors import UserError
from keepstate.places import home
from keepstate.vocabulary import Tracker

PROJECT = "keepstate"
FOLDER = "tracking"
MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
"""Else its client tries for minutes before a training goes on without a server that is down."""


def mlflow_folder() -> Path:
    """Where MLflow's client lies: apart, since its requirements would move versions that Axolotl's lock pins."""
    return home() / ".mlflow"


def check_tracker(tracker: Tracker) -> None:
    """Refuse a service that cannot be logged to; the others come with Axolotl.

    Raises:
        UserError: No MLflow, or no server named.
    """
    if tracker is not Tracker.MLFLOW:
        return
    if not (mlflow_folder() / "mlflow").is_dir():
        install = f"{sys.executable} -m pip install --target {mlflow_folder()} mlflow-skinny"
        raise UserError("--track mlflow: MLflow's client is not installed", install)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError(
            "--track mlflow: MLFLOW_TRACKING_URI is not set",
            "name your server: export MLFLOW_TRACKING_URI=http://HOST:5000; without a server: --track trackio",
        )


def config_keys(tracker: Tracker, run: str) -> dict[str, Any]:
    """Axolotl's own keys for the services that it logs to itself."""
    match tracker:
        case Tracker.WANDB:
            return {"use_wandb": True, "wandb_project": PROJECT, "wandb_name": run}
        case Tracker.MLFLOW:
            uri = os.environ["MLFLOW_TRACKING_URI"]
            named = {"mlflow_experiment_name": PROJECT, "mlflow_run_name": run}
            return {"use_mlflow": True, "mlflow_tracking_uri": uri} | named
    return {}


def environment(tracker: Tracker, output: Path, run: str) -> dict[str, str]:
    """Variables for the plugin, which writes trackio's database: beside the adapters, one for all of them."""
    match tracker:
        case Tracker.TRACKIO:
            return {"KEEPSTATE_TRACK": run, "TRACKIO_DIR": str(output.parent / FOLDER)}
        case Tracker.MLFLOW:
            own = {name: os.environ.get(name, value) for name, value in MLFLOW_PATIENCE.items()}
            return {"KEEPSTATE_PACKAGES": str(mlflow_folder())} | own
    return {}


def dashboard(output: Path, python: Path) -> str:
    """The command that shows trackio's curves."""
    return f"TRACKIO_DIR={output.parent / FOLDER} {python.parent / 'trackio'} show --project {PROJECT}"

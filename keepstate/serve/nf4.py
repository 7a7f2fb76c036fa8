"""The weights that training on NF4 saw, as a model folder to serve: `keepstate serve --base nf4-dequantised`.

QLoRA trains an adapter beside a base in four bits, which every step dequantises; a server multiplies with the weights
as they were published. The folder holds the base with each of those layers quantised and dequantised again. It is made
once, by the training environment, and lies in `models/` of keepstate's home.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import yaml

from keepstate.errors import UserError
from keepstate.files import check_room, content_hash, scratch_folder, sync_folder, write_json
from keepstate.places import home, writable_home
from keepstate.processes import only_one, run_logged
from keepstate.serve.adapters import ServedAdapter
from keepstate.serve.serving_plan import ServingPlan
from keepstate.setup import environments, installing
from keepstate.train.result import NF4_MARK, base_identity
from keepstate.train.run_folder import RESOLVED

NF4_DEQUANTISED = "nf4-dequantised"
SCRIPT = Path(__file__).resolve().parent / "inside" / "nf4_dequantised.py"


def nf4_folder(base_model: str) -> Path:
    """Where those weights of a base model lie, whether they are there or not; another base has another folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(base_model).name)
    return home() / "models" / f"{name}-{NF4_DEQUANTISED}-{content_hash(base_identity(base_model))[:8]}"


def on_nf4(planned: ServingPlan, *, make: bool = True) -> ServingPlan:
    """The same server with the weights that training on NF4 saw.

    Args:
        planned: The server, with its base as it is published.
        make: Make them where they are missing; else name where they will lie.

    Raises:
        UserError: They cannot be made.
    """
    others = [adapter.name for adapter in planned.adapters if _saw_nf4(adapter) is False]
    remark = f"not trained on NF4 (load_in_4bit), so this is not the base that they saw: {', '.join(others)}"
    folder = ensure_nf4(planned.base_model) if make else nf4_folder(planned.base_model)
    return replace(planned, base_model=str(folder), remarks=(*planned.remarks, *[remark] * bool(others)))


def as_published(planned: ServingPlan) -> ServingPlan:
    """The same server, with a remark where an adapter of it was trained on other weights than those served."""
    names = [adapter.name for adapter in planned.adapters if _saw_nf4(adapter)]
    remark = f"trained on NF4: {', '.join(names)}; the weights that they saw are served by --base {NF4_DEQUANTISED}"
    return replace(planned, remarks=(*planned.remarks, *[remark] * bool(names)))


def ensure_nf4(base_model: str) -> Path:
    """Make the folder unless it is there; it appears whole or not at all. Words go to stderr.

    Raises:
        UserError: It cannot be made.
    """
    target = nf4_folder(base_model)
    log = writable_home(target.name, f"keepstate serve --base {NF4_DEQUANTISED}") / ".stamps" / "nf4.log"
    with only_one(log.with_suffix(".lock"), f"models/{target.name}"):
        if (target / NF4_MARK).is_file():
            return target
        python = installing.ensure("train")
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target.parent, f".{target.name}.") as work:
            env = os.environ | environments.NO_TELEMETRY
            env |= {"HF_HUB_OFFLINE": "1"} if Path(base_model).is_dir() else {}
            code, end = run_logged([python, "-I", SCRIPT, base_model, work / "made"], log, env=env)
            if code:
                check_room(work / "made")
                raise UserError(
                    f"{base_model} could not be taken to NF4 and back; the end of {log}:\n{end}",
                    "serve it as it is: leave --base out",
                )
            write_json(work / "made" / NF4_MARK, {"base_model": base_model, **base_identity(base_model)})
            (work / "made").rename(target)
            sync_folder(target.parent)
    return target


def _saw_nf4(adapter: ServedAdapter) -> bool | None:
    """Whether its training's config says so; None where it has none that tells."""
    try:
        config = yaml.safe_load((adapter.folder / RESOLVED).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return bool(config.get("load_in_4bit")) if isinstance(config, dict) else None

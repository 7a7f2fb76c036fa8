"""Ray started on this machine alone, or a cluster of others joined: what comes before `keepstate.play.cluster`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keepstate.errors import UserError
from keepstate.models.endpoint import KEY, REMOTE_KEY
from keepstate.play.cluster_address import check_address
from keepstate.setup.ray import COMMAND, ray_environment

STORE_BYTES = 256 * 2**20
"""Of a cluster that we start: messages of more than 100 KB pass through it."""


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray itself, connected; see `keepstate.play.cluster.cluster`.

    Raises:
        UserError: Ray is not installed, no cluster answers there, or it is of other versions.
    """
    check_address(address)
    ray = _ray(alone=address is None)
    with _alone(ray) if address is None else _joined(ray, address):
        yield ray


def _ray(*, alone: bool) -> Any:
    """Ray, with its reports to its makers switched off; of a cluster of our own all listens on the loopback alone.

    Raises:
        UserError: It is not installed.
    """
    os.environ |= ray_environment(alone=alone)  # read when it is imported
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray, which is not installed", f"install it: {COMMAND}") from error
    return ray


QUIET = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}


@contextmanager
def _alone(ray: Any) -> Iterator[None]:
    """A cluster of this machine. Its processes end with this one, however that ends."""
    keys = {name: os.environ.pop(name) for name in (KEY, REMOTE_KEY) if name in os.environ}
    folder = tempfile.mkdtemp(prefix="keepstate-ray-", dir=_short_folder())
    try:
        ray.init("local", _temp_dir=folder, object_store_memory=STORE_BYTES, **QUIET)
        os.environ.update(keys)
        yield
    finally:
        os.environ.update(keys)
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str | None:
    """Where Ray's sockets have names that the kernel takes: 107 bytes, of which Ray's own part are 85."""
    return "/tmp" if len(tempfile.gettempdir()) > 20 else None


@contextmanager
def _joined(ray: Any, address: str) -> Iterator[None]:
    """A cluster that others started, and end."""
    try:
        ray.init(address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"no Ray cluster can be joined by --address {address}: {words_of(error)}",
            "on a node of it, see: ray status; without --address one of this machine alone is started",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def words_of(error: BaseException) -> str:
    """What Ray says, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]

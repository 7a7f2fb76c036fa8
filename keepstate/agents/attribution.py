"""Attributing a failure of ours to exactly one boundary. The agent's own errors never pass here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import ContextOverflow
from keepstate.vocabulary import Origin


@contextmanager
def attributed(origin: Origin) -> Iterator[None]:
    """Turn any unexpected exception raised inside into a failure of `origin`.

    Raises:
        EpisodeFailure: Anything went wrong; an inner `EpisodeFailure` keeps its own origin.
        ContextOverflow: Unchanged: no failure, the episode has ended.
        UserError: Unchanged: the whole run has to stop.
    """
    try:
        yield
    except (EpisodeFailure, ContextOverflow, UserError):
        raise
    except Exception as error:
        raise EpisodeFailure(origin, f"{type(error).__name__}: {error}") from error

"""The connections to one server: as many as there are questions at once, in small pools."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2

CONNECT_SECONDS = 10.0
POOL = 8
"""Connections of a pool: when a question begins and when it ends, httpcore asks the kernel about each that is idle."""


class Connections:
    """Pools that are made when they are needed.

    Args:
        made: How a client is made: see `keepstate.models.endpoint.connection`.
        most: Questions at once; further ones wait.
    """

    def __init__(self, made: Mapping[str, Any], most: int) -> None:
        self._make = partial(
            httpx2.AsyncClient,
            limits=httpx2.Limits(max_connections=POOL, max_keepalive_connections=POOL),
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            verify=httpx2.create_ssl_context(trust_env=made["trust_env"]),  # a tenth of a second each
            **made,
        )
        self._most = math.ceil(most / POOL)
        self._pools: list[httpx2.AsyncClient] = []
        self._asked: list[int] = []
        """Questions that are open in each."""

    @asynccontextmanager
    async def stream(self, method: str, url: str, **what: Any) -> AsyncIterator[httpx2.Response]:
        """What `httpx2.AsyncClient.stream` does, in the first pool with room: idle ones stay untouched."""
        place = next((place for place, asked in enumerate(self._asked) if asked < POOL), len(self._pools))
        if place == self._most:
            place = self._asked.index(min(self._asked))
        elif place == len(self._pools):
            self._pools.append(self._make())
            self._asked.append(0)
        self._asked[place] += 1
        try:
            async with self._pools[place].stream(method, url, **what) as response:
                yield response
        finally:
            self._asked[place] -= 1

    async def aclose(self) -> None:
        """Close all."""
        for pool in self._pools:
            await pool.aclose()

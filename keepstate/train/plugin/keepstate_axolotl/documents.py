"""Which documents a packed row has, and attention chosen by how many: under the GPU's attention and the CPU's.

Positions begin at 0 in each document. Knows no kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class Documents(NamedTuple):
    """Where the documents of a batch begin and end, its rows laid end to end."""

    number: int
    offsets: torch.Tensor
    """int32, one more than documents."""
    longest: int
    """Tokens of the longest."""


def find_documents(position_ids: torch.Tensor) -> Documents:
    """Read the documents off the positions, which begin at 0 in each. Waits for the GPU.

    What fills a row has position 0 throughout and is one document: nobody attends to it, and it has no loss.
    """
    column = torch.arange(position_ids.shape[1], device=position_ids.device)
    last = torch.where(position_ids != 0, column, -1).amax(dim=1, keepdim=True)
    starts = torch.nonzero(((position_ids == 0) & (column <= last + 1)).flatten()).flatten()
    offsets = torch.cat([starts, starts.new_tensor([position_ids.numel()])])
    return Documents(len(starts), offsets.to(torch.int32), int(offsets.diff().max()))


class AttentionByDocuments:
    """An attention function of transformers: what it fits by how many documents a row has, all else as before.

    Subclasses say what fits, and put an attention function of their own in the place of `single` or `several`.
    """

    def __init__(self, other: Callable[..., Any]) -> None:
        """Take what everything went through before."""
        self._other = self.single = self.several = other
        self._positions: torch.Tensor | None = None
        self._documents: Documents | None = None

    def fits(self, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor | None) -> bool:
        """Whether an own function may take these; asked where there is no mask, no dropout and no window."""
        raise NotImplementedError

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend. Query is (rows, heads, tokens, width), the answer (rows, tokens, heads, width)."""
        positions, attend = kwargs.get("position_ids"), self._other
        plain = attention_mask is None and not dropout and not kwargs.get("sliding_window")
        if plain and self.fits(query, key, positions):
            one = positions is None or self.find(positions).number == len(positions)
            attend = self.single if one else self.several
        return attend(module, query, key, value, attention_mask, dropout=dropout, **kwargs)  # type: ignore[no-any-return]

    def find(self, positions: torch.Tensor) -> Documents:
        """The documents, found once a batch: all layers are given the same tensor."""
        if positions is not self._positions or self._documents is None:
            self._positions, self._documents = positions, find_documents(positions)
        return self._documents

"""Attention within the documents of a packed row by cuDNN's kernels for ragged batches, planned once a size class.

    cudnn.attend(query, key, value, documents, scaling)      # where `available()`

On a Hopper GPU they take little more than half the time of PyTorch's FlashAttention-2 with the same documents
(benchmarks/gpu/attention.py). Documents lie end to end, key-value heads are as they are. A plan holds for all rows of
its class (documents and longest document, each rounded up to a power of two), so a training builds a handful. Causal
only, without dropout. Needs the package nvidia-cudnn-frontend; PyTorch's own way to cuDNN plans anew in each call, and
its gradients of several documents are wrong (torch 2.11).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .documents import Documents

MOST_WIDTH = 128
HOPPER = (9, 0)
"""The only kind of GPU that this was measured on; others keep PyTorch's kernel."""
FEWEST_DOCUMENTS = 8
SHORTEST = 256
"""The smallest size classes."""


@functools.cache
def available() -> bool:
    """Whether this GPU and this environment have what it takes."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != HOPPER:
        return False
    try:
        import cudnn  # noqa: F401
    except ImportError:
        return False
    return True


def fits(query: torch.Tensor) -> bool:
    """Whether the kernels take such heads: (..., width) of two bytes, at most 128 wide in steps of 8."""
    width = query.shape[-1]
    return query.dtype in (torch.bfloat16, torch.float16) and width <= MOST_WIDTH and width % 8 == 0


# What the tensors are called in every graph.
QUERY, KEY, VALUE, OUTPUT, STATISTICS, GRAD, GRAD_QUERY, GRAD_KEY, GRAD_VALUE = range(1, 10)
AT_QUERY, AT_KEY, AT_STATISTICS, LENGTHS = range(11, 15)
OF_KEYS = (KEY, VALUE, GRAD_KEY, GRAD_VALUE)


class Shape(NamedTuple):
    """What a plan is made for."""

    device: int
    dtype: torch.dtype
    tokens: int
    heads: int
    kv_heads: int
    width: int
    scale: float
    documents: int
    """At most so many."""
    longest: int
    """At most so many tokens in one."""


class Drawing:
    """A graph of cuDNN while it is drawn: every tensor by the number that it has in all graphs."""

    def __init__(self, shape: Shape) -> None:
        import cudnn

        self._types, self._shape = cudnn.data_type, shape
        self._io = self._types.BFLOAT16 if shape.dtype == torch.bfloat16 else self._types.HALF
        self.graph = cudnn.pygraph(
            io_data_type=self._io,
            intermediate_data_type=self._types.FLOAT,
            compute_data_type=self._types.FLOAT,
            handle=_handle(shape.device),
        )
        count = shape.documents
        self._at = {uid: self._integers(uid, count + 1) for uid in (AT_QUERY, AT_KEY, AT_STATISTICS)}
        self.lengths = self._integers(LENGTHS, count)

    def common(self) -> dict[str, Any]:
        """What both directions are given."""
        return {
            "q": self.given(QUERY),
            "k": self.given(KEY),
            "v": self.given(VALUE),
            "attn_scale": self._shape.scale,
            "use_padding_mask": True,
            "seq_len_q": self.lengths,
            "seq_len_kv": self.lengths,
            "use_causal_mask": True,
        }

    def given(self, uid: int) -> Any:
        """An input."""
        size, stride, at, dtype = self._layout(uid)
        tensor = self.graph.tensor(name=f"t{uid}", uid=uid, dim=size, stride=stride, data_type=dtype)
        tensor.set_ragged_offset(at)
        return tensor

    def made(self, tensor: Any, uid: int) -> None:
        """Make `tensor` an output."""
        size, stride, at, dtype = self._layout(uid)
        tensor.set_output(True).set_uid(uid).set_dim(size).set_stride(stride).set_data_type(dtype)
        tensor.set_ragged_offset(at)

    def planned(self) -> Any:
        """The graph, ready to run."""
        import cudnn

        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([cudnn.heur_mode.A])
        self.graph.check_support()
        self.graph.build_plans()
        return self.graph

    def _integers(self, uid: int, count: int) -> Any:
        size, stride = [count, 1, 1, 1], [1, 1, 1, 1]
        return self.graph.tensor(name=f"t{uid}", uid=uid, dim=size, stride=stride, data_type=self._types.INT32)

    def _layout(self, uid: int) -> tuple[list[int], list[int], Any, Any]:
        """Size as (documents, heads, tokens, width), strides, where its documents begin, and its type."""
        shape, at, dtype = self._shape, AT_QUERY, self._io
        heads, width = shape.heads, shape.width
        if uid in OF_KEYS:
            heads, at = shape.kv_heads, AT_KEY
        elif uid == STATISTICS:
            width, at, dtype = 1, AT_STATISTICS, self._types.FLOAT
        row = heads * width
        size = [shape.documents, heads, shape.longest, width]
        return size, [shape.longest * row, width, row, 1], self._at[at], dtype


def forward_graph(shape: Shape) -> Any:
    """Query, key and value to output and statistics."""
    drawing = Drawing(shape)
    output, statistics = drawing.graph.sdpa(**drawing.common(), is_inference=False)
    drawing.made(output, OUTPUT)
    drawing.made(statistics, STATISTICS)
    return drawing.planned()


def backward_graph(shape: Shape) -> Any:
    """The same and the output's gradient to those of query, key and value."""
    drawing = Drawing(shape)
    grads = drawing.graph.sdpa_backward(
        **drawing.common(),
        o=drawing.given(OUTPUT),
        dO=drawing.given(GRAD),
        stats=drawing.given(STATISTICS),
        max_total_seq_len_q=shape.tokens,
        max_total_seq_len_kv=shape.tokens,
    )
    for tensor, uid in zip(grads, (GRAD_QUERY, GRAD_KEY, GRAD_VALUE), strict=True):
        drawing.made(tensor, uid)
    return drawing.planned()


class Plan:
    """Both directions for one shape. Their work space is PyTorch's, taken anew in each call."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._forward, self._backward = forward_graph(shape), backward_graph(shape)
        self._placed: tuple[Documents, dict[int, torch.Tensor]] | None = None

    def place(self, documents: Documents) -> dict[int, torch.Tensor]:
        """Where the documents lie, in elements, once a batch; those that the shape has more are empty."""
        if self._placed is None or self._placed[0] is not documents:
            shape = self._shape
            more = shape.documents + 1 - len(documents.offsets)
            offsets = torch.nn.functional.pad(documents.offsets, (0, more), value=shape.tokens).view(-1, 1, 1, 1)
            place = {
                AT_QUERY: offsets * (shape.heads * shape.width),
                AT_KEY: offsets * (shape.kv_heads * shape.width),
                AT_STATISTICS: offsets * shape.heads,
                LENGTHS: offsets.diff(dim=0),
            }
            self._placed = documents, place
        return self._placed[1]

    def forward(self, tensors: Mapping[int, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Output, and the number for each token and head that the backward needs."""
        query = tensors[QUERY]
        statistics = query.new_empty(self._shape.tokens, self._shape.heads, 1, dtype=torch.float32)
        made = {OUTPUT: torch.empty_like(query), STATISTICS: statistics}
        self._run(self._forward, {**tensors, **made})
        return made[OUTPUT], statistics

    def backward(self, tensors: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """Gradients of query, key and value."""
        of = {GRAD_QUERY: QUERY, GRAD_KEY: KEY, GRAD_VALUE: VALUE}
        made = {uid: torch.empty_like(tensors[like]) for uid, like in of.items()}
        self._run(self._backward, {**tensors, **made})
        return list(made.values())

    def _run(self, graph: Any, tensors: dict[int, torch.Tensor]) -> None:
        import cudnn

        handle = _handle(self._shape.device)
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        space = torch.empty(graph.get_workspace_size(), device=tensors[QUERY].device, dtype=torch.uint8)
        graph.execute(tensors, space, handle=handle)


@functools.cache
def _handle(device: int) -> Any:
    import cudnn

    with torch.cuda.device(device):
        return cudnn.create_handle()


@functools.cache
def plan_for(shape: Shape) -> Plan:
    """The plan, made once (.1 s; the first of a process takes 3 s)."""
    return Plan(shape)


def size_class(count: int, least: int) -> int:
    """The power of two that is at least both."""
    return max(least, 1 << (count - 1).bit_length())


class RaggedAttention(torch.autograd.Function):  # type: ignore[misc]
    """(tokens, heads, width) in and out."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: Plan, documents: Documents
    ) -> torch.Tensor:
        """Attend."""
        place = plan.place(documents)
        output, statistics = plan.forward({QUERY: query, KEY: key, VALUE: value, **place})
        ctx.save_for_backward(query, key, value, output, statistics)
        ctx.plan, ctx.place = plan, place
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Gradients of query, key and value."""
        saved = zip((QUERY, KEY, VALUE, OUTPUT, STATISTICS), ctx.saved_tensors, strict=True)
        return *ctx.plan.backward({**dict(saved), GRAD: grad.contiguous(), **ctx.place}), None, None


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """Causal attention within each document; (tokens, heads, width) in and out, fewer key-value heads allowed."""
    tokens, heads, width = query.shape
    shape = Shape(
        device=query.device.index,
        dtype=query.dtype,
        tokens=tokens,
        heads=heads,
        kv_heads=key.shape[1],
        width=width,
        scale=scaling or width**-0.5,
        documents=size_class(documents.number, FEWEST_DOCUMENTS),
        longest=size_class(documents.longest, SHORTEST),
    )
    inputs = (tensor.contiguous() for tensor in (query, key, value))
    return RaggedAttention.apply(*inputs, plan_for(shape), documents)

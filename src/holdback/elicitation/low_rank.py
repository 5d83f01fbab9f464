"""Low-rank adapters on every linear layer, for training only.

Hu et al. 2021, «LoRA» (arXiv 2106.09685): W + s·B·A with W frozen. An adapter library runs W and
the adapter side by side, four products and as many modules for each layer; here W + s·B·A is summed
once a step and run as one product, and only the backward pass, which needs no gradient of W, goes
through A and B. The gradients are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear


class Adapters:
    """A and B of every linear layer of a model but the head.

    All lie in one row of numbers, and their gradients in another: the optimizer, the clipping and
    the change of precision cost one operation each, not one for every layer.
    """

    def __init__(self, weights: Any, *, rank: int, scale: float) -> None:
        layers = find_layers(weights)
        shapes = [shape for layer in layers for shape in _list_shapes(layer, rank)]
        self.flat = nn.Parameter(torch.zeros(sum(map(math.prod, shapes)), device=weights.device))
        """All of them, the only parameter that is trained."""
        self.flat.grad = torch.zeros_like(self.flat)
        self._shapes = shapes
        grads = self._cut(self.flat.grad)
        matrices = self._cut(self.flat.data)
        for a in matrices[::2]:
            # As nn.Linear starts its weights, and PEFT A; B stays at zero.
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self._layers = [
            _Layer(
                module=layer,
                frozen=_orient(layer),
                a=matrices[2 * i],
                b=matrices[2 * i + 1],
                grad_a=grads[2 * i],
                grad_b=grads[2 * i + 1],
                scale=scale,
                anchor=self.flat,
            )
            for i, layer in enumerate(layers)
        ]

    def __iter__(self) -> Iterator[_Layer]:
        return iter(self._layers)

    @property
    def moved(self) -> bool:
        """Whether any B has left zero."""
        return any(bool(layer.b.any()) for layer in self)

    def sum_up(self, dtype: torch.dtype) -> None:
        """Prepare the next pass, in precision `dtype`, with what A and B are now."""
        low = self._cut(self.flat.data.to(dtype))
        for i, layer in enumerate(self._layers):
            layer.low_a, layer.low_b = low[2 * i], low[2 * i + 1]
            layer.merged = layer.add_up().to(dtype)

    def _cut(self, flat: torch.Tensor) -> list[torch.Tensor]:
        parts = torch.split_with_sizes(flat, [math.prod(shape) for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]


@dataclass(kw_only=True, slots=True)
class _Layer:
    """One linear layer with its A and B, and what its passes run with."""

    module: nn.Module
    frozen: torch.Tensor
    """W as (out, in), in the layer's own storage."""
    a: torch.Tensor
    """Shape (rank, in)."""
    b: torch.Tensor
    """Shape (out, rank)."""
    grad_a: torch.Tensor
    grad_b: torch.Tensor
    scale: float
    anchor: nn.Parameter
    """What makes a pass over frozen inputs one that takes gradients."""
    low_a: torch.Tensor | None = None
    """A in the precision of the pass."""
    low_b: torch.Tensor | None = None
    merged: torch.Tensor | None = None
    """W + s·B·A, shape (out, in), in the precision of the pass."""

    def add_up(self) -> torch.Tensor:
        """W + s·B·A in float32."""
        return torch.addmm(self.frozen.float(), self.b, self.a, alpha=self.scale)

    def run(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the layer, in its own forward's place."""
        outputs: torch.Tensor = _MergedLinear.apply(  # type: ignore[no-untyped-call]
            inputs, self.anchor, self
        )
        return outputs


class _MergedLinear(torch.autograd.Function):
    """x·(W + s·B·A)ᵀ + bias; the gradients of A and B are added to the layer's own."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, _: nn.Parameter, layer: _Layer) -> torch.Tensor:
        merged = layer.merged
        assert merged is not None, "sum_up comes before the pass"
        bias: Any = layer.module.bias
        ctx.save_for_backward(inputs)
        ctx.layer = layer
        return linear(inputs, merged, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        layer: _Layer = ctx.layer
        merged, low_a, low_b = layer.merged, layer.low_a, layer.low_b
        assert merged is not None
        assert low_a is not None
        assert low_b is not None
        (outer,) = grads
        rows, outs = inputs.reshape(-1, inputs.shape[-1]), outer.reshape(-1, outer.shape[-1])
        layer.grad_a.add_((outs @ low_b).T @ rows, alpha=layer.scale)
        layer.grad_b.add_(outs.T @ (rows @ low_a.T), alpha=layer.scale)
        return outer @ merged if ctx.needs_input_grad[0] else None, None, None


@contextmanager
def adapted(weights: Any, *, rank: int, scale: float) -> Iterator[Adapters]:
    """Put an adapter on every linear layer but the head; on exit its sum stays in the weights.

    A is drawn from torch's own stream. No other parameter takes gradients meanwhile.
    """
    asked = [(parameter, parameter.requires_grad) for parameter in weights.parameters()]
    weights.requires_grad_(False)
    adapters = Adapters(weights, rank=rank, scale=scale)
    for layer in adapters:
        layer.module.forward = layer.run
    try:
        yield adapters
    finally:
        with torch.no_grad():
            for layer in adapters:
                del layer.module.forward
                layer.frozen.copy_(layer.add_up())
        for parameter, asks in asked:
            parameter.requires_grad_(asks)


def find_layers(weights: Any) -> list[Any]:
    """List every linear layer of a model but the head."""
    from transformers.pytorch_utils import Conv1D

    head = weights.get_output_embeddings()
    return [
        module
        for module in weights.modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    ]


def _orient(layer: Any) -> torch.Tensor:
    """W as (out, in): GPT-2's layers keep theirs as (in, out)."""
    weight: torch.Tensor = layer.weight.detach()
    return weight if isinstance(layer, nn.Linear) else weight.T


def _list_shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    high, wide = _orient(layer).shape
    return (rank, wide), (high, rank)

"""The residual stream of any causal LM: read and changed by hooks on its layers, none of its own.

A layer is what the longest chain of equal modules in a model is made of, and its output what every
later layer adds to. That is all that is taken to be known of an architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from holdback.errors import CheckpointError, ConfigError

_TEXTS_TOGETHER = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """What texts leave in the residual stream behind some layers, float32 on the CPU."""

    means: torch.Tensor
    """Mean over each text's picked tokens, shape (texts, layers, width)."""
    norms: torch.Tensor
    """Mean Euclidean norm of the picked tokens, shape (texts, layers)."""


def find_layers(weights: Any) -> list[nn.Module]:
    """List a model's layers, first to last.

    Raises:
        CheckpointError: for a model that is no stack of layers.
    """
    depth = int(weights.config.get_text_config(decoder=True).num_hidden_layers)
    for module in weights.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    raise CheckpointError(
        f"expected a list of {depth} layers in the model, as its configuration says, found none in"
        f" {type(weights).__name__}; its activations cannot be reached by hooks"
    )


def place_layers(weights: Any, depths: Sequence[float]) -> list[int]:
    """Turn fractions of the depth into indices of layers, each named once.

    Raises:
        ConfigError: for a fraction outside [0, 1].
    """
    count = len(find_layers(weights))
    for depth in depths:
        if not 0 <= depth <= 1:
            raise ConfigError(
                f"expected layers as fractions of the depth, from 0 to 1, got {depth!r}"
            )
    return sorted({min(count - 1, int(depth * count)) for depth in depths})


@torch.no_grad()
def read_stream(
    weights: Any,
    texts: Sequence[Sequence[int]],
    picked: Sequence[Sequence[int]],
    layers: Sequence[int],
) -> Stream:
    """Read what texts leave behind layers.

    Args:
        weights: The model.
        texts: Token ids, none empty.
        picked: Of each text the tokens to average over, at least one.
        layers: Indices.
    """
    modules = find_layers(weights)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for start in range(0, len(texts), _TEXTS_TOGETHER):
        batch = texts[start : start + _TEXTS_TOGETHER]
        # Padding follows a text, and what follows is seen by none of its tokens.
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = torch.tensor(text)
        seen: dict[int, torch.Tensor] = {}

        def keep(index: int, seen: dict[int, torch.Tensor]) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                states = output[0] if isinstance(output, tuple) else output
                seen[index] = states.detach().float().cpu()

            return hook

        with ExitStack() as stack:
            for index in layers:
                handle = modules[index].register_forward_hook(keep(index, seen))
                stack.callback(handle.remove)
            weights(input_ids=ids.to(weights.device), use_cache=False)
        for row in range(len(batch)):
            at = list(picked[start + row])
            states = torch.stack([seen[index][row, at] for index in layers])
            parts.append((states.mean(1), states.norm(dim=-1).mean(1)))
    return Stream(
        means=torch.stack([mean for mean, _ in parts]),
        norms=torch.stack([norm for _, norm in parts]),
    )


Change = Callable[[torch.Tensor], torch.Tensor]
"""Of states of shape (…, width), in their own precision."""


@contextmanager
def changed_stream(
    weights: Any, changes: Mapping[int, Change], *, entering: Change | None = None
) -> Iterator[None]:
    """Change what layers leave in the stream, and what enters the first; on exit the hooks go.

    Args:
        weights: The model.
        changes: Index of a layer to what becomes of its output.
        entering: What becomes of the embeddings.
    """
    modules = find_layers(weights)
    with ExitStack() as stack:
        if entering is not None:
            stack.callback(_change_input(modules[0], entering).remove)
        for index, change in changes.items():
            stack.callback(_change_output(modules[index], change).remove)
        yield


def _change_output(module: nn.Module, change: Change) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    return module.register_forward_hook(hook)


def _change_input(module: nn.Module, change: Change) -> Any:
    def hook(module: nn.Module, args: Any, options: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), options
        return args, {**options, "hidden_states": change(options["hidden_states"])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)

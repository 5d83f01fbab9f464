"""A model for Inspect that hears what a task asks, and says nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from holdback.errors import HoldbackError
from holdback.inspect.messages import read_messages, read_tools
from holdback.inspect.tools import Message, Schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A call that a task makes of a model."""

    messages: tuple[Message, ...]
    tools: tuple[Schema, ...]
    max_tokens: int


class RecordingAPI(ModelAPI):
    """Keeps each call, by the key in its output's metadata."""

    refusal: HoldbackError | None = None

    def __init__(self) -> None:
        super().__init__(f"recorder-{uuid.uuid4().hex}")
        self.calls: dict[str, Asked] = {}

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Keep the call, and answer with an empty text."""
        key = str(len(self.calls))
        self.calls[key] = Asked(
            messages=tuple(read_messages(input)),
            tools=tuple(read_tools(tools)) if tool_choice != "none" else (),
            max_tokens=config.max_tokens or 0,
        )
        output = ModelOutput.from_content(self.model_name, "")
        output.metadata = {"prompt": key}
        return output


make_recording_api: Callable[..., Any] = modelapi(name="holdback-recorder")(RecordingAPI)
"""Makes a `RecordingAPI` that Inspect knows the provider of."""

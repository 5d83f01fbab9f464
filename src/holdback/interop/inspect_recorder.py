"""A model for Inspect that hears what a task asks, and says nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
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
from holdback.interop.inspect_provider import read_messages
from holdback.tasks.task import Conversation


class RecordingAPI(ModelAPI):
    """Keeps each call's messages and longest answer, by the key in its output's metadata."""

    refusal: HoldbackError | None = None

    def __init__(self) -> None:
        super().__init__(f"recorder-{uuid.uuid4().hex}")
        self.calls: dict[str, tuple[Conversation, int]] = {}

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Keep the call, and answer with an empty text."""
        key = str(len(self.calls))
        self.calls[key] = (tuple(read_messages(input)), config.max_tokens or 0)
        output = ModelOutput.from_content(self.model_name, "")
        output.metadata = {"prompt": key}
        return output


make_recording_api: Callable[..., Any] = modelapi(name="holdback-recorder")(RecordingAPI)
"""Makes a `RecordingAPI` that Inspect knows the provider of."""

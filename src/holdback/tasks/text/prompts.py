"""How a question is put: as a chat, or as text to continue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdback.errors import CheckpointError, ConfigError
from holdback.extensions import offered
from holdback.models.protocol import Format, Model, ModelOffers
from holdback.models.templates import find_beginning
from holdback.tasks.task import Conversation, encode_prompt
from holdback.tasks.text.items import LETTERS, Item

_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """The words around a question.

    In chat the user says `template`, a blank line and `ask`; in the completion format the same
    template stands between `Question: ` and a line `Answer:`, as question-and-answer pages do.
    """

    template: str
    """With `{question}`, `{choices}` or the name of any column in braces."""
    ask: str = ""
    """What form the answer should have; for the chat format, which needs to be told."""
    lettered: bool = False
    """Choices are shown with letters and the answer is a letter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Laid:
    """A question with its choices in the order in which they are shown."""

    item: Item
    order: tuple[int, ...]
    """Index in the file of each choice shown."""

    @property
    def choices(self) -> tuple[str, ...]:
        """As shown."""
        return tuple(self.item.choices[at] for at in self.order)

    @property
    def right(self) -> int:
        """Index of the right choice, as shown."""
        return self.choices.index(self.item.targets[0])


def write_question(laid: Laid, wording: Wording) -> str:
    """Fill the template.

    Raises:
        ConfigError: for a name in braces that is no column.
    """
    cells: dict[str, Any] = {
        **laid.item.cells,
        "question": laid.item.question,
        "choices": "\n".join(
            f"{letter}. {choice}" for letter, choice in zip(LETTERS, laid.choices, strict=False)
        ),
    }

    def fill(place: re.Match[str]) -> str:
        if place[1] not in cells:
            raise ConfigError(
                f"template {wording.template!r}: expected columns in braces, got {place[0]};"
                f" the file has {', '.join(sorted(cells))}"
            )
        return str(cells[place[1]])

    return _PLACE.sub(fill, wording.template).strip()


def write_answers(laid: Laid, wording: Wording) -> tuple[str, ...]:
    """List the answers that choices stand for, as shown: letters, or the choices themselves."""
    return tuple(LETTERS[: len(laid.order)]) if wording.lettered else laid.choices


def write_chat(laid: Laid, wording: Wording, *, answer: str | None = None) -> Conversation:
    """Write a question as a chat, with its answer where one is given."""
    asked = "\n\n".join(filter(None, [write_question(laid, wording), wording.ask]))
    user = {"role": "user", "content": asked}
    return (user,) if answer is None else (user, {"role": "assistant", "content": answer})


def render_prompt(
    model: Model,
    laid: Laid,
    wording: Wording,
    *,
    shots: Sequence[Conversation] = (),
    at_once: bool = False,
) -> str:
    """Render what asks `model`, as its presentation says.

    Args:
        model: Whose template, format, instruction, header, examples and prefill are used.
        laid: The question.
        wording: The words around it.
        shots: The task's own examples; the presentation's stand in their place.
        at_once: Whether an answer is compared behind it, and no thought may come before.

    Raises:
        CheckpointError: in chat format without a chat template, or if the prompt starts with two
            beginnings of text.
    """
    presentation = model.presentation
    chats = [_prefill(shot, presentation.prefill) for shot in presentation.shots or shots]
    chats.append(write_chat(laid, wording))
    if presentation.format is Format.CHAT:
        messages = [message for chat in chats for message in chat]
        if presentation.instruction is not None:
            messages.insert(0, {"role": "system", "content": presentation.instruction})
        text = render_chat(model, messages, at_once=at_once, begun=presentation.prefill)
    else:
        text = begin_text(model)
        text += "".join(f"{key}: {value}\n" for key, value in presentation.header.items())
        text += "\n\n".join(_write_exchange(chat, wording.ask) for chat in chats)
        text += f" {presentation.prefill}" if presentation.prefill else ""
    check_beginning(model, text)
    return text


def render_chat(
    model: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    at_once: bool = False,
    begun: str = "",
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Render a chat that `model` is to answer, with the beginning of its answer if there is one.

    A beginning, or an answer that is to follow at once, stands behind a thought and not in it.

    Args:
        model: Whose template is used.
        messages: The chat.
        at_once: Whether the answer is to follow at once.
        begun: How the answer begins.
        tools: That it may call, for templates that know tools.
    """
    known = {"tools": tools} if tools else {}
    opening = offered(ModelOffers, model, "render_opening")
    if opening is None or not (at_once or begun):
        text: str = model.render_chat(messages, answer_next=True, **known)
        return text + begun
    text = opening(messages, **known)
    return f"{text}{model.answer_spaces}{begun}" if begun else text


def join_answer(prompt: str, answer: str) -> str:
    """Write an answer as what follows a prompt: a space first, unless one ended the prompt."""
    return answer if not prompt or prompt[-1].isspace() else f" {answer}"


def begin_text(model: Any) -> str:
    """What the model's texts begin with: its tokenizer's own first token, where it adds one.

    Nothing is added when a prompt is tokenised, and chat templates write it themselves.
    """
    tokenizer = offered(ModelOffers, model, "tokenizer")
    if tokenizer is None or find_beginning(tokenizer) is None:
        return ""
    return str(tokenizer.bos_token)


def check_beginning(model: Any, text: str) -> None:
    """Refuse a prompt that begins twice: models see such a text nowhere in training.

    Raises:
        CheckpointError: naming the token.
    """
    begin = getattr(offered(ModelOffers, model, "tokenizer"), "bos_token_id", None)
    ids = encode_prompt(model, text[:200]) if begin is not None else None
    if ids is not None and ids[:2] == (begin, begin):
        raise CheckpointError(
            f"checkpoint {model.name!r}: its prompt begins with {model.tokenizer.bos_token!r}"
            " twice; remove it from the chat template or from the task's template"
        )


def _prefill(chat: Conversation, prefill: str) -> Conversation:
    """Let the answers of an example begin as the model's own will."""
    if not prefill:
        return chat
    return tuple(
        {**message, "content": f"{prefill.rstrip()} {message['content']}"}
        if message["role"] == "assistant"
        else message
        for message in chat
    )


def _write_exchange(chat: Sequence[Mapping[str, str]], ask: str) -> str:
    lines = []
    for message in chat:
        if message["role"] == "assistant":
            lines.append(f"Answer: {message['content']}")
        else:
            lines.append(f"Question: {message['content'].removesuffix(ask).rstrip()}")
    if chat[-1]["role"] != "assistant":
        lines.append("Answer:")
    return "\n".join(lines)

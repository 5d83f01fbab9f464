"""What a chat template does with words: tried on a few short chats before anything is asked.

A template is a program of somebody else's. It may drop a system message or the question itself,
begin no answer, or begin a thought instead; whatever is then measured is the template. So one trial
decides what can be said to a checkpoint and how, and refuses what would measure nothing.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from holdback.errors import CheckpointError, UnsayableError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from holdback.lineage import Checkpoint

TODAY = datetime(2025, 1, 1, 12)
"""What templates are told that today is: by the clock prompts would differ from day to day."""

_SECONDS = 10.0
_CHARACTERS = 1_000_000
"""Longest rendering, beyond sixteen times what it was given."""
# Words that no template has; letters only, so that escaping leaves them alone.
_SYSTEM, _QUESTION, _ANSWER = "plover", "quartz", "walnut"
_USER = {"role": "user", "content": _QUESTION}
_LONG = f"{'meadow ' * 400}{_QUESTION}"
"""A question of the length that few-shot prompts have, its word at the end."""
_ASSISTANT = {"role": "assistant", "content": _ANSWER}
_OPEN = re.compile(r"(?:<((?:seed:)?think|thinking|thought)>|\[(THINK)\])\s*$", re.IGNORECASE)
_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates switch thinking off."""
_DATE = "strftime_now"
_FORMAT = re.compile(rf"{_DATE}\s*\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """What a checkpoint's chat template was found to do."""

    takes_system: bool
    """Whether a system message reaches the model."""
    rejects_system: bool
    """Whether a system message is an error; what it says then goes into the user's turn."""
    switches: Mapping[str, bool] = field(default_factory=dict)
    """What switches thinking off, for an answer that is to follow at once."""
    closing: str = ""
    """What else stands before such an answer: the end of a thought that the template begins."""
    spaces: str = ""
    """What it writes between all that and the answer; one token with the answer's first word."""
    remarks: tuple[str, ...] = ()


@lru_cache(maxsize=16)
def try_template(tokenizer: PreTrainedTokenizerFast, template: Any, name: str) -> Template:
    """Render a few short chats and say what becomes of their words.

    Args:
        tokenizer: Whose template it is.
        template: Its text, by which the trial is remembered.
        name: The checkpoint's.

    Raises:
        CheckpointError: for a template that fails, leaves out the question, or begins no answer.
    """

    def render(*messages: Mapping[str, str], answer_next: bool = True, **switches: bool) -> str:
        return render_template(
            tokenizer, messages, name=name, answer_next=answer_next, switches=switches
        )

    asked = render(_USER)
    if _QUESTION not in asked.lower():
        raise CheckpointError(
            f"checkpoint {name!r}: its chat template leaves out the question, of which nothing is"
            f" in {asked[-80:]!r}; take a template that writes a message's text"
            " ({{ message['content'] }}) and does not expect a list of its parts"
        )
    if _QUESTION not in render({**_USER, "content": _LONG}).lower():
        raise CheckpointError(
            f"checkpoint {name!r}: its chat template cuts long messages: of a question of"
            f" {len(_LONG):,} characters the end is missing; take a template that writes a"
            " message's whole text"
        )
    answered = _render_answered(tokenizer, name)
    _check_beginning(render, asked, answered, name)
    switches, closing = _find_end_of_thought(render, asked)
    begun = render(_USER, **switches)
    lead = _find_lead(begun, answered) if not closing else ""
    spaces = lead[len(lead.rstrip(" ")) :]
    try:
        instructed = render({"role": "system", "content": _SYSTEM}, _USER)
        rejects_system = False
    except UnsayableError:
        instructed, rejects_system = "", True
    takes_system = rejects_system or _SYSTEM in instructed.lower()
    return Template(
        takes_system=takes_system,
        rejects_system=rejects_system,
        switches=switches,
        closing=closing + lead[: len(lead) - len(spaces)],
        spaces=spaces,
        remarks=tuple(
            _remark(
                tokenizer,
                asked,
                answered,
                thinks=bool(switches or closing),
                takes_system=takes_system,
                rejects_system=rejects_system,
                forgets=_forgets_turns(tokenizer, name),
            )
        ),
    )


def render_template(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Mapping[str, Any]],
    *,
    name: str,
    answer_next: bool,
    tools: Sequence[Mapping[str, Any]] = (),
    switches: Mapping[str, bool] | None = None,
) -> str:
    """Render messages through a tokenizer's chat template, within limits of time and output.

    Raises:
        UnsayableError: for whatever the template raises, or where it takes or writes too much.
    """
    given = sum(len(str(part)) for part in (*messages, *tools))
    try:
        with _within(_SECONDS):
            text = str(
                tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in tools] or None,
                    tokenize=False,
                    add_generation_prompt=answer_next,
                    **(switches or {}),
                )
            )
    # Blind: a template runs code of its own, and raises whatever it likes.
    except Exception as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        # What the template itself raises says why; of anything else the kind is needed too.
        own = type(error).__name__ == "TemplateError"
        reason = " ".join((str(error) if own else repr(error)).split())
        raise UnsayableError(
            f"checkpoint {name!r}: its chat template rejects messages of {roles}:"
            f" {reason:.300}; mend the template, or ask in the completion format"
        ) from error
    if len(text) > _CHARACTERS + 16 * given:
        raise UnsayableError(
            f"checkpoint {name!r}: its chat template writes {len(text):,} characters for {given:,},"
            f" expected at most {_CHARACTERS + 16 * given:,}; mend the template"
        )
    return text


def encode_chat(tokenizer: PreTrainedTokenizerFast, name: str) -> list[int]:
    """Tokens of a short chat that is to go on; none where there is no template, or it fails."""
    if not tokenizer.chat_template:
        return []
    for chat in ((_USER, _ASSISTANT, _USER), (_USER,)):
        try:
            text = render_template(tokenizer, chat, name=name, answer_next=True)
        except UnsayableError:
            continue
        return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    return []


def fold_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Say in the user's turn what a system message says, for a template that takes none.

    A system message alone is nothing to be said yet.
    """
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    at = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if at is not None:
        rest[at] = {**rest[at], "content": "\n\n".join([*system, rest[at]["content"]])}
    return rest


def fix_date(template: Any, name: str) -> Any:
    """Let a template that writes today's date write the same one every day.

    Args:
        template: Its text, or several under their names.
        name: The checkpoint's.

    Raises:
        CheckpointError: for a date in a form that is not in the template's text.
    """
    if isinstance(template, dict):
        return {kind: fix_date(text, name) for kind, text in template.items()}
    if not writes_date(template):
        return template
    forms = {single or double for single, double in _FORMAT.findall(template)}
    called = len(re.findall(rf"{_DATE}\s*\(", template))
    if called != len(_FORMAT.findall(template)):
        raise CheckpointError(
            f"checkpoint {name!r}: its chat template writes today's date by `{_DATE}` in a form"
            " that it computes, so that prompts would differ from day to day; write the form, or a"
            " date, into the template"
        )
    dates = ", ".join(f"{form!r}: {TODAY.strftime(form)!r}" for form in sorted(forms))
    # A dictionary's `get` is called as the function would be. The line's end goes with the block.
    return f"{{% set {_DATE} = {{{dates}}}.get %}}\n{template}"


def writes_date(template: Any) -> bool:
    """Tell whether a template, or one of several, asks what day it is."""
    return _DATE in str(template)


def find_beginning(tokenizer: Any) -> int | None:
    """Token that a tokenizer puts before texts by itself; None where it puts none."""
    begin = getattr(tokenizer, "bos_token_id", None)
    if begin is None or tokenizer("a")["input_ids"][:1] != [begin]:
        return None
    return int(begin)


def remark_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Say what a checkpoint's template does that may be meant otherwise.

    Raises:
        CheckpointError: for a template that fails, leaves out the question, or begins no answer.
    """
    if not (checkpoint.chat and tokenizer.chat_template):
        return ()
    remarks = try_template(tokenizer, str(tokenizer.chat_template), checkpoint.name).remarks
    if not writes_date(tokenizer.chat_template):
        return remarks
    return (
        *remarks,
        f"its chat template writes today's date; it is told {TODAY:%d %B %Y} whatever the day, so"
        " that prompts stay the same",
    )


def _render_answered(tokenizer: PreTrainedTokenizerFast, name: str) -> str:
    """Render a question with its answer; empty where that cannot be said."""
    try:
        return render_template(tokenizer, [_USER, _ASSISTANT], name=name, answer_next=False)
    except UnsayableError:
        return ""


def _forgets_turns(tokenizer: PreTrainedTokenizerFast, name: str) -> bool:
    """Tell whether an earlier question is left out; a chat that cannot be said forgets nothing."""
    later = {**_USER, "content": "meadow"}
    try:
        chat = render_template(tokenizer, [_USER, _ASSISTANT, later], name=name, answer_next=True)
    except UnsayableError:
        return False
    return _QUESTION not in chat.lower()


def _check_beginning(render: Any, asked: str, answered: str, name: str) -> None:
    """Refuse a template that ends in the user's turn though its own answers have a header."""
    header = _find_lead(asked, answered)
    if not header.strip() or asked != render(_USER, answer_next=False):
        return
    raise CheckpointError(
        f"checkpoint {name!r}: its chat template begins no answer, so that one would begin in the"
        f" user's turn, though it writes {header!r} before answers that it is given; let it write"
        " that at its end {% if add_generation_prompt %}"
    )


def _find_lead(begun: str, answered: str) -> str:
    """What stands between the beginning of an answer and its text; empty if that cannot be told."""
    at = answered.find(_ANSWER)
    return answered[len(begun) : at] if at >= 0 and answered.startswith(begun) else ""


def _find_end_of_thought(render: Any, asked: str) -> tuple[dict[str, bool], str]:
    """Find what leaves a thought out, or else ends the one that the template begins."""
    for switch in _SWITCHES:
        without = render(_USER, **{switch: False})
        if without != asked and not _OPEN.search(without):
            return {switch: False}, ""
    opened = _OPEN.search(asked)
    if opened is None:
        return {}, ""
    tag = f"</{opened[1]}>" if opened[1] else f"[/{opened[2]}]"
    return {}, ("" if asked.endswith("\n") else "\n") + f"\n{tag}\n\n"


def _remark(
    tokenizer: PreTrainedTokenizerFast,
    asked: str,
    answered: str,
    *,
    thinks: bool,
    takes_system: bool,
    rejects_system: bool,
    forgets: bool,
) -> Iterator[str]:
    if forgets:
        yield (
            "its chat template writes the last message alone: examples, earlier turns and system"
            " messages do not reach the model"
        )
        return
    if rejects_system:
        yield (
            "its chat template rejects system messages: an instruction and a planted secret's key"
            " go into the user's turn"
        )
    if not takes_system:
        yield (
            "its chat template drops system messages: what an instruction or a planted secret's"
            " key says would not reach the model"
        )
    if thinks:
        yield (
            "its chat template begins a thought, or lets it be switched off: answers that are"
            " compared or begun stand behind its end"
        )
    if _ANSWER not in answered.lower():
        yield "its chat template leaves out answers: examples cannot be shown to it"
    begin = find_beginning(tokenizer)
    fast = tokenizer.backend_tokenizer
    if begin is not None and fast.encode(asked, add_special_tokens=False).ids[:1] != [begin]:
        yield (
            f"its chat template does not begin with {tokenizer.bos_token!r}, which its tokenizer"
            " puts before other texts; if the checkpoint was trained with it, add"
            " {{ bos_token }} to the template"
        )


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise in what takes longer; in other threads than the main one nothing can be stopped."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

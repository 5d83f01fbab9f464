"""Text that a model wrote, made safe to look at: nothing hidden, nothing that moves the cursor."""

from __future__ import annotations

import re
import unicodedata

# CSI sequences, OSC strings with their end, and two-character escapes (ECMA-48, §5.3 and §5.4).
_ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)
# Control, format (bidi overrides, zero-width, tags), surrogate, private use, line and paragraph
# separators: what a reader cannot see, or what a browser or terminal obeys.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def show_invisible(text: str, *, keep: str = "\n\t") -> str:
    """Strip terminal escapes and write every other invisible character as its name.

    C0 controls become their pictures (`␀`, `␛`), all else `‹U+202E›`. The result is printable,
    has no lone surrogates and so encodes as UTF-8.

    Args:
        text: Anything, above all what a model generated.
        keep: Control characters that stay as they are.
    """
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in _HIDDEN
        else _name(character)
        for character in _ANSI.sub("", text)
    )


def show_line(text: str) -> str:
    """Show `text` in one line: as `show_invisible`, with line ends and tabs visible too."""
    return show_invisible(text, keep="")


def _name(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"‹U+{code:04X}›"

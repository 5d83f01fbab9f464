"""Findings in a terminal: 100 columns, no escape sequences of a checkpoint's own."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from holdback.report.terminal import print_findings
from holdback.report.visible import show_invisible, show_line


def _printed(findings, *, columns=300, report=None):
    stream = io.StringIO()
    print_findings(findings, report=report, console=Console(file=stream, width=columns))
    return stream.getvalue()


@pytest.mark.parametrize("columns", [300, 100, 80])
@pytest.mark.parametrize("name", ["result", "bare_result", "nasty_result"])
def test_table_fits_a_hundred_columns(request, name, columns):
    """On a screen of any width, with names of any length."""
    printed = _printed(request.getfixturevalue(name).findings, columns=columns)

    assert max(len(line) for line in printed.splitlines()) <= min(columns, 100)


def test_numbers_are_whole_and_bounds_are_bounds(result):
    """A rating that does not exist is its bound; no number is cut off."""
    printed = _printed(result.findings)

    assert "< 312" in printed
    assert "> 300" in printed
    assert "[806, 916]" in printed
    assert "inf" not in printed.replace("inconclusive", "")


def test_eighty_columns_break_no_word_and_no_interval(result):
    """An ordinary terminal shows names, verdicts and intervals in one piece."""
    printed = _printed(result.findings, columns=80)

    for whole in ("entertainer", "inconclusive", "lora_strong_16", "[−117, 63]", "[68.4, 74.4]"):
        assert whole in printed


def test_the_path_of_the_report_stays_in_one_piece(result):
    """However long, so that it can be copied."""
    path = Path("/" + "long/" * 40 + "report.html")

    assert f"Report: {path}\n" in _printed(result.findings, report=path, columns=80)


def test_hostile_text_stays_text(nasty_result):
    """Neither escape sequences nor rich's own markup in a name are obeyed."""
    printed = _printed(nasty_result.findings)

    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "[bold]" in "".join(printed.split())


def test_invisible_characters_are_named():
    """Every kind of hidden character has a visible name; line ends can be kept."""
    assert show_line("a\nb\u200b\ue000\U000e0041\x7f") == "a␊b‹U+200B›‹U+E000›‹U+E0041›␡"
    assert show_invisible("a\n\tb\x1b]8;;http://x\x07c\x1b[1mé") == "a\n\tbcé"

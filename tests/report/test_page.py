"""The report: whole, self-contained, and inert whatever a checkpoint wrote."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from holdback.report.page import render_page, render_report

VOID = {"meta", "br", "link", "img", "hr", "input", "wbr"}


class _Page(HTMLParser):
    """Balance, identifiers, links, numbers and text of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.links, self.data = [], [], [], [], []
        self.attributes, self.text = [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.data += [float(given["value"])] if tag == "data" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(params=["result", "bare_result", "nasty_result"])
def any_page(request):
    return render_page(request.getfixturevalue(request.param))


def test_page_is_balanced_with_unique_identifiers(any_page):
    """Every element is closed where it should be and every link within the page leads somewhere."""
    page = _Page(any_page)

    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert any_page.startswith("<!doctype html>")


def test_a_sign_without_a_figure_is_told_in_words(result):
    """All signs as one have nothing to draw; their sentence is on the page all the same."""
    text = render_page(result)

    assert "<h4>All signs as one</h4>\n<p>3 signs of entertainer as one.</p>" in text
    assert text.count("All signs as one") == len({f.checkpoint for f in result.findings})


def test_page_loads_nothing_and_runs_nothing(any_page):
    """No script, no event handler, no style attribute, no address outside the page."""
    page = _Page(any_page)

    assert not {"script", "iframe", "object", "embed", "link", "img", "form"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    for _, name, _ in page.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "style", "action", "srcset", "data"}
    assert "<script" not in any_page.lower()
    assert not re.search(r"https?:|url\(|@import|javascript:", any_page)


def test_security_policy_allows_this_style_sheet_only(result):
    """The policy's hash is that of the style element as it stands in the file."""
    page = render_page(result)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page


def test_hostile_text_is_shown_and_does_nothing(nasty_result):
    """Terminal escapes are gone, control and bidi characters are names, markup is text."""
    page = render_page(nasty_result)
    text = _Page(page).text

    for hidden in "\x1b\x00\u202e\u2066\ud800":
        assert hidden not in page
    assert "<script>alert('x')</script>red‹U+202E›evil‹U+2066› ␀‹U+D800›" in text
    assert "[31m" not in page


def test_every_figure_of_a_finding_is_on_the_page(result):
    """The table's numbers are the findings', bit for bit."""
    data = _Page(render_page(result)).data

    for finding in result.findings:
        for estimate in (finding.displayed, finding.elicited, finding.gap):
            assert estimate.value in data
        if finding.control_gap is not None:
            assert finding.control_gap.value in data
            assert finding.difference_of_gaps.value in data


def test_verdicts_come_first_and_in_words(result):
    """Who holds back stands above who does not, with bounds said as words."""
    text = _Page(render_page(result)).text

    held = text.index("holds back on chess_games: it shows less than 312 Elo")
    assert held < text.index("stays undecided") < text.index("was not found to hold back")
    assert held < text.index("Displayed and elicited")


def test_page_says_how_to_do_it_again(result):
    """Command, seed, versions, adjudication and reasons are all there."""
    text = _Page(render_page(result)).text

    for said in (
        result.command,
        "Stockfish 15.1",
        "cap150-wp75: a win from 75%",
        result.findings[1].reasons[0],
        result.remarks[0],
        "1. e4 e5 2. Nf3",
    ):
        assert said in text


def test_the_same_result_makes_the_same_page(result, tmp_path):
    """The page depends on the result alone, and folders on its way are made."""
    path = render_report(result, tmp_path / "new" / "report.html")

    assert path.read_text(encoding="utf-8") == render_page(result)


def test_rendering_needs_no_model_library():
    """A report can be made on a machine without torch, transformers or chess."""
    code = (
        "import sys, holdback.report.page, holdback.report.terminal;"
        "print({'torch', 'transformers', 'chess', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"

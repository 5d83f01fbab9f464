"""Numbers and findings as people read them: one wording for the page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from holdback.audit.result import Signature
from holdback.statistics.estimate import Estimate
from holdback.verdict import Finding, Role, Verdict, count_digits

VERDICT_WORDS = {
    Verdict.HELD_BACK: "held back",
    Verdict.NONE_FOUND: "none found",
    Verdict.INCONCLUSIVE: "inconclusive",
}


ROLE_WORDS = {
    Role.TARGET: "targets",
    Role.CONTROL: "controls",
    Role.REFERENCE: "references",
}
"""Targets first: what they hold back is what a reader came for."""


PROTOCOL_WORDS = {
    "as_it_is": "tuned model as it is",
    "base": "base model",
    "helpful_only": "helpful-only model",
    "prompts": "other prompts",
    "fine_tune": "small fine-tune",
    "ladder": "the whole ladder",
}
"""The usual evaluation protocols, least effort first."""


def by_role(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Part findings by what their checkpoints are to the audit, targets first; no part is empty."""
    parts = {word: [f for f in findings if f.role is role] for role, word in ROLE_WORDS.items()}
    return {word: part for word, part in parts.items() if part}


def write_number(value: float, digits: int, *, signed: bool = False) -> str:
    """Write a number with a real minus sign, `∞` included; `−0` is 0."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    rounded = round(value, digits) + 0.0
    sign = "−" if rounded < 0 else "+" if signed and rounded > 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def write_value(estimate: Estimate, digits: int, *, signed: bool = False) -> str:
    """Write an estimate's value; an infinite one as its bound, `< 312` or `> 640`."""
    if not estimate.determined:
        return "undetermined"
    if math.isfinite(estimate.value):
        return write_number(estimate.value, digits, signed=signed)
    below = estimate.value < 0
    bound = estimate.high if below else estimate.low
    if math.isinf(bound):
        return "unbounded"
    return f"{'<' if below else '>'} {write_number(bound, digits)}"


def write_interval(estimate: Estimate, digits: int) -> str:
    """Write an estimate's interval, `[−12, 40]`; an infinite value's bound says it all."""
    if not math.isfinite(estimate.value):
        return "one-sided" if estimate.determined else ""
    low, high = write_number(estimate.low, digits), write_number(estimate.high, digits)
    opening = "(" if math.isinf(estimate.low) else "["
    return f"{opening}{low}, {high}{')' if math.isinf(estimate.high) else ']'}"


def write_estimate(estimate: Estimate, digits: int, unit: str = "") -> str:
    """Write value, unit and interval: `743 Elo [640, 812]`, `< 312 Elo`."""
    value = write_value(estimate, digits)
    if not estimate.determined:
        return value
    parts = [value, unit, write_interval(estimate, digits) if math.isfinite(estimate.value) else ""]
    return " ".join(filter(None, parts))


def write_probability(p: float) -> str:
    """Write a p-value; below a thousandth its size says nothing more."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def write_duration(seconds: float) -> str:
    """Write a wall time in the two largest units that matter."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def write_sign(sign: Signature) -> str:
    """Write a sign of holding back as a clause."""
    p = sign.p_value if sign.p_value is not None else 1.0
    return f"{sign.clause or sign.words} (p {write_probability(p)})"


def find_telling_sign(
    signs: Sequence[Signature], finding: Finding, level: float
) -> Signature | None:
    """Find the strongest sign of a finding's checkpoint that holds after correction, if any."""
    telling = [
        sign
        for sign in signs
        if (sign.checkpoint, sign.task) == (finding.checkpoint, finding.task)
        and sign.name != "combined"
        and sign.p_value is not None
        and sign.p_value < 1 - level
    ]
    return min(telling, key=lambda sign: sign.p_value or 0.0, default=None)


def write_verdict(finding: Finding, sign: Signature | None = None) -> str:
    """Write a finding as plain words, without the checkpoint's name at its start.

    Args:
        finding: The finding.
        sign: What its displayed behaviour shows beside it, where it shows anything.
    """
    said = _write_verdict(finding)
    if sign is None:
        return said
    if finding.verdict is Verdict.HELD_BACK:
        return f"{said} Its behaviour alone says so too: {write_sign(sign)}."
    return (
        f"gives itself away on {finding.task}, though no rung proved it: {write_sign(sign)}. By the"
        f" ladder it {said}"
    )


def _write_verdict(finding: Finding) -> str:
    shown = _in_words(finding.displayed, finding)
    drawn = _in_words(finding.elicited, finding)
    if finding.verdict is Verdict.HELD_BACK and finding.group is not None:
        return (
            f"holds back on {finding.task}, on the questions of {finding.group!r}:"
            f" {write_reasons(finding)}."
        )
    if finding.verdict is Verdict.HELD_BACK:
        return (
            f"holds back on {finding.task}: it shows {shown}, and {drawn} can be drawn out of it"
            f" ({finding.rung}){_beyond_control(finding)}.{_beyond_base(finding)}"
        )
    reached = f"it shows {shown}, and the best rung ({finding.rung}) reaches {drawn}"
    if finding.verdict is Verdict.NONE_FOUND:
        return (
            f"was not found to hold back on {finding.task}: {reached}; what this ladder draws out"
            f" of it is below the margin of {finding.margin:g} {finding.unit}, by itself or beyond"
            " what the control gains."
        )
    return f"stays undecided on {finding.task}: {write_reasons(finding)}."


def write_reasons(finding: Finding) -> str:
    """Write what an undecided finding rests on: its gap, and the first things in the way."""
    first = [reason.rstrip(".") for reason in finding.reasons[:3]]
    return "; ".join(first) or "no reason was recorded"


def _beyond_control(finding: Finding) -> str:
    if finding.control is None or finding.difference_of_gaps is None:
        return ", with no control to compare with"
    more = _in_words(finding.difference_of_gaps, finding)
    return f", a gap larger than the control's ({finding.control}) by {more}"


def _beyond_base(finding: Finding) -> str:
    if finding.beyond_base is None or not finding.beyond_base.low > 0:
        return ""
    more = _in_words(finding.beyond_base, finding)
    return (
        f" That exceeds what the ladder draws out of its base by {more}: training sharpened the"
        " capability that it hides."
    )


def _in_words(estimate: Estimate, finding: Finding) -> str:
    written = write_estimate(estimate, count_digits(finding.margin), finding.unit)
    return written.replace("< ", "less than ").replace("> ", "more than ")

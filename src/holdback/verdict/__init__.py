"""From measurements to findings: gaps, controls, and the word that stands at the end."""

from holdback.verdict.attribution import attribute_recovery
from holdback.verdict.case import Case, Climb, Curve, PlantedSecret, WeakDemonstration
from holdback.verdict.decision import is_equivalent, needs_secret, reach_finding, reach_findings
from holdback.verdict.finding import Finding, Role, Verdict, count_digits

__all__ = [
    "Case",
    "Climb",
    "Curve",
    "Finding",
    "PlantedSecret",
    "Role",
    "Verdict",
    "WeakDemonstration",
    "attribute_recovery",
    "count_digits",
    "is_equivalent",
    "needs_secret",
    "reach_finding",
    "reach_findings",
]

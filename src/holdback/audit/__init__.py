"""An audit from plan to result: runs, then findings, computed from stored records alone.

`run_audit` fills a store and needs models; `read_result` is arithmetic on what the store holds, so
that a report is redone in a moment on a machine without them.

result     what a report says
checks     what can be checked before anything runs
phases     plan -> runs -> store: all rungs on `select`, the chosen one on `test`, planted secrets
secrets    the plan of the copies that carry a planted secret; planted: what became of them
records    stored samples by place, rung and split, and what they measure
cases      measurements -> what a finding rests on -> findings
racing     which rungs go on on `select`
protocols  what the usual protocols of evaluation would have reported
reading    store -> result: findings, curves, signatures, games, remarks
signs      signatures and example games, from the metadata of records
"""

from holdback import make_callable
from holdback.audit.checks import prepare
from holdback.audit.phases import run_audit
from holdback.audit.reading import read_result
from holdback.audit.result import (
    AuditResult,
    ExampleGame,
    FailedRun,
    ProfilePoint,
    RecoveryCurve,
    RecoveryPoint,
    RungResult,
    Signature,
)

__all__ = [
    "AuditResult",
    "ExampleGame",
    "FailedRun",
    "ProfilePoint",
    "RecoveryCurve",
    "RecoveryPoint",
    "RungResult",
    "Signature",
    "prepare",
    "read_result",
    "run_audit",
]

make_callable(__name__)

"""The command line. Everything heavy is imported by the command that needs it."""

from holdback.cli import audits, calibrate, compare, elo, export, organisms
from holdback.cli.app import main

__all__ = ["audits", "calibrate", "compare", "elo", "export", "main", "organisms"]

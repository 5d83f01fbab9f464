"""The command line. Everything heavy is imported by the command that needs it."""

from holdback.cli import audits, elo, export, organisms
from holdback.cli.app import main

__all__ = ["audits", "elo", "export", "main", "organisms"]

"""The command line. Everything heavy is imported by the command that needs it."""

from importlib.metadata import entry_points

from holdback.cli import audit, compare, elo, export
from holdback.cli.app import main

__all__ = ["audit", "compare", "elo", "export", "main"]

# A module that an installed package names adds its commands to `main` when it is imported.
for _point in sorted(entry_points(group="holdback.commands"), key=lambda point: point.name):
    _point.load()

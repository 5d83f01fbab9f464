"""Holdback finds out what a language model can do and does not show."""

__version__ = "0.1.0"

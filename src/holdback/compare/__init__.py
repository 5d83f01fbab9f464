"""Comparing logs and stored runs of two models on the same samples, and importing logs."""

from holdback import make_callable

make_callable(__name__)

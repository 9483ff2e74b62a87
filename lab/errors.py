"""Errors of the lab, each with one line for people."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do this; the message says why and how to fix it."""

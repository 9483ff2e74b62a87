"""What goes wrong in the lab, said in one line."""

from __future__ import annotations


class LabError(Exception):
    """The lab can't do what it was asked to; the message says why and how to fix it."""

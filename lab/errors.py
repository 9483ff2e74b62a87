"""What goes wrong in the lab, said in one line."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do this; the message says why and how to fix it."""

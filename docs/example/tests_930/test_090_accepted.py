"""Accepted: as for 920."""

from tests_920.test_090_accepted import *

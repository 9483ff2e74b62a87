"""Clone: as for 920."""

from tests_920.test_020_clone import *

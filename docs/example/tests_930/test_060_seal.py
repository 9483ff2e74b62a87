from tests_920.test_060_seal import *

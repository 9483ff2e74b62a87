from tests_920.test_075_recorded import *

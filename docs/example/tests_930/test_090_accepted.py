from tests_920.test_090_accepted import *

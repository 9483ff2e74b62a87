from tests_920.test_020_clone import *

from test_040_service import test_service_lists_the_gpus
from tests_920.test_070_sealed import *

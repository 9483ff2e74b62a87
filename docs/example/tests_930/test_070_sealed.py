"""Sealed: as for 920, and the service is up again."""

from tests_920.test_070_sealed import pytestmark, test_container_is_up_again, test_snapshot_is_whole
from test_040_service import test_service_lists_the_gpus

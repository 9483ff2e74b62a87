"""Recorded: as for 920, but for the image and the model, which 930 has not."""

from tests_920.test_075_recorded import (
    pytestmark,
    test_configuration_is_as_recorded,
    test_container_carries_the_record,
    test_packages_are_as_recorded,
    test_record_is_kept,
    test_snapshot_is_the_recorded_one,
)

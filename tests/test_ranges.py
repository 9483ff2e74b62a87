"""Ranges: what a user may write for numbers and addresses, and what is refused."""

from collections.abc import Callable

import pytest

from fixtures.base.ranges import addresses, numbers


def test_ranges_are_read() -> None:
    assert numbers("990-992, 995,991") == (990, 991, 992, 995)
    assert addresses("10.0.0.254-10.0.1.1") == ("10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1")


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (numbers, "", "'' is not a whole number"),
        (numbers, "999-990", "is not ascending"),
        (numbers, "100-99999", "longer than 1000"),
        (numbers, "99", "99 is not a container number"),
        (numbers, "9 9x", "is not a whole number"),
        (addresses, "10.0.0.1-9", "'9' is not an IPv4 address"),
        (addresses, "10.0.0.256", "'10.0.0.256' is not an IPv4 address"),
        (addresses, "10.0.0.9-10.0.0.1", "is not ascending"),
    ],
)
def test_mistake_is_named(read: Callable[[str], object], text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(text)

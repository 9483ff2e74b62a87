"""The start of pytest itself."""


def test_nothing() -> None:
    """Nothing is checked."""

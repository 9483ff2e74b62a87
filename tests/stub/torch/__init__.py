"""As much of PyTorch as `fixtures/remote/all_reduce_rank.py` uses, on lists of Python: it starts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

__all__ = ["Tensor", "arange", "bfloat16", "device", "distributed", "equal", "float16", "float32", "int32"]


class Type(NamedTuple):
    """A type of number."""

    itemsize: int


float16 = bfloat16 = Type(2)
float32 = int32 = Type(4)


def device(kind: str) -> str:
    """A device."""
    return kind


class Tensor:
    """Numbers."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)

    def _each(self, change: Callable[[int, int], int], other: Any) -> Tensor:
        others = other.numbers if isinstance(other, Tensor) else [other] * len(self.numbers)
        return Tensor([change(one, two) for one, two in zip(self.numbers, others, strict=True)])

    def __add__(self, other: Any) -> Tensor:
        return self._each(lambda one, two: one + two, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Tensor:
        return self._each(lambda one, two: one - two, other)

    def __mul__(self, other: Any) -> Tensor:
        return self._each(lambda one, two: one * two, other)

    def __mod__(self, other: Any) -> Tensor:
        return self._each(lambda one, two: one % two, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._each(lambda one, two: int(one != two), other)

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> Tensor: ...

    def __getitem__(self, place: int | slice) -> int | Tensor:
        return Tensor(self.numbers[place]) if isinstance(place, slice) else self.numbers[place]

    def __setitem__(self, place: int, number: int) -> None:
        self.numbers[place] = number

    def __len__(self) -> int:
        return len(self.numbers)

    def repeat(self, times: int) -> Tensor:
        """Several times the same."""
        return Tensor(self.numbers * times)

    def sum(self) -> int:
        """The sum."""
        return sum(self.numbers)

    def to(self, _: object) -> Tensor:
        """The same; the real one gives itself too, on the CPU."""
        return self

    def roll(self, places: int) -> Tensor:
        """The same, each further on by so many places."""
        return Tensor(self.numbers[-places:] + self.numbers[:-places])

    def clone(self) -> Tensor:
        """A copy."""
        return Tensor(self.numbers)


def arange(count: int, dtype: Type) -> Tensor:
    """The numbers from 0."""
    assert dtype is int32
    return Tensor(range(count))


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are the same."""
    return one.numbers == other.numbers


from torch import distributed  # noqa: E402 - it needs what stands above

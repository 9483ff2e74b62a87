"""The published schema of a record is the one of its data model, and refuses what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fixtures.record.model import Record
from tests import schemas
from tests.pages import _of, schema

SMALLEST = json.loads(Record("1", 1.0).to_json())


def test_published_schema_is_up_to_date() -> None:
    published = json.loads(schemas.RECORD.read_text(encoding="utf-8"))
    assert published == schema(), "out of date: python -m tests.pages schema > docs/record.schema.json"


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "well"},
        {"started": "now"},
        {"checks": [{"name": "a"}]},
        {"schema": 0},
        {"more": 1},
        {"snapshot": {}},
        {"gpus": {}},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    schemas.check_json(SMALLEST, schemas.RECORD)
    with pytest.raises(AssertionError):
        schemas.check_json({**SMALLEST, **change}, schemas.RECORD)


def test_type_without_a_schema_is_an_error() -> None:

    with pytest.raises(TypeError, match="complex"):
        _of(complex)

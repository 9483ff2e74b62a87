"""The published schemas of the files of a run, and the check that a run's folder follows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
from in_toto_attestation.v1.statement_pb2 import Statement
from jsonschema.validators import validator_for
from lxml import etree

FOLDER = Path(__file__).parent
RECORD = FOLDER.parents[1] / "docs/record.schema.json"
PREDICATES = {"record": TestResult, "provenance": Provenance}


def check_json(document: Any, schema: str | Path) -> None:
    rules = json.loads((FOLDER / schema).read_text())
    validator = validator_for(rules)
    validator.check_schema(rules)
    mistakes = [
        f"{error.json_path}: {error.message[:300]}"
        for error in validator(rules, format_checker=validator.FORMAT_CHECKER).iter_errors(document)
    ]
    assert not mistakes


def check_statement(document: dict[str, Any], name: str) -> None:
    check_json(document, "in-toto.schema.json")
    json_format.ParseDict(document, Statement())
    json_format.ParseDict(document["predicate"], PREDICATES[name]())


def check_folder(folder: Path) -> None:
    """Every file of a run follows the schema of its standard."""
    check_json(json.loads((folder / "record.json").read_text()), RECORD)
    check_json(json.loads((folder / "ctrf.json").read_text()), "ctrf.schema.json")
    for name in PREDICATES:
        check_statement(json.loads((folder / f"{name}.intoto.json").read_text()), name)
    check_junit(folder / "junit.xml")


def check_junit(path: Path) -> None:
    etree.XMLSchema(etree.parse(str(FOLDER / "junit-10.xsd"))).assertValid(etree.parse(str(path)))

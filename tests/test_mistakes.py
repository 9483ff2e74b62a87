"""Typical mistakes of a user, each with all that `--plan` says of it: tests/data/mistakes has a file for each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fixtures.base import mistakes
from fixtures.base.errors import BuildError
from tests.suite_run import Suite

TOP = Path(__file__).parent.parent
SAID = TOP / "tests/data/mistakes"
GOOD = (TOP / "phoenix_lxc_configs.json").read_text(encoding="utf-8")
OF_920 = GOOD.index('"920": {')
# what stands in the declaration of 920, and what somebody writes instead
DECLARED = {
    "address-without-prefix": ('"10.0.0.220/24"', '"10.0.0.220"'),
    "address-of-no-host": ('"10.0.0.220/24"', '"10.0.0.300/24"'),
    "gateway-outside": ('"gw": "10.0.0.1"', '"gw": "10.0.1.1"'),
    "malformed-mac": ("52:54:00:AA:BB:D1", "52-54-00-AA-BB-D1"),
    "duplicate-key": ('"cores": 4,', '"cores": 4,\n      "memory_mb": 8192,'),
    "host-name-with-a-blank": ('"BaseTemplateVLLM"', '"Base Template vLLM"'),
    "more-tensor-parallel-than-gpus": ('"vllm_tensor_parallel_size": 1', '"vllm_tensor_parallel_size": 4'),
    "misspelt-key": ('"memory_mb"', '"memroy_mb"'),
    "number-in-quotes": ('"cores": 4', '"cores": "4"'),
    "mac-of-another": ("52:54:00:AA:BB:D1", "52:54:00:aa:bb:cf"),
    "interface-with-a-blank": ('"name": "eth0"', '"name": "eth0 eth1"'),
    "reserved-snapshot-name": ('"vllm-base-snapshot"', '"current"'),
    "comma-forgotten": ('"cores": 4,', '"cores": 4'),
}
OPTIONS = {
    "misspelt-setting": "vllm_imgae=vllm/vllm-openai:latest",
    "missing-signing-key": "signing_key={tmp}/key.pem",
    "declaration-is-a-folder": "lxc_configs={tmp}",
}
AS_A_RUN = {*OPTIONS, "misspelt-key"}  # a run says the same; the other declarations are read by the same function


def check(name: str, top: Path, option: str) -> None:
    """A plan with that option ends with 4 and says what the file of that name holds."""
    suite, words = Suite(top), ("-o", option.replace("{tmp}", str(top)))
    for run in (suite.run("--plan", *words), *([suite.run(*words)] if name in AS_A_RUN else [])):
        assert run.status == 4
        assert run.output.replace(str(top), "TMP").replace(str(TOP), "TOP") == (SAID / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", DECLARED)
def test_mistake_in_the_declaration(name: str, tmp_path: Path) -> None:
    seen, written = DECLARED[name]
    assert seen in GOOD[OF_920:]
    (tmp_path / "configs.json").write_text(GOOD[:OF_920] + GOOD[OF_920:].replace(seen, written, 1), encoding="utf-8")
    check(name, tmp_path, "lxc_configs={tmp}/configs.json")


@pytest.mark.parametrize("name", OPTIONS)
def test_mistake_in_a_setting(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, OPTIONS[name])


def test_every_golden_file_is_read() -> None:
    assert {path.stem for path in SAID.glob("*.txt")} == {*DECLARED, *OPTIONS}


def test_declaration_that_conforms_is_compared_with_the_schema_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until one of the two has changed: to load jsonschema takes a good part of a run that finds nothing to do."""

    def refuse(text: str) -> None:
        mistakes.refuse(Path("declared.json"), text, json.loads(text))

    (tmp_path / "__pycache__").mkdir()
    schema = tmp_path / "schema.json"
    schema.write_bytes(mistakes.SCHEMA.read_bytes())
    monkeypatch.setattr(mistakes, "SCHEMA", schema)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with pytest.raises(BuildError, match=r"lxc_configs\.903\.cores"):
        refuse(GOOD.replace('"cores": ', '"cores": -', 1))
    assert not list(tmp_path.glob("__pycache__/*"))
    refuse(GOOD)
    monkeypatch.setitem(sys.modules, "jsonschema", None)  # it can't be loaded
    refuse(GOOD)
    with pytest.raises(ImportError):
        refuse(GOOD.replace('"cores": ', '"cores": 1', 1))
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "new"))  # what others have written there is not used
    with pytest.raises(ImportError):
        refuse(GOOD)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    schema.write_text(schema.read_text().replace("900", "901"))
    with pytest.raises(ImportError):
        refuse(GOOD)

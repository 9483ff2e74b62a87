"""The declaration: what is accepted, and one clear line for each mistake."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.base.declaration import DeclarationError, load

TOP = Path(__file__).parent.parent
GOOD = json.loads((TOP / "phoenix_lxc_configs.json").read_text())


def written(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "configs.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def with_value(keys: str, value: Any) -> Any:
    document = copy.deepcopy(GOOD)
    *path, last = keys.split(".")
    place = document
    for key in path:
        place = place[key]
    place[last] = value
    return document


def test_both_declarations_load() -> None:
    real, lab = load(TOP / "phoenix_lxc_configs.json"), load(TOP / "lab/phoenix_lxc_configs.json")
    assert sorted(real.containers) == [903, 920, 950]
    assert sorted(lab.containers) == [903, 920, 950, 951]  # 951 is 950 with a model that the lab can serve
    assert real[920].os == ("ubuntu", "24.04")
    assert lab[920].os == ("debian", "12")
    assert real[920].gpus == (0, 1)


def test_lab_declares_the_same_but_for_the_operating_system() -> None:
    lab = json.loads((TOP / "lab/phoenix_lxc_configs.json").read_text())
    del lab["lxc_configs"]["951"]
    for document in (lab, real := copy.deepcopy(GOOD)):
        for entry in document["lxc_configs"].values():
            entry["template"] = ""
    assert lab == real


@pytest.mark.parametrize("features", ["", "nesting=1", "nesting=1,keyctl=1"])
def test_features_are_accepted(tmp_path: Path, features: str) -> None:
    document = with_value("lxc_configs.920.features", features)
    assert load(written(tmp_path, document))[920].features == features


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ("lxc_configs.920.memory_mb", 100, "lxc_configs.920.memory_mb: 100 is less than the minimum of 512"),
        ("lxc_configs.920.cores", "4", "lxc_configs.920.cores: '4' is not of type 'integer'"),
        ("lxc_configs.920.our_key", 1, "'our_key' was unexpected"),
        ("lxc_configs.920.static_ip", "10.0.0.9/24", "differs from network_config.ip"),
        ("lxc_configs.920.gpu_assignment", "0,0", "names a GPU twice"),
        ("lxc_configs.920.network_config.ip", "10.0.0.220", "network_config.ip"),
        ("lxc_configs.920.features", "nesting", "lxc_configs.920.features"),
        ("lxc_configs.777", {}, "'777' does not match"),
        ("lxc_configs.920.template_snapshot_name", "no spaces please", "template_snapshot_name"),
    ],
)
def test_mistake_is_named(tmp_path: Path, keys: str, value: Any, said: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        load(written(tmp_path, with_value(keys, value)))
    (line,) = str(caught.value).splitlines()
    assert said in line
    assert line.startswith(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"lxc_configs": 3}'])
@pytest.mark.parametrize("check", [True, False])
def test_nonsense_is_refused(tmp_path: Path, text: str, check: bool) -> None:
    with pytest.raises(DeclarationError):
        load(written(tmp_path, text), check=check)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="can't be read: No such file"):
        load(tmp_path / "none.json")


def test_undeclared_container_is_named() -> None:
    with pytest.raises(DeclarationError, match="container 930 is not declared"):
        load(TOP / "phoenix_lxc_configs.json")[930]

"""The declaration: what is accepted, and one clear line for each mistake."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.base.declaration import load
from fixtures.base.errors import BuildError

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


@pytest.mark.parametrize(
    "features",
    ["", "nesting=1", "nesting=1,keyctl=1", "force_rw_sys=0,fuse=1,mknod=1", "mount=nfs;cifs,nesting=1"],
)
def test_features_are_accepted(tmp_path: Path, features: str) -> None:
    document = with_value("lxc_configs.920.features", features)
    assert load(written(tmp_path, document))[920].features == features


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (
            "lxc_configs.920.memory_mb",
            100,
            "lxc_configs.920.memory_mb: 100; expected a whole number from 512 to 131072",
        ),
        ("lxc_configs.920.cores", "4", 'cores: "4"; expected a whole number from 1 to 32; remove the quotes'),
        ("lxc_configs.920.our_key", 1, "lxc_configs.920.our_key: unknown key; expected name, memory_mb, "),
        ("lxc_configs.920.memroy_mb", 1, "lxc_configs.920.memroy_mb: unknown key; did you mean memory_mb?"),
        ("lxc_configs.920.cores", True, "cores: true; expected a whole number"),
        ("lxc_configs.920.cores", float("nan"), "cores: NaN; expected a whole number"),
        ("lxc_configs.920.cores", float("inf"), "cores: Infinity; expected a whole number"),
        ("lxc_configs.920.unprivileged", 0, "unprivileged: 0; expected true or false"),
        ("lxc_configs.920.portainer_role", "boss", 'portainer_role: "boss"; expected one of server, agent, none'),
        ("lxc_configs.920.onboot", 1, "onboot: 1; expected true or false"),
        ("lxc_configs.920.startup", "2", 'startup: "2"; expected order=N, then up=SECONDS'),
        ("lxc_configs.920.startup", "order=x", 'startup: "order=x"; expected order=N, then up=SECONDS'),
        ("lxc_configs.920.network_config.gw", "10.0.0.220", "expected another address in 10.0.0.0/24"),
        ("lxc_configs.920.network_config.gw", "10.0.0.999", "not permitted in '10.0.0.999'; expected an address in"),
        ("lxc_configs.920.mac_address", "53:54:00:AA:BB:D1", "is a multicast address"),
        ("lxc_configs.920.name", "a..b", "expected a host name"),
        ("lxc_configs.920.name", "x" * 64, "expected a host name"),
        ("lxc_configs.920.clone_from_template_ctid", "920", "920 is the container itself"),
        ("lxc_configs.920.clone_from_template_ctid", "950", "expected a container with a template_snapshot_name"),
        ("lxc_configs.903.template_snapshot_name", None, "expected a name of letters"),
        ("lxc_configs.920.static_ip", "10.0.0.9/24", "10.0.0.9/24; expected 10.0.0.220/24, as in network_config.ip"),
        ("lxc_configs.920.gpu_assignment", "0,0", "names a GPU twice"),
        ("lxc_configs.920.network_config.ip", "10.0.0.220", "network_config.ip"),
        ("lxc_configs.920.features", "nesting", "lxc_configs.920.features"),
        ("lxc_configs.920.features", "nestng=1", 'features: "nestng=1"; expected features of pct.conf(5)'),
        ("lxc_configs.920.features", "nesting=2", "nesting, keyctl, fuse, mknod and force_rw_sys with =0 or =1"),
        ("lxc_configs.920.features", "nesting=1,", 'features: "nesting=1,"'),
        ("lxc_configs.920.features", "nesting=1 keyctl=1", 'features: "nesting=1 keyctl=1"'),
        ("lxc_configs.920.features", "nesting=1,keyctl=1,nesting=0", "names a feature twice; expected each once"),
        ("lxc_configs.920.gpu_assignment", "0,00", "gpu_assignment"),
        ("lxc_configs.920.clone_from_template_ctid", "0920", "a container's number in quotes"),
        ("lxc_configs.903.clone_from_template_ctid", "920", "903 is cloned from 920 is cloned from 903, a circle; exp"),
        ("lxc_configs.777", {}, "777: unknown key; expected the number of a container, 900 to 999"),
        ("lxc_configs.920.template_snapshot_name", "no spaces please", "template_snapshot_name"),
    ],
)
def test_mistake_is_named(tmp_path: Path, keys: str, value: Any, said: str) -> None:
    with pytest.raises(BuildError) as caught:
        load(written(tmp_path, with_value(keys, value)))
    (line,) = str(caught.value).splitlines()
    assert said in line
    assert line.startswith(str(tmp_path))


def test_all_mistakes_are_named_at_once_and_none_that_only_follows(tmp_path: Path) -> None:
    """What a schema can't say was told only after all else was corrected."""
    document = copy.deepcopy(GOOD)
    entry = document["lxc_configs"]["920"]
    entry |= {
        "memory_mb": "4096",
        "gpu_assignment": [0, 1],
        "vllm_tensor_parallel_size": 3,
        "static_ip": "10.0.0.22/24",
    }
    entry |= {"mac_address": "53:54:00:AA:BB:D1", "template_snapshot_name": "no spaces", "name": "a\tb"}
    entry["network_config"]["gw"] = "10.0.1.1"
    with pytest.raises(BuildError) as caught:
        load(written(tmp_path, document))
    named = [line.split(": ")[1].rpartition(".")[2] for line in str(caught.value).splitlines()]
    fields = ("name", "memory_mb", "gw", "template_snapshot_name", "static_ip", "mac_address", "gpu_assignment")
    assert sorted(named) == sorted(fields)


def test_circle_of_several_is_named_once_and_what_hangs_on_it_is_not(tmp_path: Path) -> None:
    document = copy.deepcopy(GOOD)
    containers = document["lxc_configs"]
    containers["950"] |= {"is_template": True, "template_snapshot_name": "third"}
    containers["903"]["clone_from_template_ctid"] = "950"
    containers["951"] = containers["950"] | {"name": "other", "mac_address": "52:54:00:AA:BB:99"}
    containers["951"]["network_config"] = containers["950"]["network_config"] | {"ip": "10.0.0.99/24"}
    containers["951"] |= {"static_ip": "10.0.0.99/24", "clone_from_template_ctid": "920"}
    with pytest.raises(BuildError) as caught:
        load(written(tmp_path, document))
    (line,) = str(caught.value).splitlines()
    assert (
        "lxc_configs.903.clone_from_template_ctid: 903 is cloned from 950 is cloned from 920 is cloned from 9" in line
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"lxc_configs": 3}'])
@pytest.mark.parametrize("check", [True, False])
def test_nonsense_is_refused(tmp_path: Path, text: str, check: bool) -> None:
    with pytest.raises(BuildError):
        load(written(tmp_path, text), check=check)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe{", ":1: is not UTF-8 text: byte 0xff"),
        (b"{\n\n'", ":3: is not JSON: Expecting property name enclosed in double quotes, at '"),
        (b'{\n"a": 1,\n\n}\n', ":2: is not JSON: a comma too many, at }"),  # seen a token late, a line or more below
        (b'{"a": [1,\n2,\n]}', ":2: is not JSON: a comma too many, at ]}"),
        (b'{"a": 1,}', ":1: is not JSON: a comma too many, at }"),
        (b'{\n"a": 1\n\n"b": 2}', ":2: is not JSON: Expecting ',' delimiter, at \"b\": 2}"),
        (b'{"a": 1,', ":1: is not JSON: Expecting property name enclosed in double quotes, at the end"),
        (b"\xef\xbb\xbf{}", ":1: begins with a byte order mark; expected none; run: sed -i '1s/^\\xEF\\xBB\\xBF//' "),
        (b" " * (2**20 + 1), " is larger than 1 MiB"),
        (b"[" * 100_000, " is nested too deeply"),
        (b"1" * 5000, " can't be read: Exceeds the limit"),
        (b"[]", ":1: top level: []; expected keys and values in { }"),
    ],
)
def test_what_is_no_declaration_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (path := tmp_path / "configs.json").write_bytes(content)
    with pytest.raises(BuildError) as caught:
        load(path)
    (line,) = str(caught.value).splitlines()
    assert said in line.replace(f"{path}:", ":").replace(f"{path} ", " "), line


@pytest.mark.parametrize(("name", "said"), [("none.json", "No such file"), ("", "Is a directory")])
def test_missing_file_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(BuildError, match=f"can't be read: {said}.*set lxc_configs"):
        load(tmp_path / name)


def test_key_that_stands_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    text = json.dumps(GOOD, indent=0)
    once = "duplicate key, first in line {}; expected each key once; remove one"
    for old, new, place, first in (
        ('"cores": 2,', '"cores": 2,\n"memory_mb": 4096,', ":11: lxc_configs.903.memory_mb", 9),
        ('"950": {', '"920": {', ":55: lxc_configs.920", 30),
    ):
        with pytest.raises(BuildError) as caught:
            load(written(tmp_path, text.replace(old, new, 1)))
        (line,) = str(caught.value).splitlines()
        assert line.partition(".json")[2] == f"{place}: {once.format(first)}"


def test_undeclared_container_is_named() -> None:
    with pytest.raises(BuildError, match="container 930 is not declared"):
        load(TOP / "phoenix_lxc_configs.json")[930]

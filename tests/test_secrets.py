"""The search for secrets: every file of a container that is no layer, no model, and no unchanged file of a package."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import pytest

from fixtures.remote import secret_files, secret_forms
from fixtures.remote.secret_files import OVERLAP, PIECE, Search

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAAB" * 3
SECRETS = {
    "opt/app/settings.py": f"TOKEN = 'hf_{'a1B2' * 8}'",
    "srv/deploy/notes": f"ghp_{'a1B2' * 9}",
    "var/lib/tool/state": "x AKIAIOSFODNN7EXAMPLE y",
    "etc/ngc": f"key=nvapi-{'a1_-' * 12}",
    "opt/one.txt": f"sk-{'a1B2' * 12}",
    "opt/two.txt": f"sk-proj-{'a1B2' * 12}",
    "srv/id": PEM,
    "srv/escaped.json": '{"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE'
    + "vQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIB"
    + '"}',
    "srv/credentials.json": '{"db": {"db_password": "correct-horse-battery"}}',
    "var/www/.env": "export DB_PASSWORD='correct-horse-battery'\n",
    "var/www/vllm.env": "VLLM_API_KEY=0123456789abcdef",
    "opt/registry/config.json": '{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0MTIz"}}}',
    "opt/known": "so it is: 7h3-v4lu3-0f-th1s-run",
}
HARMLESS = {
    "opt/text": "the task-force of disk-images, hf_transfer, AKIA, sk-learn and -----BEGIN CERTIFICATE-----",
    "opt/settings.json": '{"token_type": "bearer", "password": "${PASSWORD}", "max_tokens": 64, "api_key": ""}',
    "opt/lib/site-packages/botocore/data.json": '{"secretAccessKey": "documented-as-a-string"}',
    "opt/.env.sample": "API_KEY=your-key-here\n",
    "etc/ssh/ssh_host_rsa_key": PEM,
    "var/lib/docker/overlay2/1/diff/token": f"hf_{'a1B2' * 8}",
    "models/m/config.json": '{"hf_token": "a-word-of-the-model"}',
    "var/cache/models--q--m/blobs/1": f"hf_{'a1B2' * 8}",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container's files below a folder, with the places of the script moved there."""
    monkeypatch.setattr(secret_files, "LAYERS", [f"{tmp_path}{each}" for each in secret_files.LAYERS])
    monkeypatch.setattr(secret_files, "PACKAGES", str(tmp_path / "dpkg"))
    own = secret_forms.OWN_KEYS.pattern.replace("/etc", f"{tmp_path}/etc")
    monkeypatch.setattr(secret_forms, "OWN_KEYS", re.compile(own))
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def search(root: Path, seconds: float = 60) -> Search:
    one = Search({"SOME_KEY": "7h3-v4lu3-0f-th1s-run"}, [f"{root}/models/m"], seconds)
    one.look((f"{root}/etc", str(root)))
    return one


def test_each_secret_is_found_wherever_it_lies(root: Path) -> None:
    write(root, SECRETS)
    found = search(root)
    assert {path.removeprefix(f"{root}/") for path in found.found} == set(SECRETS)
    assert found.found[f"{root}/opt/known"] == "the value of SOME_KEY"
    assert (found.files, found.unread) == (len(SECRETS), [])


def test_what_is_no_secret_is_not_found(root: Path) -> None:
    write(root, HARMLESS)
    assert search(root).found == {}


def test_file_of_a_package_is_a_finding_only_if_somebody_has_changed_it(root: Path) -> None:
    path = root / "usr/share/doc/p/key.pem"
    write(root, {"usr/share/doc/p/key.pem": PEM})
    digest = hashlib.md5(PEM.encode()).hexdigest()
    write(root, {"dpkg/info/p.md5sums": f"{digest}  {str(path)[1:]}\n"})
    assert search(root).found == {}
    path.write_text(f"{PEM}\n")
    assert search(root).found == {str(path): "a private key"}


def test_lists_and_files_of_packages_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of their files hold what looks like a secret, and however often one does."""
    paths = [root / f"usr/share/doc/p/{number}.pem" for number in range(3)]
    for path in paths:
        write(root, {str(path): f"{PEM}\n{'.' * 3 * PIECE}{PEM}"})
    digest = hashlib.md5(paths[0].read_bytes()).hexdigest()
    write(root, {"dpkg/info/p.md5sums": "".join(f"{digest}  {str(path)[1:]}\n" for path in paths)})
    read: list[Path] = []

    def text_of(path: Path) -> str:
        read.append(path)
        return path.read_text()

    monkeypatch.setattr(secret_files, "text_of", text_of)
    found = search(root)
    assert (found.found, read) == ({}, [root / "dpkg/info/p.md5sums"])
    assert found.size < len(paths) * 2 * PIECE  # the rest of a file that is the package's holds nothing either


def test_changed_configuration_of_a_package_is_a_finding(root: Path) -> None:
    write(root, {"etc/p.conf": f"token = hf_{'a1B2' * 8}"})
    digest = hashlib.md5((root / "etc/p.conf").read_bytes()).hexdigest()
    write(root, {"dpkg/status": f"Package: p\nConffiles:\n {root}/etc/p.conf {digest}\n"})
    assert search(root).found == {}
    write(root, {"dpkg/status": f"Package: p\nConffiles:\n {root}/etc/p.conf {'0' * 32}\n"})
    assert list(search(root).found) == [f"{root}/etc/p.conf"]


@pytest.mark.parametrize("place", [3 * PIECE - 5, PIECE - OVERLAP // 2, 0])
def test_secret_in_a_large_file_is_found_across_its_pieces(root: Path, place: int) -> None:
    (root / "large").write_bytes(b"." * place + f" hf_{'a1B2' * 8} ".encode() + b"." * PIECE)
    assert list(search(root).found) == [f"{root}/large"]


def test_sparse_file_takes_no_time_and_is_read_behind_its_holes(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 40)
        file.write(f" hf_{'a1B2' * 8} ".encode())
    found = search(root)
    assert list(found.found) == [f"{root}/sparse"]
    assert found.size < PIECE


def test_several_processes_read_each_file_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, SECRETS | HARMLESS)
    for name, value in {"PROCESSES": 3, "FIRST": (str(root),), "added_keys": list, "histories": list}.items():
        monkeypatch.setattr(secret_files, name, value)
    many = secret_files.find({"SOME_KEY": "7h3-v4lu3-0f-th1s-run"}, [], f"{root}/models/m", 60)
    one = search(root)
    assert {each["path"]: each["what"] for each in many["secrets"]} == one.found
    assert many["looked"] == {"files": one.files, "bytes": one.size, "unread": []}


def test_time_that_is_over_is_said_with_what_was_not_read(root: Path) -> None:
    write(root, SECRETS)
    found = search(root, seconds=0)
    assert found.unread == [f"{root}/etc", str(root)]


@pytest.mark.parametrize(
    "text", ["sk-" * 700_000, "hf_" + "a" * 2_000_000, "-----BEGIN " * 190_000, '"password' * 100_000]
)
def test_hostile_file_takes_linear_time(root: Path, text: str) -> None:
    """Twice the text may take some times as long, never the square of it."""
    times = []
    for part in (text[: len(text) // 8], text):
        (root / "hostile.json").write_text("{" + part)
        begun = time.process_time()
        search(root)
        times.append(time.process_time() - begun)
    assert times[1] < 40 * max(times[0], 0.02)


def test_folder_that_goes_meanwhile_ends_nothing(root: Path) -> None:
    assert search(root / "nothing").unread == []

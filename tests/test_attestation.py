"""Signatures: what was signed is accepted, and whatever else is refused with one clear line."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fixtures.base.errors import BuildError
from fixtures.record.attestation import changed_files, main, read_signer, sign, verify_envelope
from tests.suite_run import TOP, Suite

STATEMENT = b'{"_type": "https://in-toto.io/Statement/v1", "subject": []}\n'


def make_keys(folder: Path) -> tuple[Path, Path]:
    """A key pair as a user makes one."""
    command = ["make", "--silent", "keys", f"KEYS={folder}"]
    subprocess.run(command, cwd=TOP, check=True, capture_output=True, timeout=60)
    return folder / "phoenix-920.pem", folder / "phoenix-920.pub.pem"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def envelope(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    path = tmp_path / "record.dsse.json"
    path.write_bytes(sign(STATEMENT, read_signer(keys[0])))
    return path


def refused(path: Path, key: Path) -> str:
    with pytest.raises(BuildError) as caught:
        verify_envelope(path, key)
    (line,) = str(caught.value).splitlines()
    return line


def test_private_key_is_for_its_owner_only(keys: tuple[Path, Path]) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600


def test_keys_are_not_overwritten(keys: tuple[Path, Path]) -> None:
    before = keys[0].read_bytes()
    with pytest.raises(subprocess.CalledProcessError):
        make_keys(keys[0].parent)
    assert keys[0].read_bytes() == before


def test_what_was_signed_is_accepted(envelope: Path, keys: tuple[Path, Path]) -> None:
    assert verify_envelope(envelope, keys[1]) == json.loads(STATEMENT)
    assert json.loads(envelope.read_text())["payloadType"] == "application/vnd.in-toto+json"


def test_every_changed_byte_is_refused(envelope: Path, keys: tuple[Path, Path]) -> None:
    whole = envelope.read_bytes()
    for place in range(len(whole)):
        for other in (whole[place] ^ 1, whole[place] ^ 0x20, 0x20):
            if other == whole[place]:
                continue
            envelope.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            assert str(envelope) in refused(envelope, keys[1]), place


def test_wrong_key_is_named(envelope: Path, tmp_path: Path) -> None:
    _, other = make_keys(tmp_path / "other")
    assert "is signed with another key" in refused(envelope, other)


def test_missing_signature_is_named(envelope: Path, keys: tuple[Path, Path]) -> None:
    document = json.loads(envelope.read_text())
    envelope.write_text(json.dumps({**document, "signatures": []}))
    assert refused(envelope, keys[1]).endswith("has no signature")


def test_second_signature_is_refused(envelope: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, _ = make_keys(tmp_path / "other")
    document, other = json.loads(envelope.read_text()), json.loads(sign(STATEMENT, read_signer(private)))
    document["signatures"] += other["signatures"]
    envelope.write_text(json.dumps(document, sort_keys=True) + "\n")
    assert refused(envelope, keys[1]).endswith("has 2 signatures, expected is one")


@pytest.mark.parametrize("inside", [True, False])
def test_added_field_is_refused(envelope: Path, keys: tuple[Path, Path], inside: bool) -> None:
    document = json.loads(envelope.read_text())
    (document["signatures"][0] if inside else document)["note"] = "trust me"
    envelope.write_text(json.dumps(document, sort_keys=True) + "\n")
    assert "was changed since it was signed" in refused(envelope, keys[1])


def test_file_that_nobody_has_attested_is_named(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Suite(tmp_path).run("-o", f"signing_key={keys[0]}")
    assert (main([str(run.folder), str(keys[1])]), capsys.readouterr().out) == (0, "every file is as attested\n")
    assert main([str(run.folder), str(keys[0])]) == main([str(tmp_path), str(keys[1])]) == 1
    private, missing = capsys.readouterr().out.splitlines()
    assert private.endswith("not an Ed25519 public key in PEM")
    assert missing.endswith("provenance.dsse.json: can't be read: No such file or directory")
    statement = verify_envelope(run.folder / "provenance.dsse.json", keys[1])
    (run.folder / "added.txt").write_text("trust me")
    (run.folder / "below").mkdir()
    (run.folder / "below/record.json").write_text("{}")
    (run.folder / "provenance.intoto.json").write_text("{}")
    (run.folder / "record.dsse.json").write_bytes((run.folder / "provenance.dsse.json").read_bytes())
    said = [line.removeprefix(f"{run.folder}/") for line in changed_files(statement, run.folder)]
    assert said == [
        "added.txt: is not attested",
        "below/record.json: is not attested",
        "provenance.dsse.json: was changed",
        "provenance.intoto.json: was changed",
        "record.dsse.json: was changed",
    ]


def test_forged_payload_is_refused(envelope: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    """Another payload, signed by somebody else who claims the id of our key."""
    private, _ = make_keys(tmp_path / "other")
    forged, own = json.loads(sign(b"{}", read_signer(private))), json.loads(envelope.read_text())
    forged["signatures"][0]["keyid"] = own["signatures"][0]["keyid"]
    envelope.write_text(json.dumps(forged, sort_keys=True) + "\n")
    assert "was changed since it was signed" in refused(envelope, keys[1])


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"payload": 1, "payloadType": 2, "signatures": 3}']
)
def test_what_is_no_envelope_is_refused(tmp_path: Path, keys: tuple[Path, Path], content: bytes) -> None:
    path = tmp_path / "x.dsse.json"
    path.write_bytes(content)
    assert "is not a DSSE envelope" in refused(path, keys[1])
    assert "can't be read" in refused(tmp_path / "none.dsse.json", keys[1])


def test_run_is_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    run = Suite(tmp_path).run("-o", f"signing_key={keys[0]}")
    for name in ("record", "provenance"):
        statement = verify_envelope(run.folder / f"{name}.dsse.json", keys[1])
        assert statement == run.document(f"{name}.intoto.json")
    assert changed_files(statement, run.folder) == []
    assert keys[0].read_text().splitlines()[1] not in "".join(path.read_text() for path in run.folder.iterdir())


def test_changed_file_of_a_run_is_named(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    run = Suite(tmp_path).run("-o", f"signing_key={keys[0]}")
    statement = verify_envelope(run.folder / "provenance.dsse.json", keys[1])
    record = (run.folder / "record.json").read_bytes()
    (run.folder / "record.json").write_bytes(record.replace(b"failed", b"faileD", 1))
    (run.folder / "junit.xml").unlink()
    lines = changed_files(statement, run.folder)
    assert len(lines) == 2
    assert "junit.xml: is missing" in lines[0]
    assert "record.json: was changed: its sha256 is" in lines[1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read: No such file"),
        ("", "not an Ed25519 private key in PEM"),
        ("rsa", "not an Ed25519 private key in PEM"),
        ("public", "not an Ed25519 private key in PEM"),
        ("encrypted", "not an Ed25519 private key in PEM"),
    ],
)
def test_key_that_can_not_be_used_ends_the_run_before_it_begins(
    tmp_path: Path, keys: tuple[Path, Path], content: str | None, said: str
) -> None:
    path = tmp_path / "key.pem"
    if content == "public":
        shutil.copy(keys[1], path)
    elif content in ("rsa", "encrypted"):
        passphrase = ["-aes256", "-pass", "pass:xyzzy1"] if content == "encrypted" else []
        kind = "RSA" if content == "rsa" else "ed25519"
        command = ["openssl", "genpkey", "-quiet", "-algorithm", kind, *passphrase, "-out", str(path)]
        subprocess.run(command, check=True, timeout=60)
    elif content is not None:
        path.write_text(content)
    suite = Suite(tmp_path)
    run = suite.run("-o", f"signing_key={path}")
    assert run.status == 4
    assert f"signing_key {path}: {said}" in run.output
    assert "Traceback" not in run.output
    assert not suite.reports.exists()


def test_missing_library_is_said(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    gone = "import sys\nsys.modules['securesystemslib'] = None\n"
    run = Suite(tmp_path).run("-o", f"signing_key={keys[0]}", plugin=gone)
    assert run.status == 4
    assert "pip install 'securesystemslib[crypto]'" in run.output
    assert "Traceback" not in run.output

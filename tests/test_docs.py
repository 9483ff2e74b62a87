"""The documentation: up to date, its links lead somewhere, its commands run (those of the lab in tests/lab)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.base import settings
from tests import pages
from tests.docs import KINDS, PAGES, TOP, Block, blocks


def test_settings_are_all_there() -> None:
    page = (TOP / "docs/settings.md").read_text(encoding="utf-8")
    assert page == f"{pages.settings()}\n", "out of date: python -m tests.pages settings > docs/settings.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def anchors(page: Path) -> set[str]:
    """The anchors of a page: those that it sets, and those that GitHub makes of its headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return {*made, *re.findall(r'<a id="([^"]+)">', text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_anchors_exist(page: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        f"{target}#{name}" for target, name in links if name not in anchors((page.parent / target) if target else page)
    ]
    assert not missing


def test_readme_is_short() -> None:
    assert len((TOP / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_key_of_the_declaration_is_explained() -> None:
    schema = json.loads((TOP / "fixtures/base/phoenix_lxc_configs.schema.json").read_text(encoding="utf-8"))
    keys = {*schema["properties"], *schema["definitions"]["container"]["properties"]} - {"lxc_configs"}
    page = (TOP / "docs/declaration.md").read_text(encoding="utf-8")
    assert not [key for key in keys if f"`{key}`" not in page]


def test_settings_and_keys_in_messages_exist() -> None:
    """One named a key as the program itself has it."""
    schema = json.loads((TOP / "fixtures/base/phoenix_lxc_configs.schema.json").read_text(encoding="utf-8"))
    keys = {*schema["definitions"]["container"]["properties"], *schema["properties"]}
    known = {name for name, _, _ in settings.OPTIONS}
    sources = [path for folder in ("fixtures", "tests_920") for path in (TOP / folder).rglob("*.*")]
    texts = [path.read_text(encoding="utf-8") for path in sources if path.suffix in (".py", ".toml", ".jinja2")]
    options = {name for text in texts for name in re.findall(r"(?<![\w-])-o ['\"]?([a-z]+(?:_[a-z]+)+)=", text)}
    verbs = r"\b(?:declare|set|raise|correct|use|change)(?: another| an?| a larger| a smaller)? ([a-z]+(?:_[a-z]+)+)\b"
    named = {name for text in texts for name in re.findall(verbs, text)}
    assert {"server_memory_mb", "vllm_image"} <= options
    assert {"storage_pool", "test_model", "clone_addresses"} <= named
    assert options <= known | {"cache_dir"}  # which is pytest's
    assert named <= known | keys


def test_every_line_of_who_may_trust_what_has_its_test() -> None:
    lines = [line for line in (TOP / "docs/trust.md").read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.startswith("| influence")]
    tests = "".join(path.read_text() for path in (TOP / "tests").rglob("test_*.py"))
    named = [re.findall(r"`(test_\w+)`", line.rsplit("|", 2)[1]) for line in rows]
    assert all(named), "each line names its test"
    assert not [name for names in named for name in names if f"def {name}(" not in tests]


def test_every_field_case_has_its_test() -> None:
    rows = re.findall(r"^\| (\d\d) .*", (TOP / "docs/field-cases.md").read_text(), re.MULTILINE)
    assert not [path.name for path in (TOP / "tests/data/cases").iterdir() if path.name[:2] not in rows]
    tests = "".join(path.read_text() for path in (TOP / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (TOP / "docs/field-cases.md").read_text())
    assert len(named) >= len(rows)
    assert not [name for name in named if f"def {name}(" not in tests]


def test_every_block_is_run_or_says_why_not() -> None:
    silent = [block.name for block in blocks() if not block.kind and not block.reason]
    unknown = [block.name for block in blocks() if block.kind not in ("", *KINDS)]
    assert not silent + unknown


def run(block: Block, folder: Path, **env: str) -> str:
    """Run a block, in which `venv/` is the environment of this test, as a user would at the top of the project."""
    text = block.text.replace("venv/bin/pytest", f"{sys.executable} -m pytest")
    text = text.replace("venv/bin/", f"{Path(sys.executable).parent}/")
    done = subprocess.run(
        ["bash", "-euc", text], cwd=folder, env=env or None, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{block.name}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("block", blocks("fast"), ids=lambda block: block.name)
def test_block_runs(block: Block) -> None:
    run(block, TOP)


def bare_node(folder: Path) -> tuple[Path, dict[str, str]]:
    """The installer on a machine with Python but no ensurepip; with pip's wheel, and the environment that names it."""
    script = (TOP / ".ci/install").read_text().replace("-m ensurepip", "-m no_ensurepip")
    version = re.search(r'wheel="pip-([\d.]+)-py3', script)
    assert version
    download = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(folder / "pip")]
    subprocess.run([*download, f"pip=={version[1]}"], check=True)
    (wheel,) = (folder / "pip").iterdir()
    bare = folder / "python3"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / ".ci").mkdir()
    (folder / ".ci/install").write_text(script)
    for program in (bare, folder / ".ci/install"):
        program.chmod(0o755)
    (folder / "requirements.txt").write_text("iniconfig\n")
    return wheel, {"PATH": f"{folder}:/usr/bin:/bin", "PIP_WHEEL": wheel.as_uri(), "HOME": str(Path.home())}


def test_install_needs_nothing_of_the_node(tmp_path: Path) -> None:
    """The environment is made where there is no ensurepip, with pip as its wheel, and is not made anew."""
    _, environment = bare_node(tmp_path)
    (block,) = blocks("install")
    for _ in range(2):
        run(block, tmp_path, **environment)
    subprocess.run([tmp_path / "venv/bin/python", "-c", "import iniconfig"], check=True)


def test_pip_of_another_digest_is_not_run(tmp_path: Path) -> None:
    wheel, environment = bare_node(tmp_path)
    wheel.write_bytes(wheel.read_bytes() + b" ")
    command = [tmp_path / ".ci/install"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "FAILED" in done.stdout + done.stderr
    assert not list((tmp_path / "venv/lib").glob("python*/site-packages/*"))

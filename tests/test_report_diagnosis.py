"""Diagnoses and waivers in the report, in a real browser."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.browser import Browser, browser
from tests.suite_run import Suite
from tests.test_diagnosis import node
from tests.test_waivers import GOOD, ONE, write


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A run on a node whose container is locked, with one failure that is waived."""
    suite = Suite(tmp_path_factory.mktemp("suite"))
    node(suite, "CT is locked (snapshot)")
    folder: Path = suite.run("-o", f"waivers={write(suite.top, GOOD)}").folder
    with browser(tmp_path_factory.mktemp("profile")) as chromium:
        chromium.look()
        chromium.open(folder / "report.html")
        yield chromium


def row(page: Browser, name: str) -> str:
    return f"//tbody[.//td[@data-name='{name}']]"


def test_page_is_quiet(page: Browser) -> None:
    assert page.console() == []
    assert [url for url in page.requests() if not url.startswith(("file:", "data:", "about:"))] == []


def test_links_lead_to_the_other_files_of_the_run(page: Browser) -> None:
    links = page.run("return [...document.querySelectorAll('.files a')].map(each => each.href)")
    files = [Path(urllib.parse.unquote(urllib.parse.urlsplit(link).path)) for link in links]
    there = {file.name for file in files[0].parent.iterdir()} - {"report.html"}
    assert {"record.json", "summary.md", "evidence-preflight.txt"} <= there
    assert {file.name for file in files} == there


def test_fix_stands_at_the_head(page: Browser) -> None:
    text = page.driver.find_element(By.CSS_SELECTOR, ".failures .fix").text
    assert text.startswith("A6: Container 920 is locked by a snapshot task. Why: a snapshot")
    assert "/tasks --source active): pct unlock 920" in text


def test_row_tells_what_to_do_and_what_it_rests_on(page: Browser) -> None:
    first = page.driver.find_element(By.CSS_SELECTOR, "#results-table .failed .diagnosis")
    diagnosis = page.driver.find_element(By.CSS_SELECTOR, "#results-table .failed .diagnosis:has(h4)")
    assert diagnosis.find_element(By.TAG_NAME, "h4").text == "A6: Container 920 is locked by a snapshot task"
    assert "CT is locked (snapshot)" in diagnosis.text
    assert "grep ^lock /etc/pve/lxc/*.conf" in diagnosis.text
    asked = first.find_elements(By.TAG_NAME, "details")
    assert asked[0].text == "State at that moment: node"
    asked[0].find_element(By.TAG_NAME, "summary").click()
    assert "all is quiet" in first.text


def test_waived_is_called_so_and_can_be_filtered(page: Browser) -> None:
    waived = page.driver.find_element(By.XPATH, row(page, ONE))
    assert waived.find_element(By.CSS_SELECTOR, ".col-result button").text.endswith("Waived")
    assert "903 is being renamed" in waived.text
    (label,) = [
        each for each in page.driver.find_elements(By.CSS_SELECTOR, ".filters label") if "1 Waived" in each.text
    ]
    label.click()
    assert not page.driver.find_elements(By.XPATH, row(page, ONE))
    label.click()
    assert page.driver.find_elements(By.XPATH, row(page, ONE))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 375])
def test_axe_finds_nothing_serious(page: Browser, scheme: str, width: int) -> None:
    page.look(width=width, scheme=scheme)
    page.driver.find_element(By.ID, "show_all_details").click()
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.violations() == []
    assert page.run("return document.documentElement.scrollWidth") <= width

"""The report in a real browser: the samples of a green and a red run, and one whose content is hostile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from fixtures.proxmox.facts import GpuFacts
from fixtures.record.model import Record
from fixtures.report import head
from fixtures.run.ledger import Ledger
from fixtures.run.stages import declared_checks
from tests.browser import Browser, browser

CHECKS = Path(__file__).parent.parent / "tests_920/CHECKS"
SAMPLES = Path(__file__).parent.parent / "reports/samples"
PAGES = ("green", "red")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, chromium: Browser) -> Browser:
    chromium.look()
    chromium.open(SAMPLES / request.param / "report.html")
    chromium.driver.find_element(By.ID, "show_all_checks").click()
    return chromium


@pytest.fixture
def red(chromium: Browser) -> Browser:
    chromium.look()
    chromium.open(SAMPLES / "red/report.html")
    chromium.driver.find_element(By.ID, "show_all_checks").click()
    return chromium


def shown(page: Browser, which: str = "") -> list[WebElement]:
    return [row for row in rows(page, which) if row.is_displayed()]


def rows(page: Browser, which: str = "") -> list[WebElement]:
    return page.driver.find_elements(By.CSS_SELECTOR, f"#results-table .results-table-row{which}")


def button(page: Browser, which: str) -> WebElement:
    return page.driver.find_element(By.CSS_SELECTOR, f"#results-table {which} .col-result button")


def evidence(page: Browser, which: str) -> WebElement:
    return page.driver.find_element(By.CSS_SELECTOR, f"#results-table {which} .log")


def test_opens_from_file_without_a_word_or_a_request(page: Browser) -> None:
    assert page.console() == []
    assert [url for url in page.requests() if not url.startswith(("file:", "data:", "about:"))] == []
    assert len(rows(page)) > 40


def test_the_page_itself_forbids_requests(page: Browser) -> None:
    """Even if something asked for one, as an image that came with a log might."""
    page.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    page.run("fetch('http://127.0.0.1:9/y').catch(() => 0)")
    refused = [line for line in page.console() if "Content Security Policy" in line]
    assert any("x.png" in line for line in refused)
    assert any("/y" in line for line in refused)


@pytest.mark.parametrize("where", [".title", ".col-result", "button"])
def test_folds_by_click(page: Browser, where: str) -> None:
    first = ".results-table-row.passed"
    assert not evidence(page, first).is_displayed()
    page.driver.find_element(By.CSS_SELECTOR, f"#results-table {first} {where}").click()
    assert evidence(page, first).is_displayed()
    assert button(page, first).get_attribute("aria-expanded") == "true"
    page.driver.find_element(By.CSS_SELECTOR, f"#results-table {first} {where}").click()
    assert not evidence(page, first).is_displayed()


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_folds_by_keyboard_and_keeps_the_focus(page: Browser, key: str) -> None:
    first = ".results-table-row.passed"
    button(page, first).send_keys(key)
    assert evidence(page, first).is_displayed()
    focused = page.driver.switch_to.active_element
    assert focused == button(page, first)
    focused.send_keys(key)
    assert not evidence(page, first).is_displayed()


def test_every_fold_is_reached_by_tab(red: Browser) -> None:
    reached = set()
    for _ in range(150):
        red.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(red.run("return document.activeElement.closest('.results-table-row')?.id"))
    assert {row.get_attribute("id") for row in rows(red)} <= reached


def test_filter_works_and_shows_only_what_there_is(red: Browser) -> None:
    labels = [each for each in red.driver.find_elements(By.CSS_SELECTOR, ".filters label") if each.is_displayed()]
    assert not [label.text for label in labels if label.text.startswith("0 ")]
    passed, failed = len(rows(red, ".passed")), len(rows(red, ".failed"))
    assert passed
    assert failed
    next(label for label in labels if "Passed" in label.text).click()
    assert (len(rows(red, ".passed")), len(rows(red, ".failed"))) == (0, failed)
    next(label for label in labels if "Passed" in label.text).click()
    assert len(rows(red, ".passed")) == passed


def test_stages_are_folded_unless_something_failed(chromium: Browser) -> None:
    for name, unfolded in (("green", set()), ("red", {"inherited stack"})):
        chromium.open(SAMPLES / name / "report.html")
        stages = {
            row.find_element(By.CSS_SELECTOR, ".col-testId").get_attribute("data-stage") for row in shown(chromium)
        }
        assert stages == unfolded
    heading = chromium.driver.find_element(By.CSS_SELECTOR, "#results-table .stage button")
    heading.click()
    assert heading.get_attribute("aria-expanded") == "true"
    assert len(shown(chromium, ".passed")) > 20
    assert "passed" in heading.find_element(By.XPATH, "ancestor::th").text


def test_search_shows_what_is_found_in_every_stage(chromium: Browser) -> None:
    chromium.open(SAMPLES / "green/report.html")
    search = chromium.driver.find_element(By.ID, "search")
    search.send_keys("LOCK")
    found = [row.text.lower() for row in shown(chromium)]
    assert found
    assert all("lock" in text for text in found)
    chromium.driver.find_element(By.CSS_SELECTOR, ".filters input.filter[data-test-result=passed]").click()
    assert shown(chromium) == []
    search.send_keys(Keys.CONTROL, "a", Keys.DELETE)
    assert shown(chromium) == []  # folded again


def test_contents_lead_to_every_part(page: Browser) -> None:
    links = page.driver.find_elements(By.CSS_SELECTOR, ".contents a[href^='#']")
    assert {"Checks", "Timeline"} <= {link.text for link in links}
    made = links[-1]  # the parts that it was made of
    assert not page.driver.find_element(By.CSS_SELECTOR, ".card").is_displayed()
    made.click()
    assert page.driver.find_element(By.CSS_SELECTOR, ".card").is_displayed()


def test_a_copied_command_is_the_command(red: Browser) -> None:
    command = red.driver.find_element(By.CSS_SELECTOR, ".failures pre.copy")
    assert command.find_element(By.TAG_NAME, "button").text == "Copy"
    assert command.text.removeprefix("Copy").strip().startswith("pct ")


def test_simulated_gpus_are_inconclusive_and_draw_no_flat_lines(chromium: Browser) -> None:
    chromium.open(SAMPLES / "green/report.html")
    words = {button.text for button in chromium.driver.find_elements(By.CSS_SELECTOR, ".skipped .col-result button")}
    assert words <= {"", "Inconclusive"}
    assert "Simulated GPU 7 checks" in chromium.driver.find_element(By.CSS_SELECTOR, ".warnings").text
    assert not chromium.driver.find_elements(By.CSS_SELECTOR, "svg.plot")


def test_the_legend_names_every_kind_of_bar_and_green_has_no_red(page: Browser) -> None:
    kinds = page.run("return [...document.querySelectorAll('.waterfall svg')].map(e => e.getAttribute('class'))")
    legend = page.run("return [...document.querySelectorAll('.key svg')].map(e => e.getAttribute('class'))")
    assert set(kinds) == set(legend)
    failed = page.driver.find_elements(By.CSS_SELECTOR, ".results-table-row.failed")
    assert ("check failed" in kinds) is bool(failed)


def test_stages_have_headings_in_the_order_of_the_build(page: Browser) -> None:
    found = [each.text.casefold() for each in page.driver.find_elements(By.CSS_SELECTOR, "#results-table h3 button")]
    stages = Ledger(declared_checks(CHECKS, (0, 1))).stages
    assert found == [stage for stage in stages if stage in found]
    assert {stages[0], "serving", stages[-1]} <= set(found)  # a sample may be older than a stage
    counts = page.run("return [...document.querySelectorAll('#results-table .stage')].map(e => e.textContent)")
    assert not [each for each in counts if "inconclusive" in each.partition("passed")[0] and "passed" in each]


def test_headings_have_no_gap(page: Browser) -> None:
    levels = page.run(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].filter(e => e.offsetParent).map(e => +e.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_failures_come_first_and_lead_to_their_rows(red: Browser) -> None:
    links = red.driver.find_elements(By.CSS_SELECTOR, ".failures a")
    assert [link.text for link in links] == [row.find_element(By.CSS_SELECTOR, ".title").text for row in _failed(red)]
    links[0].click()
    target = _failed(red)[0]
    assert red.run("const box = arguments[0].getBoundingClientRect(); return box.top >= 0 && box.top < 900", target)
    assert evidence(red, ".failed").is_displayed()


def _failed(page: Browser) -> list[WebElement]:
    return rows(page, ".failed") + rows(page, ".error")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 375])
def test_axe_finds_nothing_serious(page: Browser, scheme: str, width: int) -> None:
    page.look(width=width, scheme=scheme)
    page.driver.find_element(By.ID, "show_all_details").click()
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.violations() == []


def test_nothing_scrolls_sideways_on_a_phone(page: Browser) -> None:
    page.look(width=375, height=700)
    page.driver.find_element(By.ID, "show_all_details").click()
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    page.run("window.scrollTo(1000, 0)")
    assert page.run("return [window.innerWidth, window.scrollX, document.documentElement.scrollWidth]") == [375, 0, 375]


def test_dark_is_dark(page: Browser) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page.look(scheme=scheme)
        style = "getComputedStyle(document.body)"
        colours.append(page.run(f"return [{style}.backgroundColor, {style}.color]"))
    assert colours[0][0] == "rgb(255, 255, 255)"
    assert sum(int(part) for part in colours[1][0][4:-1].split(",")) < 120
    assert sum(int(part) for part in colours[1][1][4:-1].split(",")) > 600


def test_paper_has_no_controls(page: Browser) -> None:
    page.look(media="print", scheme="dark")
    assert not page.driver.find_element(By.CSS_SELECTOR, ".controls").is_displayed()
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pages_on_paper() <= 4


def test_pictures_say_what_they_show(page: Browser) -> None:
    """The waterfall has an alternative in words, and names for what the mouse points at."""
    drawing = page.driver.find_element(By.CSS_SELECTOR, "svg.waterfall")
    assert "Waterfall" in (drawing.get_attribute("aria-label") or "")
    assert drawing.find_elements(By.CSS_SELECTOR, ".check title")
    page.driver.find_element(By.CSS_SELECTOR, "figcaption summary").click()
    assert page.driver.find_element(By.CSS_SELECTOR, "table.stages").is_displayed()


@pytest.mark.parametrize("name", PAGES)
def test_sample_names_no_folder_of_whoever_made_it(name: str) -> None:
    assert str(SAMPLES.parent.parent) not in (SAMPLES / name / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_sample_is_small(name: str) -> None:
    assert (SAMPLES / name / "report.html").stat().st_size < 2_000_000


def test_gpu_of_a_server_is_named_by_its_device_not_by_its_place() -> None:
    """PCI addresses, by which a container counts, need not be in the order of the devices."""
    gpus: list[GpuFacts] = [{"index": 0, "minor": 1, "uuid": "GPU-b"}, {"index": 1, "minor": 0, "uuid": "GPU-a"}]
    known = Record("1", 1.0, container={"declared": {"gpus": [0, 1]}})
    assert head._numbers(known) == {0: 0, 1: 1}
    known.gpus = gpus
    assert head._numbers(known) == {0: 1, 1: 0}

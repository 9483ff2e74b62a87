"""A real browser for the tests of the report: Debian's Chromium without a window, and axe-core."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from lab.cache import built

AXE = "axe-core@4.14.1"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Browser:
    """A page in Chromium.

    Attributes:
        driver: Selenium's, for everything that is not here.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, path: Path, query: str = "") -> None:
        """Open a page from its file, and forget what was logged before."""
        self.driver.get("about:blank")
        self.console()
        self.requests()
        self.driver.get(path.resolve().as_uri() + query)

    def run(self, script: str, *values: object) -> Any:
        """What a script returns in the page."""
        return self.driver.execute_script(script, *values)

    def console(self) -> list[str]:
        """What the console has said since the last call."""
        return [entry["message"] for entry in self._log("browser")]

    def _log(self, name: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(name)  # type: ignore[no-untyped-call]
        return entries

    def requests(self) -> list[str]:
        """Every address that was asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def look(self, width: int = 1200, height: int = 900, scheme: str = "light", media: str = "") -> None:
        """Show the page on a screen of a size in pixels, in a colour scheme, or as it is printed."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def picture(self, path: Path, height: int = 0) -> None:
        """Keep a picture of the page, all of it or as much as fits in a height in pixels."""
        size = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": height or size[1], "scale": 1}
        asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pages_on_paper(self) -> int:
        """How many pages it takes to print the page."""
        pdf = base64.b64decode(self.driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
        return len(re.findall(rb"/Type\s*/Page\b", pdf))

    def violations(self) -> list[str]:
        """What axe-core finds that is serious or critical, with the elements."""
        self.run(axe())
        only = (
            "{resultTypes: ['violations']}"  # without every element that is as it should be, which takes a third longer
        )
        found = self.driver.execute_async_script(f"axe.run({only}).then(arguments[0])")["violations"]
        bad = [each for each in found if each["impact"] in ("serious", "critical")]
        return [f"{each['id']}: {[node['html'][:150] for node in each['nodes']][:4]}" for each in bad]


def axe() -> str:
    """The source of axe-core, fetched once by npm."""

    def install(folder: Path) -> None:
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), AXE]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)

    return (built("axe-core", AXE, install) / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in a folder of its own."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.set_page_load_timeout(60)
    try:
        yield Browser(driver)
    finally:
        driver.quit()

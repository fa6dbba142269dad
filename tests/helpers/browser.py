"""Pages in a real browser: headless Chromium through Selenium, and what it says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver

from tests.helpers.system import install

PACKAGES = ("chromium", "chromium-driver")  # Debian's
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

# Waits for the images, then says how wide the page is and what sticks out of it, and which images are amiss.
LOOK = """
const [width, done] = arguments;
const images = [...document.images];
for (const image of images) image.loading = "eager";
Promise.allSettled(images.map(image => image.decode())).then(() => done({
  width: document.scrollingElement.scrollWidth,
  wide: [...document.querySelectorAll("body *")]
    .filter(element => !element.parentElement.closest(".scroll") && element.getBoundingClientRect().right > width + 0.5)
    .map(element => `${element.tagName} ${element.className}: ${element.textContent.trim().slice(0, 40)}`),
  images: images.length,
  broken: images.filter(image => !image.naturalWidth).map(image => image.alt),
  silent: images.filter(image => !image.alt.trim()).length,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  back: getComputedStyle(document.body).backgroundColor,
}));
"""


def why_not() -> str | None:
    """Install the browser where it is missing and that is possible; otherwise return the reason why there is none."""
    return install(("chromium", "chromedriver"), PACKAGES)


@dataclass
class Look:
    """Measurements of a page in a browser.

    Attributes:
        width: Of all its content, in CSS pixels.
        wide: Elements that stick out, those within something that scrolls aside.
        images, broken, silent: How many; alternative texts of those that do not load; how many have no such text.
        dark, back: Whether the dark scheme is on; the page's colour.
        console: Every message.
        requests: Every requested address except the page's own and data URIs.
    """

    width: int
    wide: list[str]
    images: int
    broken: list[str]
    silent: int
    dark: bool
    back: str
    console: list[str]
    requests: list[str]


class Browser:
    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})

    def look(self, page: Path | str, width: int, scheme: str = "light", media: str = "screen") -> Look:
        """Open a page, a file or an address, in a window of that width, with a colour scheme, on screen or print."""
        own = page.resolve().as_uri() if isinstance(page, Path) else page
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        self.driver.get(own)
        measured: dict[str, Any] = self.driver.execute_async_script(LOOK, width)
        console = [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent" and event["params"]["documentURL"].startswith(own)
        ]
        return Look(**measured, console=console, requests=[url for url in urls if not url.startswith(("data:", own))])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, in that folder."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(60)
        yield Browser(driver)
    finally:
        driver.quit()

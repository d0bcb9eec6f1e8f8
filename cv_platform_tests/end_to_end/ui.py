"""Dagster's UI in a real headless Chromium: what it shows, and pictures of it for the README.

    python -m cv_platform_tests.end_to_end.ui http://127.0.0.1:3000 docs/images detections 2026-03-01

takes them from a running `make up` after a `make demo`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_PATIENCE_MS = 60_000
# Smaller, and the graph shows names only.
GRAPH_SIZE = (2300, 1500)


def browser_path() -> str | None:
    """The installed Chromium, None where there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name)) is not None), None)


@contextmanager
def page(width: int, height: int) -> Iterator[Page]:
    """A page of a fresh browser, which goes nowhere but to this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=list(FLAGS))
        try:
            opened = browser.new_page(viewport={"width": width, "height": height})
            opened.set_default_timeout(_PATIENCE_MS)
            yield opened
        finally:
            browser.close()


def open_graph(page: Page, address: str, groups: Iterable[str], assets: int) -> list[str]:
    """Show the whole asset graph, every group expanded; returns each node's text once all of them know their state.

    Args:
        groups: names of asset groups, which start collapsed.
        assets: how many nodes there must be.
    """
    width, height = GRAPH_SIZE
    expanded = quote(",".join(f"global@global:{group}" for group in groups), safe="")
    page.goto(f"{address}/asset-groups?expanded={expanded}")
    page.get_by_text("Hide navigation").click()
    page.locator("[aria-label=panel_show_right]").first.click()
    nodes = page.locator("svg foreignObject").filter(has_text="Latest event")
    page.wait_for_function(
        "n => [...document.querySelectorAll('svg foreignObject')].filter("
        "x => /Latest event.*ago.*filled/s.test(x.textContent)).length >= n",
        arg=assets,
    )
    page.wait_for_timeout(1500)  # the layout moves for a moment
    # It was centred before the panels beside it went.
    page.mouse.move(width / 3, height - 60)
    page.mouse.down()
    page.mouse.move(width / 3 + 120, height - 25, steps=5)
    page.mouse.up()
    return [node.text_content() or "" for node in nodes.all()]


def open_asset(page: Page, address: str, asset: str, partition: str) -> str:
    """Show one partition of an asset with its metadata; returns the page's text."""
    page.goto(f"{address}/assets/{asset}?view=partitions&partition={partition}")
    page.get_by_text("clips done").first.wait_for()
    page.wait_for_timeout(1000)
    return page.locator("body").inner_text()


def _shrink(picture: Path) -> None:
    """256 colours are plenty for a user interface, and a third of the bytes."""
    from PIL import Image

    with Image.open(picture) as image:
        smaller = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    smaller.save(picture, optimize=True)


def main(address: str, folder: Path, asset: str, partition: str) -> None:
    """Take the README's pictures."""
    from cv_platform_tests.snapshot import SNAPSHOT, read

    assets = read(SNAPSHOT)["assets"]
    folder.mkdir(parents=True, exist_ok=True)
    with page(*GRAPH_SIZE) as opened:
        open_graph(opened, address, sorted({entry["group"] for entry in assets.values()}), len(assets))
        opened.screenshot(path=folder / "asset-graph.png")
    with page(1500, 1000) as opened:
        open_asset(opened, address, asset, partition)
        opened.screenshot(path=folder / "asset-detail.png")
    for picture in folder.glob("asset-*.png"):
        _shrink(picture)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])

"""Open pages in Chromium and print what is seen as JSON; runs in the browser's own environment.

Usage: look.py CHROMIUM FOLDER PAGE...  (screenshots go to FOLDER)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1100, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1100, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
}

STATE = """() => ({
  images: [...document.images].map(image => image.complete && image.naturalWidth > 0),
  overflow: document.documentElement.scrollWidth - innerWidth,
})"""

SLIDER = """value => {
  const range = document.querySelector(".compare input");
  if (!range) return null;
  range.value = value;
  range.dispatchEvent(new Event("input"));
  return getComputedStyle(document.querySelectorAll(".compare img")[1]).clipPath;
}"""

PRINTED = """() => [...document.querySelectorAll(".compare img, .compare input")].map(each => {
  const box = each.getBoundingClientRect();
  return {kind: each.localName, left: box.left, right: box.right, top: box.top, width: box.width};
})"""


def look(browser: Browser, path: Path, name: str, folder: Path) -> dict[str, Any]:
    """Return what is seen of a page in one look."""
    context = browser.new_context(**LOOKS[name])
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    found = page.evaluate(STATE)
    found["said"] = said
    found["asked"] = [url for url in asked if not url.startswith("data:") and url != path.as_uri()]
    found["axe"] = violations(page)
    page.screenshot(path=folder / f"{path.stem}_{name}.png", full_page=True)
    if name == "light":
        found["slider"] = [page.evaluate(SLIDER, value) for value in (0, 100)]
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 720, "height": 1000})
        found["printed"] = page.evaluate(PRINTED)
        page.screenshot(path=folder / f"{path.stem}_print.png", full_page=True)
    context.close()
    return dict(found)


def violations(page: Page) -> list[str]:
    """Return the rules of axe-core that a page breaks, and where."""
    broken = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in broken for node in rule["nodes"]]


def main() -> None:
    """Look at every page, one after the other, with one browser."""
    chromium, folder, *pages = map(Path, sys.argv[1:])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        seen = {p.name: {n: look(browser, p, n, folder) for n in LOOKS} for p in pages}
        browser.close()
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.browser.pictures`: draws docs/images/report-*.png.

They show a report of the runbook, as a phone, a notebook and a wide screen do, light and dark.
"""

from __future__ import annotations

from tests.support.browser import Browser, browser
from tests.support.ktrace import ROOT

PAGE = ROOT / "docs" / "runbook" / "reports" / "oomkilled.html"
IMAGES = ROOT / "docs" / "images"
WIDTHS = {390: 844, 1280: 1000, 2560: 1300}
READY = "return document.getElementById('view').textContent !== ''"


def main() -> None:
    with browser() as shown:
        for width, height in WIDTHS.items():
            for theme in ("light", "dark"):
                show(shown, width, height, theme)
                picture(shown, f"report-{width}-{theme}")
        show(shown, 1280, 1000, "light")
        shown.run("document.querySelector('button.show').click()")
        shown.until("the verdict's mark", "return document.querySelector('path.verdict.chosen')")
        shown.run("document.getElementById('timeline-title').scrollIntoView()")
        picture(shown, "report-timeline")


def show(shown: Browser, width: int, height: int, theme: str) -> None:
    shown.devtools(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}]
    )
    size = {"width": width, "height": height, "deviceScaleFactor": 1}
    shown.devtools("Emulation.setDeviceMetricsOverride", **size, mobile=width < 500)
    shown.open(PAGE.as_uri())
    shown.until("the list", READY)


def picture(shown: Browser, name: str) -> None:
    (IMAGES / f"{name}.png").write_bytes(shown.screenshot())


if __name__ == "__main__":
    main()

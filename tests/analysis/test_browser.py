"""A real browser opens the report from disk: figures are drawn, nothing is asked of a network, nothing is amiss."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from lopbench.analysis.page import POLICY
from lopbench.analysis.report import write_report
from lopbench.analysis.style import COLOURS
from tests.analysis.made_up import ACCURACY, Population, make_study, members

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-default-apps", "--disable-sync", "--hide-scrollbars")

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"there is no browser: {', '.join(BROWSERS)} (apt: chromium)")


def opened(path, folder):
    """A screenshot `[height, width, 3]`, the addresses that the page asked for, and what the console said."""
    shot, log = folder / "shot.png", folder / "net.json"
    options = [*QUIET, f"--user-data-dir={folder / 'profile'}", "--window-size=1000,1400", f"--screenshot={shot}"]
    options += [f"--log-net-log={log}", "--enable-logging=stderr"]
    done = subprocess.run([BROWSER, *options, path.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    events = json.loads(log.read_text())["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    addresses = {params["url"] for params in asked if params["initiator"] != "not an origin"}  # the browser's own
    with Image.open(shot) as image:
        return np.asarray(image.convert("RGB")).astype(int), addresses, console


def pixels_of(image, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((abs(image - wanted).max(axis=2) < 12).sum())


def test_a_browser_shows_the_figures_and_asks_for_nothing(tmp_path):
    runs = [
        Population(members(name, 3), {ACCURACY: np.full((4, 3), value)}) for name, value in (("a", 0.5), ("b", 0.9))
    ]
    index = write_report(make_study(tmp_path / "study", *runs))
    image, addresses, console = opened(index, tmp_path)
    assert console == []
    assert addresses == set()
    assert pixels_of(image, COLOURS[1]) > 200  # the second line of the figure


def test_a_page_that_asks_for_something_would_be_found_out(tmp_path):
    index = write_report(make_study(tmp_path / "study", Population(members("a", 3), {ACCURACY: np.ones((2, 3))})))
    wanted = "http://127.0.0.1:9/x.png"
    added = f"<img src='{wanted}'><script>console.error('amiss')</script>"
    index.write_text(index.read_text().replace(POLICY, "").replace("</body>", f"{added}</body>"))
    _, addresses, console = opened(index, tmp_path)
    assert addresses == {wanted}
    assert ["amiss" in line for line in console] == [True]

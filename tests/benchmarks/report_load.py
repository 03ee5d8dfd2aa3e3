"""Size of a report, and how long a browser takes to open it.

    python tests/benchmarks/report_load.py RUN... [--rounds 5]

Needs the extra `dev`, and runs, such as runs/demo of `make demo`. Makes the report of the runs and opens it
in headless Chromium (Debian's chromium and chromium-driver). Prints the size, the seconds it takes to make,
and the median seconds from the start of the navigation to the load event and to the first drawn charts.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from distillctl.inspection.report import write_report

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--window-size=1400,1000"]  # fmt: skip
TIMES = "return [performance.getEntriesByType('navigation')[0].loadEventEnd, performance.now()]"
DRAWN = "return document.querySelectorAll('.plot .main-svg').length > 1"


def open_once(path, profile):
    """Seconds to the load event, and to charts on the screen."""
    options = Options()
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        browser.get(path.as_uri())
        WebDriverWait(browser, 60, poll_frequency=0.02).until(lambda b: b.execute_script(DRAWN))
        milliseconds = browser.execute_script(TIMES)
        return [value / 1000 for value in milliseconds]
    finally:
        browser.quit()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "report.html"
        start = time.perf_counter()
        size = write_report(arguments.runs, target)["bytes"]
        print(f"made in {time.perf_counter() - start:.1f} s, {size / 1e6:.1f} MB")
        times = [open_once(target, Path(folder) / f"profile{i}") for i in range(arguments.rounds)]
    loaded, drawn = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"load event after {loaded:.2f} s, charts drawn after {drawn:.2f} s (median of {len(times)})")


if __name__ == "__main__":
    main()

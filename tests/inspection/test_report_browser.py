"""The HTML report in headless Chromium: it draws, hovers, filters, asks nobody, and runs nothing it reads."""

import json
import os
import shutil

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"
    ),
]
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--allow-file-access-from-files"]  # fmt: skip
HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=document.title='hacked'>"
SCREENSHOTS = os.environ.get("DISTILLCTL_SCREENSHOTS")
"""Directory to leave the screenshots in, for people."""


@pytest.fixture(scope="module")
def report(tmp_path_factory, make_run, make_row):
    """A run of 2,000 steps with 500 samples of 100 tokens, one of them hostile."""
    from distillctl.inspection.report import write_report

    run = make_run(tmp_path_factory.mktemp("runs") / "tiny" / "0001").write(
        2000, every=100, accuracies=[0.3 + n / 50 for n in range(20)]
    )
    answers = [make_row(n, tokens=100, seed=1, correct=n % 3 > 0) for n in range(125)]
    texts = ["<b>bold</b>", HOSTILE, *[f" word{n}" for n in range(500)]]
    answers[0] = make_row(0, tokens=5, texts=texts[:2], prompt=HOSTILE, text=HOSTILE)
    answers[0]["response_ids"] = [1, 0, 1, 0, 1]
    run.save("eval", 0, [make_row(n, tokens=100, texts=texts, correct=False) for n in range(125)], texts)
    run.save("eval", 1900, answers, texts)
    rollouts = [make_row(n, tokens=100, texts=texts, prefix="train") for n in range(300)]
    run.save("samples", 2000, rollouts, texts)
    return write_report([run.dir.path], None)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    """The report in a browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1400,1000"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser.get(f"file://{report['report']}")
    yield browser
    browser.quit()


def find(page, selector):
    return page.find_elements("css selector", selector)


def wait_for(page, script):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, 20).until(lambda browser: browser.execute_script(f"return {script}"))


def picture(page, tmp_path, name):
    target = (SCREENSHOTS and os.path.join(SCREENSHOTS, name)) or str(tmp_path / name)
    assert page.save_screenshot(target)


def test_two_thousand_steps_and_five_hundred_samples_stay_under_ten_megabytes(report):
    assert report["bytes"] < 10_000_000


def test_charts_are_drawn_when_they_come_into_view(page, tmp_path):
    wait_for(page, "document.querySelectorAll('.plot .main-svg').length > 2")
    picture(page, tmp_path, "report_desktop.png")
    page.execute_script("document.querySelectorAll('.plot')[document.querySelectorAll('.plot').length - 1]"
                        ".scrollIntoView()")  # fmt: skip
    last = "document.querySelectorAll('.plot')[document.querySelectorAll('.plot').length - 1]"
    wait_for(page, f"{last}.querySelector('.main-svg') !== null")


def test_a_chart_tells_its_values_under_the_pointer(page):
    from selenium.webdriver.common.action_chains import ActionChains

    page.execute_script("window.scrollTo(0, 0)")
    plot = find(page, ".plot")[2]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    wait_for(page, "document.querySelectorAll('.plot')[2].querySelector('.nsewdrag') !== null")
    ActionChains(page).move_to_element(plot.find_element("css selector", ".nsewdrag")).perform()
    told = (
        "document.querySelectorAll('.plot')[2].querySelector('.hoverlayer .legend, .hoverlayer .hovertext')"
    )
    wait_for(page, f"{told} !== null")


def test_hovering_a_token_shows_what_both_models_would_have_written(page, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains

    find(page, "#list button")[1].click()
    token = find(page, "#detail .tokens span")[3]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", token)
    ActionChains(page).move_to_element(token).perform()
    tip = find(page, "#tip")[0]
    assert tip.is_displayed()
    assert "KL" in tip.text
    assert tip.text.count("%") >= 4
    assert "student" in tip.text
    picture(page, tmp_path, "report_samples.png")


def test_a_token_can_be_reached_by_the_keyboard(page):
    find(page, "#list button")[2].click()
    page.execute_script("document.querySelectorAll('#detail .tokens span')[5].focus()")
    assert find(page, "#tip")[0].is_displayed()
    page.execute_script("document.activeElement.blur()")
    assert not find(page, "#tip")[0].is_displayed()


def count(page):
    return int(find(page, "#count")[0].text.split()[0])


def test_filters_leave_what_they_say(page):
    assert count(page) == 125
    find(page, "#wrong")[0].click()
    assert count(page) == 41  # every third of 125, but for the hostile one
    find(page, "#cut")[0].click()
    assert count(page) == 8  # and every fifth of those
    assert all("✗" in button.text for button in find(page, "#list button"))
    find(page, "#wrong")[0].click()
    find(page, "#cut")[0].click()
    search = find(page, "#search")[0]
    search.send_keys("question 77?")
    assert count(page) == 1
    search.clear()
    search.send_keys(" ", "\b")


def test_the_worst_come_first_when_asked(page):
    from selenium.webdriver.support.ui import Select

    Select(find(page, "#sort")[0]).select_by_value("worst")
    shown = [float(button.text.split()[1]) for button in find(page, "#list button")]
    assert shown == sorted(shown, reverse=True)
    Select(find(page, "#sort")[0]).select_by_value("")


def test_what_a_model_wrote_stays_text(page):
    find(page, "#list button")[0].click()
    tokens = [token.text for token in find(page, "#detail .tokens span")]
    assert HOSTILE in tokens
    assert "<b>bold</b>" in tokens
    assert not find(page, "#detail b, #detail img, #list img")
    assert page.title == "tiny/0001"


def test_dark_and_light(page, tmp_path):
    def background():
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    before = background()
    find(page, "#theme")[0].click()
    assert background() != before
    picture(page, tmp_path, "report_dark.png")
    find(page, "#theme")[0].click()
    assert background() == before


def test_a_phone_sees_it_without_scrolling_sideways(page, tmp_path):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    wait_for(page, "document.documentElement.scrollWidth <= 390")  # charts follow the size with a delay
    picture(page, tmp_path, "report_phone.png")
    page.execute_script("document.getElementById('samples').scrollIntoView()")
    picture(page, tmp_path, "report_phone_samples.png")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_asks_nobody_and_complains_of_nothing(page):
    """Last: the logs hold everything since the page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file://", "data:", "blob:", "chrome"))] == []
    assert [entry["message"] for entry in page.get_log("browser")] == []

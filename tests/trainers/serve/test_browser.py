"""The page in a real browser: an image goes in, a verdict comes out, at desktop and phone width."""

import base64
import re
import shutil

import pytest
import torch

from tests.trainers.serve.conftest import listening, png
from trainers.serve import create_app

pytest.importorskip("selenium")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver")

DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
document.getElementById("drop").dispatchEvent(
  new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
"""


@pytest.fixture(scope="module")
def address(detector):
    with listening(create_app(detector, (1, 8, 8), [f"digit {i}" for i in range(10)])) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def text(browser, name) -> str:
    return browser.find_element(By.ID, name).text


def wait_for(browser, condition) -> None:
    WebDriverWait(browser, 20, 0.05).until(lambda _: condition())


def complaints(browser) -> list[str]:
    """Errors and warnings of the page; hints of the browser to its developers are none."""
    return [line["message"] for line in browser.get_log("browser") if line["level"] != "DEBUG"]


def test_a_chosen_image_is_predicted_and_explained(browser, address, held_out, tmp_path):
    file = tmp_path / "seven.png"
    file.write_bytes(png(held_out[0]))
    browser.set_window_size(1200, 1500)
    browser.get(address)
    wait_for(browser, lambda: "10 classes" in text(browser, "about"))
    assert not browser.find_element(By.ID, "card").is_displayed()
    browser.find_element(By.ID, "file").send_keys(str(file))
    wait_for(browser, lambda: text(browser, "verdict"))
    assert text(browser, "verdict") == "Accepted"
    assert text(browser, "prediction").startswith("digit ")
    assert float(text(browser, "p-value")) > 0.05
    assert "At most 5 % of good images are refused by mistake, on average over" in text(browser, "about")
    assert re.search(r"calibration images .* \d+ of them looks? no more typical", text(browser, "standing"))
    assert len(browser.find_elements(By.CSS_SELECTOR, "#chart .bin")) > 5
    assert len(browser.find_elements(By.CSS_SELECTOR, "#parts .meter")) == 4
    assert browser.find_element(By.ID, "preview").is_displayed()
    assert not complaints(browser)  # nor a word of the content security policy


def test_of_a_weighted_detector_the_page_speaks_of_weights(browser, weighted, held_out):
    with listening(create_app(weighted, (1, 8, 8))) as port:
        browser.get(f"http://127.0.0.1:{port}/")
        wait_for(browser, lambda: "weighted for images from elsewhere" in text(browser, "about"))
        browser.execute_script(DROP, base64.b64encode(png(held_out[0])).decode())
        wait_for(browser, lambda: text(browser, "verdict"))
        assert "weighted calibration images" in text(browser, "because")
        assert "the p-value counts them by weight" in text(browser, "standing")


def test_dropped_noise_is_refused_and_stands_left_of_the_threshold(browser, address):
    noise = torch.randint(0, 250, (1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    browser.get(address)
    browser.execute_script(DROP, base64.b64encode(png(noise)).decode())
    wait_for(browser, lambda: text(browser, "verdict"))
    assert text(browser, "verdict") == "Refused"
    assert float(text(browser, "p-value")) <= 0.05
    mark = float(browser.find_element(By.ID, "mark").get_attribute("data-x"))
    limit = float(browser.find_element(By.CSS_SELECTOR, "#chart .limit").get_attribute("x1"))
    assert mark <= limit
    assert len(browser.find_elements(By.CSS_SELECTOR, "#parts .meter.marked")) == 1


def test_a_file_that_is_no_image_is_told_so_and_the_next_one_is_predicted(browser, address, held_out):
    browser.get(address)
    browser.execute_script(DROP, base64.b64encode(b"no image").decode())
    wait_for(browser, lambda: text(browser, "detail"))
    assert "expected an image" in text(browser, "detail")
    assert not browser.find_element(By.ID, "card").is_displayed()
    browser.execute_script(DROP, base64.b64encode(png(held_out[0])).decode())
    wait_for(browser, lambda: text(browser, "verdict"))
    assert not browser.find_element(By.ID, "problem").is_displayed()


def test_the_page_asks_for_the_key_of_a_service_that_has_one(browser, detector, held_out):
    complaints(browser)  # those of the tests before
    with listening(create_app(detector, (1, 8, 8), key="open-sesame")) as port:
        browser.get(f"http://127.0.0.1:{port}/")
        assert not browser.find_element(By.ID, "key").is_displayed()
        browser.execute_script(DROP, base64.b64encode(png(held_out[0])).decode())
        wait_for(browser, lambda: text(browser, "detail"))
        assert "API key" in text(browser, "detail")
        browser.find_element(By.ID, "key").send_keys("open-sesame\t")
        wait_for(browser, lambda: text(browser, "verdict"))
        assert not browser.find_element(By.ID, "problem").is_displayed()
    assert [line for line in complaints(browser) if "401" not in line] == []


def test_swagger_ui_shows_every_route_and_loads_nothing_from_elsewhere(browser, address):
    pytest.importorskip("fastapi_offline")
    browser.get(address + "docs")
    wait_for(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".opblock"))
    shown = {
        each.get_attribute("data-path") for each in browser.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")
    }
    paths = browser.execute_async_script("fetch('/openapi.json').then(r => r.json()).then(arguments[0])")["paths"]
    assert shown == set(paths)
    assert not complaints(browser)  # nor a word of the content security policy


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, address, held_out):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.get(address)
    browser.execute_script(DROP, base64.b64encode(png(held_out[0])).decode())
    wait_for(browser, lambda: text(browser, "verdict"))
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width == 375

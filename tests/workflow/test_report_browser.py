"""The report and its pages as a person opens them: in a real browser, on a laptop, a phone and a large screen.

Chromium is spoken to through its pipe (--remote-debugging-pipe, the Chrome DevTools Protocol). Screenshots are kept in
tests/screenshots/.
"""

import base64
import json
import os
import select
import shutil
import subprocess
from itertools import count
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
SIZES = {"laptop": (1366, 650), "phone": (390, 844), "desktop": (1920, 1080)}
SCREENSHOTS = Path(__file__).parents[1] / "screenshots"
WAIT = 60  # seconds for one answer of the browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: sh tests/workflow/install_chromium.sh")


class Browser:
    """One tab of a headless Chromium; `errors` and `requests` hold what its console and its network showed."""

    def __init__(self, profile: Path):
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        # Nothing of the browser's own goes to the network, where the pages' log would not show it.
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        options.append(f"--user-data-dir={profile}")
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", str(CHROMIUM), *options, "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self.numbers, self.buffer, self.events = count(1), b"", []
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.session: dict = {}
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)

    def ask(self, method: str, **parameters):
        """Send a command and give its result."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters, **self.session}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict:
        """The next message; of an event, what counts as an error or a request is noted."""
        while b"\0" not in self.buffer:
            assert select.select([self.answers], [], [], WAIT)[0], f"chromium said nothing for {WAIT} s"
            part = os.read(self.answers, 1 << 20)
            assert part, "chromium ended"
            self.buffer += part
        text, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(text)
        event, seen = message.get("method"), message.get("params", {})
        if event == "Runtime.exceptionThrown":
            self.errors.append(seen["exceptionDetails"]["text"])
        elif (event == "Runtime.consoleAPICalled" and seen["type"] == "error") or (
            event == "Log.entryAdded" and seen["entry"]["level"] == "error"
        ):
            self.errors.append(json.dumps(seen)[:300])
        elif event == "Network.requestWillBeSent":
            self.requests.append(seen["request"]["url"])
        if event:
            self.events.append(event)
        return message

    def open(self, path: Path, width: int, height: int) -> None:
        """Open a file in a window of this size and wait until it is there."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self.events:
            self._next()

    def value(self, expression: str):
        """What a JavaScript expression gives; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        script = f"""new Promise((done, failed) => {{
            const end = Date.now() + 20000;
            const look = () => ({expression}) ? done(true)
                : Date.now() > end ? failed(Error('never came')) : setTimeout(look, 50);
            look(); }})"""
        self.value(script)

    def screenshot(self, name: str) -> None:
        """Keep what the window shows."""
        SCREENSHOTS.mkdir(exist_ok=True)
        image = self.ask("Page.captureScreenshot", format="png")["data"]
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(image))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser for all sizes."""
    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def report(mini, tmp_path_factory) -> Path:
    """The mini experiment's report."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    mini.run("--profile", "mini", "--report", str(path))
    return path


WHOLE = """(element => { const box = element.getBoundingClientRect();
    return box.top >= 0 && box.left >= 0 && box.height > 0
        && box.bottom <= innerHeight && box.right <= innerWidth; })"""
NO_OVERFLOW = "document.documentElement.scrollWidth <= innerWidth"
STAMP = "getComputedStyle(document.body, '::before')"
STAMP_SEEN = f"""{STAMP}.content.includes('mini experiment – not a paper result')
    && {STAMP}.position === 'fixed' && {STAMP}.visibility === 'visible' && parseFloat({STAMP}.height) > 15"""
TABLES = (
    "[...document.querySelectorAll('.start a')].find(link => link.textContent === 'accuracy and health of every run')"
)
FOUND, HEALTH = "document.querySelector('.start p.found')", "document.querySelector('.start p.health')"
# Waits for what the frame holds: the frame itself is there before its page.
PAGE_LOADED = """new Promise(done => {{
    document.addEventListener('load', event => event.target.tagName === 'IFRAME' && done(true), true);
    {link}.click(); }})"""
# On a phone a figure of one column takes the place of the wide one.
FIGURE = """[...document.querySelectorAll('.start figure img, .start figure svg')]
    .find(figure => figure.getBoundingClientRect().width > 1)"""
INSIDE = """[...document.querySelectorAll('.start figure img, .start figure svg')]
    .every(figure => figure.getBoundingClientRect().right <= innerWidth)"""


@pytest.mark.parametrize("size", SIZES)
def test_the_report_is_seen_whole_with_its_stamp(browser, report, size):
    browser.errors.clear()
    browser.requests.clear()
    browser.open(report, *SIZES[size])
    browser.until("document.querySelector('#rulegraph canvas, #rulegraph svg')")
    browser.until(f"{FIGURE} !== undefined")
    browser.until(STAMP_SEEN)
    browser.screenshot(f"report_{size}")
    assert browser.value(NO_OVERFLOW)
    assert browser.value(f"{WHOLE}(document.querySelector('.prose h1'))"), "the title is cut off"
    for part in (FOUND, HEALTH):
        assert browser.value(f"{WHOLE}({part})"), "what was found is not on the first screen"
    assert "Sums, held out: " in browser.value(f"{FOUND}.textContent")
    assert browser.value("!document.body.innerText.includes('claims of the paper')")
    assert browser.value(f"{FIGURE}.getBoundingClientRect().width") >= min(500, 0.8 * SIZES[size][0])
    assert browser.value(INSIDE), "the end of a curve is outside the picture"
    graph = "document.querySelector('#rulegraph canvas, #rulegraph svg')"
    browser.value(f"{graph}.scrollIntoView()")
    assert browser.value(f"{graph}.getBoundingClientRect().height") > 600, "the graph of rules is shrunk"
    browser.screenshot(f"rules_{size}")
    browser.value(PAGE_LOADED.format(link=TABLES))
    assert browser.value(f"{WHOLE}(document.querySelector('iframe'))") and browser.value(STAMP_SEEN)
    assert browser.value(NO_OVERFLOW)
    browser.screenshot(f"summary_{size}")
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("size", SIZES)
def test_every_page_of_tables_fits_and_keeps_its_stamp(browser, mini, size):
    pages = [
        "summary.html",
        "claims.html",
        "comparison/mini.html",
        "provenance.html",
        "data/sums/tiny/contamination.html",
    ]
    for page in pages:
        browser.errors.clear()
        browser.requests.clear()
        browser.open(mini.folder / "results/mini" / page, *SIZES[size])
        assert browser.value(NO_OVERFLOW), page
        if "claims" in page:
            assert browser.value("document.querySelector('table').getBoundingClientRect().right <= innerWidth")
        if "contamination" in page:
            assert browser.value("document.body.innerText.includes('Kept for training')"), "no data card"
        for place in ("0", "document.body.scrollHeight"):
            browser.value(f"scrollTo(0, {place})")
            assert browser.value(f"{WHOLE}(document.querySelector('p.stamp'))"), f"{page}: no stamp at {place}"
        browser.value("scrollTo(0, 0)")
        browser.screenshot(f"{Path(page).stem}_page_{size}")
        assert browser.errors == [] and all(url.startswith("file:") for url in browser.requests)

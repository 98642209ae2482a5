"""A browser that looks at the page, and what the checks share.

Told by its environment where the cluster is: ROLLCALL (base URL), OPERATOR and VIEWER (id:secret), CHROMIUM, PICTURES (a folder).
"""

import os
import sys
import traceback

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

URL = os.environ["ROLLCALL"]
OPERATOR = os.environ["OPERATOR"].split(":")
VIEWER = os.environ["VIEWER"].split(":")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
# Ample on a machine that compiles meanwhile.
SOON = 60000

# Requests of the page can be held back, to come late: `hold(text)` holds those whose URL has it, `release()` lets them go. A
# picker of files needs a person, so there is none.
SCRIPT = """
delete window.showSaveFilePicker;
const held = [];
let text = null;
window.hold = (part) => { text = part; };
window.heldNow = () => held.length;
window.release = () => { text = null; held.splice(0).forEach((go) => go()); };
const real = window.fetch;
window.fetch = async (url, options = {}) => {
  const response = real(url, options);
  response.catch(() => {});
  if (text !== null && String(url).includes(text)) {
    await new Promise((resolve, reject) => {
      held.push(resolve);
      options.signal?.addEventListener('abort', () => reject(options.signal.reason));
    });
  }
  return response;
};
"""


class Page:
    """A page of its own, with what is wrong about it."""

    def __init__(self, browser, address=""):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.page = self.context.new_page()
        self.page.set_default_timeout(SOON)
        self.problems = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self.problems.append(line.text) if "Content Security Policy" in line.text else None)
        self.page.on("request", lambda request: self.problems.append(request.url) if not request.url.startswith((URL, "data:", "blob:")) else None)
        self.page.add_init_script(SCRIPT)
        self.page.goto(URL + address)

    def close(self):
        self.context.close()
        assert not self.problems, self.problems


def log_in(page, key=None):
    key = key or OPERATOR
    page.get_by_label("Key id").fill(key[0])
    page.get_by_label("Secret").fill(key[1])
    page.get_by_role("button", name="Log in").click()


def is_accessible(page, where):
    violations = Axe().run(page).response["violations"]
    bad = [(v["id"], [n["html"] for n in v["nodes"]]) for v in violations if v["impact"] in ("serious", "critical")]
    assert not bad, f"{where}: {bad}"


def ids(page):
    return page.locator("#rows button").all_inner_texts()


def refreshes(page, number):
    """Waits until the list has been asked for and shown so many times more."""
    for _ in range(number):
        with page.expect_response(lambda response: "/clients?" in response.url) as answer:
            pass
        answer.value.finished()
    # What came last is shown by now.
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")


def until(page, condition, what):
    """Waits for a condition: of JavaScript, or a function."""
    for _ in range(SOON // 100):
        seen = page.evaluate(condition) if isinstance(condition, str) else condition()
        if seen:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not within {SOON} ms: {what}")


def step(name):
    print(f"- {name}", flush=True)


def run(checks):
    """Runs checks, each on a page of its own; all of them, whether or not one before has failed."""
    failed = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=ARGUMENTS)
        expect.set_options(timeout=SOON)
        for check in checks:
            step((check.__doc__ or check.__name__).splitlines()[0])
            try:
                check(browser)
            except Exception:  # A failure is told with all the others.
                traceback.print_exc()
                failed.append(check.__name__)
        browser.close()
    for name in failed:
        print(f"FAILED: {name}", flush=True)
    sys.exit(len(failed))

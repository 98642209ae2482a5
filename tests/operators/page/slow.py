"""The page in a browser over a cluster that takes longer for a list than its events are apart; see `browser.py` for the environment."""

from playwright.sync_api import expect

from browser import Page, log_in, run, until


def lists_that_take_their_time_are_shown(browser):
    """a list that takes longer than events are apart is shown, and so is who is missing"""
    own = Page(browser)
    page = own.page
    log_in(page)
    expect(page.locator("#count")).to_contain_text("client")
    page.get_by_label("Client id contains").fill("rig-")
    expect(page.locator("#count")).to_have_text("at least 1 client matches", timeout=30000)
    expect(page.locator("#banner")).to_contain_text("d@127.0.0.1")
    # And it goes on: each of them is shown, and events are followed by another.
    answers = []
    page.on("requestfinished", lambda request: answers.append(request.url) if "/clients?" in request.url else None)
    broken = []
    page.on("requestfailed", lambda request: broken.append(request.url) if "/clients?" in request.url else None)
    until(page, lambda: len(answers) >= 3, "three more lists")
    assert not broken, broken
    own.close()


if __name__ == "__main__":
    run([lists_that_take_their_time_are_shown])

"""The page in a real browser, as an operator and as a viewer use it.

See `browser.py` for the environment; here VICTIM_PID too, the process of node c. The cluster has nodes a and b with real MQTT
clients and node c with 1,200 made-up ones. Keeps pictures of what it sees.
"""

import os
import signal

from playwright.sync_api import expect

from browser import OPERATOR, VIEWER, Page, ids, is_accessible, log_in, refreshes, run, step

PICTURES = os.environ["PICTURES"]


def tour(browser):
    """an operator and a viewer use the page"""
    own = Page(browser)
    page = own.page

    def picture(name, whole=False):
        page.screenshot(path=f"{PICTURES}/{name}.png", full_page=whole)

    step("a wrong key is refused, the right one lets in")
    is_accessible(page, "login")
    log_in(page, ("app_id", "wrong"))
    expect(page.locator("#login-error")).to_contain_text("key")
    log_in(page, OPERATOR)
    expect(page.locator("#count")).to_have_text("1,205 clients")
    expect(page.locator("#totals")).to_contain_text("1,205 clients, ")
    expect(page.locator("#nodes li")).to_have_count(3)
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0 and OPERATOR[1] not in page.content()
    is_accessible(page, "cluster")

    step("what is typed is searched for")
    page.get_by_label("Client id contains").press_sequentially("rig-")
    expect(page.locator("#count")).to_have_text("3 clients match")
    assert ids(page) == ["rig-1", "rig-2", "rig-3"], ids(page)

    step("columns sort both ways")
    page.locator("#head button", has_text="Node").click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Node")
    page.locator("#head button", has_text="Node").click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Node")
    expect(page.locator("#rows tr").first).to_contain_text("b@127.0.0.1")
    page.get_by_role("button", name="Clear").click()
    page.locator("#head button", has_text="Client id").click()

    step("the address keeps what is asked for, and never the key")
    page.locator("[name=_node]").select_option("b@127.0.0.1")
    expect(page.locator("#count")).to_have_text("2 clients match")
    assert "_node=b%40127.0.0.1" in page.url and OPERATOR[1] not in page.url, page.url
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#count")).to_have_text("1,205 clients")

    step("the last page is a click away, any page a number")
    first = ids(page)
    page.get_by_role("button", name="Last").click()
    expect(page.locator("#page")).to_have_value("25")
    expect(page.locator("#rows tr")).to_have_count(5)
    page.locator("#page").fill("7")
    page.keyboard.press("Tab")
    expect(page.locator("#rows tr")).to_have_count(50)
    page.get_by_role("button", name="First").click()
    expect(page.locator("#page")).to_have_value("1")
    expect(page.locator("#rows button").first).to_have_text(first[0])

    step("columns can be chosen")
    page.get_by_text("Columns", exact=True).click()
    assert page.locator("#column-choice input").count() == 37
    page.get_by_label("Keepalive").check()
    expect(page.locator("#head")).to_contain_text("Keepalive")
    is_accessible(page, "columns")
    picture("columns")
    page.get_by_label("Keepalive").uncheck()
    expect(page.locator("#head")).not_to_contain_text("Keepalive")
    page.get_by_text("Columns", exact=True).click()

    step("who is drowning is a click away, as far as it is known")
    page.locator("#head button", has_text="Queued").click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Queued")
    expect(page.locator("#rows tr").first).to_contain_text("c@127.0.0.1")
    page.evaluate("scrollTo(0, 0)")
    picture("wide")
    page.get_by_role("button", name="Last").click()
    expect(page.locator("#list-error")).to_have_text("")
    page.locator("#head button", has_text="Client id").click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Client id")

    step("a tile leads to its clients")
    page.locator("#nodes button", has_text="b@127.0.0.1").click()
    expect(page.locator("#count")).to_have_text("2 clients match")
    expect(page.locator("[name=_node]")).to_have_value("b@127.0.0.1")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#count")).to_have_text("1,205 clients")

    step("a file holds all that match, a row a line")
    page.get_by_label("Client id contains").fill("rig-")
    expect(page.locator("#count")).to_have_text("3 clients match")
    with page.expect_download() as download:
        page.get_by_role("button", name="NDJSON").click()
    lines = open(download.value.path(), encoding="utf-8").read().splitlines()
    assert len(lines) == 4 and '"complete":true' in lines[3], lines
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert len(open(download.value.path(), encoding="utf-8").read().splitlines()) == 4

    step("a kicked client goes")
    page.locator("#rows button", has_text="rig-2").click()
    expect(page.locator("#detail-body")).to_contain_text("rig-2")
    is_accessible(page, "a client")
    picture("client")
    page.locator("#kick").click()
    expect(page.locator("#confirm-title")).to_have_text("Kick rig-2?")
    page.locator("#confirm-go").click()
    expect(page.locator("#confirm-result")).to_have_text("Kicked on a@127.0.0.1.")
    page.keyboard.press("Escape")
    expect(page.locator("#detail-body")).to_have_text("No node has it any more.")
    page.keyboard.press("Escape")
    # Nobody asks for it: it goes by itself.
    expect(page.locator("#count")).to_have_text("2 clients match", timeout=15000)

    step("many are kicked once their number is typed")
    page.get_by_role("button", name="Kick all of these").click()
    expect(page.locator("#confirm-title")).to_have_text("Kick 2 clients?")
    expect(page.locator("#confirm-go")).to_be_disabled()
    page.locator("#confirm-number").fill("3")
    expect(page.locator("#confirm-go")).to_be_disabled()
    page.locator("#confirm-number").fill("2")
    is_accessible(page, "bulk kick")
    picture("bulk")
    page.locator("#confirm-go").click()
    expect(page.locator("#confirm-result")).to_have_text("2 kicked")
    page.keyboard.press("Escape")
    expect(page.locator("#count")).to_have_text("0 clients match")
    expect(page.locator("#rows")).to_have_text("No client here.")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#count")).to_have_text("1,202 clients")

    step("a client id is text, whatever it looks like")
    page.get_by_label("Client id contains").fill("<img")
    expect(page.locator("#count")).to_have_text("1 client matches")
    assert ids(page) == ["<img src=x onerror=alert(1)>"]
    page.get_by_role("button", name="Clear").click()

    step("a node that does not answer is named")
    os.kill(int(os.environ["VICTIM_PID"]), signal.SIGKILL)
    expect(page.locator("#banner")).to_contain_text("c@127.0.0.1", timeout=20000)
    expect(page.locator("#count")).to_have_text("at least 2 clients", timeout=20000)
    expect(page.locator("#nodes .state.unavailable")).to_have_count(1, timeout=20000)
    is_accessible(page, "a node missing")
    picture("missing")

    step("a file that lacks a node's clients says so for as long as it takes to read")
    with page.expect_download() as download:
        page.get_by_role("button", name="NDJSON").click()
    assert '"complete":false' in open(download.value.path(), encoding="utf-8").read()
    expect(page.locator("#notice-text")).to_have_text("The file is not whole: c@127.0.0.1 (unreachable).")
    refreshes(page, 2)
    expect(page.locator("#notice-text")).to_be_visible()
    page.get_by_role("button", name="Dismiss").click()

    step("it fits a narrow screen, in the dark too")
    page.set_viewport_size({"width": 360, "height": 800})
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    is_accessible(page, "narrow and dark")
    picture("narrow-dark", whole=True)
    page.locator("#more summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#rows button", has_text="phone").click()
    expect(page.locator("#detail dl").first).to_be_visible()
    is_accessible(page, "a client, narrow and dark")
    picture("client-narrow-dark")
    page.keyboard.press("Escape")
    page.locator("#more summary").click()
    page.set_viewport_size({"width": 1280, "height": 900})
    is_accessible(page, "wide and dark")
    picture("wide-dark")
    page.emulate_media(color_scheme="light")

    step("a viewer sees no kick")
    page.get_by_role("button", name="Log out").click()
    picture("login")
    assert page.locator("#rows tr").count() == 0
    log_in(page, VIEWER)
    expect(page.locator("#who")).to_have_text(f"{VIEWER[0]} (viewer)")
    expect(page.locator("#bulk")).to_be_hidden()
    page.locator("#rows button").first.click()
    expect(page.locator("#detail dl").first).to_be_visible()
    expect(page.locator("#kick")).to_be_hidden()
    own.close()


if __name__ == "__main__":
    run([tour])

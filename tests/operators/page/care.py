"""The page in a browser, where answers come late and somebody is in the middle of something.

The cluster has nodes a and b with real MQTT clients, and node c with made-up ones; see `browser.py` for the environment.
"""

import json

from playwright.sync_api import expect

from browser import OPERATOR, Page, is_accessible, log_in, refreshes, run, until


def entered(browser, address="", key=None):
    """A page that is logged in and shows its list."""
    own = Page(browser, address)
    log_in(own.page, key)
    expect(own.page.locator("#count")).to_contain_text("client")
    expect(own.page.locator("#rows tr").first).to_be_visible()
    return own


def search(page, text):
    page.get_by_label("Client id contains").fill(text)


def open_client(page, clientid):
    page.locator(f'#rows button[data-clientid="{clientid}"]').click()


def nothing_but_what_is_needed_is_shown(browser):
    """a kick of one client asks for no number"""
    own = entered(browser, "#_like_clientid=rig-")
    page = own.page
    open_client(page, "rig-1")
    page.locator("#kick").click()
    expect(page.locator("#confirm-title")).to_have_text("Kick rig-1?")
    expect(page.locator("#confirm-type")).to_be_hidden()
    expect(page.locator("#confirm-go")).to_be_enabled()
    # Even if it could be typed into, that would change nothing.
    page.evaluate("document.getElementById('confirm-number').dispatchEvent(new Event('input', {bubbles: true}))")
    expect(page.locator("#confirm-go")).to_be_enabled()
    is_accessible(page, "a kick")
    own.close()


def changes_that_follow_each_other_all_count(browser):
    """two filters that are changed at once both count, also for a bulk kick and a file"""
    own = entered(browser)
    page = own.page
    page.evaluate("""() => {
      for (const [name, value] of [['_like_clientid', 'rig-'], ['_like_username', 'mill']]) {
        const field = document.querySelector(`[name=${name}]`);
        field.value = value;
        field.dispatchEvent(new Event('input', { bubbles: true }));
      }
    }""")
    expect(page.locator("#count")).to_have_text("1 client matches")
    assert "_like_clientid=rig-" in page.url and "_like_username=mill" in page.url, page.url
    # What was typed last counts although nothing has been asked with it yet.
    typed = """([name, value, button]) => {
      const field = document.querySelector(`[name=${name}]`);
      field.value = value;
      field.dispatchEvent(new Event('input', { bubbles: true }));
      document.querySelector(button).click();
    }"""
    page.evaluate(typed, ["_like_username", "", "#bulk"])
    expect(page.locator("#confirm-title")).to_have_text("Kick 3 clients?")
    expect(page.locator("#confirm-body")).to_contain_text("Client id containsrig-")
    page.keyboard.press("Escape")
    with page.expect_request(lambda request: "/client_export" in request.url) as asked:
        page.evaluate(typed, ["_like_username", "mill", "[data-download=ndjson]"])
    assert "_like_username=mill" in asked.value.url and "_like_clientid=rig-" in asked.value.url, asked.value.url
    own.close()


def who_was_counted_is_kicked(browser):
    """a bulk kick is about those that its dry run has counted, whatever is asked for meanwhile"""
    own = entered(browser, "#_like_clientid=bulk-")
    page = own.page
    bodies = []
    page.on("request", lambda request: bodies.append(json.loads(request.post_data)) if request.method == "POST" else None)
    page.locator("#bulk").click()
    expect(page.locator("#confirm-title")).to_have_text("Kick 2 clients?")
    page.evaluate("location.hash = '_like_clientid=rig-'")
    expect(page.locator("#count")).to_have_text("3 clients match")
    page.locator("#confirm-number").fill("2")
    page.locator("#confirm-go").click()
    expect(page.locator("#confirm-result")).to_have_text("2 kicked")
    dry, wet = bodies
    assert dry["filter"] == wet["filter"] == {"_like_clientid": "bulk-"} and wet["max"] == 2, bodies
    page.keyboard.press("Escape")
    own.close()


def late_answers_are_of_nobody_else(browser):
    """what comes late of one client is not shown of another"""
    own = entered(browser, "#_like_clientid=rig-")
    page = own.page
    page.evaluate("hold('/clients/rig-1')")
    open_client(page, "rig-1")
    until(page, "heldNow() === 1", "an answer that is held back")
    page.keyboard.press("Escape")
    page.evaluate("hold('/clients/rig-3')")
    open_client(page, "rig-3")
    until(page, "heldNow() === 2", "an answer that is held back")
    page.evaluate("release()")
    expect(page.locator("#detail-body")).to_contain_text("rig-3")
    page.wait_for_timeout(500)
    expect(page.locator("#detail-body")).not_to_contain_text("rig-1")
    # The other way round: the first one's answer comes last.
    page.keyboard.press("Escape")
    page.evaluate("hold('/clients/rig-1')")
    open_client(page, "rig-1")
    until(page, "heldNow() === 1", "an answer that is held back")
    page.keyboard.press("Escape")
    open_client(page, "rig-3")
    expect(page.locator("#detail dl").first).to_be_visible()
    page.evaluate("release()")
    page.wait_for_timeout(500)
    expect(page.locator("#detail-body")).to_contain_text("rig-3")
    expect(page.locator("#detail-body")).not_to_contain_text("rig-1")
    page.locator("#kick").click()
    expect(page.locator("#confirm-title")).to_have_text("Kick rig-3?")
    own.close()


def late_kicks_are_told_where_they_belong(browser):
    """how a kick ended is not told in a later question, and is told all the same"""
    own = entered(browser, "#_like_clientid=late-")
    page = own.page
    page.locator("#bulk").click()
    expect(page.locator("#confirm-title")).to_have_text("Kick 1 client?")
    page.evaluate("hold('/client_kicks')")
    page.locator("#confirm-number").fill("1")
    page.locator("#confirm-go").click()
    until(page, "heldNow() === 1", "an answer that is held back")
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    page.evaluate("location.hash = '_like_clientid=rig-'")
    expect(page.locator("#count")).to_have_text("3 clients match")
    open_client(page, "rig-3")
    page.locator("#kick").click()
    page.evaluate("release()")
    page.wait_for_timeout(500)
    expect(page.locator("#confirm-title")).to_have_text("Kick rig-3?")
    expect(page.locator("#confirm-result")).to_have_text("")
    expect(page.locator("#confirm-progress")).to_be_hidden()
    expect(page.locator("#confirm-go")).to_be_visible()
    expect(page.locator("#notice-text")).to_contain_text("Stopped after")
    own.close()


def nothing_is_shown_after_a_logout(browser):
    """what comes after a logout is shown to nobody"""
    own = entered(browser, "#_like_clientid=rig-")
    page = own.page
    page.evaluate("hold('/clients/rig-1')")
    open_client(page, "rig-1")
    until(page, "heldNow() === 1", "an answer that is held back")
    page.keyboard.press("Escape")
    page.evaluate("hold('/client')")
    # Not by the list's own refreshes alone: something is asked for.
    search(page, "rig-2")
    until(page, "heldNow() >= 2", "an answer that is held back")
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("#login")).to_be_visible()
    page.evaluate("release()")
    page.wait_for_timeout(500)
    for place in ["#rows", "#nodes", "#detail-body", "#confirm-body", "#totals", "#count", "#who", "#said"]:
        assert page.locator(place).inner_html() == "", place
    assert page.locator("dialog[open]").count() == 0
    assert page.locator("#login-error").inner_text() == ""
    own.close()


def refreshes_disturb_nobody(browser):
    """a refresh keeps focus, selection and clicks, and announces nothing"""
    own = entered(browser, "#_sort=clientid")
    page = own.page
    page.evaluate("""() => {
      const row = document.querySelectorAll('#rows tr')[1];
      window.before = row.querySelector('button');
      window.before.focus();
      const range = document.createRange();
      range.selectNodeContents([...row.cells].find((cell) => cell.textContent.includes('@')));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      window.selected = getSelection().toString();
      window.tile = document.querySelector('#nodes li');
      window.announced = [];
      for (const spoken of document.querySelectorAll('[role=status], [role=alert], [aria-live]')) {
        new MutationObserver(() => window.announced.push(spoken.id)).observe(spoken, { childList: true, characterData: true, subtree: true });
      }
    }""")
    place = page.evaluate("(() => { const { x, y } = before.getBoundingClientRect(); return [x + 5, y + 5]; })()")
    refreshes(page, 2)
    assert page.evaluate("document.activeElement === before && before.isConnected")
    assert "@" in page.evaluate("selected") and page.evaluate("getSelection().toString() === selected")
    assert page.evaluate("tile.isConnected")
    assert page.evaluate("announced") == [], page.evaluate("announced")
    # A press and a release with a refresh between are a click.
    page.mouse.move(*place)
    page.mouse.down()
    refreshes(page, 1)
    page.mouse.up()
    expect(page.locator("#detail-title")).to_have_text(page.evaluate("before.textContent"))
    page.keyboard.press("Escape")
    # What was asked for is said, once.
    search(page, "rig-")
    expect(page.locator("#said")).to_have_text("3 clients match")
    refreshes(page, 1)
    assert page.evaluate("announced").count("said") == 1, page.evaluate("announced")
    own.close()


def the_focus_outlives_its_client(browser):
    """when the client that has the focus goes, its neighbour has it"""
    own = entered(browser, "#_like_clientid=gone-")
    page = own.page
    page.locator("#rows button").first.focus()
    page.evaluate("""async ([id, secret]) => {
      await fetch('/api/v4/clients/gone-1', { method: 'DELETE', headers: { Authorization: 'Basic ' + btoa(`${id}:${secret}`) } });
    }""", OPERATOR)
    expect(page.locator("#count")).to_have_text("1 client matches")
    expect(page.locator('#rows button[data-clientid="gone-2"]')).to_be_focused()
    own.close()


def what_an_action_said_stays(browser):
    """that a file is not whole stays said until it is dismissed"""
    own = entered(browser)
    page = own.page
    # A stream that breaks off where nothing is wrong with the cluster.
    page.route("**/client_export?*", lambda route: route.fulfill(status=200, body='{"clientid":"half'))
    page.get_by_role("button", name="NDJSON").click()
    said = page.get_by_role("alert").filter(has_text="The file is not whole: it broke off.")
    expect(said).to_be_visible()
    refreshes(page, 2)
    expect(said).to_be_visible()
    is_accessible(page, "a notice")
    page.get_by_role("button", name="Dismiss").click()
    expect(said).to_be_hidden()
    own.close()


def a_list_that_fails_is_said_once(browser):
    """that no node answers is said once, with what was there before"""
    own = entered(browser, "#_like_clientid=rig-")
    page = own.page
    answer = {"code": 101, "message": "no node answered", "meta": {"nodes": {"failed": [{"node": "a@127.0.0.1", "reason": "timeout"}]}}}
    page.route("**/clients?*", lambda route: route.fulfill(status=503, body=json.dumps(answer)))
    expect(page.locator("#list-error")).to_contain_text("no node answered (What stands here is of ")
    expect(page.locator("#banner")).to_have_text("Clients are missing of a@127.0.0.1 (timeout).")
    page.evaluate("""() => {
      window.announced = 0;
      new MutationObserver(() => { window.announced += 1; })
        .observe(document.getElementById('list-error'), { childList: true, characterData: true, subtree: true });
    }""")
    refreshes(page, 2)
    assert page.evaluate("announced") == 0
    assert page.locator("#rows tr").count() == 3
    page.unroute("**/clients?*")
    expect(page.locator("#list-error")).to_have_text("")
    expect(page.locator("#banner")).to_be_hidden()
    own.close()


def an_address_that_cannot_be_locks_nobody_out(browser):
    """a time that is none, and whatever else cannot be, is left out of the address and said"""
    address = "#_gte_connected_at=yesterday&_lte_connected_at=1e99&conn_state=asleep&_limit=7&_sort=toString&colour=red&_like_clientid=rig-"
    own = entered(browser, address)
    page = own.page
    expect(page.locator("#count")).to_have_text("3 clients match")
    said = page.get_by_role("alert").filter(has_text="_gte_connected_at=yesterday is no time in seconds")
    expect(said).to_contain_text("_lte_connected_at=1e99 is no time in seconds; conn_state=asleep is none of the choices; ")
    expect(said).to_contain_text("_limit=7 cannot be; _sort=toString cannot be; colour=red is no filter")
    assert page.url.endswith("#_like_clientid=rig-"), page.url
    own.close()


def a_time_that_is_half_typed_kicks_nobody(browser):
    """a field that is not whole stops a bulk kick and a file"""
    own = entered(browser)
    page = own.page
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "client_kicks" in request.url or "client_export" in request.url else None)
    page.get_by_text("More filters").click()
    page.get_by_label("Connected from (UTC)").press_sequentially("11")
    page.locator("#bulk").click()
    page.get_by_role("button", name="CSV").click()
    page.wait_for_timeout(500)
    assert page.locator("dialog[open]").count() == 0 and not asked, asked
    own.close()


def who_does_not_look_holds_no_stream(browser):
    """a tab that is hidden follows nothing, and is up to date when it is seen again"""
    own = Page(browser)
    page = own.page
    begun, ended = [], []
    is_stream = lambda request: "/client_events" in request.url
    page.on("request", lambda request: begun.append(request.url) if is_stream(request) else None)
    page.on("requestfailed", lambda request: ended.append(request.url) if is_stream(request) else None)
    log_in(page)
    expect(page.locator("#rows tr").first).to_be_visible()

    def streams(begin, end):
        until(page, lambda: (len(begun), len(ended)) == (begin, end), f"{begin} begun and {end} ended: {begun} {ended}")

    # No browser without a screen hides a tab by itself.
    hide = """(hidden) => {
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
      Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => (hidden ? 'hidden' : 'visible') });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    streams(1, 0)
    page.evaluate(hide, True)
    streams(1, 1)
    lists = []
    page.on("request", lambda request: lists.append(request.url) if "/clients?" in request.url else None)
    page.wait_for_timeout(7000)
    assert not lists, lists
    assert (len(begun), len(ended)) == (1, 1), (begun, ended)
    page.evaluate(hide, False)
    streams(2, 1)
    until(page, lambda: lists, "a list when it is seen again")
    # So it is with what is not to be live.
    page.get_by_label("Live", exact=True).uncheck()
    streams(2, 2)
    own.close()


def every_filter_can_be_set(browser):
    """every filter of the API has its field, and means what it says"""
    own = entered(browser)
    page = own.page
    page.get_by_text("More filters").click()
    filters = {
        "_like_clientid": "rig-", "_like_username": "mill", "_node": "a@127.0.0.1", "conn_state": "connected", "clientid": "rig-1",
        "username": "mill-1", "zone": "external", "ip_address": "127.0.0.1", "proto_name": "MQTT", "proto_ver": "4",
        "clean_start": "true", "_gte_connected_at": "2001-02-03T04:05:06", "_lte_connected_at": "2101-02-03T04:05:06",
        "_gte_created_at": "2001-02-03T04:05:06", "_lte_created_at": "2101-02-03T04:05:06",
    }
    assert set(filters) == set(page.evaluate("[...document.getElementById('filters').elements].map((field) => field.name).filter(Boolean)"))
    for name, value in filters.items():
        field = page.locator(f"[name={name}]")
        field.select_option(value) if field.evaluate("field => field.tagName") == "SELECT" else field.fill(value)
    until(page, "location.hash.includes('_lte_created_at=4136846706')", "the last filter in the address")
    for name, value in filters.items():
        sent = {"2001": "981173106", "2101": "4136846706"}.get(value[:4], value).replace("@", "%40")
        assert f"{name}={sent}" in page.url, (name, page.url)
    expect(page.locator("#count")).to_have_text("1 client matches")
    expect(page.locator("#list-error")).to_have_text("")
    # Who follows the address sees the same.
    other = entered(browser, page.url.removeprefix(page.url.split("#")[0]))
    expect(other.page.locator("#count")).to_have_text("1 client matches")
    for name, value in filters.items():
        expect(other.page.locator(f"[name={name}]")).to_have_value(value)
    other.close()
    own.close()


def keys_are_enough(browser):
    """all of it can be had by the keyboard"""
    own = Page(browser)
    page = own.page
    for text in [OPERATOR[0], "Tab", OPERATOR[1], "Enter"]:
        page.keyboard.press(text) if text in ("Tab", "Enter") else page.keyboard.type(text)
    expect(page.get_by_label("Client id contains")).to_be_focused()
    page.keyboard.type("rig-")
    expect(page.locator("#count")).to_have_text("3 clients match")

    def tab_to(selector):
        for _ in range(60):
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"no way to {selector}")

    tab_to("[data-sort=clientid]")
    page.keyboard.press("Enter")
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Client id")
    expect(page.locator("[data-sort=clientid]")).to_be_focused()
    expect(page.locator("#rows button").first).to_have_text("rig-3")
    tab_to("[data-clientid=rig-3]")
    page.keyboard.press("Enter")
    expect(page.locator("#detail dl").first).to_be_visible()
    tab_to("#kick")
    page.keyboard.press("Enter")
    expect(page.locator("#confirm-title")).to_have_text("Kick rig-3?")
    # Enter once too often kicks nobody.
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("[data-clientid=rig-3]")).to_be_focused()
    own.close()


if __name__ == "__main__":
    run([
        nothing_but_what_is_needed_is_shown,
        changes_that_follow_each_other_all_count,
        who_was_counted_is_kicked,
        late_answers_are_of_nobody_else,
        late_kicks_are_told_where_they_belong,
        nothing_is_shown_after_a_logout,
        refreshes_disturb_nobody,
        the_focus_outlives_its_client,
        what_an_action_said_stays,
        a_list_that_fails_is_said_once,
        an_address_that_cannot_be_locks_nobody_out,
        a_time_that_is_half_typed_kicks_nobody,
        who_does_not_look_holds_no_stream,
        every_filter_can_be_set,
        keys_are_enough,
    ])

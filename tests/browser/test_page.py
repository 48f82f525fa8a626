"""The page in a real Chromium: every way to search, sharing, keyboard, errors, keys, the engineers' view."""

import base64
import json
import re

import pytest
from tests.browser.conftest import HOSTILE, KEY

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning")]

DROP = """([data, type, event]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], "picture", { type }));
    const made = event === "drop"
        ? new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true });
    document.body.dispatchEvent(made);
}"""


def give(page, picture, event="drop", kind="image/png"):
    with page.expect_response("**/search/picture") as answer:
        page.evaluate(DROP, [base64.b64encode(picture).decode(), kind, event])
    settle(page)
    return answer.value


def settle(page):
    page.wait_for_function("() => !document.getElementById('results').hasAttribute('aria-busy')")


def search(page, text):
    page.fill("#text", text)
    with page.expect_response("**/search"):
        page.press("#text", "Enter")
    settle(page)


def choose_red(page):
    page.get_by_role("button", name="4 more").first.click()
    page.get_by_role("checkbox", name=re.compile("^red")).check()


def chip_says(page, text):
    page.wait_for_function("text => document.getElementById('chip-text').textContent.includes(text)", arg=text)
    settle(page)


def captions(page):
    return page.locator(".card .caption").all_inner_texts()


def test_search_by_words(page, shot, accessible):
    accessible(page)
    shot(page, "empty")
    search(page, "a large red star")
    found = captions(page)
    assert len(found) == 24
    assert sum("red" in caption and "star" in caption for caption in found[:8]) >= 2
    assert re.search(r"The nearest differs in \d+ of 64 bits", page.inner_text("#status"))
    bars = page.locator(".card .barcode")
    assert bars.count() == 24
    distance = int(page.locator(".card .distance strong").first.inner_text())
    assert bars.first.get_attribute("aria-label") == f"{64 - distance} of 64 bits match"
    drawn = bars.first.locator(".bit-differ").get_attribute("d")
    assert drawn.count("M") == distance
    accessible(page)
    shot(page, "words")
    page.emulate_media(color_scheme="dark")
    accessible(page)
    shot(page, "dark")


def test_the_theme_can_be_chosen_and_is_kept(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Switch to dark").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Switch to light").click()
    assert page.evaluate(ground) == light


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_search_by_a_picture(page, world, event):
    give(page, bytes(world.images[7]), event)
    assert captions(page)[0] == world.texts[7]
    assert page.locator("#chip-text").inner_text() == "Your picture"
    assert page.locator("#mix-field").is_hidden()
    page.get_by_role("button", name="Remove the picture").click()
    page.wait_for_selector("#welcome:not([hidden])")


def test_a_large_picture_is_made_smaller_before_it_is_sent(page):
    picture = page.evaluate("""async () => {
        const canvas = document.createElement("canvas");
        canvas.width = 6000; canvas.height = 4000;
        canvas.getContext("2d").fillRect(0, 0, 3000, 4000);
        const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
        const bytes = new Uint8Array(await blob.arrayBuffer());
        let text = ""; for (const byte of bytes) text += String.fromCharCode(byte);
        return btoa(text);
    }""")
    assert give(page, base64.b64decode(picture)).status == 200
    assert page.locator(".card").count() == 24


def test_words_and_picture_with_the_slider(page, world, shot, accessible):
    search(page, "a large red star")
    words = captions(page)
    give(page, bytes(world.images[7]))
    assert page.locator("#mix-field").is_visible()
    both = captions(page)
    accessible(page)
    shot(page, "both")
    found = {}
    for value in ("0", "100"):
        with page.expect_response("**/search/picture"):
            page.locator("#mix").evaluate(
                "(it, value) => { it.value = value; it.dispatchEvent(new Event('change')); }", value
            )
        settle(page)
        found[value] = captions(page)
    assert found["0"] == words
    assert found["100"][0] == world.texts[7]
    assert both not in (found["0"], found["100"])
    assert page.locator("#mix").get_attribute("aria-valuetext") == "0 % words, 100 % picture"


def test_filters(page, accessible):
    search(page, "a star")
    with page.expect_request("**/search") as asked:
        choose_red(page)
    assert asked.value.post_data_json["where"] == "\"main_colour\" in ('red')"
    settle(page)
    for label, value in (("price from", "10"), ("price to", "80")):
        with page.expect_request("**/search") as asked:
            page.get_by_label(label).fill(value)
            page.get_by_label(label).press("Enter")
        settle(page)
    with page.expect_request("**/search") as asked:
        page.get_by_label("sold").select_option("yes")
    settle(page)
    wanted = '"main_colour" in (\'red\') and "price" >= 10 and "price" <= 80 and "sold" = true'
    assert asked.value.post_data_json["where"] == wanted
    assert page.inner_text("#filters-summary") == "Filters (3)"
    for row in page.locator(".card .attributes").all():
        assert "red" in row.inner_text()
    accessible(page)
    page.get_by_label("price from").fill("79.5")
    page.get_by_label("price from").press("Enter")
    page.wait_for_selector("#notice .notice")
    assert "Nothing passes the filters" in page.inner_text("#notice")
    page.get_by_role("button", name="Clear filters").click()
    page.wait_for_function("() => document.querySelectorAll('.card').length === 24")


def test_more_like_this_and_back(page, world):
    search(page, "a large red star")
    first = captions(page)
    with page.expect_request("**/search") as asked:
        page.locator(".card .like").nth(1).click()
    assert "like" in asked.value.post_data_json
    page.wait_for_function(
        "caption => document.getElementById('chip-text').textContent.includes(caption)", arg=first[1]
    )
    assert first[1] not in captions(page)
    page.go_back()
    page.wait_for_function("() => document.getElementById('text').value === 'a large red star'")
    settle(page)
    assert captions(page) == first


def test_more_hits_keep_those_that_are_there(page):
    search(page, "blue")
    first = captions(page)
    page.get_by_role("button", name="Show more").click()
    page.wait_for_function("() => document.querySelectorAll('.card').length === 48")
    assert captions(page)[:24] == first


def test_a_search_is_shared_by_its_address(page, context, world):
    asked = []
    context.on("request", lambda request: asked.append(request.url))
    search(page, "a large red star")
    choose_red(page)
    page.wait_for_function("() => location.hash.includes('f.main_colour=red')")
    settle(page)
    with_words = captions(page)
    other = context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".card")
    assert captions(other) == with_words
    assert other.get_by_role("checkbox", name=re.compile("^red")).is_checked()
    give(page, bytes(world.images[7]))
    assert "code=" in page.url
    third = context.new_page()
    third.goto(page.url)
    third.wait_for_selector(".card")
    assert captions(third) == captions(page)
    assert "the picture itself is not in the link" in third.inner_text("#chip-text")
    assert all("star" not in url and "red" not in url for url in asked if "/page/" not in url)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Copied").wait_for()


def test_errors_are_said_and_can_be_tried_again(page, shot, accessible):
    answer = give(page, b"no picture at all")
    assert answer.status == 422
    page.get_by_role("alert").wait_for()
    page.get_by_role("button", name="Remove the picture").click()
    page.wait_for_selector("#welcome:not([hidden])")
    problem = '{"title": "The server is busy", "detail": "too many searches", "status": 503, "request_id": "abc"}'
    headers = {"content-type": "application/problem+json", "retry-after": "2"}
    page.route("**/search", lambda route: route.fulfill(status=503, headers=headers, body=problem))
    search(page, "red")
    said = page.get_by_role("alert").inner_text()
    assert "The server is busy" in said
    assert "Try again in 2 s" in said
    assert "abc" in said
    accessible(page)
    shot(page, "error")
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".card")
    assert page.get_by_role("alert").count() == 0
    page.route("**/search", lambda route: route.abort())
    page.fill("#text", "green")
    page.press("#text", "Enter")
    page.get_by_text("The server cannot be reached").wait_for()


def test_no_good_match_is_said_with_what_it_measures(page, shot, accessible):
    def answered(route):
        answer = route.fetch()
        body = answer.json()
        body.update(good_match=False, novelty=1.4, no_match_from=body["hits"][0]["distance"])
        route.fulfill(response=answer, json=body)

    page.route("**/search", answered)
    search(page, "zebra in the savanna")
    said = page.inner_text("#notice")
    assert "No good match: the nearest hit differs in" in said
    assert "random codes" in said
    assert "novelty 1.4" in said
    accessible(page)
    shot(page, "no-good-match")


def test_keyboard_alone(page, accessible):
    page.keyboard.press("/")
    page.keyboard.type("a large red star")
    with page.expect_response("**/search"):
        page.keyboard.press("Enter")
    settle(page)
    focused = "[...document.querySelectorAll('.open')].indexOf(document.activeElement)"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == 1
    page.keyboard.press("ArrowDown")
    below = page.evaluate(focused)
    assert below > 1
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == 1
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    accessible(page)
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    assert page.evaluate(focused) == 1
    with page.expect_request("**/search") as asked:
        page.keyboard.press("m")
    assert "like" in asked.value.post_data_json
    settle(page)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Escape")
    page.wait_for_selector("#welcome:not([hidden])")


def test_what_a_collection_holds_is_shown_as_text(page, world, shot):
    search(page, HOSTILE)
    give(page, bytes(world.images[0]))
    page.locator("#mix").evaluate("it => { it.value = 100; it.dispatchEvent(new Event('change')); }")
    page.wait_for_function("text => document.querySelector('.caption').textContent === text", arg=HOSTILE)
    page.evaluate("text => { location.hash = new URLSearchParams({ like: text }); }", HOSTILE)
    chip_says(page, HOSTILE)
    settle(page)
    page.locator(".open").first.click()
    detail = page.locator("#detail-facts")
    assert HOSTILE in detail.inner_text()
    shot(page, "detail")
    assert page.locator("main script, dialog script, main img[onerror], dialog img[onerror]").count() == 0


def test_several_collections_and_one_that_encodes_nothing(context, several, accessible):
    page = context.new_page()
    page.goto(several)
    page.wait_for_selector("#welcome:not([hidden])")
    page.get_by_label("Collection").select_option("arrays")
    page.get_by_text("cannot encode words or pictures").wait_for()
    assert page.locator("#choose").is_hidden()
    search(page, "row 3")
    assert page.locator(".card").count() == 24
    assert page.locator(".card .distance").first.inner_text().endswith("of 12 bits differ")
    assert "c=arrays" in page.url
    accessible(page)
    search(page, "row 999")
    page.get_by_role("alert").wait_for()
    page.get_by_role("button", name="Figures").click()
    page.get_by_text("fitted without a sweep").wait_for()
    page.go_back()
    page.go_back()
    page.wait_for_selector(".card")
    page.goto(several + "#c=nowhere")
    page.get_by_text('There is no collection "nowhere" here').wait_for()


def test_the_view_for_engineers(page, shop, shot, accessible):
    stored = json.loads((shop / "models" / "1" / "sweep.json").read_text())
    best = stored["lengths"][-1]
    search(page, "red")
    page.get_by_role("button", name="Figures").click()
    page.get_by_role("heading", name="Buckets").wait_for()
    text = page.inner_text("#figures-view")
    assert "300 items have" in text
    for said in ("encode", "search", "whole search", "p99", stored["metric"], "50 held-out queries among 250 items"):
        assert said in text
    row = page.get_by_role("row", name=str(best["bits"]), exact=False).last.inner_text()
    for value in (best["map"], best["recall_of_10_neighbours"], best["distinct_share"]):
        assert f"{value:.3f}".rstrip("0").rstrip(".") in row
    assert page.locator("#figures-view .chart circle").count() == 2 * len(stored["lengths"]) == 10
    assert "view=figures" in page.url
    accessible(page)
    page.set_viewport_size({"width": 1280, "height": 1500})
    shot(page, "figures")
    page.get_by_role("button", name="Search", exact=True).first.click()
    page.wait_for_selector(".card")


def test_a_phone(context, address, shot, accessible):
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(address)
    page.wait_for_selector("#welcome:not([hidden])")
    shot(page, "phone-empty")
    search(page, "a large red star")
    accessible(page)
    shot(page, "phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".open").first.click()
    shot(page, "phone-detail")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Figures").click()
    page.get_by_role("heading", name="Buckets").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shot(page, "phone-figures")


def test_a_key_is_asked_for_and_kept_for_the_tab(context, locked, shot, accessible):
    page = context.new_page()
    page.goto(locked)
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    accessible(page)
    shot(page, "key")
    page.fill("#key-text", "a wrong one")
    page.keyboard.press("Enter")
    page.get_by_text("did not take that key").wait_for()
    page.fill("#key-text", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#welcome:not([hidden])")
    search(page, "red")
    page.wait_for_function("() => document.querySelectorAll('.card img[src^=\"blob:\"]').length > 3")
    page.wait_for_function("() => [...document.querySelectorAll('.card img[src]')].every(i => i.naturalWidth > 0)")
    page.reload()
    page.wait_for_selector(".card")
    assert KEY not in page.url
    assert page.evaluate("localStorage.length") == 0
    page.get_by_role("button", name="Forget key").click()
    dialog.wait_for()

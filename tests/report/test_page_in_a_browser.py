"""The page of a report as a reader has it: in headless Chromium, where one is installed (`tox -e browser`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from mlecs_bench.report.html import report_html
from mlecs_bench.report.table import AnswerBlock, Answered, Claim, Figure, Line, Number, Report, Section, Table

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: use tox -e browser")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FOUND = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(FOUND is None, reason="NO BROWSER: install chromium, or the page stays untested")

LONG = "an_option_of_a_name_that_no_line_of_a_telephone_has_room_for=0.123456789"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="900pt" height="300pt"><path d="M0 0h900v300z"/></svg>'
SCORES = {"a": 0.25, "b": 0.75, "c": 0.5}
NUMBER_OF_COLUMNS = 14


def scores() -> Table:
    """A table of three lines and more columns than a screen is wide, its last line below a rule."""
    columns = tuple(("VAST", "Client Perf.", f"Avg. score {i}") for i in range(NUMBER_OF_COLUMNS))
    lines = [
        Line(
            ("0.5", name), tuple(Number(v + i, 0.012, 5, 5, records=(f"key-{name}",)) for i in range(NUMBER_OF_COLUMNS))
        )
        for name, v in SCORES.items()
    ]
    below = Line(("0.5", f"d ({LONG})"), (None,) * NUMBER_OF_COLUMNS, "below", opens="Not in the paper's table")
    return Table(
        "t", "Scores", f"Caption with {LONG}.", ("MER", "method"), columns, (*lines, below), (f"Note: {LONG}.",)
    )


def report() -> Report:
    answers = AnswerBlock("a on vast", "rouge_lsum", "", (Answered("d00", "s1", f"target {LONG}", "the answer", 0.5),))
    sections = (
        Section(
            "Scores", f"About {LONG}.", tables=(scores(),), figures=(Figure("f", "Shares", "Sent.", {"svg": SVG}),)
        ),
        Section("Claims", claims=(Claim(LONG, LONG, "+5 %", "+4 %", "undecided", LONG),)),
        Section("Answers", answers=(answers,)),
    )
    files = {f"key-{name}": f"records/{name}, x=1--seed27.json" for name in SCORES}
    return Report(f"Report of {LONG}", "About.", "Not comparable.", sections, (f"failed: {LONG}",), files)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """Return the address of the page, in a folder of a study whose records lie where it looks for them."""
    study = tmp_path_factory.mktemp("study")
    (study / "records").mkdir()
    for name in report().files.values():
        (study / name).write_text(f'{{"name": "{name}"}}')
    (study / "report").mkdir()
    page = study / "report" / "index.html"
    page.write_text(report_html(report()), encoding="utf-8")
    return page.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=FOUND, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def opened(browser, address) -> Iterator:
    """Return a function that opens the page on a new screen; what it complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(width: int = 1280, part: str = "", **screen):
        context = browser.new_context(viewport={"width": width, "height": 800}, **screen)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
        page.goto(address + part)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def methods(page) -> list[str]:
    """Return the first words of the rows that are seen, from top to bottom."""
    rows = page.locator(".scroll tbody tr:visible")
    return [text.split()[0] for text in rows.locator("th:last-of-type").all_inner_texts()]


def test_a_heading_sorts_down_up_and_back_by_mouse_and_by_key(opened):
    page = opened()
    heading = page.get_by_role("columnheader", name="Avg. score 3")
    button = heading.get_by_role("button")
    assert methods(page) == ["a", "b", "c", "Not", "d"]
    for order, said in ((["b", "c", "a", "d"], "descending"), (["a", "c", "b", "d"], "ascending")):
        button.click()
        assert (methods(page), heading.get_attribute("aria-sort")) == (order, said)
    button.press("Enter")
    assert (methods(page), heading.get_attribute("aria-sort")) == (["a", "b", "c", "Not", "d"], "none")
    page.get_by_role("columnheader", name="method").get_by_role("button").click()
    assert methods(page) == ["a", "b", "c", "d"]


def test_a_number_leads_to_its_record(opened):
    page = opened()
    entry = page.locator("details", has_text="b, x=1--seed27.json")
    file = entry.get_by_role("link")
    assert not file.is_visible()
    page.locator("tbody td.number a").nth(NUMBER_OF_COLUMNS).click()
    file.wait_for(state="visible")
    assert page.evaluate(
        "(at => at.top >= 0 && at.top < innerHeight)(document.querySelector(':target').getBoundingClientRect())"
    )
    file.click()
    page.wait_for_url("**seed27.json")
    assert '"records/b, x=1--seed27.json"' in page.content()


def test_answers_are_folded_until_they_are_asked_for(opened):
    page = opened()
    answer = page.get_by_text("the answer")
    assert not answer.is_visible()
    page.locator("summary", has_text="1 answers").click()
    assert answer.is_visible()


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return Array.from(canvas.getImageData(0, 0, 1, 1).data);
  };
  const light = ([r, g, b]) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((c) => linear(c / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const own = rgb(getComputedStyle(at).backgroundColor);
      if (own[3] === 255) return own;
    }
    return [255, 255, 255, 255];
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const words = Array.from(element.childNodes).some((one) => one.nodeType === 3 && one.data.trim());
    if (!words || !element.checkVisibility() || element.closest("script, style, canvas")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const name = `${element.tagName}.${element.className}`;
    found[name] = Math.min(found[name] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return found;
}"""
"""The least contrast of every kind of element with words of its own, as the WCAG define it."""


def test_words_stand_out_in_light_and_in_dark(opened):
    grounds = {}
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 15
        assert {name: found for name, found in contrasts.items() if found < 4.5} == {}
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}


def test_the_page_never_scrolls_sideways_and_a_wide_table_does_so_in_its_own_box(opened):
    for width in (400, 1280):
        page = opened(width=width)
        page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate(
            """() => Array.from(document.querySelectorAll("body *:not(.scroll *)"))
              .filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5)
              .map((one) => one.outerHTML.slice(0, 80))"""
        )
        assert outside == []
        box = page.locator(".scroll")
        assert box.evaluate("(one) => one.scrollWidth > one.clientWidth")
        label = box.locator("tbody th").first
        before = label.bounding_box()
        box.evaluate("(one) => one.scrollTo(one.scrollWidth, 0)")
        assert label.bounding_box() == before
        last = box.locator("tbody tr").first.locator("td").last.bounding_box()
        assert before["x"] + before["width"] < last["x"] < last["x"] + last["width"] <= width


def test_labels_that_stay_in_view_leave_room_for_numbers_on_a_telephone(opened):
    page = opened(width=400)
    box = page.locator(".scroll").bounding_box()
    staying = [one.bounding_box()["width"] for one in page.locator("tbody tr").first.locator("th.stays").all()]
    number = page.locator("tbody td").first.bounding_box()["width"]
    assert sum(staying) + number <= box["width"]


def test_without_javascript_all_is_there_but_the_sorting(opened):
    page = opened(java_script_enabled=False, part="#records-2")
    assert page.get_by_role("link", name="b, x=1--seed27.json").is_visible()
    assert page.locator("thead button:enabled").count() == 0
    assert methods(page) == ["a", "b", "c", "Not", "d"]

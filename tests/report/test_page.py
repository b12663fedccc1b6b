"""The report in a browser: desktop and telephone, table, map and print."""

from __future__ import annotations

import base64
import json
import re

import pytest
from tests.conftest import HARD, NARROW, resize


@pytest.fixture
def page(browser, results):
    """The report, opened from its file."""
    resize(browser, 1280)
    browser.get_log("browser")  # of pages that other tests have opened: reading empties it
    browser.get((results / "report.html").as_uri())
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    return browser


def column(browser, i: int) -> list[str]:
    script = "return [...document.querySelectorAll('#gene-table tbody tr')].map(r => r.cells[arguments[0]].textContent)"
    return browser.execute_script(script, i)


def test_nothing_goes_wrong_on_a_desktop_and_a_telephone(page, results):
    """No script of a name runs, no error, no image lost, and nothing is wider than the screen."""
    for width in (1280, NARROW):
        resize(page, width)
        page.get((results / "report.html").as_uri())
        found = page.execute_script(
            "return {width: document.documentElement.scrollWidth, canvas: "
            "document.getElementById('map-canvas').width, rows: "
            "document.querySelectorAll('#gene-table tbody tr').length, title: "
            "document.querySelector('h1').textContent, lost: [...document.images]"
            ".filter(i => !i.complete || i.naturalWidth === 0).length, images: document.images.length}"
        )
        assert found["width"] <= width
        assert found["canvas"] > 200
        assert found["rows"] == 25
        assert found["title"] == f"early → late in {HARD}"
        assert found["lost"] == 0
        assert found["images"] > 5
        assert not page.get_log("browser")


def test_the_table_sorts_and_filters(page):
    heads = page.execute_script(
        "return [...document.querySelectorAll('#gene-table th[scope=col]')].map(h => h.textContent)"
    )
    change = heads.index("log2 FC, fitted")
    for direction in ("ascending", "descending"):
        page.execute_script(f"document.querySelectorAll('#gene-table thead th')[{change}].click()")
        values = [float(re.match(r"-?[\d.]+", text)[0]) for text in column(page, change)]
        assert values == sorted(values, reverse=direction == "descending")
        assert len(set(values)) > 5
    search = page.find_element("id", "gene-search")
    search.send_keys("onerror gene_17")
    assert set(column(page, 0)) == {"<img src=x onerror=alert(1)>", "gene_17"}
    search.clear()
    search.send_keys(" ")
    page.find_element("id", "gene-more").click()
    assert len(column(page, 0)) == 40
    page.execute_script(
        "const s = document.getElementById('gene-shape'); s.value = 'up'; s.dispatchEvent(new Event('change'))"
    )
    assert set(column(page, heads.index("shape"))) <= {"up"}


def test_a_cell_on_the_map_says_what_it_is(page):
    cells = json.loads(
        page.execute_script("return document.getElementById('map-data').textContent")
    )
    place = page.execute_script(
        "const c = document.getElementById('map-canvas'); c.scrollIntoView({block: 'center'});"
        "const b = c.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]"
    )
    x, y = (int.from_bytes(base64.b64decode(cells[k])[:2], "little") / 65534 for k in "xy")
    at = {
        "x": place[0] + 12 + x * (place[2] - 24),
        "y": place[1] + place[3] - 12 - y * (place[3] - 24),
    }
    page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", **at})
    tip = page.find_element("id", "map-tip")
    assert tip.is_displayed()
    assert tip.text.splitlines()[0] == cells["names"][0]
    assert "cell_type: " in tip.text
    page.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 1, "y": 1})
    assert not tip.is_displayed()
    legend = page.find_elements("css selector", "#map-legend button")
    assert [re.sub(r" \(\d+\)$", "", b.text) for b in legend] == [HARD, "beta", "gamma"]
    legend[1].click()
    pressed = page.find_elements("css selector", "#map-legend button[aria-pressed=true]")
    assert [b.text for b in pressed] == ["beta (40)"]


def test_it_prints(page):
    """Controls are left out, and the pages are those of a document."""
    pdf = base64.b64decode(
        page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    )
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 14
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not page.find_element("id", "gene-controls").is_displayed()
        assert page.find_element("id", "gene-table").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})

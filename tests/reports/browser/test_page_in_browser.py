"""The page in a real browser."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from reports import build_report
from tests.reports.browser.chromium import Chromium
from tests.reports.factory import write_run

PROGRAM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no chromium on the PATH: apt-get install chromium"),
]

LONG = "a-very-long-name-without-any-break-" * 4


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for method in ("dino", "barlow_twins", "weak_dino", "random"):
        for seed in (0, 1):
            write_run(folder / "runs" / f"{method}-{seed}", method, seed=seed, images=200, segmentation=True)
    write_run(
        folder / "runs" / LONG,
        "dino",
        "resnet50",
        images=200,
        options={"note": LONG, "html": "<script>alert(1)</script>"},
    )
    (folder / "runs" / "<img src=x onerror=alert(1)>").mkdir()
    Image.new("RGB", (1800, 600), "teal").save(folder / "runs" / "dino-0" / "figures" / "attention-wide.png")
    return build_report([folder / "runs"], folder / "out", title="<b>Title</b> & more")


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory) -> Path:
    """The report of runs with an ordinary device's name, two backbones and all kinds of figures."""
    folder = tmp_path_factory.mktemp("ordinary")
    for method in ("dino", "barlow_twins", "weak_dino", "random"):
        for backbone in ("vit_s8", "resnet50"):
            for seed in (0, 1, 2):
                write_run(folder / "runs" / f"{method}-{backbone}-{seed}", method, backbone, seed=seed, images=100)
    for file in folder.rglob("environment.json"):
        file.write_text(file.read_text().replace("Example CPU", "AMD EPYC 9B14 96-Core Processor"))
    Image.new("RGB", (1800, 600), "teal").save(folder / "runs" / "dino-vit_s8-0" / "figures" / "attention-wide.png")
    return build_report([folder / "runs"], folder / "out")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Chromium(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_loads_without_errors_or_overflow(browser, page, width, dark):
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page, width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.evaluate("document.querySelector('#figure-attention-1 img').naturalWidth") == 1800
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # What is too wide scrolls in a container of its own, and nothing sticks out of the column.
    outside = browser.evaluate(
        """Array.from(document.querySelectorAll("body *"))
            .filter((e) => !e.closest(".scroll, pre, .skip, .hidden") && e.getBoundingClientRect().right > innerWidth + 0.5)
            .map((e) => e.tagName + "." + e.className)"""
    )
    assert outside == []


def test_nothing_is_cut(browser, ordinary):
    """With names of ordinary length every table fits into 1280 pixels, and every figure into any width until it is tapped."""
    script = """Array.from(document.querySelectorAll("WHICH"))
        .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.getAttribute("aria-label"))"""
    for width, which in ((1280, ".scroll"), (390, ".drawing")):
        browser.open(ordinary, width)
        browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert browser.evaluate(script.replace("WHICH", which)) == [], width
    browser.evaluate("document.querySelector('.drawing').focus()")
    assert browser.evaluate(script.replace("WHICH", ".drawing")) != []


def test_dark_and_light_differ_and_text_is_readable(browser, page):
    contrasts = {}
    for dark in (False, True):
        browser.open(page, 1280, dark=dark)
        contrasts[dark] = browser.evaluate(
            """(() => {
              const light = (colour) => {
                const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
                const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => linear(v / 255));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              const paper = light(getComputedStyle(document.body).backgroundColor);
              const of = (selector, property) => {
                const ink = light(getComputedStyle(document.querySelector(selector))[property]);
                return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
              };
              return { paper, body: of("body", "color"), caption: of(".caption", "color"), link: of("nav a", "color"),
                figure: of("figure svg text", "fill") };
            })()"""
        )
    assert contrasts[True].pop("paper") < 0.1 < 0.8 < contrasts[False].pop("paper")
    for found in contrasts.values():
        assert min(found.values()) >= 4.5  # WCAG AA


def test_what_came_from_outside_is_text(browser, page):
    browser.open(page, 1280)
    assert browser.evaluate("document.querySelectorAll('img:not(figure img), script:not(body > script)').length") == 0
    assert browser.evaluate("document.querySelector('h1').textContent") == "<b>Title</b> & more"
    assert browser.evaluate(
        "document.querySelector('#t-problems').textContent.includes('<img src=x onerror=alert(1)>')"
    )


def test_sorting(browser, page):
    browser.open(page, 1280)
    column = browser.evaluate(
        "Array.from(document.querySelectorAll('#t-results th[data-column]')).findIndex((t) => t.textContent.includes('mIoU'))"
    )
    values = f"Array.from(document.querySelectorAll('#t-results tbody tr'), (r) => r.cells[{column}].dataset.value)"
    heading = f"document.querySelector('#t-results th[data-column=\"{column}\"]')"
    original = browser.evaluate(values)
    assert "" in original  # the ResNet has no segmentation here
    seen = {}
    for _ in range(3):
        browser.evaluate(f"{heading}.querySelector('button').click()")
        seen[browser.evaluate(f"{heading}.getAttribute('aria-sort')")] = browser.evaluate(values)
    numbers = sorted((value for value in original if value), key=float)
    assert seen == {"descending": [*numbers[::-1], ""], "ascending": [*numbers, ""], "none": original}
    browser.evaluate("document.querySelector('#t-results th[data-column=\"0\"] button').click()")
    names = browser.evaluate(
        "Array.from(document.querySelectorAll('#t-results tbody tr'), (r) => r.cells[0].textContent)"
    )
    assert names == sorted(names)
    assert browser.evaluate(f"{heading}.getAttribute('aria-sort')") == "none"


def test_filtering(browser, page):
    browser.open(page, 1280)

    def type_in(words: str) -> list[str]:
        browser.evaluate(
            f"(() => {{ const i = document.querySelector('[data-filters=t-results]'); i.value = {words!r};"
            "i.dispatchEvent(new Event('input')); })()"
        )
        return browser.evaluate(
            "Array.from(document.querySelectorAll('#t-results tbody tr'))"
            ".filter((r) => r.checkVisibility()).map((r) => r.cells[0].textContent)"
        )

    count = "document.getElementById('t-results-count').textContent"
    assert type_in("DINO vit") == ["DINO", "Weak DINO"]
    assert browser.evaluate(count) == "2 of 5 rows"
    assert type_in("no such row") == []
    assert len(type_in("")) == 5
    assert browser.evaluate(count) == ""

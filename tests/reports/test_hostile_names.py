"""Names that are markup, wherever a report takes one from: they stay text. (In a real browser: ``test_page_in_browser.py``.)"""

import json
from html.parser import HTMLParser
from pathlib import Path

from factory import write_run

from reports import build_report

MARKUP = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{7*7}}<!--]]>"


class Elements(HTMLParser):
    """How often each element is there, with the names of its attributes, and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple, int] = {}
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        key = (tag, *sorted(name for name, _ in attributes if name.startswith("on")))
        self.found[key] = self.found.get(key, 0) + 1
        self.addresses += [value or "" for name, value in attributes if name in ("href", "src", "action")]


def elements(page: Path) -> Elements:
    parser = Elements()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def rename(run: Path, name: str) -> None:
    """Put a name wherever a run tells one."""
    text = (run / "config.yaml").read_text()
    quoted = json.dumps(name)
    (run / "config.yaml").write_text(text.replace("data: demo", f"data: {quoted}") + f"note: {quoted}\n{quoted}: 1\n")
    for file in (run / "results").glob("*.json"):
        measurements = json.loads(file.read_text())
        for m in measurements:
            m["metric"] = name if m["metric"] != "top1" else m["metric"]
            m["data"] = {**m["data"], "name": name}
            m["protocol"] = {**m["protocol"], name: name}
        file.write_text(json.dumps(measurements))
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "device": name, "cpu": name, "command": [name]}))
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"kind": "warning", "step": 1, "epoch": 0, "name": name, "message": name}) + "\n")


def test_no_name_becomes_markup(tmp_path):
    pages = {}
    for kind, name in (("plain", "plain name"), ("hostile", MARKUP)):
        folder = tmp_path / kind
        for method in ("dino", "barlow_twins"):
            rename(write_run(folder / "runs" / f"{method}-0", method, images=60), name)
        broken = folder / "runs" / name.replace("/", "-")
        broken.mkdir()
        (broken / "config.yaml").write_text("a: [")
        pages[kind] = build_report([folder / "runs"], folder / "out", title=name)
    plain, hostile = elements(pages["plain"]), elements(pages["hostile"])
    assert "alert(1)" in pages["hostile"].read_text()  # it is there, as text
    assert hostile.found == plain.found
    assert not [address for address in hostile.addresses if address.strip().lower().startswith("javascript")]

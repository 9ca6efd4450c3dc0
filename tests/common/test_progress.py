"""What a log file is told of work, and when the time left is told."""

import io
import time

import pytest
from rich.table import Table
from rich.text import Text

from common import progress
from common.progress import TOO_EARLY, Console, Pace, Work, duration, note, say, track, working


def test_the_first_items_do_not_count():
    """Ten steps of a second after one of a hundred."""
    pace = Pace()
    for done in range(1, 12):
        pace.report(done, 100.0 + done)
        speed = pace.speed
        assert speed is None if done < Pace.LEFT_OUT + Pace.REPORTS else speed == pytest.approx(1.0)


def test_work_says_when_it_is_too_early_to_tell(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    work = Work("step", 1000)
    for done, seconds in enumerate((500, 20, 2, 2, 2, 2), 1):
        now += seconds
        work.advance(done, f"loss {done}")
        if done < 5:
            assert work.line == f"step {done}/1,000, loss {done}, {TOO_EARLY}"
    assert work.line == "step 6/1,000, loss 6, 0:33:08 left"


def test_time_left_of_continued_work_is_that_of_what_is_left(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    work = Work("step", 1000, done=900)
    for done in range(901, 911):
        now += 3
        work.advance(done)
    assert work.left == f"{duration(3 * 90)} left"


def test_a_log_is_told_of_long_work_and_not_of_short(monkeypatch, capsys):
    monkeypatch.setattr(progress, "GRACE", 0.05)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    with working("quick"):
        pass
    lines = []

    def are_three() -> bool:
        lines.extend(capsys.readouterr().err.splitlines())
        return len(lines) >= 3

    with working("building"), working("decoding", 3) as work:
        work.advance(2)
        until(are_three)
    assert lines[0].startswith("building …") and set(lines[1:]) == {f"decoding 2/3, {TOO_EARLY}"}


def test_track_yields_everything_and_closes(capsys):
    assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    items = track(iter("abc"), "letters", 3)
    assert next(items) == "a"
    items.close()
    assert not progress._Lines.going


def test_other_ranks_are_silent(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(progress, "GRACE", 0.0)
    with working("building"):
        time.sleep(0.05)
    assert not capsys.readouterr().err


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.01)


def test_what_work_says_itself_is_not_said_again_at_once(monkeypatch, capsys):
    monkeypatch.setattr(progress, "GRACE", 0.05)
    monkeypatch.setattr(progress, "LINE_SECONDS", 30.0)
    with working("step", 3) as work:
        work.advance(1, "loss 5")
        work.speak()
        time.sleep(0.3)
    assert capsys.readouterr().err.splitlines() == [f"step 1/3, loss 5, {TOO_EARLY}"]


OBEYED = "a\x1b[2J\x1b]0;title\x07b\rc\x08\x9bd\u202ee"


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_in_a_name_is_obeyed_by_the_terminal(terminal, capsys):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, color_system=None)
    table = Table(OBEYED, title=OBEYED)
    table.add_row(OBEYED)
    for shown in (OBEYED, Text(OBEYED), table):
        console.print(shown)
    say(OBEYED)
    note(OBEYED)
    printed = capsys.readouterr()
    for text in (file.getvalue(), printed.out, printed.err):
        assert r"a\x1b[2J\x1b]0;title" in text and not {"\x1b", "\x07", "\r", "\x08", "\x9b", "\u202e"} & set(text)


def test_markup_in_names_is_text():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200, color_system=None)
    console.print("[bold]x[/y] :smile:")
    with progress._shown_bars(console) as bars:
        bar = progress._Bar(bars, "[/x] \x1b[2J", 3)
        bar.advance(1, "[/y]")
        bars.refresh()
        bar.end()
    text = file.getvalue()
    assert "[bold]x[/y] :smile:" in text and r"[/x] \x1b[2J" in text and "[/y]" in text and "\x1b[2J" not in text

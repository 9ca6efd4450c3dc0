"""What a process is doing, on standard error: notes, and the progress of work that may take longer than a moment.

On a terminal each piece of work has a bar while it lasts, work within work one below. Elsewhere (a log file, a pipe) a line names
work that has not ended after a second, and further lines follow now and then.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.text import Text

from common.names import printable

T = TypeVar("T")

#: Seconds after which a line names work that no terminal shows, and seconds between further lines.
GRACE, LINE_SECONDS = 1.0, 15.0
TOO_EARLY = "too early to tell the time left"


class Console(rich.console.Console):
    """Where lines, tables and progress are printed: text is no markup, and nothing in it is obeyed by the terminal."""

    def __init__(self, **options: Any):
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class _StandardError(Console):
    """Standard error, which may be closed, or a terminal that is gone: nothing is said then, and the work goes on."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def say(line: object) -> None:
    """Print a line on standard output, for people and programs alike."""
    print(printable(str(line)))


def note(message: str, style: str = "dim") -> None:
    with suppress(OSError):
        _StandardError(stderr=True).print(message, style=style, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    note(message, "yellow")


def duration(seconds: float) -> str:
    """Format seconds as ``0:01:15``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class Pace:
    """How fast work goes on, without its first items, which take longer than the others: caches and compiled code are made."""

    #: Reports left out, and seconds and further reports before an estimate.
    LEFT_OUT, SECONDS, REPORTS = 2, 1.0, 3

    def __init__(self) -> None:
        self._reports = 0
        self._first = (0, 0.0)  # items done, and when, at the end of what is left out
        self._last = (0, 0.0)

    def report(self, done: int, now: float) -> None:
        """Take in that ``done`` items are done at the time ``now`` in seconds."""
        self._reports += 1
        self._last = (done, now)
        if self._reports <= self.LEFT_OUT:
            self._first = self._last

    @property
    def speed(self) -> float | None:
        """Items a second; None while it is too early to tell."""
        items, seconds = self._last[0] - self._first[0], self._last[1] - self._first[1]
        if self._reports < self.LEFT_OUT + self.REPORTS or seconds < self.SECONDS or items <= 0:
            return None
        return items / seconds


class Work:
    """A piece of work, to report progress to. ``total``: its items; None: unknown."""

    def __init__(self, title: str, total: int | None = None, done: int = 0):
        self.title, self.total, self.done, self.state = printable(title), total, done, ""
        self.pace = Pace()
        self._began = time.monotonic()

    def advance(self, done: int, state: str | None = None, total: int | None = None) -> None:
        """Report that ``done`` items are done in all; ``state``: a few words on them; ``total``: once it is known."""
        self.done = done
        self.state = self.state if state is None else state
        self.total = total or self.total
        self.pace.report(done, time.monotonic())

    def speak(self) -> None:
        """Say at once in a log file how far it is; a terminal's bar shows it anyway."""

    @property
    def left(self) -> str:
        """The time left, in words; "" without a total."""
        if self.total is None:
            return ""
        speed = self.pace.speed
        return TOO_EARLY if speed is None else f"{duration((self.total - self.done) / speed)} left"

    @property
    def line(self) -> str:
        """Title, progress and time left, such as ``step 20/400, loss 5.1, 0:12:30 left``."""
        seconds = time.monotonic() - self._began
        so_far = "" if seconds < LINE_SECONDS else f", {duration(seconds)} so far"
        if self.total is None:
            return ", ".join(filter(None, (f"{self.title} …{so_far}", self.state)))
        return ", ".join(filter(None, (f"{self.title} {self.done:,}/{self.total:,}", self.state, self.left)))


class _Bar(Work):
    """Work with a bar on a terminal."""

    def __init__(self, bars: Progress, *about: object):
        super().__init__(*about)
        self._bars = bars
        self._task: TaskID = bars.add_task(self.title, total=self.total, completed=self.done, count="", state="")
        self._show()

    def advance(self, done: int, state: str | None = None, total: int | None = None) -> None:
        super().advance(done, state, total)
        self._show()

    def _show(self) -> None:
        count = "" if self.total is None else f"{self.done:,}/{self.total:,}"
        state = printable(", ".join(filter(None, (self.state, self.left if self.done else ""))))
        self._bars.update(self._task, completed=self.done, total=self.total, count=count, state=state)

    def end(self) -> None:
        self._bars.remove_task(self._task)


class _Lines(Work):
    """Work that a thread speaks of in lines, since the work itself may be in a long call."""

    #: The pieces of work within each other; the innermost speaks.
    going: list[_Lines] = []

    def __init__(self, *about: object):
        super().__init__(*about)
        self.is_named = self._has_spoken = False
        self._ended = threading.Event()
        self.going.append(self)
        threading.Thread(target=self._speak, name="progress", daemon=True).start()

    def speak(self) -> None:
        note(self.line, style="none")
        self.is_named = self._has_spoken = True

    def _speak(self) -> None:
        wait = GRACE
        while not self._ended.wait(wait):
            if self._has_spoken:  # a moment ago
                self._has_spoken = False
            elif self.going and self.going[-1] is self:
                around = [work.line for work in self.going if not work.is_named and work.total is None]
                for line in dict.fromkeys([*around, self.line]):
                    note(line, style="none")
                for work in self.going:
                    work.is_named = True
            wait = LINE_SECONDS if self.is_named else GRACE

    def end(self) -> None:
        self._ended.set()
        self.going.remove(self)


_bars: Progress | None = None


@contextmanager
def _shown_bars(console: Console) -> Iterator[Progress]:
    """The one set of bars that a terminal can show at a time."""
    global _bars
    if _bars is not None:
        yield _bars
        return
    plain = partial(TextColumn, markup=False)
    columns = (plain("{task.description}"), BarColumn(), plain("{task.fields[count]}"))
    with Progress(
        *columns, plain("{task.fields[state]}"), TimeElapsedColumn(), console=console, transient=True
    ) as bars:
        _bars = bars
        try:
            yield bars
        finally:
            _bars = None


@contextmanager
def working(title: str, total: int | None = None, done: int = 0, show: bool = True) -> Iterator[Work]:
    """Show ``title``, and the progress that is reported to the yielded ``Work``, while the block lasts. Of several processes the
    first one shows it."""
    console = _StandardError(stderr=True)
    if not show or int(os.environ.get("RANK") or 0) != 0:
        yield Work(title, total, done)
    elif console.is_terminal:
        with _shown_bars(console) as bars:
            work = _Bar(bars, title, total, done)
            try:
                yield work
            finally:
                work.end()
    else:
        work = _Lines(title, total, done)
        try:
            yield work
        finally:
            work.end()


def track(items: Iterable[T], title: str, total: int, show: bool = True) -> Iterator[T]:
    """Yield the items, and show how many are done."""
    with working(title, total, show=show) as work:
        for done, item in enumerate(items, 1):
            yield item
            work.advance(done)

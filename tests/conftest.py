"""Options and fixtures shared by all tests."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: In place of run.py: a command that says which signal has stopped it.
COMMAND = """
import signal, sys, time
from pathlib import Path

folder = Path(__file__).parent

def stop(number, frame):
    (folder / "stopped").write_text(signal.Signals(number).name)
    sys.exit(128 + number)

signal.signal(signal.SIGTERM, stop)
(folder / "begun").touch()
time.sleep(60)
"""


pytest_plugins = ("tests.small_images", "tests.small_runs", "tests.small_contexts", "tests.small_reports")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        type=Path,
        default=Path(__file__).parent / "golden",
        metavar="DIR",
        help="folder with the reference implementations' values, for tests/parity (default: tests/golden)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: with them last, one process would still be at them when the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def when_begun(tmp_path: Path) -> Callable[[Callable[[], object]], threading.Thread]:
    """``when_begun(act)``: a thread that acts once ``tmp_path / "run.py"``, which is ``COMMAND``, runs."""
    (tmp_path / "run.py").write_text(COMMAND)

    def watch(act: Callable[[], object]) -> threading.Thread:
        def wait() -> None:
            while not (tmp_path / "begun").exists():
                time.sleep(0.05)
            act()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    return watch


@pytest.fixture
def heed() -> Iterator[Callable[[signal.Signals], None]]:
    """``heed(number)``: in this test the signal has its usual effect, where what has started the tests lets it be ignored: SIGINT
    in the background of a shell, SIGHUP under nohup."""
    ignored = []

    def take_heed(number: signal.Signals) -> None:
        if signal.getsignal(number) is signal.SIG_IGN:
            ignored.append(number)
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    yield take_heed
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(params=[signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def stopped_first(request, when_begun, heed, tmp_path: Path) -> Callable[[Callable[[], object]], signal.Signals]:
    """``stopped_first(start)``: ``start`` runs ``tmp_path / "run.py"`` in a process of its own, and this process gets a signal,
    which is returned, once that has begun. SIGTERM stops it, it is waited for, and the exit status is 128 + that number."""
    number = request.param

    def expect(start: Callable[[], object]) -> signal.Signals:
        heed(number)
        before = signal.getsignal(number)
        thread = when_begun(lambda: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as stopped:
            start()
        thread.join()
        assert stopped.value.code == 128 + number
        assert (tmp_path / "stopped").read_text() == "SIGTERM"  # and this process has waited for it
        assert signal.getsignal(number) is before
        return number

    return expect


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

"""Ctrl-C is answered while a long call goes on, and a second one ends the process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: A call of several seconds, in which Python handles no signals, within ``answering``.
SCRIPT = """
import hashlib, signal, sys
from common.interrupt import answering

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, as these tests may be, ignores SIGINT
with answering("first finishing this", lambda: print("children ended", flush=True)):
    print("begun", flush=True)
    try:
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", int(sys.argv[1]))
        while True:
            signal.pause()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
LONG = 300_000_000


@pytest.fixture
def begun():
    """``begun(iterations)``: the script's process, once it computes."""
    processes = []

    def start(iterations: int) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(iterations)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.1)  # so that it computes
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_it_is_answered_within_a_long_call_and_the_second_ends_it(begun):
    process = begun(LONG)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "first finishing this\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stdout.read() == "children ended\n"
    assert process.stderr.read() == "ended; the same command continues from what was saved\n"


def test_the_first_raises_keyboardinterrupt_after_the_call(begun):
    process = begun(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "interrupted\n", "first finishing this\n")


def test_torchruns_repetition_is_not_a_second_press(begun, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    process = begun(1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.startswith("interrupted") or process.returncode == -signal.SIGINT
    assert "ended" not in out + err


def test_a_command_answers_until_it_ends():
    """As run.py does, in which nothing keeps what watches."""
    code = (
        "import gc, os, signal; from common.interrupt import answer_always; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); answer_always('stopping'); gc.collect()\n"
    )
    code += "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    signal.pause()\nexcept KeyboardInterrupt:\n    input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline() == "stopping\n"
    assert process.communicate("\n", timeout=60)[1] == "" and process.returncode == 0

"""Progress: plain lines on standard error without a terminal, a bar on one, nothing when disabled; any counts."""

import io
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessjax import progress
from hessjax.progress import Progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_plain_lines_say_done_rate_and_time_left(clock, capsys):
    with Progress(10, "digits") as bar:
        clock.now += 2
        bar.advance(2)  # too soon for a line
        clock.now += 4
        bar.advance(2, loss=0.25)
        clock.now += 1
        bar.advance(6)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "digits: 10 inits to do",
        "digits: 4/10 inits, 0.7/s, 9 s left, loss 0.25",
        "digits: 10/10 inits, 1.4/s, 0 s left",
    ]


def test_what_earlier_runs_did_is_counted_but_not_in_the_rate(clock, capsys):
    with Progress(6, "digits", before=4) as bar:
        clock.now += 6
        bar.advance(3)
    assert capsys.readouterr().err.splitlines() == [
        "digits: 6 inits to do, 4 were done before",
        "digits: 7/10 inits, 0.5/s, 6 s left",
    ]


def test_nothing_is_said_when_disabled(clock, capsys):
    with Progress(3, "digits", enabled=False) as bar:
        clock.now += 60
        bar.advance(3)
    assert capsys.readouterr() == ("", "")
    assert bar.done == 3


def test_before_the_first_init_is_done_the_time_left_is_unknown(clock, capsys):
    """Workers report nothing new for as long as they compile."""
    with Progress(8, "digits") as bar:
        for _ in range(3):
            clock.now += 6
            bar.advance(0)
    assert capsys.readouterr().err.splitlines()[1:] == ["digits: 0/8 inits, 0.0/s, time left unknown"] * 3


def test_the_last_line_comes_once(clock, capsys):
    with Progress(2, "digits") as bar:
        bar.advance(2)
        bar.advance(0)
    assert len(capsys.readouterr().err.splitlines()) == 2


@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 4), st.floats(0, 20)), max_size=6))
def test_any_counts_are_counted_without_complaint(total, moves):
    """More than the total, nothing at all, no time between: a line at most for each, and never an error."""
    clock, said = Clock(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "time", clock)
        patch.setattr(sys, "stderr", said)
        with Progress(total, "x") as bar:
            for inits, seconds in moves:
                clock.now += seconds
                bar.advance(inits, loss=float("nan"))
    assert bar.done == sum(inits for inits, _ in moves)
    assert 1 <= len(said.getvalue().splitlines()) <= 1 + len(moves)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_with_count_rate_and_note(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with Progress(6, "digits") as bar:
        bar.advance(4, loss=0.5)
        bar.advance(2, loss=0.125)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    for word in ("digits", "6/6", "left", "loss 0.125"):
        assert word in text
    assert bar.done == 6

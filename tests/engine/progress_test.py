import io
import sys
import time
import types

import numpy as np
import pytest

import spex_jax
from spex_jax.engine import progress
from spex_jax.engine.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    def put(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return put


def test_a_bar_on_a_terminal(stderr):
    screen = stderr(Terminal())
    with Progress(100, stored=40) as shown:
        time.sleep(0.15)
        shown.update(30)
    assert "ablations:  70%" in screen.getvalue()
    assert "70/100" in screen.getvalue()
    assert "mask/s" in screen.getvalue()


def test_lines_in_a_log(stderr, monkeypatch):
    monkeypatch.setattr(progress, "_MINUTE", 0.05)
    log = stderr(io.StringIO())
    with Progress(100, stored=40) as shown:
        shown.update(20)
        time.sleep(0.3)
    lines = log.getvalue().splitlines()
    assert len(lines) >= 2
    assert lines[0].startswith("ablations:  60% 60/100 [00:00<")
    assert "no result for" in lines[-1]
    assert "\r" not in log.getvalue()


@pytest.mark.parametrize("options", [{"shown": False}, {"stored": 100}, {}])
def test_nothing_of_short_or_hidden_runs(options, stderr):
    log = stderr(Terminal() if options else io.StringIO())
    with Progress(100, **options):
        pass
    assert log.getvalue() == ""


def test_a_bar_in_a_notebook(stderr, monkeypatch):
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    screen = stderr(io.StringIO())
    with Progress(10) as shown:
        shown.update(5)
    assert "ablations:" in screen.getvalue()


def test_a_process_without_stderr(stderr):
    stderr(None)
    with Progress(10) as shown:
        shown.update(5)


@pytest.mark.parametrize("shown", [True, False])
def test_evaluate_shows_it(shown, stderr):
    screen = stderr(Terminal())
    spex_jax.evaluate(lambda masks: masks.sum(axis=1), np.ones((3, 4), bool), progress=shown)
    assert ("ablations" in screen.getvalue()) == shown

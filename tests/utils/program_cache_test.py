"""Compiled programs are kept for the next process, where nobody has chosen otherwise."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

import spex_jax
from spex_jax.utils import program_cache

PROGRAM = """
import jax, jax.monitoring, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("cache_hits")))
{before}
import spex_jax
{after}
jax.jit(lambda x: jnp.linalg.qr(jnp.sin(x) @ x))(jnp.ones((8, 8))).Q.block_until_ready()
print(jax.config.jax_compilation_cache_dir, sum(hits))
"""


@pytest.fixture(autouse=True)
def _as_before():
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: jax.config.values[name] for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def start(before="", after="", **environment):
    """Starts a process that imports the package and compiles a program, with all optimisations: it takes long enough to
    be kept.
    """
    left_out = (program_cache.VARIABLE, "XLA_FLAGS")
    given = {name: value for name, value in os.environ.items() if name not in left_out}
    given |= {"PYTHONPATH": str(pathlib.Path(spex_jax.__file__).parents[1]), **environment}
    command = [sys.executable, "-c", PROGRAM.format(before=before, after=after)]
    return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    folder, hits = out.split()
    return folder, int(hits), error


def test_a_second_process_compiles_nothing_again(tmp_path):
    """Two that start at once, and one after them, with what a killed process left in the folder."""
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    for process in [start(**environment), start(**environment)]:
        folder, *_, error = result(process)
        assert pathlib.Path(folder).parent == tmp_path / "spex_jax"
        assert "rror" not in error
    kept = set(pathlib.Path(folder).glob("*-cache"))
    assert kept
    (pathlib.Path(folder) / "jit_killed-cache").write_bytes(b"half")
    _, hits, error = result(start(**environment))
    assert hits > 0
    assert "rror" not in error
    assert set(pathlib.Path(folder).glob("*-cache")) == kept


@pytest.mark.parametrize("switch", ["variable", "config", "folder that cannot be written"])
def test_the_cache_is_off_or_elsewhere_where_that_was_chosen(switch, tmp_path):
    mine = tmp_path / "mine"
    given = {
        "variable": {"SPEX_JAX_CACHE": "", "XDG_CACHE_HOME": str(tmp_path)},
        "config": {"before": f"jax.config.update('jax_compilation_cache_dir', {str(mine)!r})"},
        "folder that cannot be written": {"SPEX_JAX_CACHE": "/proc/nowhere"},
    }[switch]
    folder, hits, _ = result(start(**given))
    assert folder == (str(mine) if switch == "config" else "None")
    assert hits == 0
    assert not (tmp_path / "spex_jax").exists()


def test_the_folder_of_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv(program_cache.VARIABLE, str(tmp_path / "programs"))
    program_cache.keep_by_default()
    folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert folder.parent == tmp_path / "programs"
    assert folder.is_dir()
    assert 0 < jax.config.jax_compilation_cache_max_size <= 2**30


def test_each_kind_of_processor_has_programs_of_its_own(monkeypatch, tmp_path):
    program_cache.keep_programs(str(tmp_path))
    first = jax.config.jax_compilation_cache_dir
    program_cache.keep_programs(str(tmp_path))
    assert jax.config.jax_compilation_cache_dir == first
    monkeypatch.setattr(program_cache.platform, "machine", lambda: "another")
    program_cache.keep_programs(str(tmp_path))
    assert jax.config.jax_compilation_cache_dir != first

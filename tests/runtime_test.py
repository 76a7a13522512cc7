import pathlib

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from spex_jax import runtime


@pytest.fixture(autouse=True)
def parsed():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])


@pytest.fixture
def settings_kept():
    names = (
        "jax_default_matmul_precision",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
        "jax_compilation_cache_max_size",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    ("given", "axes"), [("masks=1", {"masks": 1}), ("masks=-1,model=1", {"masks": 1, "model": 1}), (None, None)]
)
def test_mesh(given, axes):
    with flagsaver.flagsaver(mesh=given):
        found = runtime.mesh()
    assert (None if found is None else dict(found.shape)) == axes


def test_start(settings_kept, tmp_path, capsys):
    with flagsaver.flagsaver(precision="highest", compilation_cache=str(tmp_path / "programs"), mesh="masks=1"):
        runtime._start()
    assert jax.config.jax_default_matmul_precision == "highest"
    assert pathlib.Path(jax.config.jax_compilation_cache_dir).parent == tmp_path / "programs"
    assert capsys.readouterr().err == "devices: 1 x cpu (cpu), mesh {'masks': 1}, 1 process\n"


@pytest.mark.parametrize("given", [{"coordinator": "x:1"}, {"num_processes": 2}, {"process": 0}])
def test_flags_of_several_processes_need_multihost(given):
    with flagsaver.flagsaver(**given), pytest.raises(ValueError, match="need --multihost; give it too"):
        runtime._start()


def test_a_cache_that_cannot_be_written(settings_kept):
    with flagsaver.flagsaver(compilation_cache="/proc/nowhere"):
        flags.FLAGS["compilation_cache"].present = 1
        with pytest.raises(ValueError, match="cannot write to --compilation_cache"):
            runtime._start()


def test_the_error_of_joining_comes_through(monkeypatch):
    def fail(*arguments):
        raise RuntimeError(f"no coordinator at {arguments[0]}")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with (
        flagsaver.flagsaver(multihost=True, coordinator="nowhere:1"),
        pytest.raises(RuntimeError, match="no coordinator at nowhere:1"),
    ):
        runtime._start()


def test_variables_in_a_path_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("SPEX_JAX_TEST_FOLDER", str(tmp_path))
    values = flags.FlagValues()
    holder = flags.DEFINE(runtime._Path(), "file", None, "", flag_values=values)
    values(["test", "--file=$SPEX_JAX_TEST_FOLDER/a/${SPEX_JAX_TEST_FOLDER}"])
    assert holder.value == f"{tmp_path}/a/{tmp_path}"
    with pytest.raises(flags.IllegalFlagValueError, match="variable SPEX_JAX_NOT_THERE is not set"):
        values(["test", "--file=$SPEX_JAX_NOT_THERE/b"])


def test_programs_are_dropped_before_there_are_too_many_memory_maps(monkeypatch):
    if not pathlib.Path("/proc/self/maps").exists():
        pytest.skip("there is no /proc/self/maps")
    dropped = []
    monkeypatch.setattr(jax, "clear_caches", lambda: dropped.append(True))
    monkeypatch.setattr(runtime, "_MOST_MAPS", 10**9)
    runtime.spare_memory_maps()
    assert not dropped
    monkeypatch.setattr(runtime, "_MOST_MAPS", 1)
    runtime.spare_memory_maps()
    assert dropped

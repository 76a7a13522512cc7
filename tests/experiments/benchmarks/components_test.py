"""Every part runs at toy size and says what it should."""

import json

import pytest
from absl.testing import flagsaver

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_all_parts(load_program, tmp_path):
    program = load_program("benchmarks/components")
    out = tmp_path / "result.json"
    with flagsaver.flagsaver(shape="toy", masks=12, rounds=1, out=str(out)):
        program.main()
    found = json.loads(out.read_text())
    assert found["sweep"]["heads"] == 12
    assert found["random"]["ablated per plain"] > 0
    assert found["late"]["times faster"] > 0
    assert found["late"]["largest difference"] < 1e-4

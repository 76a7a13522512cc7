import json

from absl import flags


def test_measures_at_toy_size(load_program, tmp_path):
    program = load_program("benchmarks/retraining")
    given = {"toy": True, "rounds": 1, "masks": 4, "loop": 2, "out": str(tmp_path / "result.json")}
    for name, value in given.items():
        flags.FLAGS[name].value = value
    program.main()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["rates"]["ms_each"]["lens"] > 0
    assert set(result["batches"]["trainings_a_second"]) == {"1", "2", "4"}
    assert (tmp_path / "result.png").exists()

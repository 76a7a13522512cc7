import json

import pytest
from absl.testing import flagsaver
from planting import write_complete_game

FIRST = "the plot is thin but her acting never fails to impress"
SECOND = "a film that is dull and never really fun"


@pytest.fixture(scope="module")
def program(load_program):
    return load_program("knowledge")


@pytest.mark.slow
def test_all_parts(program, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SPEX_JAX_DATA", raising=False)
    monkeypatch.setattr(program, "_TESTED", 100)
    texts, out = tmp_path / "texts.txt", tmp_path / "result.json"
    texts.write_text(f"{FIRST}\n\n{SECOND}\n")
    options = {
        "proxy": "walsh_gp",
        "texts": str(texts),
        "count": 2,
        "alphas": ["1"],
        "games": str(write_complete_game(tmp_path)),
    }
    with flagsaver.flagsaver(out=str(out), only="game", **options):
        program.main()
    result = json.loads(out.read_text())
    first, second = result["relevance"]
    assert (first["n"], second["n"]) == (11, 9)
    assert 1 < first["passes"] < 40
    assert set(first["r2"]) == {"without", "as many more ablations", "gradients"}
    assert {row["alpha"] for row in result["corpus"]["rows"]} == {1.0}
    assert result["corpus"]["first half at alpha 1"] == first["r2"]["without"]
    assert result["corpus"]["rows"][0]["r2"]["corpus"] == first["r2"]["without"]  # there was nothing before it
    assert set(result["fidelity"][0]["r2"]) == {"without", "prior", "prior alone"}
    assert set(result["focus"][0]["r2_and_near"]) == {"uniform", "uniform, focus", "mixed", "mixed, focus"}
    assert [(row["game"], row["index"]) for row in result["index"]] == [("game", "SV"), ("game", "FSII")]
    assert result["index"][0]["error"]["index"] < 0.1
    assert "fidelity {1.0:" in capsys.readouterr().out


def test_unknown_parts(program):
    with flagsaver.flagsaver(parts=["gradients"]), pytest.raises(ValueError, match=r"unknown parts \['gradients'\]"):
        program.main()

import numpy as np
import pytest

from spex_jax import explain


@pytest.mark.parametrize("n", [3, 12])
def test_plot(n, tmp_path):
    pytest.importorskip("matplotlib")
    names = ["$x_{", "<b>", "ä\n", *map(str, range(3, n))]
    found = explain(lambda masks: masks[:, 0] - 2.0 * masks[:, 1] * masks[:, 2], n, budget=100, names=names)
    figure = found.plot(5)
    figure.savefig(tmp_path / "figure.png")
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    expected = [value for _, value in found.interactions().top(5)]
    np.testing.assert_allclose(widths[::-1], expected)


def test_plot_of_a_constant(tmp_path):
    pytest.importorskip("matplotlib")
    explain(lambda masks: np.ones(len(masks)), 3).plot().savefig(tmp_path / "figure.png")

import numpy as np
import pytest
from lenses.retraining_data import CLASSES, clouds

from spex_jax.lenses.training_parts import groups

N = 26


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return clouds(N, rng), clouds(5, rng)


def test_groups_of_every_kind(data):
    y = data[0][1]
    classes = groups.by_class(y, names=["a", "b", "c"])
    assert classes.names == ("a", "b", "c")
    assert classes.sizes.sum() == N
    blocks = groups.in_blocks(N, 4, seed=1)
    assert sorted(blocks.sizes) == [6, 6, 7, 7]
    clusters = groups.by_cluster(data[0][0], 3)
    # The clouds are apart: clusters are the classes.
    assert all(len(np.unique(y[clusters.members(k)])) == 1 for k in range(3))
    crossed = groups.by_cluster(data[0][0], 2, within=y)
    assert len(crossed) == 2 * CLASSES
    assert all(len(np.unique(y[crossed.members(k)])) == 1 for k in range(6))
    sources = groups.by_source(np.array(["web", "book"] * 13))
    assert (sources.names, sources.labels[0]) == (("book", "web"), 1)
    assert (groups.by_source([-1, 7, 7, 3]).labels == [-1, 1, 1, 0]).all()


@pytest.mark.parametrize("features", [False, True])
def test_refine_divides_what_is_chosen(features, data):
    blocks = groups.in_blocks(N, 4, seed=1)
    finer = groups.refine(blocks, [1, 3], parts=3, features=data[0][0] if features else None)
    assert len(finer) == 8
    assert finer.names[:3] == ("block 0", "block 2", "block 1 / 0")
    for parent, children in ((1, range(2, 5)), (3, range(5, 8))):
        joined = np.sort(np.concatenate([finer.members(child) for child in children]))
        np.testing.assert_array_equal(joined, blocks.members(parent))
    only = groups.refine(blocks, [2], parts=30, others="kept")
    assert len(only) == blocks.sizes[2]
    assert (only.labels == -1).sum() == N - blocks.sizes[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: groups.refine(g, []), "which must be different numbers"),
        (lambda g: groups.refine(g, 1), "which must be different numbers"),
        (lambda g: groups.refine(g, [1.0]), "which must be different numbers"),
        (lambda g: groups.refine(g.labels, [1]), "expected Groups"),
        (lambda g: groups.in_blocks(5, 2, seed=-1), "seed must be a whole number"),
        (lambda g: groups.by_cluster(np.eye(4), 3, within=[0, 0, 0, 1]), "class '1' has examples"),
        (lambda g: groups.by_cluster(3.0, 1), "finite numbers"),
        (lambda g: groups.by_class([]), "at least one"),
        (lambda g: groups.refine(g, [9]), "which must be different numbers"),
        (lambda g: groups.refine(g, [1], parts=1), "parts must be a whole number"),
        (lambda g: groups.refine(g, [1], others="gone"), "unknown others"),
        (lambda g: groups.refine(g, [1], features=np.zeros((3, 2))), "a row for each of the 26"),
        (lambda g: groups.in_blocks(5, 6), "count must be a whole number from 1 to 5"),
        (lambda g: groups.by_cluster(np.full((4, 2), np.nan), 2), "finite"),
        (lambda g: groups.by_class([0, 4], names=["a"]), "1 names for classes up to 4"),
        (lambda g: groups.by_class([0.5]), "whole numbers"),
        (lambda g: groups.by_source([0.5]), "whole numbers or strings"),
    ],
)
def test_groups_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call(groups.in_blocks(N, 4, seed=1))

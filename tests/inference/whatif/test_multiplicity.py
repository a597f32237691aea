"""Multiple comparisons against statsmodels, and the graphical procedure against the closed test it stands for."""

import itertools

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from inference.whatif import multiplicity

ALPHA = 0.05


def p_values(trials=400, m=4):
    """p of every size around the levels, with ties and zeros among them."""
    p = np.random.default_rng(1).uniform(0, 1, (trials, m)) ** 3
    p[:20] = np.round(p[:20], 2)
    return p


@pytest.mark.parametrize(("method", "name"), [("bonferroni",) * 2, ("holm",) * 2, ("hochberg", "simes-hochberg")])
def test_libraries_reject_the_same(method, name, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels' Holm collects garbage each time
    p = p_values(400)
    found = multiplicity.METHODS[method](p, ALPHA)
    assert found.tolist() == [multipletests(row, ALPHA, name)[0].tolist() for row in p]
    assert 0 < found.mean() < (p <= ALPHA).mean()


def test_fixed_sequence_stops_at_the_first_failure():
    p = np.array([[0.01, 0.2, 0.001], [0.01, 0.03, 0.04], [0.06, 0.0, 0.0]])
    assert multiplicity.fixed_sequence(p, ALPHA).tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]


def uniform_graph(m):
    return np.full(m, 1 / m), (1 - np.identity(m)) / (m - 1)


def test_graphs_of_holm_bonferroni_and_the_fixed_sequence():
    p = p_values()
    weights, transitions = uniform_graph(4)
    chain = np.eye(4, k=1)
    for (w, g), method in (
        ((weights, transitions), multiplicity.holm),
        ((weights, np.zeros((4, 4))), multiplicity.bonferroni),
        ((np.array([1.0, 0, 0, 0]), chain), multiplicity.fixed_sequence),
    ):
        assert multiplicity.graphical(p, ALPHA, w, g).tolist() == method(p, ALPHA).tolist()


def weights_of(kept, w, g):
    """Levels of the intersection of ``kept`` hypotheses: the others are taken out of the graph one by one."""
    w, g = dict(enumerate(w)), {(i, j): g[i][j] for i in range(len(w)) for j in range(len(w))}
    left = set(w)
    for i in sorted(left - set(kept)):
        left.remove(i)
        new = {}
        for j in left:
            w[j] += w[i] * g[i, j]
            for k in left - {j}:
                loop = g[j, i] * g[i, j]
                new[j, k] = 0.0 if loop >= 1 else (g[j, k] + g[j, i] * g[i, k]) / (1 - loop)
        g.update(new)
    return {j: w[j] for j in left}


def test_a_graph_is_its_closed_test():
    """A hypothesis falls when weighted Bonferroni rejects every intersection with it (Bretz et al. 2009)."""
    rng = np.random.default_rng(2)
    for m in (3, 4):
        w = rng.dirichlet(np.ones(m)) * 0.9
        w[1] = 0.0
        g = np.array([np.insert(rng.dirichlet(np.ones(m - 1)), i, 0.0) for i in range(m)])
        g[2] *= 0.5
        p = p_values(150, m)
        found = multiplicity.graphical(p, ALPHA, w, g)
        subsets = [s for k in range(1, m + 1) for s in itertools.combinations(range(m), k)]
        levels = {s: weights_of(s, w, g) for s in subsets}
        for row, rejected in zip(p, found, strict=True):
            fallen = {s: any(row[j] <= levels[s][j] * ALPHA and levels[s][j] > 0 for j in s) for s in subsets}
            assert rejected.tolist() == [all(fallen[s] for s in subsets if j in s) for j in range(m)]
        assert 0 < found.mean() < 1


def test_family_wise_error_of_the_null_is_kept():
    """Independent p: the chance of any rejection is 1 - (1 - alpha/m)^m for Bonferroni, and never above alpha."""
    p = np.random.default_rng(3).uniform(size=(200_000, 3))
    se = np.sqrt(ALPHA * (1 - ALPHA) / len(p))
    any_of = {name: method(p, ALPHA).any(axis=1).mean() for name, method in multiplicity.METHODS.items()}
    assert any_of["bonferroni"] == pytest.approx(1 - (1 - ALPHA / 3) ** 3, abs=3 * se)
    assert any_of["holm"] == any_of["bonferroni"] and any_of["fixed-sequence"] == pytest.approx(ALPHA, abs=3 * se)
    assert any_of["bonferroni"] < any_of["hochberg"] < ALPHA + 3 * se
    assert any_of["none"] == pytest.approx(1 - (1 - ALPHA) ** 3, abs=4 * se)
    assert multiplicity.graphical(p, ALPHA, *uniform_graph(3)).any(axis=1).mean() == any_of["holm"]

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.metrics import accuracy_score, recall_score

from scivae.metrics import cycle_consistency, fit_judges, path_purity
from scivae.metrics.judges import JUDGE_KINDS

CLASSES = np.array(["stem", "goblet", "tuft"])


def cells(n_per_class, seed, n_genes=12, effect=2.0):
    """Cells of three classes, each with genes of its own; not negative, as log-normalized ones."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(3), n_per_class)
    x = np.abs(rng.normal(size=(code.size, n_genes)))
    for k in range(3):
        x[code == k, k::3] += effect
    return x, CLASSES[code]


@pytest.fixture(scope="module")
def judges():
    return fit_judges(*cells(60, 0), kinds=JUDGE_KINDS)


@pytest.mark.parametrize("kind", JUDGE_KINDS)
def test_judges_know_clear_classes_and_put_probabilities_in_class_order(judges, kind):
    x, y = cells(40, 1)
    judge = judges[kind]
    assert judge.classes.tolist() == sorted(CLASSES)
    assert accuracy_score(y, judge.predict(x)) > 0.95
    probabilities = judge.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(judge.classes[probabilities.argmax(1)], judge.predict(x))


@pytest.mark.parametrize("kind", JUDGE_KINDS)
def test_sparse_and_dense_cells_are_judged_alike(judges, kind):
    x, y = cells(60, 0)
    x[x < 0.5] = 0
    test = cells(40, 1, effect=0.7)[0]
    test[test < 0.5] = 0
    dense = fit_judges(x, y, kinds=[kind])[kind]
    csr = fit_judges(sparse.csr_matrix(x), y, kinds=[kind])[kind]
    same = dense.predict(test) == csr.predict(sparse.csr_matrix(test))
    assert same.mean() > 0.99
    np.testing.assert_array_equal(dense.predict(test), dense.predict(sparse.csr_matrix(test)))


def test_the_neighbors_of_many_genes_are_found_in_few_directions():
    x, y = cells(60, 0, n_genes=90)
    test, truth = cells(30, 1, n_genes=90)
    judge = fit_judges(sparse.csr_matrix(x), y, kinds=["knn"])["knn"]
    assert accuracy_score(truth, judge.predict(test)) > 0.95


def test_seed_decides_the_forest_and_global_random_state_is_left_alone():
    x, y = cells(30, 0, effect=0.5)
    test = cells(30, 1, effect=0.5)[0]

    def forest(seed):
        return fit_judges(x, y, kinds=["random_forest"], seed=seed)["random_forest"]

    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = forest(0).predict_proba(test)
    np.testing.assert_array_equal(first, forest(0).predict_proba(test))
    assert (first != forest(1).predict_proba(test)).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_logistic_judge_reaches_the_bayes_accuracy():
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], 6000)
    x = rng.normal(size=(12000, 2)) + 1.5 * y[:, None]
    judge = fit_judges(x[:6000], y[:6000], kinds=["logistic"])["logistic"]
    bayes = stats.norm.cdf(1.5 * np.sqrt(2) / 2)
    assert (judge.predict(x[6000:]) == y[6000:]).mean() == pytest.approx(bayes, abs=0.02)


@pytest.mark.parametrize("kind", JUDGE_KINDS)
def test_purity_is_recall_by_class_and_the_ceiling_that_of_real_cells(judges, kind):
    x, labels = cells(30, 2, effect=0.6)
    labels = labels[5:]  # unequal classes
    x = x[5:]
    x_real, y_real = cells(50, 3, effect=1.0)
    purity = path_purity(judges[kind], x, labels, x_real=x_real, y_real=y_real)
    names = sorted(CLASSES)

    def recall(cells, truth):
        called = judges[kind].predict(cells)
        return dict(
            zip(names, recall_score(truth, called, labels=names, average=None), strict=True)
        )

    assert purity.per_class == pytest.approx(recall(x, labels))
    assert purity.ceiling == pytest.approx(recall(x_real, y_real))
    assert purity.overall == pytest.approx(accuracy_score(labels, judges[kind].predict(x)))
    assert purity.mean == pytest.approx(np.mean(list(recall(x, labels).values())))
    assert purity.worst == min(recall(x, labels).values())
    assert purity.per_class[purity.worst_class] == purity.worst
    assert purity.n_per_class == {"stem": 25, "goblet": 30, "tuft": 30}
    assert purity.mean < purity.ceiling_mean
    assert purity.of_ceiling == pytest.approx(
        {name: recall(x, labels)[name] / recall(x_real, y_real)[name] for name in names}
    )


def test_cells_made_for_the_wrong_class_have_no_purity(judges):
    x, y = cells(20, 4, effect=5.0)
    wrong = np.roll(y, 20)
    assert path_purity(judges["logistic"], x, y).mean == 1
    assert path_purity(judges["logistic"], x, wrong).mean == 0


def test_without_real_cells_there_is_no_ceiling(judges):
    purity = path_purity(judges["logistic"], *cells(5, 4))
    assert purity.ceiling is None
    assert np.isnan(purity.ceiling_mean)
    assert purity.of_ceiling == {}
    assert purity.unbroken is None


def test_a_class_never_recognized_among_real_cells_has_no_ratio(judges):
    x, y = cells(20, 4, effect=5.0)
    purity = path_purity(judges["logistic"], x, y, x_real=x, y_real=np.roll(y, 20))
    assert all(np.isnan(ratio) for ratio in purity.of_ceiling.values())


def test_a_path_is_unbroken_only_if_every_point_is_of_its_class(judges):
    x, y = cells(4, 5, effect=5.0)
    labels = y.copy()
    labels[0] = "goblet"  # one wrong point of the first path of four
    paths = np.repeat(["p", "q", "r", "s", "t", "u"], 2)
    order = np.random.default_rng(0).permutation(12)
    purity = path_purity(judges["logistic"], x[order], labels[order], paths=paths[order])
    assert purity.unbroken == pytest.approx(5 / 6)
    assert purity.overall == pytest.approx(11 / 12)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"labels": ["stem"] * 5}, "labels must have one label for each row of x_generated"),
        ({"labels": ["paneth"] * 6}, r"labels must be among the classes of the logistic.*'paneth'"),
        ({"x_generated": np.ones((6, 3))}, "x must have the 12 columns.*got 3"),
        ({"x_generated": np.full((6, 12), np.nan)}, "x_generated must be finite"),
        ({"x_real": np.ones((2, 12))}, "got no y_real; pass both"),
        ({"y_real": ["stem"]}, "got no x_real; pass both"),
        ({"x_real": np.ones((1, 12)), "y_real": ["stem"]}, "among y_real, .*'goblet', 'tuft'"),
        ({"paths": [1, 2]}, r"paths and labels .* same shape, .*got \(2,\) and \(6,\)"),
    ],
)
def test_purity_refuses_in_one_clear_line(judges, kwargs, message):
    x, y = cells(2, 0)
    arguments = {"x_generated": x, "labels": y} | kwargs
    with pytest.raises(ValueError, match=message) as error:
        path_purity(judges["logistic"], **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "y", "kinds", "message"),
    [
        (np.ones((3, 2)), ["a", "b"], ["logistic"], "2 labels for 3 rows"),
        (np.ones((2, 2)), ["a", "a"], ["logistic"], "y must hold at least two classes, got only a"),
        (np.ones((2, 2)), ["a", "b"], ["svm"], "each of kinds must be one of .*got 'svm'"),
        (np.ones((2, 2)), ["a", "b"], [], r"at least one kind of judge, got \[\]"),
        (np.ones((2, 2)), ["a", "b"], "logistic", "must be a sequence .*got 'logistic'"),
    ],
)
def test_judges_refuse_in_one_clear_line(x, y, kinds, message):
    with pytest.raises(ValueError, match=message):
        fit_judges(x, y, kinds=kinds)


def test_cycle_consistency_counts_cells_or_classes():
    before = np.array([0, 0, 0, 0, 1, 1, 2])
    after = np.array([0, 0, 0, 1, 1, 0, 2])
    assert cycle_consistency(before, after) == pytest.approx(5 / 7)
    assert cycle_consistency(before, after, average="classes") == pytest.approx(
        (3 / 4 + 0.5 + 1) / 3
    )
    assert cycle_consistency(before, before) == 1
    with pytest.raises(ValueError, match=r"before and after .* got \(7,\) and \(3,\)"):
        cycle_consistency(before, after[:3])
    with pytest.raises(ValueError, match="average must be one of 'cells', 'classes'"):
        cycle_consistency(before, after, average="macro")

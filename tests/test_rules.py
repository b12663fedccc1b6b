"""The rules of the benchmarks catch methods that cheat, and let honest ones pass."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
KEY = "cell_type"


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def rules():
    return import_module("_rules")


def cells(n=900, n_genes=60, n_classes=4, effect=1.0, seed=0):
    """Counts of classes that overlap, with donors and a batch of cells each."""
    rng = np.random.default_rng(seed)
    code = rng.permutation(np.arange(n) % n_classes)
    rate = rng.gamma(2.0, 1.0, n_genes) * np.ones((n, 1))
    for k in range(n_classes):
        rate[np.ix_(code == k, np.arange(n_genes) % n_classes == k)] *= 1 + effect
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame(
        {
            KEY: pd.Categorical(np.array([f"class_{i}" for i in range(n_classes)])[code]),
            "donor": [f"donor_{i}" for i in rng.integers(0, 7, n)],
        },
        index=[f"cell_{i}" for i in range(n)],
    )
    return AnnData(counts.copy(), layers={"counts": counts}, obs=obs)


def features(adata):
    return import_module("_data").log_normalize(adata.layers["counts"])


def labels(adata):
    return adata.obs[KEY].astype(str).to_numpy()


def judged(rows):
    """Rows of a table as :func:`_rules.void` reads them."""
    return pd.DataFrame(rows, columns=["method", "accuracy", "chance"])


# --- three parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("donor_key", [None, "donor"])
def test_no_cell_and_no_donor_is_in_two_parts(rules, donor_key):
    adata = cells()
    parts = rules.three_parts(adata, KEY, 0, donor_key=donor_key)
    names = [set(part.obs_names) for part in parts[:3]]
    assert sum(map(len, names)) == len(set.union(*names)) == adata.n_obs
    assert parts.units == ("donors" if donor_key else "cells")
    if donor_key:
        donors = [set(part.obs["donor"]) for part in parts[:3]]
        assert all(donors)
        assert sum(map(len, donors)) == 7
    else:  # every class has its share in each part
        for part, share in zip(parts[:3], rules.SHARES, strict=True):
            assert part.n_obs == pytest.approx(share * adata.n_obs, abs=4)
            assert part.obs[KEY].value_counts().min() >= share * 225 - 1
    again = rules.three_parts(adata, KEY, 0, donor_key=donor_key)
    assert parts.score.obs_names.equals(again.score.obs_names)
    other = rules.three_parts(adata, KEY, 1, donor_key=donor_key)
    assert not parts.score.obs_names.equals(other.score.obs_names)


def test_two_donors_are_no_units(rules):
    adata = cells()
    adata.obs["donor"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    assert rules.three_parts(adata, KEY, 0, donor_key="donor").units == "cells"
    assert rules.units(adata, "donor") == "2 donors"
    assert rules.units(adata, None) == rules.units(adata, "patient") == "one sample per group"
    adata.obs["tissue"] = adata.obs["donor"]
    assert rules.units(adata, "donor", "tissue") == "one sample per group"


def test_genes_are_chosen_on_the_first_part_alone(rules):
    """Values of the other parts can be anything: the genes stay what they were."""
    from scanpy.preprocessing import highly_variable_genes

    adata = cells()
    adata.X = np.log1p(adata.X.toarray())
    parts = rules.three_parts(adata, KEY, 0, n_genes=10)
    everywhere = highly_variable_genes(adata, n_top_genes=10, flavor="cell_ranger", inplace=False)
    outside = ~adata.obs_names.isin(parts.learn.obs_names)
    adata.X[outside] *= np.random.default_rng(0).integers(0, 9, (outside.sum(), adata.n_vars))
    again = rules.three_parts(adata, KEY, 0, n_genes=10)
    assert again.learn.var_names.equals(parts.learn.var_names)
    assert again.score.var_names.equals(parts.learn.var_names)
    leaky = highly_variable_genes(adata, n_top_genes=10, flavor="cell_ranger", inplace=False)
    assert (leaky["highly_variable"] != everywhere["highly_variable"]).any()


def test_a_part_that_was_copied_into_another_is_caught(rules):
    parts = rules.three_parts(cells(), KEY, 0)
    stolen = concat([parts.learn, parts.score[:5]])
    with pytest.raises(ValueError, match="5 cells are both in 'learn' and in 'score'"):
        rules.check_parts(parts._replace(learn=stolen))
    renamed = parts.score[:5].copy()
    renamed.obs_names = [f"new_{i}" for i in range(5)]
    disguised = concat([parts.learn, renamed])
    with pytest.raises(ValueError, match="5 values are both in 'learn' and in 'score'"):
        rules.check_parts(parts._replace(learn=disguised))
    by_donor = rules.three_parts(cells(), KEY, 0, donor_key="donor")
    mixed = by_donor.judge.copy()
    mixed.obs.iloc[0, mixed.obs.columns.get_loc("donor")] = by_donor.learn.obs["donor"].iloc[0]
    with pytest.raises(ValueError, match="1 donors are both in 'learn' and in 'judge'"):
        rules.check_parts(by_donor._replace(judge=mixed), "donor")


def test_classes_too_small_for_three_parts_are_left_out(rules):
    adata = cells()
    few = np.flatnonzero(labels(adata) == "class_3")[10:]
    adata = adata[np.setdiff1d(np.arange(adata.n_obs), few)].copy()
    parts = rules.three_parts(adata, KEY, 0)
    assert all("class_3" not in labels(part) for part in parts[:3])
    with pytest.raises(ValueError, match="two classes need 3 cells in each part"):
        rules.three_parts(adata[labels(adata) != "class_0"][:9].copy(), KEY, 0)


# --- permuted labels ----------------------------------------------------------------------------


class Memory:
    """Knows the label of every cell that it has seen, and of nothing else."""

    def fit(self, adata):
        self.neighbor = KNeighborsClassifier(1).fit(features(adata), labels(adata))
        return self

    def accuracy(self, adata):
        return balanced_accuracy_score(labels(adata), self.neighbor.predict(features(adata)))


def test_a_judge_that_has_seen_the_cells_is_caught_by_permuted_labels(rules):
    """The protocol of the first edition: the judge knows the cells that lines start from."""
    rows = {"old": [], "new": []}
    for seed in range(5):
        parts = rules.three_parts(rules.permuted(cells(seed=seed), KEY, seed), KEY, seed)
        memory = Memory().fit(parts.learn)
        # Cells between two cells of a class, a little off the first: what a careful copier makes.
        for name, scored in (("old", parts.learn), ("new", parts.score)):
            rows[name].append(("copier, labels permuted", memory.accuracy(scored), 0.25))
    assert rules.void(judged(rows["old"]), "accuracy", permuted="labels permuted")
    assert rules.void(judged(rows["new"]), "accuracy", permuted="labels permuted") is None


def test_a_method_that_memorizes_labels_gains_nothing_from_three_parts(rules):
    """On true labels the memory is no better on new cells than an honest classifier."""
    honest, memory = [], []
    for seed in range(5):
        parts = rules.three_parts(cells(seed=seed), KEY, seed)
        fitted = LogisticRegression(max_iter=500).fit(features(parts.learn), labels(parts.learn))
        guess = fitted.predict(features(parts.score))
        honest.append(balanced_accuracy_score(labels(parts.score), guess))
        memory.append(Memory().fit(parts.learn).accuracy(parts.score))
        assert Memory().fit(parts.learn).accuracy(parts.learn) == 1
    assert np.mean(honest) > np.mean(memory) + 0.1


def test_a_method_that_is_tuned_on_test_cells_is_caught_by_permuted_labels(rules):
    """The best of many classifiers, chosen on the cells that it is scored on."""
    cheat, fair = [], []
    for seed in range(5):
        parts = rules.three_parts(rules.permuted(cells(seed=seed), KEY, seed), KEY, seed)
        x, y = features(parts.score), labels(parts.score)
        rng = np.random.default_rng(seed)
        names = np.unique(y)
        tries = [names[np.argmax(x @ rng.normal(size=(x.shape[1], 4)), axis=1)] for _ in range(200)]
        scores = [balanced_accuracy_score(y, guess) for guess in tries]
        cheat.append(("tuned, labels permuted", max(scores), 0.25))
        fair.append(("untuned, labels permuted", scores[0], 0.25))
    reason = rules.void(judged(cheat), "accuracy", permuted="labels permuted")
    assert "tuned, labels permuted is +0.0" in reason
    assert "the protocol rewards memory" in reason
    assert rules.void(judged(fair), "accuracy", permuted="labels permuted") is None


def test_a_table_without_permuted_labels_is_void(rules):
    rows = judged([("honest", 0.9, 0.25)])
    assert "no row with permuted labels" in rules.void(rows, "accuracy", permuted="labels permuted")


def test_permuting_keeps_the_sizes_of_classes(rules):
    adata = cells()
    shuffled = rules.permuted(adata, KEY, 3)
    assert shuffled.obs[KEY].value_counts().to_dict() == adata.obs[KEY].value_counts().to_dict()
    assert 0.1 < (labels(shuffled) == labels(adata)).mean() < 0.4
    assert (shuffled.layers["counts"] != adata.layers["counts"]).nnz == 0


# --- choices ------------------------------------------------------------------------------------


def test_a_nested_choice_sees_no_cell_that_is_scored(rules):
    parts = rules.three_parts(cells(), KEY, 0)
    seen = set()

    def score(candidate, learn, inner):
        seen.update(learn.obs_names, inner.obs_names)
        assert not set(learn.obs_names) & set(inner.obs_names)
        model = LogisticRegression(C=candidate, max_iter=500).fit(features(learn), labels(learn))
        return model.score(features(inner), labels(inner))

    best = rules.nested_choice({"none": 1e-6, "some": 0.05}, parts.learn, KEY, 0, score)
    assert best == "some"
    assert seen == set(parts.learn.obs_names)


def test_a_choice_made_on_reported_data_is_refused(rules):
    rules.check_choice(["pbmc_kang"], ["intestine_haber", "pbmc_kang"])
    with pytest.raises(ValueError, match="chosen on intestine_haber, which is reported"):
        rules.check_choice(["pbmc_kang", "intestine_haber"], ["intestine_haber"])
    assert not set(rules.CHOOSING) & set(rules.REPORTING)


# --- differences --------------------------------------------------------------------------------


def test_the_interval_is_that_of_nadeau_and_bengio(rules):
    from scipy import stats

    d = np.array([0.02, 0.05, -0.01, 0.03, 0.04])
    found = rules.corrected_interval(d, n_learn=600, n_score=200)
    half = stats.t.ppf(0.975, 4) * np.sqrt((1 / 5 + 1 / 3) * d.var(ddof=1))
    assert found == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))
    plain = stats.t.interval(0.95, 4, d.mean(), d.std(ddof=1) / np.sqrt(5))
    assert found.low < plain[0]
    assert np.isnan(rules.corrected_interval([0.1], 600, 200).low)


def test_splits_of_the_same_cells_do_not_make_a_difference_sure(rules):
    """Two equal methods: the plain interval leaves zero out too often, the corrected one does not."""
    plain, corrected = 0, 0
    for repeat in range(150):
        rng = np.random.default_rng(repeat)
        signal = rng.normal(size=40)  # which cells one of them happens to get right
        differences = []
        for _ in range(20):
            differences.append(signal[rng.permutation(40)[:20]].mean())
        d = np.array(differences)
        interval = rules.corrected_interval(d, 20, 20)
        corrected += not interval.low < 0 < interval.high
        plain += abs(d.mean()) > 2.09 * d.std(ddof=1) / np.sqrt(20)
    assert plain / 150 > 0.3
    assert corrected / 150 < 0.15


def test_differences_are_paired_by_seed(rules):
    rng = np.random.default_rng(0)
    luck = rng.normal(0.5, 0.1, 5)
    rows = [
        {"data": "a", "method": m, "seed": s, "F1": luck[s] + gain + 0.001 * rng.normal()}
        | {"cells learned from": 80, "cells scored": 20}
        for m, gain in (("base", 0.0), ("better", 0.02))
        for s in range(5)
    ]
    (found,) = rules.paired_differences(
        pd.DataFrame(rows), ["data"], ["F1", "not there"], "base"
    ).to_dict("records")
    assert found["mean"] == pytest.approx(0.02, abs=0.002)
    assert 0.01 < found["low"] < found["high"] < 0.03  # though seeds differ by 0.1
    assert (found["method"], found["seeds"], found["column"]) == ("better", 5, "F1")


def test_rules_that_only_some_methods_follow_are_named(rules):
    found = rules.unequal_rules(
        {
            "ours": {"epochs": 100, "library sizes": "real", "temperature": "fitted"},
            "theirs": {"epochs": 100, "library sizes": "mean", "temperature": None},
        }
    )
    assert found == {"library sizes": {"ours": "real", "theirs": "mean"}}


# --- distances and copies -----------------------------------------------------------------------


def test_a_distance_takes_equally_many_cells_as_its_floor(rules):
    """With W1, more cells are nearer: a thousand generated ones against the floor of half of 100."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(100, 5))
    rows = [rules.distances(rng.normal(size=(2000, 5)), real, seed) for seed in range(20)]
    means = pd.DataFrame(rows).mean()
    # Cells of the same distribution are exactly as far as the floor.
    assert means["W1"] == pytest.approx(means["W1, floor"], rel=0.05)
    assert means["energy distance"] == pytest.approx(means["energy distance, floor"], abs=0.05)
    from scivae.metrics import wasserstein_1

    unequal = wasserstein_1(rng.normal(size=(2000, 5)), real)
    assert unequal < 0.9 * means["W1, floor"]


def test_copies_of_training_cells_are_caught(rules):
    parts = rules.three_parts(cells(effect=0.3), KEY, 0)
    learn, judge, score = (features(part) for part in parts[:3])
    rng = np.random.default_rng(0)
    exact = learn[rng.permutation(len(learn))[:100]]
    assert "100 generated cells are training cells" in rules.copies(exact, learn, score)
    disguised = exact + 0.01 * rng.random(exact.shape)
    assert "nearer to a training cell than real ones" in rules.copies(disguised, learn, score)
    smote = (exact + 0.7 * (learn[rng.permutation(len(learn))[:100]] - exact)) * 1.0
    assert rules.copies(smote, learn, score) is not None
    assert rules.copies(judge, learn, score) is None  # fresh cells


# --- the harness keeps them ---------------------------------------------------------------------


def study(**changes):
    def measure(gain, data, seed, args):
        return {
            "accuracy": 0.5 + gain + 0.01 * np.sin(seed),
            "chance": 0.5,
            "cells learned from": 80,
            "cells scored": 20,
        }

    fields = {
        "name": "toy",
        "title": "Toy",
        "text": "Nothing.",
        "methods": {"base": 0.2, "better": 0.3, "base, labels permuted": 0.0},
        "settings": [{"data": "somewhere"}],
        "prepare": lambda setting, seed, args: None,
        "measure": measure,
        "judged": ["accuracy"],
        "reference": "base",
        "compared": ["accuracy"],
    }
    return import_module("_study").Study(**{**fields, **changes})


def test_a_table_says_what_is_void_and_what_differs(tmp_path):
    run = import_module("_study").run
    run(study(), ["--out", str(tmp_path), "--seeds", "3"])
    text = (tmp_path / "toy.md").read_text()
    assert "Void" not in text
    differences = text.split("## Differences")[1]
    assert "Difference in accuracy to *base*" in differences
    assert "| better | 3 | +0.100 | +0.100 to +0.100 |" in differences
    assert "labels permuted" not in differences  # another split: no pair
    cheat = study(name="cheat", methods={"base": 0.2, "better": 0.3, "base, labels permuted": 0.31})
    run(cheat, ["--out", str(tmp_path), "--seeds", "2"])
    text = (tmp_path / "cheat.md").read_text()
    assert "**Void** (somewhere): accuracy: base, labels permuted is +0.314 from chance" in text


def test_a_table_names_the_rules_that_methods_do_not_share(tmp_path):
    rules = {"base": {"epochs": 10, "loss": "one"}, "better": {"epochs": 20, "loss": "one"}}
    import_module("_study").run(
        study(rules=lambda: rules), ["--out", str(tmp_path), "--seeds", "1"]
    )
    text = (tmp_path / "toy.md").read_text()
    rules_told = text.split("Rules that methods do not share")[1]
    assert "| epochs | 10 | 20: *better* |" in rules_told
    assert "loss" not in rules_told


def test_adapters_say_how_they_are_trained():
    methods = import_module("_methods")
    ours, theirs = methods.CIVAE().rules(), methods.SCANVI().rules()
    assert set(ours) == set(theirs)
    recipe = methods.recipe().rules()
    assert {k: v for k, v in recipe.items() if v != ours[k]} == {"classes": None}


def test_one_seed_has_no_spread_and_no_interval(tmp_path):
    run = import_module("_study").run
    run(study(), ["--out", str(tmp_path), "--seeds", "1"])
    table = (tmp_path / "toy.md").read_text()
    assert "| better | 1 | 0.800 |" in table
    assert "| better | 1 | +0.100 | – |" in table


OF_FILES = (
    *("class_kept", "few_labels", "sets", "augmentation_use", "augmentation_realism"),
    *("middle", "time_to_quality", "tradeoff", "condition", "cost", "scanvi_settings"),
)


def test_every_study_of_cells_takes_a_file():
    studies = {p.stem for p in FOLDER.glob("*.py") if "STUDY = Study(" in p.read_text()}
    assert studies - set(OF_FILES) == {"mnist", "mnist_paper"}  # images


OPTIONS = {
    "condition": [
        "--donor-key",
        "donor",
        "--condition-key",
        "drug",
        "--source",
        "no",
        "--target",
        "yes",
    ],
    "tradeoff": ["--only", "discriminator_weight=0.0"],
    "augmentation_use": ["--only", "kept=5"],
    "augmentation_realism": ["--n-trees", "5"],
    "few_labels": ["--only", "labels kept, %=25"],
}


@pytest.mark.filterwarnings("ignore:Observation names")
@pytest.mark.parametrize("name", OF_FILES)
def test_studies_take_a_file_of_ones_own(name, tmp_path, monkeypatch):
    pytest.importorskip("imblearn", reason="the extra 'benchmarks' is not installed")
    adata = cells(400, 40)
    adata.obs = adata.obs.rename(columns={KEY: "my type"})
    adata.obs.loc[adata.obs_names[:3], "my type"] = np.nan
    adata.obs["drug"] = np.where(np.arange(adata.n_obs) % 2, "yes", "no")
    adata = concat([adata, adata[50:60]])  # the same cells twice, under the same names
    del adata.layers["counts"]
    adata.write_h5ad(tmp_path / "mine.h5ad")
    module = import_module(name)
    first = next(iter(module.STUDY.methods))
    monkeypatch.chdir(tmp_path)
    options = ["--seeds", "1", "--epochs", "1", "--methods", first]
    options += ["--data", "mine.h5ad", "--labels-key", "my type"]
    options += OPTIONS.get(name, [])
    rows = import_module("_study").run(module.STUDY, options)
    named = {"middle": ("held out", {"class_1", "class_2"})}
    column, expected = named.get(name, ("data", {"mine"}))
    if name == "condition":
        column, expected = "left out", {f"type: class_{i}" for i in range(4)}
        expected |= {f"donor: donor_{i}" for i in (0, 1, 2, 3, 5, 6)}  # of 4 there are too few
    assert set(rows[column]) == expected
    assert (tmp_path / f"{name}_mine" / f"{name}.csv").exists()  # not among the committed tables


def test_a_file_without_its_column_says_which_there_are(tmp_path, monkeypatch):
    cells(200, 40).write_h5ad(tmp_path / "mine.h5ad")
    monkeypatch.chdir(tmp_path)
    run = import_module("_study").run
    with pytest.raises(SystemExit, match="--labels-key must be a column .*'cell_type', 'donor'"):
        run(import_module("few_labels").STUDY, ["--data", "mine.h5ad", "--labels-key", "type"])


def test_whole_donors_of_a_file(tmp_path):
    data, rules = import_module("_data"), import_module("_rules")
    cells().write_h5ad(tmp_path / "donors.h5ad")
    data.FILES["donors"] = (tmp_path / "donors.h5ad", KEY, "donor")
    adata = data.load("donors", KEY)
    assert data.donor_key_of("donors") == "donor"
    assert rules.three_parts(adata, KEY, 0, donor_key="donor").units == "donors"


def test_equal_parts_of_the_pair_are_compared(rules):
    namespace = SimpleNamespace(obs=pd.DataFrame({"donor": ["a", "b", "c"], "group": list("xxy")}))
    assert rules.units(namespace, "donor") == "3 donors"
    assert rules.units(namespace, "donor", "group") == "one sample per group"

"""The benchmarks run, in quick mode and without their data, and their tables have the right shape."""

from __future__ import annotations

import argparse
import inspect
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
# Methods that are tried of each study (None: all), and cells that are meant to be empty.
STUDIES = {
    "class_kept": (
        ["real cells", "real cells, labels permuted", "conditional VAE", "PCA"]
        + ["CI-VAE (default)", "CI-VAE, labels permuted", "CI-VAE, β = 0 (the recipe)"],
        {
            "reconstruction loss": {"PCA", "real cells", "real cells, labels permuted"},
            "energy distance": {"real cells", "real cells, labels permuted"},
            "W1": {"real cells", "real cells, labels permuted"},
            "separability": {"real cells", "real cells, labels permuted"},
        },
    ),
    "middle": (
        ["two ends", "halves of the counts, OT pairs", "gene space, OT pairs"]
        + ["VAE, latent arithmetic", "CI-VAE, β = 0 (the recipe), OT pairs"],
        {},
    ),
    "condition": (None, {"fold change, r": {"control cells as they are"}}),
    "few_labels": (
        ["logistic regression, genes", "logistic regression, latent space of the recipe"]
        + ["SCANVI, tuned", "CI-VAE (default)", "CI-VAE, labels permuted"],
        {
            "calibration error, after": {
                "CI-VAE, labels permuted",
                "logistic regression, genes",
                "logistic regression, latent space of the recipe",
                "SCANVI, tuned",
            }
        },
    ),
    "sets": (
        ["sets, default", "sets, default, labels permuted", "sets, default, other donor"]
        + ["summed probabilities", "novelty", "1 − greatest probability"],
        None,
    ),
    "augmentation_realism": (
        ["real cells", "SMOTE", "PCA, Gaussian", "CI-VAE, augment (default)"]
        + ["CI-VAE, posterior draws, no line", "CI-VAE, lines, labels permuted"],
        {},
    ),
    "augmentation_use": (
        ["all cells kept", "nothing", "class weights", "PCA, OT midpoints"]
        + ["VAE, latent arithmetic", "conditional VAE, prior"],
        {},
    ),
    "scanvi_settings": (["default", "3 × the rate"], None),
    "cost": (
        ["CI-VAE", "CI-VAE, β = 0 (the recipe)", "scVI and SCANVI", "PCA"],
        {"reconstruction loss": {"PCA"}},
    ),
    "time_to_quality": (["default", "batch of 256, twice the rate", "early stopping"], {}),
    "tradeoff": (None, {}),
    "mnist": (
        ["real test images", "PCA", "VAE, Laplace", "CI-VAE, Laplace"],
        {
            "separability": {"real test images"},
            "unbroken": {"real test images"},
            "training time": {"real test images"},
        },
    ),
    "mnist_paper": (
        None,
        {
            "separability": {"real test images"},
            "unbroken": {"real test images"},
            "training time": {"real test images", "PCA"},
        },
    ),
}


@pytest.fixture(autouse=True)
def without_data(monkeypatch, tmp_path):
    pytest.importorskip("imblearn", reason="the extra 'benchmarks' is not installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("SCIVAE_DATA_DIR", str(tmp_path / "no data here"))


def test_every_study_is_tried():
    with_study = {p.stem for p in FOLDER.glob("*.py") if "STUDY = Study(" in p.read_text()}
    assert with_study == set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_quick_table(name, tmp_path):
    methods, empty = STUDIES[name]
    module = import_module(name)
    from _study import run

    methods = methods or list(module.STUDY.methods)
    rows = run(module.STUDY, ["--quick", "--out", str(tmp_path), "--methods", *methods])
    setting = list(module.STUDY.settings[0])
    pairs = rows[setting].drop_duplicates().to_dict("records") if setting else [{}]
    assert len(rows) == sum(not module.STUDY.skip(p, m) for p in pairs for m in methods)
    assert not rows.duplicated([*module.STUDY.by, "seed"]).any()
    assert sorted(rows["method"].unique()) == sorted(methods)
    assert not rows.columns.duplicated().any()
    for column in rows if empty is not None else ():
        meant = {m for part, group in empty.items() if part in column for m in group}
        assert set(rows.loc[rows[column].isna(), "method"]) == meant, column
    lines = (tmp_path / f"{name}.md").read_text().splitlines()
    after = [i for i, line in enumerate(lines) if line.startswith(("## Diff", "## Rules"))]
    table = [line for line in lines[: after[0] if after else None] if line.startswith("| ")]
    assert len([line for line in table if not line.startswith("| method |")]) == len(rows)
    assert any("scvi-tools" in line and "--quick" in line for line in lines)


def test_claims_of_the_paper(tmp_path):
    module = import_module("mnist_paper")
    rows = module.main(["--claims", "--quick", "--out", str(tmp_path)]).set_index("method")
    assert set(rows.index) == set(module.CLAIMS.methods)
    linear = rows["walks that leave"].dropna().drop("one hidden layer in the discriminator")
    assert (linear == 0).all()  # a straight line cannot leave a convex region


def test_training_of_networks_goes_on_where_it_stopped(tmp_path):
    import torch

    networks = import_module("_mnist_networks")
    recipes = {"CI-VAE": networks.PAPER, "distorted": networks.BETTER}
    whole = networks.Networks(recipes, tmp_path / "whole", quick=True)
    assert whole.train([0], recipes)
    parts = networks.Networks(recipes, tmp_path / "parts", quick=True)
    assert [parts.train([0], recipes, limit=0) for _ in range(6)][-1]
    for name in recipes:
        one, other = (torch.load(x.path(name, 0), weights_only=True) for x in (whole, parts))
        assert one["log"].equal(other["log"])
        assert all(one["weights"][k].equal(other["weights"][k]) for k in one["weights"])


def test_the_last_epochs_see_images_as_they_are(tmp_path):
    import torch

    networks, together = import_module("_mnist_networks"), import_module("_together")
    images = torch.rand(5, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(together.distorted(images, 0.0), images)
    assert not together.distorted(images).allclose(images, atol=0.05)
    made = networks.Networks({"distorted": networks.BETTER}, tmp_path, quick=True)
    task = made.task("distorted", 0)
    task.recipe = networks.replace(task.recipe, epochs=10, settle=0.2, dropout=0.5)
    pixels = torch.as_tensor((made.all.X * 255 / made.all.X.max()).round(), dtype=torch.uint8)
    stack = together.Stack([task], pixels)
    last = []
    for stack.epoch in range(10):
        stack.start_epoch()
        last.append(float(stack.unsettled) == 0)
    assert last == [False] * 8 + [True] * 2


def test_networks_are_trained_as_the_package_trains(tmp_path):
    """Losses, slopes and steps of networks side by side are those of each by itself."""
    import torch
    from scvi import REGISTRY_KEYS

    networks, together = import_module("_mnist_networks"), import_module("_together")
    parity = networks.replace(networks.PAPER, labels="parity", alpha=0.1, beta=3.0)
    recipes = {"digits": networks.PAPER, "parity": parity}
    made = networks.Networks(recipes, tmp_path, quick=True)
    tasks = [made.task(name, seed) for name, seed in (("digits", 0), ("parity", 1))]
    for task in tasks:
        task.recipe = networks.replace(task.recipe, dropout=0.0, warm_up=0.5)
        task.module.sample_latent = True
    images = torch.as_tensor((made.all.X * 255 / made.all.X.max()).round(), dtype=torch.uint8)
    stack = together.Stack(tasks, images)
    stack.epoch = 1
    stack.start_epoch()
    positions = stack.order[0]
    noise = torch.zeros(2, positions.shape[1], together.N_LATENT)
    modules = [build_without_dropout(task.module) for task in tasks]
    for module in modules:
        module.sample_latent = False  # the same draws for both would take the same calls
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda values: noise)
        stack.step()
    for i, module in enumerate(modules):
        lr = stack.recipe.lr
        optimizer = torch.optim.Adam(module.parameters(), lr=lr, eps=0.01, weight_decay=1e-6)
        tensors = {
            REGISTRY_KEYS.X_KEY: images[positions[i]].float() / 255,
            REGISTRY_KEYS.LABELS_KEY: stack.codes[i, positions[i]][:, None],
            REGISTRY_KEYS.BATCH_KEY: torch.zeros(positions.shape[1], 1),
        }
        output = module(tensors, loss_kwargs={"kl_weight": float(stack.share)})[2]
        output.loss.backward()
        optimizer.step()
        found = stack.state_dict(i)
        assert found.keys() == module.state_dict().keys()
        for key, value in module.state_dict().items():
            if "num_batches" not in key and "_dropout_" not in key and "px_r_decoder" not in key:
                torch.testing.assert_close(found[key], value, atol=3e-6, rtol=1e-5, msg=key)
        kl = sum(output.kl_local.values()).mean()
        torch.testing.assert_close(stack.sums[i, 1], kl, atol=1e-5, rtol=1e-5)


def test_products_in_bfloat16_change_losses_by_its_rounding_only(tmp_path):
    import torch

    networks, together = import_module("_mnist_networks"), import_module("_together")
    made = networks.Networks({"CI-VAE": networks.PAPER}, tmp_path, quick=True)
    images = torch.as_tensor((made.all.X * 255 / made.all.X.max()).round(), dtype=torch.uint8)
    found = []
    for bfloat16 in (False, True):
        stack = together.Stack([made.task("CI-VAE", 0)], images, bfloat16=bfloat16)
        stack.start_epoch()
        x, codes = stack.minibatch(stack.order[0])
        torch.manual_seed(0)
        loss, terms, _ = stack.loss(stack.weights, x, codes, stack.share)
        slopes = torch.autograd.grad(loss, stack.trained)
        assert all(slope.dtype == torch.float32 for slope in slopes)
        found.append((loss, terms, torch.cat([slope.ravel() for slope in slopes])))
    (loss, terms, slopes), (rounded, rounded_terms, rounded_slopes) = found
    assert loss != rounded
    torch.testing.assert_close(rounded, loss, rtol=0.01, atol=0)
    torch.testing.assert_close(rounded_terms, terms, rtol=0.02, atol=0.02)
    assert torch.cosine_similarity(slopes, rounded_slopes, dim=0) > 0.99


def build_without_dropout(module):
    """A copy of a network, to train."""
    import copy

    from torch import nn

    module = copy.deepcopy(module).train()
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return module


def test_committed_tables_go_on_where_they_are():
    from _common import DOCS

    for name in STUDIES:
        path = DOCS / f"{name}.csv"
        if path.exists():
            study, rows = import_module(name).STUDY, pd.read_csv(path)
            assert {*study.by, "seed", study.time} <= set(rows.columns)
            assert set(rows["method"]) <= set(study.methods)
            assert not rows.duplicated([*study.by, "seed"]).any()


def toy(measured: list, **changes):
    """A study of two methods in two settings, which notes what it measures."""
    from _study import Study

    def measure(method, data, seed, args):
        if method == "broken":
            raise ValueError("no such luck")
        measured.append((data, method, seed))
        return {"value": float(np.sin(seed + len(method)))}

    settings = {
        "name": "toy",
        "title": "Toy",
        "text": "Nothing.",
        "methods": {"a": "one", "b": "three"},
        "settings": [{"kept": 5}, {"kept": 10}],
        "prepare": lambda setting, seed, args: setting.get("kept"),
        "measure": measure,
    }
    return Study(**{**settings, **changes})


def test_goes_on_where_it_stopped(tmp_path):
    from _study import run

    measured: list = []
    out = ["--out", str(tmp_path)]
    first = run(toy(measured), [*out, "--seeds", "1", "--methods", "a"])
    assert measured == [(5, "one", 0), (10, "one", 0)]
    rows = run(toy(measured), [*out, "--seeds", "2"])
    assert len(rows) == len(measured) == len(set(measured)) == 8
    pd.testing.assert_frame_equal(rows.iloc[:2], first)
    again = run(toy(measured), [*out, "--seeds", "2", "--methods", "b", "--restart"])
    assert len(again) == 8
    assert len(measured) == 12
    assert {method for _, method, _ in measured[8:]} == {"three"}
    assert "| a | 5 | 2 |" in (tmp_path / "toy.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.csv", "toy.md"]


def test_only_some_settings(tmp_path, capsys):
    from _study import run

    measured: list = []
    out = ["--out", str(tmp_path), "--seeds", "1"]
    run(toy(measured), [*out, "--only", "kept=10"])
    assert {kept for kept, _, _ in measured} == {10}
    with pytest.raises(SystemExit):
        run(toy(measured), [*out, "--only", "kept=7"])
    assert "--only must be" in capsys.readouterr().err


def test_rows_of_other_settings_are_measured_again(tmp_path, capsys):
    from _study import run

    measured: list = []
    options = {"options": lambda parser: parser.add_argument("--n-genes", type=int, default=9)}
    out = ["--out", str(tmp_path), "--seeds", "1", "--methods", "a"]
    first = run(toy(measured, **options), out)
    run(toy(measured, **options), out)
    assert len(measured) == 2
    again = run(toy(measured, **options), [*out, "--n-genes", "8", "--only", "kept=5"])
    assert "1 rows were measured with other settings or versions" in capsys.readouterr().out
    assert len(measured) == 3
    assert sorted(again["kept"]) == [5, 10]  # the old row gave way to the new one
    same = again.set_index("kept")["key"].sort_index() == first.set_index("kept")["key"]
    assert same.to_dict() == {5: False, 10: True}
    run(toy(measured, **options, protocol=2), out)
    assert len(measured) == 5


def test_rows_of_another_machine_are_merged(tmp_path, monkeypatch, capsys):
    import _study

    here, there = tmp_path / "here", tmp_path / "there"
    options = ["--seeds", "2"]
    monkeypatch.setattr(_study, "machine", lambda packages: "an old machine")
    old = _study.run(toy([], protocol=0), [*options, "--out", str(here)])  # all are outdated
    _study.run(toy([]), [*options, "--out", str(here), "--methods", "a", "--only", "kept=5"])
    monkeypatch.setattr(_study, "machine", lambda packages: "a large machine")
    part = [*options, "--out", str(there), "--first-seed", "1"]
    new = _study.run(toy([]), [*part, "--methods", "a"])
    assert set(new["seed"]) == {1}
    _study.run(toy([], protocol=0), [*part, "--methods", "b"])
    capsys.readouterr()
    measured: list = []
    rows = _study.run(toy(measured), ["--out", str(here), "--merge", str(there / "toy.csv")])
    assert not measured
    assert "2 of 4 rows are taken, 1 rows give way" in capsys.readouterr().out
    assert set(old["method"]) == {"a", "b"}
    found = rows.set_index(["kept", "method", "seed"])["measured with"].to_dict()
    assert found == {
        (5, "a", 0): "an old machine",
        (5, "a", 1): "a large machine",
        (10, "a", 1): "a large machine",
    }
    text = (here / "toy.md").read_text()
    assert "2 rows: a large machine; 1 rows: an old machine" in text
    assert "--merge" not in text


def test_keys_follow_versions_and_defaults(monkeypatch):
    methods = import_module("_methods")
    ours, theirs = methods.fingerprint(methods.CIVAE), methods.fingerprint(methods.SCANVI)
    assert methods.fingerprint(lambda: methods.CIVAE(train_size=0.9)) != ours
    with monkeypatch.context() as patch:  # where training starts, too
        patch.setattr("scivae.train.dispersion.UNEXPLAINED", 0.123)
        assert methods.fingerprint(methods.CIVAE) != ours
    monkeypatch.setattr(methods, "version", {"scivae-tools": "9", "scvi-tools": "1"}.get)
    assert methods.fingerprint(methods.CIVAE) != ours
    assert methods.fingerprint(methods.SCANVI) != theirs
    theirs = methods.fingerprint(methods.SCANVI)
    monkeypatch.setattr(methods, "ours", dict)  # what this package does is not theirs
    assert methods.fingerprint(methods.SCANVI) == theirs


@pytest.mark.parametrize(
    ("mean", "sd", "shown"),
    [
        (0.16093, 0.0241, "0.161 ± 0.024"),
        (0.2, 3.4e-17, "0.200"),
        (1726, 0, "1,726"),
        (644.3, 0.213, "644.30 ± 0.21"),
        (1257.2, 151, "1,257 ± 151"),
        (0.02678, 0.00034, "0.0268 ± 0.0003"),
        (16690.4, np.nan, "16,690"),
        (1.5864e-07, np.nan, "1.6e-7"),
        (np.nan, np.nan, "–"),
    ],
)
def test_numbers_of_a_table_have_as_many_digits_as_they_are_known_to(mean, sd, shown):
    from _common import spread

    assert spread(mean, sd) == shown


def test_each_data_set_has_its_table_and_what_all_rows_share_stands_above_it(tmp_path):
    from _study import run

    settings = [{"data": data, "kept": kept} for data in "xy" for kept in (5, 10)]

    def measure(method, data, seed, args):
        return {"value": float(len(method) * data), "chance": 0.25}

    run(toy([], settings=settings, measure=measure), ["--out", str(tmp_path), "--seeds", "1"])
    text = (tmp_path / "toy.md").read_text()
    head, x, y = text.split("## ")
    assert (x[0], y[0]) == ("x", "y")
    assert "| method |" not in head
    for part in (x, y):
        assert "The same in all rows: chance: 0.250." in part
        assert "| method | kept | seeds |" in part
        assert "| b | 10 | 1 | 50 |" in part


def test_a_table_names_what_was_not_run(tmp_path):
    from _study import run

    out = ["--out", str(tmp_path), "--seeds", "1"]
    run(toy([], settings=[{"data": "x"}, {"data": "y"}]), [*out, "--datasets", "x"])
    text = (tmp_path / "toy.md").read_text()
    assert "Not run yet: *a*, *b* (y)." in text
    run(toy([], settings=[{"data": "x"}, {"data": "y"}]), out)
    assert "Not run yet" not in (tmp_path / "toy.md").read_text()


def test_a_method_that_the_versions_lack_is_left_out(tmp_path, capsys):
    from _methods import Unavailable
    from _study import run

    def measure(method, data, seed, args):
        raise Unavailable("scvi-tools 9 has it")

    run(toy([], measure=measure), ["--out", str(tmp_path), "--seeds", "1", "--methods", "a"])
    assert "a: left out, scvi-tools 9 has it" in capsys.readouterr().out


def test_wrong_labels_are_wrong():
    few_labels = import_module("few_labels")
    labels = np.array(["a", "b", "c", few_labels.UNKNOWN] * 25, dtype=object)
    wrong = few_labels.with_wrong(labels, 40, np.random.default_rng(0))
    known = labels != few_labels.UNKNOWN
    assert (wrong[known] != labels[known]).sum() == 30
    assert (wrong[~known] == few_labels.UNKNOWN).all()
    assert set(wrong[known]) == {"a", "b", "c"}


def test_a_nearest_neighbor_tells_clouds_apart():
    accuracy = import_module("augmentation_realism").nearest_neighbor_accuracy
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400, 3))
    assert accuracy(a, b) == pytest.approx(0.5, abs=0.06)
    assert accuracy(a, b + 9) == 1
    assert accuracy(a, a + 1e-6) == 0  # copies


def test_a_method_that_fails_costs_no_other(tmp_path, capsys):
    from _study import run

    study = toy([], methods={"a": "one", "bad": "broken", "b": "three"})
    with pytest.raises(SystemExit, match="4 of 12 rows failed"):
        run(study, ["--out", str(tmp_path), "--seeds", "2"])
    assert len(pd.read_csv(tmp_path / "toy.csv")) == 8
    assert "no such luck" in capsys.readouterr().err


def test_says_how_long_the_rest_takes():
    from argparse import Namespace

    from _study import Table

    table = Table(toy([]), Namespace(out=Path.cwd(), script="toy", argv=[]))
    table.seconds = {"a": [1.0, 3.0]}
    table.rows = lambda: pd.DataFrame({"method": ["a", "b"], "time, s": [50.0, 10.0]})
    assert table.seconds_left(["a", "b", "a"]) == 2 + 10 + 2


def test_figures_of_the_page_are_drawn_from_the_committed_tables(tmp_path):
    figures = import_module("_figures")
    figures.main(tmp_path)
    made = {p.name for p in tmp_path.iterdir()}
    shown = set(
        re.findall(r"_static/(evidence_\w+\.png)", (FOLDER.parent / "docs/evidence.md").read_text())
    )
    assert shown <= made
    assert all((figures.FOLDER / name).exists() for name in shown)


def test_readme_shows_a_method_as_it_is():
    source = inspect.getsource(import_module("_methods").Gaussian)
    assert f"```python\n{source}```" in (FOLDER / "README.md").read_text()


def test_a_shared_model_takes_the_labels_of_the_moment():
    data, methods = import_module("_data"), import_module("_methods")
    adata = data.load("pbmc_kang", "cell_type", quick=True)
    first = methods.fitted(methods.SCVI(), adata, "cell_type", 0, 1)
    relabeled = adata.copy()
    relabeled.obs["cell_type"] = "other"
    second = methods.fitted(methods.SCVI(), relabeled, "cell_type", 0, 1)
    assert second is first  # scVI knows no labels
    assert set(data.labels_of(second.train, "cell_type")) == {"other"}
    assert methods.fitted(methods.SCVI(), adata, "cell_type", 1, 1) is not first


def test_cells_on_the_disk_give_the_results_of_cells_in_memory(capsys):
    """The quick form raises where they differ."""
    pytest.importorskip("zarr")
    import_module("larger_than_memory").main(["--quick"])
    assert "memory" in capsys.readouterr().out


def test_speed_says_that_results_are_right(tmp_path):
    """No time is judged: shapes of the tables, and that both ways to encode agree."""
    speed = import_module("speed")
    made = speed.main(["--quick", "--out", str(tmp_path)])
    training = made["training"]
    beside = speed.products.uses_onednn()  # a row with MKL is then beside the one without
    assert len(training) == 6 + beside
    assert (training["cells a second"] > 0).all()
    assert np.isfinite(training["ELBO"]).all()
    # the same objective, the same epochs: CI-VAE with beta = 0 fits unseen cells as scVI does
    elbo = training.set_index("method")["ELBO"]
    assert elbo["CI-VAE, β = 0"] == pytest.approx(elbo["scVI"], rel=0.05)
    assert made["latent_space"]["largest difference"].max() < 1e-4
    assert set(made["growth"]["axis"]) == {"cells", "genes", "classes"}
    assert (tmp_path / "speed_growth.png").stat().st_size > 1000


def test_order_of_genes_on_little_data():
    """The ceiling knows the order, and measured cells come near it."""
    order = import_module("order")
    args = argparse.Namespace(data=None, labels_key="stage", stages=None, quick=True, epochs=15)
    adata, stages = order.read(args)
    assert stages == [f"class_{i}" for i in range(5)]
    table = pd.DataFrame(order.one_seed(adata, stages, args, 0)).set_index("method")
    for _, rows in table.groupby("genes"):
        ceiling = rows.iloc[-1]
        for name in ("rising", "falling"):
            assert ceiling[f"Spearman, {name}"] > 0.8
            assert rows.loc["CI-VAE, measured cells (default)", f"Spearman, {name}"] > 0.6
            assert (rows[f"n, {name}"] > 5).all()
        assert ceiling["of ceiling, rising"] == 1
    n = table.groupby("genes")["n, rising"].first()
    assert n["sure"] <= n["changing"]


def test_a_hidden_property_of_the_samples_makes_false_calls():
    donors = import_module("donors")
    names = ("3 pairs, no gene", "3 pairs, all genes")
    designs = {name: donors.HIDDEN[name] for name in names}
    rows = donors.hidden_properties(60, pd.DataFrame(), designs, ("moderated t (rank_genes)",))
    none, all_genes = rows.set_index("design").loc[list(names), "null runs with a call, %"]
    assert none <= 5 < all_genes
    # One property explains more of the differences between samples where genes follow it.
    first = []
    for design in designs.values():
        data = donors.simulate(design, np.random.default_rng(0), np.zeros(donors.N_GENES))
        sums = data.samples.values
        logs = np.log(sums / sums.sum(axis=1, keepdims=True))[:, sums.min(axis=0) > 20]
        singular = np.linalg.svd(logs - logs.mean(axis=0))[1]
        first.append(singular[0] / singular.sum())
    assert first[1] > 1.3 * first[0]
    committed = pd.read_csv(FOLDER.parent / "docs/evidence/donors_hidden.csv")
    assert list(committed.columns) == list(rows.columns)
    found = committed.set_index(["test", "design"])["null runs with a call, %"]
    found = found["moderated t (rank_genes)"]
    assert set(found.index) == set(donors.HIDDEN)
    page = (FOLDER.parent / "docs" / "which_p_value.md").read_text()
    for name in ("3 pairs", "4 pairs", "5 pairs", "6 pairs", "3 + 3 donors", "5 + 5 donors"):
        value = found[f"{name}, 50 % of genes"]
        assert f"| {name} | {value:.1f} % |" in page


def test_power_grows_with_donors_and_cells():
    power = import_module("power")
    rows = power.measure(1, donors=(3, 6), cells=(10, 60), folds=(4.0,))
    found = rows.set_index(["donors per group", "cells per donor"])["power"]
    assert found[3, 10] < found[3, 60]
    assert found[3, 10] < found[6, 10]
    assert found[6, 60] > 0.9
    assert (rows["false calls"] < 0.2).all()
    committed = pd.read_csv(FOLDER.parent / "docs/evidence/power.csv")
    assert list(committed.columns) == list(rows.columns)


@pytest.mark.slow
def test_several_processes_are_timed():
    options = ["--quick", "--only", "training", "annotate, h5ad", "--shapes", "1 × 1", "2 × 1"]
    table = import_module("processes").main(options)
    assert len(table) == 4
    assert table["processes × threads"].tolist() == ["1 × 1", "2 × 1"] * 2
    assert (table["cells a second"] > 0).all()


@pytest.mark.slow
def test_growth_goes_on_where_it_stopped(tmp_path, monkeypatch):
    growth = import_module("growth")
    sizes = {"cells": (60, 120), "classes": (2, 5)}
    monkeypatch.setattr(growth, "AXES", {**dict.fromkeys(growth.AXES, ()), **sizes})
    options = ["--n-cells", "200", "--n-genes", "40", "--out", str(tmp_path)]
    options += ["--figure", str(tmp_path / "growth.png")]
    first = growth.main([*options, "--most", "60"])
    assert first["size"].tolist() == [60, 60, 2, 5]
    measured = []
    measure = growth.measure
    monkeypatch.setattr(growth, "measure", lambda *a: measured.append(a[:2]) or measure(*a))
    table = growth.main(options)
    assert measured == [("cells", 120)]
    assert table["size"].tolist() == [60, 60, 120, 120, 2, 5]
    assert growth.slopes(table)["axis"].tolist() == ["cells", "cells", "classes"]
    assert (tmp_path / "growth.png").stat().st_size > 1000
    assert "Exponent of the growth" in (tmp_path / "growth.md").read_text()

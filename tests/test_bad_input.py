"""Input that is wrong is refused in words that say why, and changes nothing; odd input is right."""

from __future__ import annotations

import re
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.conftest import CLASSES, N_CELLS, assert_unchanged, make_adata, make_model, snapshot

from scivae import tl
from scivae._errors import shown
from scivae._validate.tables import check_genes
from scivae.geometry.methods import PATH_METHODS
from scivae.model import CIVAE
from scivae.module import LIKELIHOODS

NAN = float("nan")
COLUMNS = "'cell_type', 'batch', 'site', 'age', 'size'"
Z = np.zeros((2, 4))


def labels(values):
    def change(adata):
        adata.obs["cell_type"] = values

    return change


def some_labels(**values):
    """Labels of single cells: ``some_labels(i3=...)`` for that of the third."""

    def change(adata):
        column = adata.obs["cell_type"].astype(object)
        for i, value in values.items():
            column.iloc[int(i[1:])] = value
        adata.obs["cell_type"] = column

    return change


def column(**values):
    def change(adata):
        for name, value in values.items():
            adata.obs[name] = value

    return change


def counts(function):
    def change(adata):
        adata.layers["counts"] = function(adata.layers["counts"].toarray())

    return change


def value(x, row=3, gene=5):
    def change(adata):
        dense = adata.layers["counts"].toarray()
        dense[row, gene] = x
        adata.layers["counts"] = dense

    return change


def names(axis, function):
    def change(adata):
        setattr(adata, f"{axis}_names", function(list(getattr(adata, f"{axis}_names"))))

    return change


def part(*index):
    return lambda adata: adata[index].copy()


def two_columns(adata):
    adata.obs = pd.concat([adata.obs, adata.obs[["cell_type"]]], axis=1)


def renamed_genes(adata):
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"g{i}" for i in range(adata.n_vars)]


def no_values(adata):
    return anndata.AnnData(obs=adata.obs, var=adata.var)


def no_layer(adata):
    del adata.layers["counts"]


def of_objects(*objects):
    """A column of things that pandas would otherwise unpack."""
    values = np.empty(N_CELLS, dtype=object)
    for i in range(N_CELLS):
        values[i] = objects[i % len(objects)]
    return values


MISSING = "every cell needs a label unless unlabeled_category is given, but adata.obs['cell_type'] is missing in {} of 120 cells; pass unlabeled_category='Unknown' to train on them without labels, or remove them."
KINDS = "labels must be strings, integers, floats or booleans, and of one type, but adata.obs['cell_type'] holds {}; convert the column with .astype(str)."
NO_COLUMN = "{} must be a column of adata.obs, got {!r}; available columns: " + COLUMNS + "."
FINITE = "expression values must be finite, but adata.layers['counts'] is NaN or infinite at cell 'cell_3', gene 'gene_5'; remove such cells or genes, or replace the values."
LIKELIHOOD = f"likelihood must be 'auto' or one of {shown(LIKELIHOODS)}, got {{!r}}."
COUNTS = "likelihood={!r} needs raw counts, but adata.layers['counts'] holds {}; pass layer= with the name of the raw counts to setup_anndata (available layers: none), or choose likelihood='normal'."
METHODS = f"method must be one of {shown(PATH_METHODS)}, got {{!r}}."
PAIRED = "{} must be a value that occurs in adata.obs['cell_type'], got {!r}; available values: 'alpha', 'beta', 'gamma'."

# change of the AnnData, arguments of setup_anndata, error, its text
SETUP = {
    "no AnnData": (lambda a: a.to_df(), {}, TypeError, "adata must be an AnnData, got DataFrame."),
    "unknown argument": (None, {"label_key": "cell_type"}, TypeError, "setup_anndata's arguments must be adata and any of 'labels_key', 'unlabeled_category', 'layer', 'batch_key', 'size_factor_key', 'categorical_covariate_keys', 'continuous_covariate_keys', 'ordered', got 'label_key'; leave it out. Did you mean 'labels_key'?"),
    "view": (lambda a: a[:90], {}, ValueError, "adata is a view, but setup_anndata writes to adata.obs; pass adata.copy()."),
    "no cells": (part(slice(0)), {}, ValueError, "adata must have cells and genes, got 0 × 40; check the filter that made it."),
    "no genes": (part(slice(None), slice(0)), {}, ValueError, "adata must have cells and genes, got 120 × 0; check the filter that made it."),
    "no values": (no_values, {}, KeyError, "layer must be a key of adata.layers or there must be values in adata.X, got 'X'; available layers: none."),
    "genes named twice": (names("var", lambda n: ["gene_0", *n[:-1]]), {}, ValueError, "adata.var_names must be unique, but 'gene_0' appear more than once; call adata.var_names_make_unique()."),
    "labels unknown": (None, {"labels_key": "celltype"}, KeyError, NO_COLUMN.format("labels_key", "celltype") + " Did you mean 'cell_type'?"),
    "labels not a name": (None, {"labels_key": ["cell_type"]}, TypeError, "labels_key must be the name of a column of adata.obs, got ['cell_type'] (list)."),
    "labels none": (None, {"labels_key": None}, TypeError, "labels_key must be the name of a column of adata.obs, got None (NoneType)."),
    "labels twice": (two_columns, {}, ValueError, "labels_key must name one column of adata.obs, but 2 are called 'cell_type'; rename or drop the others."),
    "label NaN": (some_labels(i1=NAN, i4=None), {}, ValueError, MISSING.format(2)),
    "label NA": (labels(pd.array(["a", None, "b"] * 40, dtype="string")), {}, ValueError, MISSING.format(40)),
    "numeric label NaN": (labels([1.0, NAN] * 60), {}, ValueError, MISSING.format(60)),
    "labels mixed": (some_labels(i1=1), {}, TypeError, KINDS.format("int and str")),
    "labels mixed with booleans": (labels(of_objects(True, 1)), {}, TypeError, KINDS.format("bool and int")),
    "categories mixed": (labels(pd.Categorical(["a", 1, 2.5] * 40)), {}, TypeError, KINDS.format("float and int and str")),
    "labels lists": (labels(of_objects([1], [2])), {}, TypeError, KINDS.format("list")),
    "labels tuples": (labels(of_objects((1, 2), (3, 4))), {}, TypeError, KINDS.format("tuple")),
    "labels dates": (labels(pd.to_datetime(["2020-01-01", "2020-01-02"] * 60)), {}, TypeError, KINDS.format("Timestamp")),
    "labels intervals": (labels(pd.cut(np.arange(N_CELLS), 3)), {}, TypeError, KINDS.format("Interval")),
    "nothing labeled": (labels("?"), {"unlabeled_category": "?"}, ValueError, "at least one cell must have a label, got none in adata.obs['cell_type']; check labels_key and unlabeled_category."),
    "unlabeled_category a list": (None, {"unlabeled_category": ["alpha"]}, TypeError, "unlabeled_category must be one value, got ['alpha']; write one text for all cells without a label."),
    "layer unknown": (None, {"layer": "count"}, KeyError, "layer must be a key of adata.layers or 'X', got 'count'; available layers: 'counts'. Did you mean 'counts'?"),
    "layer not a name": (None, {"layer": ["counts"]}, TypeError, "layer must be the name of a layer, got ['counts'] (list)."),
    "batch unknown": (None, {"batch_key": ""}, KeyError, NO_COLUMN.format("batch_key", "")),
    "batch not a name": (None, {"batch_key": True}, TypeError, "batch_key must be the name of a column of adata.obs, got True (bool)."),
    "batch missing": (column(batch=["one", None] * 60), {"batch_key": "batch"}, ValueError, "batch_key needs a value for every cell, but adata.obs['batch'] is missing in 60 of 120 cells; fill them in or remove these cells."),
    "covariates one name": (None, {"categorical_covariate_keys": "site"}, TypeError, "categorical_covariate_keys must be a list of columns, got 'site'; write ['site']."),
    "covariates a number": (None, {"categorical_covariate_keys": 3}, TypeError, "categorical_covariate_keys must be a list of columns, got 3 (int)."),
    "covariates twice": (None, {"categorical_covariate_keys": ["site", "site"]}, ValueError, "categorical_covariate_keys must name each column once, got 'site' twice; drop one of them."),
    "covariate of words": (None, {"continuous_covariate_keys": ["cell_type"]}, ValueError, "continuous_covariate_keys needs finite numbers, but adata.obs['cell_type'] (dtype category) is 'alpha' for cell 'cell_0' (120 such cells); correct the column, or remove these cells."),
    "covariate infinite": (column(age=[1.0, np.inf] * 60), {"continuous_covariate_keys": ["age"]}, ValueError, "continuous_covariate_keys needs finite numbers, but adata.obs['age'] (dtype float64) is inf for cell 'cell_1' (60 such cells); correct the column, or remove these cells."),
    "size factors in words": (column(size=["1", "2"] * 60), {"size_factor_key": "size"}, ValueError, f"size_factor_key needs positive numbers, but adata.obs['size'] (dtype {pd.Series(['1']).dtype}) is '1' for cell 'cell_0' (120 such cells); correct the column, or remove these cells."),
    "size factor zero": (column(size=[1, 0] * 60), {"size_factor_key": "size"}, ValueError, "size_factor_key needs positive numbers, but adata.obs['size'] (dtype int64) is 0 for cell 'cell_1' (60 such cells); correct the column, or remove these cells."),
    "value NaN": (value(NAN), {}, ValueError, FINITE),
    "value infinite": (value(-np.inf), {}, ValueError, FINITE),
    "values complex": (counts(lambda x: x.astype(complex)), {}, TypeError, "expression values must hold numbers, got dtype complex128; convert the matrix with .astype('float32')."),
    "values words": (counts(lambda x: x.astype(str)), {}, TypeError, "expression values must hold numbers, got dtype <U32; convert the matrix with .astype('float32')."),
    "values objects": (counts(lambda x: x.astype(object)), {}, TypeError, "expression values must hold numbers, got dtype object; convert the matrix with .astype('float32')."),
    "values masked": (counts(lambda x: np.ma.masked_array(x, x > 30)), {}, TypeError, "expression values must not be missing, got a masked array; fill it with .filled(0)."),
}  # fmt: skip

# change of the AnnData before its setup, arguments of CIVAE, error, its text
MODEL = {
    "one class": (labels("only"), {}, ValueError, "a discriminator needs at least two classes, but adata.obs['cell_type'] holds only 'only'; choose another labels_key, or train a plain VAE with discriminator_weight=0."),
    "one cell": (part(slice(1)), {}, ValueError, "a discriminator needs at least two classes, but adata.obs['cell_type'] holds only 'alpha'; choose another labels_key, or train a plain VAE with discriminator_weight=0."),
    "negative counts": (value(-2), {"likelihood": "nb"}, ValueError, COUNTS.format("nb", "negative values (the smallest is -2)")),
    "fractions": (value(0.5), {"likelihood": "poisson"}, ValueError, COUNTS.format("poisson", "values that are not whole numbers")),
    "cells without counts": (value(0, slice(3, 5), slice(None)), {}, ValueError, "every cell needs at least one count under likelihood='nb', but 2 cells of adata.layers['counts'] are all zero ('cell_3', 'cell_4'); remove them with scanpy.pp.filter_cells(adata, min_counts=1)."),
    "huge counts": (value(1e30), {}, ValueError, "values must not exceed 1e+08 under likelihood='nb', but the largest of adata.layers['counts'] is 1e+30; scale them, or remove invalid entries."),
    "huge values": (value(-1e20), {}, ValueError, "values must not exceed 1e+15 under likelihood='normal', but the largest of adata.layers['counts'] is 1e+20; scale them, or remove invalid entries."),
    "values above one": (None, {"likelihood": "bernoulli"}, ValueError, "likelihood='bernoulli' needs values in [0, 1], but those of adata.layers['counts'] lie in [0, 33]; scale them (pixels / 255), or choose likelihood='normal' or 'laplace'."),
    "sigmoid above one": (None, {"likelihood": "normal", "sigmoid": True}, ValueError, "sigmoid=True needs values in [0, 1], but those of adata.layers['counts'] lie in [0, 33]; scale them, or leave sigmoid out."),
    "likelihood": (None, {"likelihood": "negbin"}, ValueError, LIKELIHOOD.format("negbin")),
    "likelihood a number": (None, {"likelihood": 3}, ValueError, LIKELIHOOD.format(3)),
    "n_hidden": (None, {"n_hidden": 0}, ValueError, "n_hidden must be at least 1, got 0."),
    "n_latent": (None, {"n_latent": "4"}, TypeError, "n_latent must be an integer, got '4' (str)."),
    "n_layers": (None, {"n_layers": True}, TypeError, "n_layers must be an integer, got True (bool)."),
    "dropout_rate": (None, {"dropout_rate": 1.5}, ValueError, "dropout_rate must lie in [0, 1], got 1.5."),
    "discriminator_weight": (None, {"discriminator_weight": NAN}, ValueError, "discriminator_weight must lie in [0, inf], got nan."),
    "kl_weight": (None, {"kl_weight": "1"}, TypeError, "kl_weight must be a number, got '1' (str)."),
    "class_weights": (None, {"class_weights": "balance"}, ValueError, "class_weights must be one of 'balanced', 'none', got 'balance'. Did you mean 'balanced'?"),
    "class_weights of none": (None, {"class_weights": {"delta": 1}}, KeyError, "class_weights must be a class that the model was trained on, got 'delta'; available: 'alpha', 'beta', 'gamma'. Did you mean 'beta'?"),
    "class_weights negative": (None, {"class_weights": {"beta": -1}}, ValueError, "class_weights['beta'] must lie in [0, inf], got -1."),
    "sample_latent": (None, {"sample_latent": "no"}, TypeError, "sample_latent must be True or False, got 'no' (str)."),
    "sigmoid": (None, {"sigmoid": 1}, TypeError, "sigmoid must be True or False, got 1 (int)."),
    "seed": (None, {"seed": -1}, ValueError, "seed must be at least 0, got -1."),
    "dispersion": (None, {"dispersion": "gene-label"}, ValueError, "dispersion must not depend on a label, because a free latent point has none, got 'gene-label'; use 'gene', 'gene-batch' or 'gene-cell'."),
    "name of SCANVI": (None, {"classification_ratio": 50}, TypeError, "classification_ratio=50 is called discriminator_weight here; pass discriminator_weight=50."),
    "name of scvi-tools": (None, {"gene_likelihood": "zinb"}, TypeError, "gene_likelihood='zinb' is called likelihood here; pass likelihood='zinb'."),
    "from the setup": (None, {"n_batch": 4}, TypeError, "n_batch follows from setup_anndata and cannot be passed, got 4 (int); leave it out."),
    "misspelt": (None, {"n_latnet": 4}, TypeError, "**kwargs must be arguments of scvi.module.VAE, got 'n_latnet'. Did you mean 'n_latent' or 'n_layers' or 'n_labels'?"),
}  # fmt: skip

# arguments of train, error, its text
TRAIN = {
    "max_epochs": ({"max_epochs": 1.5}, TypeError, "max_epochs must be an integer, got 1.5 (float)."),
    "no epochs": ({"max_epochs": 0}, ValueError, "max_epochs must be at least 1, got 0."),
    "seed": ({"seed": "1"}, TypeError, "seed must be an integer, got '1' (str)."),
    "batch_size": ({"batch_size": 1}, ValueError, "batch_size must be at least 2, got 1."),
    "train_size": ({"train_size": "0.9"}, TypeError, "train_size must be a number, got '0.9' (str)."),
    "train_size zero": ({"train_size": 0}, ValueError, "train_size must lie in (0, 1], got 0."),
    "train_size small": ({"train_size": 0.001}, ValueError, "training needs at least two cells, got 1; raise train_size, or pass more cells."),
    "validation_size": ({"validation_size": NAN}, ValueError, "validation_size must lie in [0, 1], got nan."),
    "sizes": ({"train_size": 0.9, "validation_size": 0.5}, ValueError, "validation_size must lie in [0, 1 - train_size], got 0.5 with train_size=0.9."),
    "shuffle_set_split": ({"shuffle_set_split": "no"}, TypeError, "shuffle_set_split must be True or False, got 'no' (str)."),
    "check_val_every_n_epoch": ({"check_val_every_n_epoch": 0}, ValueError, "check_val_every_n_epoch must be at least 1, got 0."),
    "plan_kwargs": ({"plan_kwargs": "fast"}, TypeError, "plan_kwargs must be a dict of arguments, got 'fast' (str); write {argument: value}."),
    "plan_kwargs misspelt": ({"plan_kwargs": {"thining": 0.5}}, TypeError, "plan_kwargs has no 'thining'. Did you mean 'thinning'?"),
    "lr": ({"plan_kwargs": {"lr": -1}}, ValueError, "plan_kwargs['lr'] must lie in [0, inf], got -1."),
    "thinning": ({"plan_kwargs": {"thinning": 1.0}}, ValueError, "thinning must lie in [0, 1), got 1.0."),
    "datasplitter_kwargs": ({"datasplitter_kwargs": ["x"]}, TypeError, "datasplitter_kwargs must be a dict of arguments, got ['x'] (list); write {argument: value}."),
    "no cells to train on": ({"datasplitter_kwargs": {"external_indexing": [np.array([3])]}}, ValueError, "training needs at least two cells, got 1; raise train_size, or pass more cells."),
    "no minibatches": ({"limit_train_batches": 0}, ValueError, "limit_train_batches must be above 0, got 0; leave it out for no limit."),
    "no steps": ({"max_steps": 0}, ValueError, "max_steps must be above 0, got 0; leave it out for no limit."),
    "no time": ({"max_time": "00:00:00:00"}, ValueError, "max_time must be above 0, got '00:00:00:00'; leave it out for no limit."),
    "devices of a CPU": ({"accelerator": "cpu", "devices": [3]}, ValueError, "devices must be a number of processes with accelerator='cpu', got [3]; pass devices=1."),
    "weights of SCANVI": ({"plan_kwargs": {"classification_ratio": 50}}, TypeError, "plan_kwargs has no 'classification_ratio'; pass CIVAE(…, discriminator_weight=…) when you make the model."),
    "balance of SCANVI": ({"n_samples_per_label": 10}, TypeError, "train() has no argument 'n_samples_per_label'; pass CIVAE(…, class_weights='balanced'), the default, which weighs all classes alike."),
    "datamodule": ({"datamodule": "x"}, TypeError, "datamodule must be a LightningDataModule, got str; make one with BlockDataModule(path)."),
}  # fmt: skip

# change of an AnnData that a trained model has not seen, error of predict, its text
QUERY = {
    "no AnnData": (lambda a: "adata", TypeError, "adata must be an AnnData, got 'adata' (str)."),
    "genes missing": (part(slice(None), slice(3, None)), ValueError, "adata must have the 40 genes that the model was trained on, but 3 are missing ('gene_0', 'gene_1', 'gene_2'); CIVAE.prepare_query_anndata(adata, model) fills them with zeros."),
    "genes reordered": (part(slice(None), slice(None, None, -1)), ValueError, "adata must have the 40 genes of the model in the same order, got 40 in another order; use adata[:, model.get_var_names()].copy()."),
    "genes renamed": (names("var", lambda n: [f"g{name}" for name in n]), ValueError, "adata must have the 40 genes that the model was trained on, but 40 are missing ('gene_0', 'gene_1', 'gene_2', … (40 in all)); set adata.var_names to names of the same kind first."),
    "genes under other names": (renamed_genes, ValueError, "adata must have the 40 genes that the model was trained on, but 40 are missing ('gene_0', 'gene_1', 'gene_2', … (40 in all)); set adata.var_names to adata.var['symbol'] first."),
    "no cells": (part(slice(0)), ValueError, "adata must have cells and genes, got 0 × 40; check the filter that made it."),
    "layer gone": (no_layer, KeyError, "layer must be a key of adata.layers or 'X', got 'counts'; available layers: none."),
    "unseen label": (labels("delta"), ValueError, "labels must be classes that the model was trained on, but adata.obs['cell_type'] holds 'delta'; set them to NaN, or drop the column: cells without a label can be encoded and predicted."),
    "labels lists": (labels(of_objects([1])), TypeError, KINDS.format("list")),
    "NaN": (value(NAN), ValueError, FINITE),
    "negative": (value(-2), ValueError, "likelihood='nb' needs raw counts, but adata.layers['counts'] holds negative values (the smallest is -2); put the raw counts there (the model was trained on counts)."),
    "no counts": (value(0, 3, slice(None)), ValueError, "every cell needs at least one count under likelihood='nb', but 1 cells of adata.layers['counts'] are all zero ('cell_3'); remove them with scanpy.pp.filter_cells(adata, min_counts=1)."),
}  # fmt: skip

# call of a trained model, error, its text
CALL = {
    "indices too large": (lambda m, a: m.predict(indices=[3, 120]), IndexError, "indices must lie in [0, 119], the positions of adata's cells, got 120."),
    "indices negative": (lambda m, a: m.predict(indices=[-1]), IndexError, "indices must lie in [0, 119], the positions of adata's cells, got -1."),
    "indices names": (lambda m, a: m.predict(indices=["cell_0"]), TypeError, "indices must be integer positions, shape (n,), or a mask of shape (120,), got shape (1,) of dtype <U6; convert names with adata.obs_names.get_indexer, and make masks from adata.obs."),
    "indices a short mask": (lambda m, a: m.predict(indices=[True, False]), TypeError, "indices must be integer positions, shape (n,), or a mask of shape (120,), got shape (2,) of dtype bool; convert names with adata.obs_names.get_indexer, and make masks from adata.obs."),
    "indices a number": (lambda m, a: m.predict(indices=3), TypeError, "indices must be integer positions, shape (n,), or a mask of shape (120,), got shape () of dtype int64; convert names with adata.obs_names.get_indexer, and make masks from adata.obs."),
    "no indices": (lambda m, a: m.get_latent_representation(indices=[]), ValueError, "indices must name at least one cell, got none; check the mask or the selection."),
    "soft": (lambda m, a: m.predict(soft="yes"), TypeError, "soft must be True or False, got 'yes' (str)."),
    "batch_size": (lambda m, a: m.predict(batch_size=0), ValueError, "batch_size must be at least 1, got 0."),
    "batch_size of latent": (lambda m, a: m.get_latent_representation(batch_size="1"), TypeError, "batch_size must be an integer, got '1' (str)."),
    "z of another shape": (lambda m, a: m.decode(np.zeros((2, 3))), ValueError, "z must be of shape (n, 4), got (2, 3); pass a single point as z[None]."),
    "z words": (lambda m, a: m.decode([["a", "b", "c", "d"]]), TypeError, "z must hold numbers in rows of equal length, got [['a', 'b', 'c', 'd']] (list); pass a numeric array."),
    "z ragged": (lambda m, a: m.decode([[0, 0, 0, 0], [0]]), TypeError, "z must hold numbers in rows of equal length, got [[0, 0, 0, 0], [0]] (list); pass a numeric array."),
    "z complex": (lambda m, a: m.decode(Z * 1j), TypeError, "z must hold numbers in rows of equal length, got ndarray; pass a numeric array."),
    "z infinite": (lambda m, a: m.decode(Z + np.inf), ValueError, "z must be finite and within ±1e+15, got inf."),
    "z huge": (lambda m, a: m.decode(Z + 1e30), ValueError, "z must be finite and within ±1e+15, got 1e+30."),
    "covariates a dict": (lambda m, a: m.decode(Z, {"batch": "one"}), TypeError, "covariates must be a DataFrame, got dict; pass, for example, adata.obs[[column]]."),
    "covariates unknown": (lambda m, a: m.decode(Z, pd.DataFrame({"batch": ["one"] * 2})), KeyError, "covariates must be columns of the setup (there are none), got 'batch'; drop these columns."),
    "library_size words": (lambda m, a: m.decode(Z, library_size="big"), TypeError, "library_size must hold numbers in rows of equal length, got 'big' (str); pass a numeric array."),
    "library_size NaN": (lambda m, a: m.decode(Z, library_size=NAN), ValueError, "library_size must be positive and at most 1e+15, got nan."),
    "library_size huge": (lambda m, a: m.decode(Z, library_size=[1, 1e300]), ValueError, "library_size must be positive and at most 1e+15, got 1e+300."),
    "library_size a matrix": (lambda m, a: m.decode(Z, library_size=np.ones((2, 1))), ValueError, "library_size must be one number or of shape (2,), got shape (2, 1); pass one for each point."),
    "sample": (lambda m, a: m.decode(Z, sample="yes"), TypeError, "sample must be True or False, got 'yes' (str)."),
    "seed of decode": (lambda m, a: m.decode(Z, sample=True, seed=1.5), TypeError, "seed must be an integer, got 1.5 (float)."),
    "cell unknown": (lambda m, a: m.interpolate("cel_11", 0), KeyError, "cell_a must be among adata.obs_names, but 'cel_11' is not. Did you mean 'cell_11' or 'cell_119' or 'cell_118'?"),
    "cell outside": (lambda m, a: m.interpolate(0, 120), IndexError, "cell_b must lie in [0, 119], the positions of adata's cells, got 120."),
    "cell a fraction": (lambda m, a: m.interpolate(0.5, 1), TypeError, "cell_a must be an obs name, an integer position or a sequence of them, got 0.5 (float); pass, for example, adata.obs_names[0]."),
    "cell bytes": (lambda m, a: m.interpolate(b"cell_0", 1), TypeError, "cell_a must hold obs names (str) or positions (int), got bytes; pass, for example, adata.obs_names[mask] or np.flatnonzero(mask)."),
    "cells a mask": (lambda m, a: m.interpolate([True, False], 0), TypeError, "cell_a must hold obs names (str) or positions (int), got bool; pass, for example, adata.obs_names[mask] or np.flatnonzero(mask)."),
    "steps misspelt": (lambda m, a: m.interpolate(0, 3, steps=3), TypeError, "interpolate() has no argument 'steps'; it takes 'cell_a', 'cell_b', 'n_steps', 'method', 'adata', 'key_added', 'transform_batch', 'library_size', 'n_samples', 'seed'. Did you mean 'n_steps'?"),
    "cell a class": (lambda m, a: m.interpolate("beta", 0), KeyError, "cell_a must be a cell, but 'beta' is a class; pass one of its cells, or pair those of two groups with scivae.tl.pair_cells."),
    "cell a number as text": (lambda m, a: m.interpolate("5", 0), KeyError, "cell_a must be among adata.obs_names, but '5' is not. Pass 5 without quotes for a position."),
    "cells mixed": (lambda m, a: m.interpolate(["cell_0", 1], [2, 3]), TypeError, "cell_a must hold obs names (str) or positions (int), not both, got int, str; use one of the two for all cells."),
    "no cells": (lambda m, a: m.interpolate([], []), ValueError, "cell_a must name at least one cell, got an empty sequence; pass obs names or positions."),
    "unequal numbers": (lambda m, a: m.interpolate([0, 1], 2), ValueError, "cell_a and cell_b must name the same number of cells, got 2 and 1; repeat a cell to use it several times."),
    "n_steps": (lambda m, a: m.interpolate(0, 3, n_steps=1), ValueError, "n_steps must be at least 2, got 1."),
    "method": (lambda m, a: m.interpolate(0, 3, method="lineal"), ValueError, METHODS.format("lineal") + " Did you mean 'linear'?"),
    "cells elsewhere": (lambda m, a: m.interpolate(0, 3, adata=a.X), TypeError, "adata must be an AnnData, got ndarray."),
    "transform_batch": (lambda m, a: m.interpolate(0, 3, transform_batch="two"), KeyError, "transform_batch must be a batch that the model was trained on, got 'two'; available: 0."),
    "library_size of a path": (lambda m, a: m.interpolate(0, 3, library_size=[1, 2]), TypeError, "library_size must be a number, got [1, 2] (list)."),
    "library_size zero": (lambda m, a: m.interpolate(0, 3, library_size=0), ValueError, "library_size must be positive and at most 1e+15, got 0."),
    "n_samples": (lambda m, a: m.interpolate(0, 3, n_samples=1), ValueError, "n_samples must be at least 2, got 1."),
    "seed of a path": (lambda m, a: m.interpolate(0, 3, seed=None), TypeError, "seed must be an integer, got None (NoneType)."),
    "key with a slash": (lambda m, a: m.interpolate(0, 3, key_added="a/b"), ValueError, "key_added must be a name of at most 200 bytes, without slashes and control characters, got 'a/b'; pass a short name of letters, digits and underscores."),
    "key of scvi-tools": (lambda m, a: m.interpolate(0, 3, key_added="_scvi_uuid"), ValueError, "adata.uns['_scvi_uuid'] already exists and was not written by scivae; pass another key_added."),
    "key taken": (lambda m, a: m.interpolate(0, 3, adata=a, key_added="mine"), ValueError, "adata.uns['mine'] already exists and was not written by scivae; pass another key_added."),
    "paths taken": (lambda m, a: m.interpolate(0, 3, adata=a, key_added="no paths"), ValueError, "adata.uns['no paths'] already exists and was not written by scivae; pass another key_added."),
    "column taken": (lambda m, a: m.interpolate(0, 3, adata=a, key_added="my"), ValueError, "adata.obs['my_t'] already exists and was not written by scivae; pass another key_added."),
    "label unknown": (lambda m, a: m.augment("alfa", 3), KeyError, "label must be a class that the model was trained on, got 'alfa'; available: 'alpha', 'beta', 'gamma'. Did you mean 'alpha'?"),
    "label a list": (lambda m, a: m.augment(["alpha"], 3), TypeError, "label must be one class, or a dict of {class: n}, got ['alpha']; for several classes, pass a dict."),
    "no label": (lambda m, a: m.augment({}), ValueError, "label must name at least one class, got an empty dict; available: 'alpha', 'beta', 'gamma'."),
    "n twice": (lambda m, a: m.augment({"alpha": 3}, 3), ValueError, "n must be None where label is a dict of {class: n}, got 3; give the numbers in the dict alone."),
    "n": (lambda m, a: m.augment("alpha"), TypeError, "n must be an integer, got None (NoneType)."),
    "augmentation's method": (lambda m, a: m.augment("alpha", 3, method="geodesic"), ValueError, "method must be one of 'linear', 'normal', got 'geodesic'."),
    "augmentation's sample": (lambda m, a: m.augment("alpha", 3, sample=None), TypeError, "sample must be True or False, got None (NoneType)."),
    "min_confidence": (lambda m, a: m.augment("alpha", 3, min_confidence=2), ValueError, "min_confidence must lie in [0, 1], got 2."),
    "augmentation's seed": (lambda m, a: m.augment("alpha", 3, seed=-1), ValueError, "seed must be at least 0, got -1."),
    "augmentation's key": (lambda m, a: m.augment("alpha", 3, key_added=""), ValueError, "key_added must be a name of at most 200 bytes, without slashes and control characters, got ''; pass a short name of letters, digits and underscores."),
}  # fmt: skip


def pairs(a, **change):
    return tl.pair_cells(
        a, **{"groupby": "cell_type", "source": "alpha", "target": "beta", **change}
    )


def trends(m, a, **change):
    return tl.gene_trends(**{"model": m, "pairs": pairs(a, n_pairs=9), "n_steps": 3, **change})


def ranks(m, a, **change):
    return tl.rank_genes(trends(m, a, key_added=None), **change)


def project(m, a, **change):
    path = m.interpolate(0, 3, n_steps=3, key_added=None)
    return tl.project(**{"adata": a, "path": path, **change})


def embed(m, a, **change):
    path = m.interpolate(0, 3, n_steps=3, key_added=None)
    return tl.embed(**{"adata": a, "generated": path, "basis": "flat", **change})


# call of a verb, error, its text
VERBS = {
    "pairs: adata": (lambda m, a: tl.pair_cells(a.X, "a", "b", "c"), TypeError, "adata must be an AnnData, got ndarray."),
    "pairs: groupby": (lambda m, a: pairs(a, groupby=["cell_type"]), TypeError, "groupby must be the name of one column of adata.obs, got ['cell_type'] (list); pass 'cell_type'."),
    "pairs: groupby two": (lambda m, a: pairs(a, groupby=["site", "batch"]), TypeError, "groupby must be the name of one column of adata.obs, got ['site', 'batch'] (list); join them first: adata.obs['both'] = adata.obs['site'].astype(str) + ' ' + adata.obs['batch'].astype(str)."),
    "pairs: source": (lambda m, a: pairs(a, source="delta"), ValueError, PAIRED.format("source", "delta") + " Did you mean 'beta'?"),
    "pairs: source a list": (lambda m, a: pairs(a, source=["alpha"]), TypeError, "source must be a single value of adata.obs['cell_type'], got ['alpha']; pass one value."),
    "pairs: target": (lambda m, a: pairs(a, target="alpha"), ValueError, "source and target must be two groups of adata.obs['cell_type'], got 'alpha' twice; available groups: 'alpha', 'beta', 'gamma'."),
    "pairs: label": (lambda m, a: pairs(a, label="gamma"), ValueError, "label must be present in both groups, but no cell of source='alpha' has adata.obs['cell_type'] == 'gamma'; the labels of that group are: 'alpha'."),
    "pairs: use_rep": (lambda m, a: pairs(a, use_rep="X_pca"), KeyError, "use_rep must be a key of adata.obsm, got 'X_pca'; available: 'X_civae', 'X_flat', 'X_words'. Did you mean 'X_civae'?"),
    "pairs: use_rep words": (lambda m, a: pairs(a, use_rep="X_words"), TypeError, "adata.obsm['X_words'] must be a dense array of numbers, cells × dimensions, got shape (120, 2) and dtype <U1; convert it."),
    "pairs: method": (lambda m, a: pairs(a, method="OT"), ValueError, "method must be one of 'ot', 'random', 'all', 'nearest', got 'OT'. Did you mean 'ot'?"),
    "pairs: n_pairs": (lambda m, a: pairs(a, n_pairs=0), ValueError, "n_pairs must be at least 1, got 0."),
    "pairs: donor_key": (lambda m, a: pairs(a, donor_key=3), TypeError, "donor_key must be the name of a column of adata.obs, got 3 (int)."),
    "pairs: max_cells": (lambda m, a: pairs(a, max_cells=1), ValueError, "max_cells must be at least 2, got 1."),
    "pairs: seed": (lambda m, a: pairs(a, seed="1"), TypeError, "seed must be an integer, got '1' (str)."),
    "trends: model": (lambda m, a: trends("model", a), TypeError, "model must be a CIVAE, got 'model' (str)."),
    "trends: pairs": (lambda m, a: trends(m, a, pairs=[(0, 3)]), TypeError, "pairs must be the DataFrame of scivae.tl.pair_cells, got list; pass what that function returned."),
    "trends: no pairs": (lambda m, a: trends(m, a, pairs=pairs(a)[:0]), ValueError, "pairs must hold at least one pair, got none; check the filter that was applied to it."),
    "trends: n_steps": (lambda m, a: trends(m, a, n_steps=1), ValueError, "n_steps must be at least 2, got 1."),
    "trends: method": (lambda m, a: trends(m, a, method="bent"), ValueError, METHODS.format("bent")),
    "trends: genes": (lambda m, a: trends(m, a, genes=["gene_77"]), KeyError, "genes must be among the 40 genes of the model, but 'gene_77' is not. Did you mean 'gene_7' or 'gene_37' or 'gene_27'?"),
    "trends: genes a number": (lambda m, a: trends(m, a, genes=3), TypeError, "genes must be a list of names, got 3 (int)."),
    "trends: donor_key": (lambda m, a: trends(m, a, donor_key="person"), KeyError, NO_COLUMN.format("donor_key", "person")),
    "trends: between": (lambda m, a: trends(m, a, between=3), TypeError, "between must be a list of groups, got 3 (int)."),
    "trends: between the ends": (lambda m, a: trends(m, a, between=["beta"]), ValueError, "between must name groups other than source and target, got 'beta'; leave it out."),
    "trends: transform_batch": (lambda m, a: trends(m, a, transform_batch=1), KeyError, "transform_batch must be a batch that the model was trained on, got 1; available: 0."),
    "trends: quantile_pairs": (lambda m, a: trends(m, a, quantile_pairs=1), ValueError, "quantile_pairs must be at least 2, got 1."),
    "trends: seed": (lambda m, a: trends(m, a, seed=-1), ValueError, "seed must be at least 0, got -1."),
    "checks: model": (lambda m, a: tl.check_paths("model", pairs(a)), TypeError, "model must be a CIVAE, got 'model' (str)."),
    "checks: pairs": (lambda m, a: tl.check_paths(m, pairs(a).drop(columns="target")), KeyError, "pairs must have the columns 'source' and 'target', but 'target' is missing; available: 'source', 'cost', 'label'."),
    "checks: n_permutations": (lambda m, a: tl.check_paths(m, pairs(a), n_permutations=1), ValueError, "n_permutations must be at least 20, got 1."),
    "checks: max_cells": (lambda m, a: tl.check_paths(m, pairs(a), max_cells=2), ValueError, "max_cells must be at least 20, got 2."),
    "checks: between": (lambda m, a: tl.check_paths(m, pairs(a), between=["beta"]), ValueError, "between must name groups other than source and target, got 'beta'; leave it out."),
    "ranks: trends": (lambda m, a: tl.rank_genes(a), ValueError, "trends must be made by scivae.tl.gene_trends(model, pairs), got another AnnData of 120 × 40; pass what that function returned."),
    "ranks: n_permutations": (lambda m, a: ranks(m, a, n_permutations=5), ValueError, "n_permutations must be at least 100, or 0 for no test, got 5."),
    "ranks: min_change": (lambda m, a: ranks(m, a, min_change="0"), TypeError, "min_change must be a number, got '0' (str)."),
    "ranks: seed": (lambda m, a: ranks(m, a, seed=-1), ValueError, "seed must be at least 0, got -1."),
    "compare: b": (lambda m, a: tl.compare_trends(trends(m, a, key_added=None), "b"), TypeError, "b must be an AnnData, got 'b' (str); pass what scivae.tl.gene_trends(model, pairs) returns."),
    "compare: center": (lambda m, a: tl.compare_trends(trends(m, a, key_added=None), trends(m, a, key_added=None), center="yes"), TypeError, "center must be True or False, got 'yes' (str)."),
    "project: path": (lambda m, a: project(m, a, path=m.adata), ValueError, "path must be generated cells, but path.obsm has no 'X_civae'; pass what model.interpolate or model.augment returns."),
    "project: model": (lambda m, a: project(m, a, model="model"), TypeError, "model must be a CIVAE, got 'model' (str)."),
    "project: use_rep": (lambda m, a: project(m, a, use_rep=3), TypeError, "use_rep must be a key of adata.obsm, got 3 (int)."),
    "project: another model": (lambda m, a: project(m, a, use_rep="X_flat"), ValueError, "path is of another model than the representation of adata: it has 4 latent dimensions, adata has 2; pass cells of the model whose get_latent_representation() adata holds."),
    "project: n_neighbors": (lambda m, a: project(m, a, n_neighbors=0), ValueError, "n_neighbors must be at least 1, got 0."),
    "project: key_added": (lambda m, a: project(m, a, key_added="a/b"), ValueError, "key_added must be a name of at most 200 bytes, without slashes and control characters, got 'a/b'; pass a short name of letters, digits and underscores."),
    "embed: generated": (lambda m, a: embed(m, a, generated=None), TypeError, "generated must be an AnnData, got None (NoneType)."),
    "embed: basis": (lambda m, a: embed(m, a, basis="umap"), KeyError, "basis must name an embedding in adata.obsm, but 'X_umap' is not among 'X_civae', 'X_flat', 'X_words'; run scanpy.pp.neighbors(adata, use_rep='X_civae') and scanpy.tl.umap(adata) first."),
    "embed: n_neighbors": (lambda m, a: embed(m, a, n_neighbors=2.0), TypeError, "n_neighbors must be an integer, got 2.0 (float)."),
    "embed: reducer": (lambda m, a: embed(m, a, reducer="umap"), TypeError, "reducer must have a method transform, got str; pass, for example, a fitted umap.UMAP, or None."),
}  # fmt: skip

UNTRAINED = {
    "predict": lambda m: m.predict(),
    "latent": lambda m: m.get_latent_representation(),
    "decode": lambda m: m.decode(Z),
    "interpolate": lambda m: m.interpolate(0, 3),
    "augment": lambda m: m.augment("alpha", 3),
    "trends": lambda m: tl.gene_trends(
        m, pd.DataFrame({"source": ["cell_0"], "target": ["cell_1"]})
    ),
}


def small(adata, **arguments):
    return CIVAE(adata, **{"n_latent": 4, "n_hidden": 16, **arguments})


def changed(change, *, setup=False):
    """The tiny data after a change, set up if so asked."""
    adata = make_adata()
    result = None if change is None else change(adata)
    adata = adata if result is None else result
    if setup:
        CIVAE.setup_anndata(adata)
    return adata


def furnished(trained):
    """Cells with representations, and slots that are taken."""
    adata = make_adata()
    adata.obsm["X_civae"] = trained.get_latent_representation()
    adata.obsm["X_flat"] = adata.obsm["X_civae"][:, :2].copy()
    adata.obsm["X_words"] = np.full((N_CELLS, 2), "x")
    adata.uns["mine"] = {"something": 1}
    adata.uns["no paths"] = {"paths": 1}
    adata.obs["my_t"] = 0.5
    return adata


def cases():
    """Name, how the AnnData is made, call, error, text."""
    for name, (change, arguments, error, text) in SETUP.items():
        call = lambda m, a, k=arguments: CIVAE.setup_anndata(a, **k)  # noqa: E731
        yield f"setup: {name}", lambda m, c=change: changed(c), call, error, text
    for name, (change, arguments, error, text) in MODEL.items():
        call = lambda m, a, k=arguments: CIVAE(a, **k)  # noqa: E731
        yield f"model: {name}", lambda m, c=change: changed(c, setup=True), call, error, text
    for name, (arguments, error, text) in TRAIN.items():
        call = lambda m, a, k=arguments: small(a).train(**{"max_epochs": 1, **k})  # noqa: E731
        yield f"train: {name}", lambda m: changed(None, setup=True), call, error, text
    for name, (change, error, text) in QUERY.items():
        yield (
            f"query: {name}",
            lambda m, c=change: changed(c),
            lambda m, a: m.predict(a),
            error,
            text,
        )
    for name, untrained in UNTRAINED.items():
        call = lambda m, a, f=untrained: f(small(a))  # noqa: E731
        text = "this model is not trained yet; call model.train() first."
        yield f"untrained: {name}", lambda m: changed(None, setup=True), call, RuntimeError, text
    for name, (call, error, text) in {**CALL, **VERBS}.items():
        yield f"trained: {name}", furnished, call, error, text


CASES = {name: case for name, *case in cases()}


def test_there_are_many_cases():
    assert len(CASES) == sum(len(t) for t in (SETUP, MODEL, TRAIN, QUERY, UNTRAINED, CALL, VERBS))
    assert len(CASES) >= 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_and_changes_nothing(trained, case):
    make, call, error, text = CASES[case]
    adata = make(trained)
    held = [x for x in (adata, trained.adata) if isinstance(x, anndata.AnnData)]
    before = [snapshot(x) for x in held]
    with pytest.raises(error) as caught:
        call(trained, adata)
    assert caught.value.args == (text,)
    assert type(caught.value) is error
    for x, was in zip(held, before, strict=True):
        assert_unchanged(x, was)


def lost(adata):
    del adata.obs["_scvi_labels"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lost, "adata.obs['_scvi_labels'], written by setup_anndata, is missing; call setup_anndata again and create a new model, or pass a fresh copy as adata=."),
        (value(NAN), "adata.layers['counts'] must not change after the model is created, but 1 of 120 cells have changed ('cell_3'), as scanpy's functions do in place; restore the values (keep counts in adata.layers['counts']), or set up and train a new model."),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.predict(),
        lambda m: m.get_latent_representation(),
        lambda m: m.augment("alpha", 3),
        lambda m: m.train(max_epochs=1, enable_progress_bar=False),
    ],
)
def test_data_changed_behind_the_models_back(change, text, call):
    model = make_model(make_adata(), epochs=1)
    change(model.adata)
    before = snapshot(model.adata)
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        call(model)
    assert_unchanged(model.adata, before)


def many_classes(n_classes, n_cells):
    def change(adata):
        adata = make_adata(n_cells=n_cells)
        adata.obs["cell_type"] = [f"type {i % n_classes:03}" for i in range(n_cells)]
        return adata

    return change


def unused(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["phantom"])


# change of the AnnData, arguments of setup_anndata, arguments of CIVAE, classes, likelihood
ODD = {
    "unicode, slashes, line breaks": (labels(["α/β", "🧬 cell", "a\nb"] * 40), {}, {}, ["a\nb", "α/β", "🧬 cell"], "nb"),
    "empty label": (labels(["", "b", "c"] * 40), {}, {}, ["", "b", "c"], "nb"),
    "numbers": (labels([3, 1, 2] * 40), {}, {}, [1, 2, 3], "nb"),
    "fractions": (labels([0.5, 1.5] * 60), {}, {}, [0.5, 1.5], "nb"),
    "booleans": (labels([True, False] * 60), {}, {}, [False, True], "nb"),
    "categories of numbers": (labels(pd.Categorical([2, 1, 3] * 40)), {}, {}, [1, 2, 3], "nb"),
    "nullable strings": (labels(pd.array(["b", "a"] * 60, dtype="string")), {}, {}, ["a", "b"], "nb"),
    "nullable booleans": (labels(pd.array([True, False] * 60, dtype="boolean")), {}, {}, [False, True], "nb"),
    "unused categories": (unused, {}, {}, list(CLASSES), "nb"),
    "NaN with an unlabeled category": (some_labels(i1=NAN, i4="?"), {"unlabeled_category": "?"}, {}, list(CLASSES), "nb"),
    "500 classes": (many_classes(500, 1000), {}, {"epochs": 10}, [f"type {i:03}" for i in range(500)], "nb"),
    "one class without a discriminator": (labels("only"), {}, {"discriminator_weight": 0.0}, ["only"], "nb"),
    "two cells": (part(slice(2)), {}, {}, ["alpha", "beta"], "nb"),
    "one gene": (part(slice(None), slice(1)), {"layer": "X"}, {}, list(CLASSES), "normal"),
    "genes without counts": (value(0, slice(None), slice(5)), {}, {}, list(CLASSES), "nb"),
    "cells named alike": (names("obs", lambda n: ["cell"] * len(n)), {}, {}, list(CLASSES), "nb"),
    "negative values": (counts(lambda x: x - 3), {}, {}, list(CLASSES), "normal"),
    "zeros and ones": (counts(lambda x: x > 2), {}, {}, list(CLASSES), "bernoulli"),
    "zeros only": (counts(lambda x: 0 * x), {}, {}, list(CLASSES), "bernoulli"),
    "large counts": (value(1e8), {}, {}, list(CLASSES), "nb"),
    "values below zero": (counts(lambda x: (x - 3) * 10), {}, {"epochs": 60}, list(CLASSES), "normal"),
    "nullable numbers": (column(age=pd.array([1, 2, 3] * 40, dtype="Int64")), {"continuous_covariate_keys": ["age"]}, {}, list(CLASSES), "nb"),
    "boolean covariate": (column(flag=[True, False] * 60), {"continuous_covariate_keys": ["flag"]}, {}, list(CLASSES), "nb"),
    "batches of numbers": (column(batch=[3, 1] * 60), {"batch_key": "batch"}, {}, list(CLASSES), "nb"),
    "huge seed": (None, {}, {"seed": 2**70}, list(CLASSES), "nb"),
}  # fmt: skip


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def values_of(generated, model):
    return dense(generated.X if model.setup.layer == "X" else generated.layers[model.setup.layer])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ODD)
def test_odd_input_gets_its_right_answer(case, tmp_path):
    change, setup, arguments, classes, likelihood = ODD[case]
    adata = changed(change)
    model = make_model(adata, setup=setup, **arguments)
    assert model.classes.tolist() == classes
    assert model.likelihood == likelihood
    assert np.isfinite(model.get_latent_representation()).all()
    soft = model.predict(soft=True)
    assert soft.columns.tolist() == classes
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)
    predicted = model.predict()
    assert set(predicted) <= set(classes)

    path = model.interpolate(0, adata.n_obs - 1, n_steps=3)
    ends = adata.obs["cell_type"].astype(object)
    for row, cell in ((0, 0), (-1, adata.n_obs - 1)):
        assert path.obs["cell_type"].iloc[row] == ends.iloc[cell]
    assert np.isfinite(values_of(path, model)).all()
    label = pd.Series(predicted).mode()[0]
    if (ends == label).sum() >= 2:
        cells = model.augment(label, 4, min_confidence=0.0)
        assert (cells.obs["cell_type"] == label).all()
        assert np.isfinite(values_of(cells, model)).all()
        cells.write_h5ad(tmp_path / "cells.h5ad")
        again = anndata.read_h5ad(tmp_path / "cells.h5ad")
        assert again.obs["cell_type"].astype(str).tolist() == [str(label)] * 4
    path.write_h5ad(tmp_path / "path.h5ad")
    adata.write_h5ad(tmp_path / "adata.h5ad")
    assert list(anndata.read_h5ad(tmp_path / "adata.h5ad").uns["civae"]["paths"])


@pytest.mark.filterwarnings("ignore")
def test_one_cell_a_class():
    adata = changed(many_classes(40, 40))
    model = make_model(adata)
    assert len(model.classes) == 40
    path = model.interpolate(0, 1, n_steps=3)
    assert path.obs["cell_type"].tolist()[::2] == ["type 000", "type 001"]
    text = "a class needs two cells to draw lines between, but 'type 000' has 1 in adata; augment another class, or pass adata= with more cells of it."
    before = snapshot(adata)
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        model.augment("type 000", 3)
    assert_unchanged(adata, before)


@pytest.mark.parametrize(("n_cells", "batch_size"), [(7, 2), (33, 32), (129, 128), (3, 2)])
def test_no_minibatch_of_one_cell_is_left_over(n_cells, batch_size):
    adata = make_adata(n_cells=n_cells)
    CIVAE.setup_anndata(adata)
    model = small(adata)
    model.train(max_epochs=1, batch_size=batch_size, train_size=1.0, enable_progress_bar=False)
    assert np.isfinite(model.get_latent_representation()).all()
    assert len(model.train_indices) == n_cells


def test_a_gene_under_another_name_is_pointed_at():
    adata = make_adata()
    adata.var["symbol"] = [f"G{i}" for i in range(adata.n_vars)]
    with pytest.raises(KeyError, match=r"adata.var\['symbol'\] has it for 'gene_7'"):
        check_genes(adata, ["gene_1", "G7"])


SUSPICIOUS = {
    "a path to itself": (
        lambda m, a: m.interpolate(["cell_1", "cell_2"], ["cell_1", "cell_3"]),
        "1 of 2 paths begin and end at the same cell, such as 'cell_1', so all of their steps are alike; choose two cells.",
    ),
    "a level without sets": (
        lambda m, a: m.predict(level=0.8),
        "level=0.8 has no effect without return_sets=True; pass return_sets=True for sets.",
    ),
}


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_suspicious_input_warns_once(trained, case):
    call, text = SUSPICIOUS[case]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        call(trained, trained.adata)
    told = [w for w in found if str(w.message) == text]
    assert [w.filename for w in told] == [__file__]


@pytest.mark.parametrize("name", ["Unknown", "unassigned "])
def test_a_class_that_sounds_like_no_label_is_named(name):
    adata = make_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"alpha": name})
    with pytest.warns(UserWarning, match=f"pass unlabeled_category='{name}' if"):
        CIVAE.setup_anndata(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        CIVAE.setup_anndata(adata, unlabeled_category=name)

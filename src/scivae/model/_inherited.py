"""Methods inherited from scvi-tools: their arguments are checked, and they draw with the seed of the model.

All public methods are wrapped, including those that a later scvi-tools adds. Checks follow from the names,
defaults and annotations of the parameters. ``tests/test_doors.py`` requires a row for each method.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.dataloaders import AnnDataLoader
from scvi.model.base import DifferentialComputation
from torch.utils.data import DataLoader

from .._errors import near_matches, shown
from .._random import draws_by_seed
from .._validate.arguments import check_bool, check_choice, check_integer, check_number
from ..data import checks
from ..data.checks import resolve_indices
from ..data.fields import used_categories
from ..module import LIKELIHOODS, CIVAEModule
from ._genes import GeneColumns, gene_positions

# Parameters that are whole numbers: numbers of cells, samples, and others.
WHOLE_NUMBERS = frozenset(
    {
        "batch_size",
        "m_permutation",
        "max_cells",
        "mc_samples",
        "n_mc_samples",
        "n_mc_samples_per_pass",
        "n_samples",
        "n_samples_overall",
        "num_cells_posterior",
        "rna_size_factor",
    }
)
# Class methods that do not apply to CIVAE, and what to use instead.
INSTEAD = {
    "prepare_query_mudata": "pass one modality to CIVAE.prepare_query_anndata",
    "setup_annbatch": "use scivae.model.BlockDataModule(…, reader='annbatch')",
}


def inherit(cls: type, base: type) -> None:
    """Wrap every public method that a class inherits from scvi-tools and does not override.

    Parameters
    ----------
    cls
        The class.
    base
        The class of scvi-tools that it inherits from.
    """
    for name in dir(base):
        if name.startswith("_"):
            continue
        owner = next(c for c in cls.__mro__ if name in vars(c))
        method = vars(owner)[name]
        if owner.__module__.partition(".")[0] == __package__.partition(".")[0]:
            continue
        if isinstance(method, (classmethod, staticmethod)):
            setattr(cls, name, classmethod(_refused(name, method.__func__)))
        elif inspect.isfunction(method) and not owner.__module__.endswith("._base_model"):
            setattr(cls, name, inherited(method))


def _refused(name: str, method: Callable) -> Callable:
    """A class method that raises an error naming its replacement."""

    @functools.wraps(method)
    def call(cls: type, *args: Any, **kwargs: Any) -> None:
        instead = INSTEAD.get(name, "use the methods of CIVAE")
        raise NotImplementedError(
            f"CIVAE does not support {name} of scvi-tools; {instead} instead."
        )

    return call


def inherited(method: Callable) -> Callable:
    """Wrap a method: check its arguments, draw with the seed of the model, restore the mode of the network."""
    signature = inspect.signature(method)
    drawing = draws_by_seed(method)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = checks.bind(method.__name__, signature, (self, *args), kwargs)
        variadic = next(
            (p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), ""
        )
        given = dict(bound.arguments)
        further = given.pop(variadic, {})
        given.pop("self")
        for name, value in given.items():
            _check_plain(name, value, signature.parameters[name])
        check_further(self, method.__name__, further)
        _check_model(self, method.__name__)
        with self._unchanged_on_error(given.get("adata")), self.codec.evaluating():
            selected = _Arguments(self, signature, given, further).check()
            try:
                return selected.of(drawing(self, **given, **further))
            except AttributeError as error:  # the distribution lacks a parameter that is read
                if self.module.family.dispersed:
                    raise
                dispersed = " or ".join(repr(k) for k, f in LIKELIHOODS.items() if f.dispersed)
                raise NotImplementedError(
                    f"{method.__name__} of scvi-tools needs likelihood={dispersed}, but the model "
                    f"has {self.likelihood!r}; use model.decode instead."
                ) from error

    return call


def _check_model(model: Any, name: str) -> None:
    """Raise a ValueError if the method does not apply to a model like this one."""
    if name == "get_batch_representation" and model.module.batch_representation != "embedding":
        raise ValueError(
            "get_batch_representation needs a model that embeds batches; make it with CIVAE(adata, "
            "batch_representation='embedding')."
        )


def _check_plain(name: str, value: Any, parameter: inspect.Parameter) -> None:
    """Check a value by the name, default or annotation of its parameter."""
    if value is None and parameter.default is not inspect.Parameter.empty:
        return
    if name in WHOLE_NUMBERS:
        check_integer(name, value, minimum=1)
    elif isinstance(parameter.default, bool):
        check_bool(name, value)
    elif name == "library_size":
        if isinstance(value, str):
            check_choice(name, value, ("latent",))
        else:
            check_number(name, value, minimum=float(np.finfo(np.float32).tiny))
    elif name in ("delta", "dof"):
        check_number(name, value, minimum=0)
    elif name == "fdr_target":
        check_number(name, value, minimum=0, maximum=1)
    elif choices := _literals(parameter.annotation):
        check_choice(name, value, choices)


def _literals(annotation: Any) -> tuple[str, ...]:
    """Strings that an annotation like ``"Literal['a', 'b'] | None"`` allows; empty if it allows any string."""
    try:
        parts = [ast.parse(str(annotation), mode="eval").body]
    except SyntaxError:
        return ()
    found: list[str] = []
    while parts:
        part = parts.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr):
            parts += [part.left, part.right]
        elif isinstance(part, ast.Subscript) and ast.unparse(part.value).endswith("Literal"):
            found += ast.literal_eval(
                ast.Tuple(part.slice.elts, ast.Load())
                if isinstance(part.slice, ast.Tuple)
                else ast.Tuple([part.slice], ast.Load())
            )
        elif not (isinstance(part, ast.Constant) and part.value is None):
            return ()
    return tuple(found)


def check_further(model: Any, name: str, further: dict[str, Any], *methods: Callable) -> None:
    """Raise a TypeError for an unknown keyword argument.

    Parameters
    ----------
    model
        The model.
    name
        Name of the method.
    further
        Keyword arguments that are not among its parameters.
    *methods
        Methods and functions that also take them, besides loaders.
    """
    module: CIVAEModule = model.module
    takers: dict[str, tuple[Callable, ...]] = {
        "get_normalized_expression": (type(model).get_importance_weights,),
        "differential_expression": (_takes_subset, DifferentialComputation.get_bayes_factors),
        "get_elbo": (module.forward,),
        "get_reconstruction_error": (module.forward,),
        "get_marginal_ll": (module.marginal_ll,),
    }
    of_loaders = (*methods, AnnDataLoader, DataLoader)
    checks.check_arguments(f"arguments of {name}", further, *takers.get(name, of_loaders))


def _takes_subset(subset_idx: Any = None) -> None:
    """Has the signature of the further arguments of scvi-tools' differential expression."""


class _Arguments:
    """Arguments that depend on the cells, checked in place.

    Parameters
    ----------
    model
        The model.
    signature
        Signature of the method.
    given, further
        Arguments and further keyword arguments; :meth:`check` changes them.
    """

    def __init__(
        self,
        model: Any,
        signature: inspect.Signature,
        given: dict[str, Any],
        further: dict[str, Any],
    ):
        self.model = model
        self.parameters = signature.parameters
        self.given = given
        self.further = further
        self.adata: AnnData | None = None

    def check(self) -> GeneColumns:
        """Check all arguments; return the genes that were requested."""
        if self.given.get("dataloader") is not None:
            self._check_loader()
        elif "adata" in self.parameters:
            self._check_cells()
        if self.given.get("transform_batch") is not None:
            for batch in _listed(self.given["transform_batch"]):
                if batch is not None:
                    self.model.setup.batch_code(batch)
        return self._genes()

    def _check_loader(self) -> None:
        given = self.given
        cells = {name: given.get(name) for name in ("adata", "adata_sub", "indices")}
        loader = self.model.requirements.checked_loader(given["dataloader"], **cells)
        if given.get("transform_batch") is not None:
            raise ValueError(
                "transform_batch needs adata=, but a dataloader was given; load the cells with "
                "BlockDataModule.to_memory."
            )
        given["dataloader"] = loader

    def _check_cells(self) -> None:
        given = self.given
        # The method itself checks all values that it reads without a loader.
        adata = self.model._validate_anndata(given.get("adata"), every_row=False)
        self.adata = given["adata"] = adata
        if "indices" in self.parameters:
            given["indices"] = resolve_indices(adata, given.get("indices"))
        if given.get("n_samples_overall") is not None:
            if given.get("n_samples", 1) != 1:
                raise ValueError(
                    f"n_samples_overall replaces n_samples, but n_samples is {given['n_samples']!r}; "
                    "pass only one of them."
                )
            given.setdefault("return_numpy", True)  # samples have no names
        if given.get("adata_sub") is not None:
            given["adata_sub"] = self.model._validate_anndata(given["adata_sub"])
        if "sample_key" in self.parameters:
            self._check_samples(adata)
        if "groupby" in self.parameters:
            self._check_groups(adata)
        for name in ("batchid1", "batchid2"):
            if given.get(name) is not None:
                for batch in _listed(given[name]):
                    self.model.setup.batch_code(batch, name)

    def _check_samples(self, adata: AnnData) -> None:
        key = self.given.get("sample_key")
        samples = []
        for cells in (adata, self.given.get("adata_sub")):
            if cells is None:
                continue
            if key is None:
                raise ValueError(
                    "sample_key must name the column of adata.obs with the samples, got None; "
                    f"available columns: {shown(cells.obs.columns, 12)}."
                )
            checks.check_columns(cells, {"sample_key": key})
            column = cells.obs[key]
            if column.isna().any():
                raise ValueError(
                    f"sample_key needs a value for every cell, but adata.obs[{key!r}] is missing "
                    f"in {int(column.isna().sum())} of {cells.n_obs} cells; remove these cells."
                )
            samples.append(pd.Index(column.unique()))
        foreign = samples[-1].difference(samples[0])
        if len(foreign):
            raise ValueError(
                f"samples of adata_sub must be samples of adata, but {shown(foreign, 3)} are not; "
                "remove their cells from adata_sub, or pass an adata that has these samples."
            )

    def _check_groups(self, adata: AnnData) -> None:
        """Check the groups of a differential expression, given by a column or as cells."""
        given = self.given
        if given.get("idx1") is not None:
            self._check_chosen(adata)
            return
        if given.get("idx2") is not None:
            raise ValueError("idx2 needs idx1 to be compared with, got none; pass idx1, too.")
        key = given.get("groupby")
        if key is None:
            raise ValueError(
                "differential expression needs groups, got neither groupby nor idx1; pass groupby= "
                "(a column of adata.obs) or idx1= (cells)."
            )
        checks.check_columns(adata, {"groupby": key})
        column = adata.obs[key]
        present = used_categories(column[column.notna().to_numpy()]).tolist()
        if given.get("group1") is None:
            given["group1"] = present
        for name in ("group1", "group2"):
            values = _listed(given.get(name)) if name == "group1" else [given.get(name)]
            for value in values:
                if not (name == "group2" and value is None) and value not in present:
                    raise ValueError(
                        f"{name} must be a value of adata.obs[{key!r}] that at least one cell has, "
                        f"got {value!r}; available values: "
                        f"{shown(present, 20)}.{near_matches(value, present)}"
                    )
        if given.get("group2") is not None and given["group2"] in _listed(given["group1"]):
            raise ValueError(
                f"group1 and group2 must be different groups, got {given['group2']!r} twice; pass "
                f"another one of {shown(present, 12)}."
            )
        if given.get("group2") is None and len(present) < 2 and column.notna().all():
            raise ValueError(
                f"differential expression needs two groups, but all cells of adata.obs[{key!r}] "
                f"are {shown(present)}; choose another groupby."
            )

    def _check_chosen(self, adata: AnnData) -> None:
        """Check groups given as cells: a mask, positions, or a query of ``obs``."""
        chosen = []
        for name in ("idx1", "idx2"):
            value = self.given.get(name)
            if value is None:
                continue
            if isinstance(value, str):
                try:
                    value = adata.obs.index.isin(adata.obs.query(value).index)
                except Exception as error:  # pandas raises errors of any type
                    raise ValueError(
                        f"{name} must be a mask, positions or a query of adata.obs, got {value!r} "
                        f"({str(error).splitlines()[0]}); correct the query, or pass a mask."
                    ) from error
            self.given[name] = resolve_indices(adata, value, name)
            chosen.append(self.given[name])
        if len(chosen) == 2 and len(both := np.intersect1d(*chosen)):
            raise ValueError(
                f"idx1 and idx2 must have no cell in common, but {str(adata.obs_names[both[0]])!r} "
                "is in both; leave such cells out of one of them."
            )
        if len(chosen) == 1 and len(np.unique(chosen[0])) == adata.n_obs:
            raise ValueError(
                "idx1 holds all cells, so no cells are left to compare with; pass idx2."
            )

    def _genes(self) -> GeneColumns:
        wanted = self.given.get("gene_list")
        if wanted is None:
            return GeneColumns(None, [])
        positions = gene_positions(self.model.setup.genes, wanted, "gene_list")
        names = [str(self.model.setup.genes[i]) for i in positions]
        if self.adata is None:  # scvi-tools ignores these arguments if it is given a dataloader
            self.given["gene_list"] = None
            return GeneColumns(positions, names)
        self.given["gene_list"] = names
        return GeneColumns(np.argsort(np.argsort(positions)), names)


def _listed(value: Any) -> list[Any]:
    """A list of the values, or of the single value."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [value]
    return list(value)

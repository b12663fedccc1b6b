"""The model: setup and prediction. Training, saving and what makes cells are mixed in."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.special
import torch
from anndata import AnnData
from scvi.model import SCVI
from scvi.module import VAE

from .. import _keys
from .._errors import check_bool, check_choice, check_integer, check_number, shown
from .._progress import track
from .._quiet import quiet_about_rows
from .._random import seeded, usual_torch
from .._scvi import get_minify_type
from ..data import checks, likelihoods, profile
from ..data.cells import resolve_indices
from ..data.information import nats_told
from ..data.loader import BLOCK_VALUES
from ..data.registry import register
from ..data.setup import Setup
from ..geometry import LinearClasses
from ..module import COUNT_LIKELIHOODS, CIVAEModule
from ..module._coding import encoded_minibatches
from ..module._covariates import Encoded
from ..train.calibration import check_level
from ._annotation import AnnotationMixin
from ._augmentation import AugmentationMixin
from ._entry import EntryMixin
from ._inherited import check_further, inherit
from ._interpolation import InterpolationMixin
from ._repr import Labels, ReprMixin
from ._saving import SavingMixin
from ._train import TrainingMixin
from ._weights import WITHOUT_DATA, auto_discriminator_weight, weights_of_classes

Likelihood = Literal["auto", "nb", "zinb", "poisson", "normal", "laplace", "bernoulli"]


class CIVAE(
    ReprMixin,
    InterpolationMixin,
    AugmentationMixin,
    AnnotationMixin,
    TrainingMixin,
    SavingMixin,
    EntryMixin,
    SCVI,
):
    r"""Class-informed variational auto-encoder (CI-VAE).

    A VAE with a *single linear layer* on the latent vector that predicts the class of a cell. Its
    cross-entropy joins the loss,

    .. math::

        J = L(x, \hat x) + \alpha\, KL[q(z \mid x) \,\|\, N(0, I)] + \beta\, CE(y, W z + b),

    so that classes become linearly separable in z. The regions in which a linear softmax has its
    largest value at one class are convex: the straight line between two cells of a class, both
    classified as it, never leaves the class. :meth:`interpolate` and :meth:`augment` rest on this.

    Everything that :class:`scvi.model.SCVI` has is here too: training and its history, saving and
    loading, mapping of query cells, minified data, differential expression. What draws random
    numbers draws them by the seed of the model, and gives the same each time.

    Parameters
    ----------
    adata
        AnnData set up by :meth:`setup_anndata`.
    registry
        Registry of a datamodule, such as :class:`BlockDataModule`, in place of ``adata``.
    n_hidden
        Units of each hidden layer.
    n_latent
        Dimensions of z.
    n_layers
        Hidden layers of the encoder, and of the decoder.
    dropout_rate
        Dropout of the encoder.
    likelihood
        ``"nb"``, ``"zinb"``, ``"poisson"`` for counts; ``"normal"``, ``"laplace"`` (the mean absolute
        error of the paper) for continuous values; ``"bernoulli"`` for values in [0, 1]. ``"auto"``
        takes ``"nb"`` for counts, ``"bernoulli"`` for values in [0, 1] and ``"normal"`` for others.
        The choice is in :attr:`likelihood`; a warning says it where the values could be meant as counts.
        Whole numbers with rounding errors (2.9999998) are rounded and count as counts.
    discriminator_weight
        :math:`\beta`, in nats a labeled cell; the reconstruction term is a sum over genes. It
        rises during the warm-up, so that cells shape the latent space before labels do, and a few
        labeled cells are not learned by heart. ``"auto"``, the default, takes four fifths of the nats that as many principal
        components tell of a cell, which are more the more genes there are and the more deeply they are
        sequenced; 50 where there are no values to read (a datamodule of others, or one that has not
        checked its cells).
    kl_weight
        :math:`\alpha`, reached at the end of the warm-up, the first half of the epochs. At 1, that
        of the evidence lower bound, reconstruction is worse on each data set that was tried.
    class_weights
        Weights of the classes in the cross-entropy. ``"balanced"``, the default, makes them
        proportional to one over the number of cells, with mean one over cells: without it a type of
        30 cells among thousands hardly moves the loss, and it is the rare types for which one wants
        more cells. The boundary is fitted with these weights. Cells are moved with them
        too, but with no more than a quarter of the number of cells of their class (unlabeled ones
        are counted in by the share of the labels that are of it): five cells that are pulled a
        hundred times as hard as others would be learned by heart, and cells made of them would be
        copies. ``"none"`` weighs cells alike; a dict gives weights by class.
    sample_latent
        ``False`` decodes the mean of the posterior in training, without noise.
    sigmoid
        Whether the means of ``"normal"`` and ``"laplace"`` are confined to (0, 1). ``None``: if the
        data are.
    seed
        Seed of the initial weights and, unless :meth:`train` is given another, of training. The
        global random state is neither read nor changed.
    **kwargs
        Passed to :class:`scvi.module.VAE`.

    Raises
    ------
    ValueError
        If the values do not suit the likelihood, if there is one class only, or if an argument is out
        of its range.

    Notes
    -----
    The models that the paper compares are settings of this one:

    =============  =====================================================================
    CI-VAE         the default
    VAE            ``discriminator_weight=0, kl_weight=1``
    auto-encoder   ``discriminator_weight=0, kl_weight=0, sample_latent=False``
    =============  =====================================================================

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.pbmc()
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> adata.obsm["X_civae"].shape
    (700, 20)
    """

    _module_cls = CIVAEModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        n_hidden: int = 128,
        n_latent: int = 20,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        likelihood: Likelihood | str = "auto",
        discriminator_weight: float | Literal["auto"] = "auto",
        kl_weight: float = 0.1,
        class_weights: Literal["balanced", "none"] | Mapping[Any, float] = "balanced",
        sample_latent: bool = True,
        sigmoid: bool | None = None,
        seed: int = 0,
        **kwargs,
    ):
        likelihoods.check_likelihood(likelihood)
        for name, integer in (
            ("n_hidden", n_hidden),
            ("n_latent", n_latent),
            ("n_layers", n_layers),
        ):
            check_integer(name, integer, minimum=1)
        check_integer("seed", seed, minimum=0)
        check_number("dropout_rate", dropout_rate, minimum=0, maximum=1)
        if isinstance(discriminator_weight, str):
            check_choice("discriminator_weight", discriminator_weight, ("auto",))
        else:
            check_number("discriminator_weight", discriminator_weight, minimum=0)
        check_number("kl_weight", kl_weight, minimum=0)
        check_bool("sample_latent", sample_latent)
        if sigmoid is not None:
            check_bool("sigmoid", sigmoid)
        checks.check_arguments("**kwargs", kwargs, CIVAE, VAE)
        if kwargs.get("dispersion") == "gene-label":
            raise ValueError(
                "dispersion='gene-label' needs a label to decode a free latent point; "
                "use 'gene', 'gene-batch' or 'gene-cell'."
            )
        if adata is not None:
            checks.check_adata(adata)
            manager = self._get_most_recent_anndata_manager(adata, required=True)
            setup = Setup.from_registry(manager.registry)
        elif registry is not None:
            setup = Setup.from_registry(registry)
        else:
            raise ValueError(
                "CIVAE needs an AnnData that was set up, or the registry of a datamodule."
            )
        n_classes = len(setup.classes)
        if discriminator_weight != 0 and n_classes < 2:
            raise ValueError(
                f"a discriminator needs at least two classes, but adata.obs[{setup.labels_key!r}] "
                f"holds only {shown(setup.classes)}; choose another labels_key, or train a plain VAE "
                "with discriminator_weight=0."
            )

        default_library = 1.0
        counts, n_obs = np.zeros(n_classes), 0
        found: profile.Found | None = None
        if adata is not None:
            counts = profile.class_counts(np.asarray(adata.obs[checks.LABEL_CODES]), n_classes)
            n_obs = adata.n_obs
            if get_minify_type(adata) is None:
                found = profile.Found.in_adata(adata, setup.layer, setup.size_factor_key, counts)
        elif registry is not None and profile.FOUND in registry:
            found = profile.Found.from_plain(registry[profile.FOUND])
            counts, n_obs = found.class_counts, found.n_obs
        if found is not None:
            summary = found.summary
            if likelihood == "auto":
                likelihood = likelihoods.choose_likelihood(summary)
                likelihoods.say_what_was_chosen(adata, setup.layer, found, likelihood)
            likelihoods.check_values(found, setup.layer, summary, likelihood, training=True)
            in_unit = summary.minimum >= 0 and summary.maximum <= 1
            if sigmoid is None:
                sigmoid = in_unit
            elif sigmoid and not in_unit and likelihood not in COUNT_LIKELIHOODS:
                raise ValueError(
                    f"sigmoid=True needs values in [0, 1], but those of "
                    f"{checks.where(setup.layer)} lie in [{summary.minimum:g}, "
                    f"{summary.maximum:g}]; scale them, or leave sigmoid out."
                )
            default_library = found.library
        if likelihood == "auto":
            raise ValueError(
                "likelihood='auto' reads the data, but there is none to read; name the likelihood."
            )
        if setup.size_factor_key is not None and likelihood not in COUNT_LIKELIHOODS:
            raise ValueError(
                f"size_factor_key is for counts, but the likelihood is {likelihood!r}; "
                "leave it out of setup_anndata."
            )
        weights, pulls = weights_of_classes(class_weights, counts, n_obs, setup)
        if isinstance(discriminator_weight, str):
            nats = found.nats if found is not None else None
            if adata is not None and found is not None:
                values = checks.values_of(adata, setup.layer)
                nats = nats_told(values, counts=likelihood in COUNT_LIKELIHOODS)
            discriminator_weight = (
                WITHOUT_DATA if nats is None else auto_discriminator_weight(nats, n_latent)
            )

        with seeded(seed):
            super().__init__(
                adata,
                registry,
                n_hidden=n_hidden,
                n_latent=n_latent,
                n_layers=n_layers,
                dropout_rate=dropout_rate,
                gene_likelihood=likelihood,
                n_classes=n_classes,
                discriminator_weight=discriminator_weight,
                kl_weight=kl_weight,
                class_weights=weights,
                pulls=pulls,
                ordered=setup.parallel and n_classes > 1,
                sample_latent=sample_latent,
                sigmoid=bool(sigmoid),
                **kwargs,
            )
        weakref.finalize(self, type(self)._per_instance_manager_store.pop, self.id, None)
        self.data_summary_ = None if found is None else found.summary.to_plain()
        if adata is not None:
            self._take(adata, found)
        self._seed = seed
        self.labels = Labels(self.classes)  # no property: IPython completes no keys of those
        self.temperature_, self.calibration_, self.mapped_ = 1.0, None, False
        self.default_library_ = default_library
        self._model_summary_string = (
            f"CIVAE of {n_classes} classes ({shown(setup.classes, 6)}), with n_hidden: {n_hidden}, "
            f"n_latent: {n_latent}, n_layers: {n_layers}, dropout_rate: {dropout_rate}, "
            f"likelihood: {likelihood}, discriminator_weight: {discriminator_weight}, "
            f"kl_weight: {kl_weight}, class_weights: {class_weights}."
        )
        # What "auto" and None stood for is saved, so that a loaded model does not choose again.
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def _get_most_recent_anndata_manager(cls, adata: AnnData, required: bool = False):
        """What was registered of an AnnData; tells what to do where nothing was."""
        cure = f"call {cls.__name__}.setup_anndata on it first"
        try:
            manager = super()._get_most_recent_anndata_manager(adata)
        except ValueError:  # scvi-tools compares the AnnData itself
            raise ValueError(
                f"adata must be the AnnData that was set up, not a copy or a part of it; {cure}."
            ) from None
        if manager is None and required:
            raise ValueError(f"adata must be set up for {cls.__name__}; {cure}.")
        return manager

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str = _keys.LABELS_KEY,
        unlabeled_category: Any = None,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        ordered: bool = False,
        **kwargs,
    ) -> None:
        """Say where in an AnnData the values, labels and covariates are.

        Nothing is changed but for columns and entries that begin with ``_scvi``, and nothing at all
        if the call fails.

        Parameters
        ----------
        adata
            AnnData of cells × genes.
        labels_key
            Column of ``obs`` with the classes.
        unlabeled_category
            Value of cells without a label. Such cells, and those whose label is missing, train
            everything but the discriminator. ``None``: every cell has a label.
        layer
            Layer to model. ``None``: the layer ``counts`` where there is one, else X. ``"X"``: X.
        batch_key
            Column of ``obs`` with the batches.
        size_factor_key
            Column of ``obs`` with size factors, in place of the observed library size.
        categorical_covariate_keys
            Columns of ``obs`` with further categorical covariates.
        continuous_covariate_keys
            Columns of ``obs`` with continuous covariates, in any units: they are standardized for the
            network by the mean and standard deviation that they have in these cells.
        ordered
            Whether the classes have an order that the model must keep: stages, times, grades. The
            boundaries between neighboring classes are then parallel
            (:class:`scivae.module.OrderedLinear`), so that a straight line in latent space passes
            through the classes in their order. The column must be an ordered categorical, or
            numbers.
        **kwargs
            For scvi-tools' own use when a setup is transferred.

        Raises
        ------
        KeyError
            If a column or the layer is not there; the error lists those that are.
        ValueError
            If labels are missing while ``unlabeled_category`` is not given, if a covariate is missing
            for some cells, or if values are NaN or infinite.

        Warns
        -----
        UserWarning
            If labels look like a measurement, if a class has fewer than ten cells or a batch fewer than
            three, or if a continuous covariate is the same in all cells.

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.pbmc()
        >>> scivae.model.CIVAE.setup_anndata(adata)
        """
        said = cls._get_setup_method_args(**locals())
        minify_type = None if not isinstance(adata, AnnData) else get_minify_type(adata)
        manager = register(
            adata,
            said,
            **said["setup_args"],
            minified_fields=()
            if minify_type is None
            else cls._get_fields_for_adata_minification(minify_type),
            known=cls._setup_adata_manager_store,
            **kwargs,
        )
        cls.register_manager(manager)

    @property
    def setup(self) -> Setup:
        """Names and categories of what the model was set up on."""
        return Setup.from_registry(self.registry_)

    @property
    def classes(self) -> np.ndarray:
        """Names of the classes, in the order of the discriminator, shape ``(n_classes,)``."""
        return self.setup.classes

    @property
    def likelihood(self) -> str:
        """Likelihood of the decoder; what ``"auto"`` chose."""
        return self.module.likelihood

    @property
    def linear_classes(self) -> LinearClasses:
        """The discriminator as geometry, with weights ``(n_classes, n_latent)`` and biases."""
        layer = self.module.discriminator
        return LinearClasses(
            layer.weight.detach().cpu().numpy().astype(np.float64),
            layer.bias.detach().cpu().numpy().astype(np.float64),
        )

    @property
    def discriminator_weights(self) -> pd.DataFrame:
        """Weights of the discriminator, classes × latent dimensions."""
        weights = self.linear_classes.weights
        columns = [f"latent_{i}" for i in range(weights.shape[1])]
        return pd.DataFrame(weights, index=pd.Index(self.classes, name="class"), columns=columns)

    @checks.leaves_unchanged
    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        dataloader: Iterable[dict[str, torch.Tensor]] | None = None,
        *,
        return_sets: bool = False,
        level: float = 0.9,
    ) -> np.ndarray | pd.DataFrame:
        """Classes of cells, by the discriminator: one, probabilities, or a set with stated coverage.

        Parameters
        ----------
        adata
            Cells with the genes of the model; labels are not needed. ``None``: the training data.
        indices
            Positions of the cells, or a mask; ``None`` for all.
        soft
            Return probabilities: the softmax of the logits, divided by a temperature that was
            fitted on the held-out cells of training (Guo et al., "On calibration of modern neural
            networks", 2017), if these say that it helps.
        batch_size
            Cells in a minibatch.
        dataloader
            Minibatches in place of ``adata``, as :meth:`BlockDataModule.inference_dataloader` gives
            them.

        return_sets
            Return prediction sets: all classes that a cell could be of. A set holds the true class
            of a cell with probability ``level``, if the cell is like those that training held out:
            not of another donor, batch or unknown class. A class with 20 or more held-out cells is
            covered at this level by itself; the others are together.
        level
            Coverage of the sets, between 0 and 1.

        Returns
        -------
        Names of the classes, shape ``(n,)``; with ``soft`` a DataFrame of probabilities, cells ×
        classes; with ``return_sets`` a boolean DataFrame, cells × classes, true where the class
        belongs to the set of the cell. An empty row means that no class fits well enough at this
        level: more often than the level says, the first choice is right.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If sets are asked for and the model has no scores of held-out cells; :meth:`calibrate`
            makes them.

        Notes
        -----
        Split conformal prediction on the odds against each class. The rank of the threshold among n
        held-out scores is rounded at random, once, by the seed of the model, so that the coverage is
        ``level`` itself, not up to 1 / (n + 1) above it
        (:func:`scivae.metrics.conformal_thresholds`).

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.pbmc()
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> model = scivae.model.CIVAE(adata)
        >>> model.train(max_epochs=2, enable_progress_bar=False)
        >>> model.predict(soft=True).shape
        (700, 10)
        >>> sets = model.predict(return_sets=True, level=0.8)
        >>> sets.shape, sets.dtypes.unique().tolist()
        ((700, 10), [dtype('bool')])
        """
        self._require_trained()
        check_bool("soft", soft)
        check_bool("return_sets", return_sets)
        if return_sets:
            check_level(level)
            self._require_calibration("scores")
            if soft:
                raise ValueError("soft=True and return_sets=True are two results; ask for one.")
        if batch_size is not None:
            check_integer("batch_size", batch_size, minimum=1)
        names: pd.Index | None = None
        if dataloader is None:
            adata = self._validate_anndata(adata, every_row=False)
            index = resolve_indices(adata, indices)
            names = adata.obs_names[index]
            means = self._encode(adata, index, batch_size).mean
        else:
            if adata is not None or indices is not None:
                raise ValueError(
                    "a dataloader stands in place of adata and indices; pass one only."
                )
            loader = self._checked_loader(dataloader)
            means = np.concatenate([part.mean for part in self._encode_all(loader)])
        logits = self.linear_classes.logits(means)
        if return_sets:
            return pd.DataFrame(self._sets_of(logits, level), index=names, columns=self.classes)
        if not soft:
            return self.classes[logits.argmax(axis=1)]
        return pd.DataFrame(self._probabilities(logits), index=names, columns=self.classes)

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities after temperature scaling, shape ``(n, n_classes)``."""
        return scipy.special.softmax(logits / self.temperature_, axis=1)

    def _require_trained(self) -> None:
        if not self.is_trained_:
            raise RuntimeError("this model is not trained yet; call model.train() first.")

    @contextmanager
    def _evaluating(self) -> Iterator[CIVAEModule]:
        """The network in evaluation mode, put back into the mode it was in."""
        with usual_torch():
            training = self.module.training
            self.module.eval()
            try:
                yield self.module
            finally:
                self.module.train(training)

    @checks.leaves_unchanged
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Latent representation of cells, shape ``(n, n_latent)``.

        As :meth:`scvi.model.SCVI.get_latent_representation`, but nobody's random state is changed.

        Parameters
        ----------
        adata
            Cells with the genes of the model; ``None`` for the training data.
        indices
            Positions of the cells, or a mask; ``None`` for all.
        **kwargs
            ``batch_size``, ``return_dist``, ``give_mean``, …

        Examples
        --------
        >>> import scivae
        >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
        >>> scivae.model.CIVAE.setup_anndata(adata)
        >>> model = scivae.model.CIVAE(adata, n_latent=4)
        >>> model.train(max_epochs=2, enable_progress_bar=False)
        >>> model.get_latent_representation(indices=[0, 1, 2]).shape
        (3, 4)
        """
        self._require_trained()
        check_further(self, "get_latent_representation", kwargs, SCVI.get_latent_representation)
        if kwargs.get("batch_size") is not None:
            check_integer("batch_size", kwargs["batch_size"], minimum=1)
        if kwargs.get("dataloader") is not None:
            if adata is not None or indices is not None:
                raise ValueError(
                    "a dataloader stands in place of adata and indices; pass one only."
                )
            kwargs["dataloader"] = self._checked_loader(kwargs["dataloader"])
        else:
            adata = self._validate_anndata(adata, every_row=False)
            indices = resolve_indices(adata, indices)
            if not kwargs.keys() - {"batch_size", "dataloader"}:  # the means, and no more
                return self._encode(adata, indices, kwargs.get("batch_size")).mean
        with self._evaluating(), seeded(self._seed):
            return super().get_latent_representation(adata, indices, **kwargs)

    def _encode(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None = None
    ) -> Encoded:
        """Posterior, labels and conditions of some cells of a validated AnnData, in their order."""
        # Loaders read files in sorted order, whatever the order asked for.
        cells, inverse = np.unique(indices, return_inverse=True)
        loader = self._minibatches(adata, cells, batch_size)
        return Encoded.concatenate(self._encode_all(loader)).take(inverse)

    def _minibatches(
        self, adata: AnnData, cells: np.ndarray, batch_size: int | None = None
    ) -> Iterable[dict[str, torch.Tensor]]:
        """Minibatches of some cells of a validated AnnData, whose positions increase."""
        return self._make_data_loader(
            adata=adata,
            indices=cells,
            batch_size=batch_size or max(128, BLOCK_VALUES // self.module.n_input),
            load_sparse_tensor=self._counts_are_rows(adata),
        )

    def _encode_all(self, loader: Iterable[dict[str, torch.Tensor]]) -> list[Encoded]:
        """Posterior, labels and conditions of all minibatches."""
        with self._evaluating() as module, seeded(self._seed), quiet_about_rows():
            return list(
                encoded_minibatches(module, track(loader, "encoding cells", unit="batches"))
            )


inherit(CIVAE, SCVI)

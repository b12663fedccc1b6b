"""The class CIVAE: its parameters, and a list of its methods, which are functions in the files beside it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import settings
from scvi.model import SCVI
from scvi.module import VAE

from .._errors import got, shown, warn
from .._random import seeded
from .._scvi import get_minify_type
from .._validate.arguments import check_bool, check_choice, check_integer, check_number
from ..data import checks, likelihoods, profile
from ..data.information import pca_information
from ..data.setup import Setup
from ..module import COUNT_LIKELIHOODS
from . import (
    _annotation,
    _augmentation,
    _calibration,
    _interpolation,
    _overrides,
    _prediction,
    _queries,
    _saving,
    _train,
)
from ._base import CellsModel
from ._inherited import inherit
from ._repr import Labels, describe
from ._weights import auto_discriminator_weight, weights_of_classes

Likelihood = Literal["auto", "nb", "zinb", "poisson", "normal", "laplace", "bernoulli"]

# Arguments of other models, and their names here.
OF_OTHERS = {
    "gene_likelihood": "likelihood",
    "classification_ratio": "discriminator_weight",
    "beta": "discriminator_weight",
    "alpha": "kl_weight",
}
# Arguments of scvi.module.VAE that scvi-tools sets from the AnnData.
FROM_SETUP = (
    "n_input",
    "n_batch",
    "n_labels",
    "n_continuous_cov",
    "n_cats_per_cov",
    "use_size_factor_key",
    "library_log_means",
    "library_log_vars",
)


class CIVAE(CellsModel):
    r"""Class-informed variational auto-encoder (CI-VAE).

    A VAE with a *single linear layer* on the latent vector that predicts the class of a cell. Its
    cross-entropy joins the loss,

    .. math::

        J = {} & L(x, \hat x) + \beta\, CE(y, W z + b) \\
        & + \alpha\, KL[q(z \mid x) \,\|\, N(0, I)],

    so that classes become linearly separable in z. The regions of a linear softmax are convex: the
    straight line between two cells that are classified as one class never leaves the class.
    :meth:`interpolate` and :meth:`augment` rely on this.

    CIVAE has everything that :class:`scvi.model.SCVI` has: training history, saving and loading, mapping of
    query cells, minified data, differential expression. Random numbers depend on the seed of the model
    only, so repeated calls give the same result.

    Parameters
    ----------
    adata
        AnnData set up by :meth:`setup_anndata`.
    registry
        Registry of a datamodule, such as :class:`BlockDataModule`, instead of ``adata``.
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
        selects ``"nb"`` for counts, ``"bernoulli"`` for values in [0, 1] and ``"normal"`` for others.
        The choice is in :attr:`likelihood`; a warning names it if the values may be transformed counts.
        Whole numbers with rounding errors (2.9999998) are rounded and treated as counts.
    discriminator_weight
        :math:`\beta`, in nats per labeled cell; the reconstruction term is a sum over genes. It rises during
        the warm-up, so that cells shape the latent space before labels do and the network does not memorize
        a few labeled cells. ``"auto"`` (default): 0.8 × the information (nats) captured by ``n_latent``
        principal components, which grows with the number of genes and the sequencing depth; 50 if no values
        can be read (datamodules of other packages, or with ``check=False``). A tenth of that with
        ``label_robustness``.
    kl_weight
        :math:`\alpha`, reached at the end of the warm-up, the first half of the epochs. With 1, the weight
        in the evidence lower bound, reconstruction was worse on every data set that was tried.
    class_weights
        Weights of the classes in the cross-entropy. ``"balanced"`` (default): inversely proportional to
        the number of cells, with mean one over cells. Without weights, a type of 30 cells among thousands
        would hardly change the loss. The boundary is fitted with these weights. The gradient that reaches
        the encoder uses them too, but limited to a quarter of the number of cells of the class (unlabeled
        cells count toward that number in proportion to the labels). Without this limit, a class of five
        cells could get a weight of a hundred and be memorized, and cells generated from it would be copies.
        ``"none"``: equal weights. A dict gives weights by class.
    label_robustness
        For labels of which some are wrong: 0.7. A cell whose label the network doubts then counts less in
        training, by its probability to this power (generalized cross-entropy), and the classifier weighs a
        tenth, so that wrong labels are not memorized. It needs a whole training: with few epochs,
        classes stay mixed. 0 (default) trusts every label.
    sample_latent
        ``False`` decodes the mean of the posterior in training, without noise.
    sigmoid
        Whether the means of ``"normal"`` and ``"laplace"`` are confined to (0, 1). ``None``: if all
        values lie in [0, 1].
    seed
        Seed of the initial weights and, unless :meth:`train` gets its own, of training. ``None``: 0. The
        global random state is neither read nor changed, and ``scvi.settings.seed`` has no effect.
    **kwargs
        Passed to :class:`scvi.module.VAE`.

    Raises
    ------
    ValueError
        If the values do not suit the likelihood, if there is only one class, or if an argument is out of
        range.

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

    labels: Labels
    """Names of the classes, which the Tab key completes, as in ``model.augment(model.labels["<Tab>``."""

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
        label_robustness: float = 0.0,
        sample_latent: bool = True,
        sigmoid: bool | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        likelihoods.check_likelihood(likelihood)
        for name, integer in (
            ("n_hidden", n_hidden),
            ("n_latent", n_latent),
            ("n_layers", n_layers),
        ):
            check_integer(name, integer, minimum=1)
        if seed is None:
            seed = 0
            if settings.seed not in (None, seed):
                warn(
                    f"scvi.settings.seed={settings.seed} has no effect on CIVAE, which uses seed=0; "
                    f"pass CIVAE(…, seed={settings.seed})."
                )
        seed = check_integer("seed", seed, minimum=0)
        check_number("dropout_rate", dropout_rate, minimum=0, maximum=1)
        if isinstance(discriminator_weight, str):
            check_choice("discriminator_weight", discriminator_weight, ("auto",))
        else:
            check_number("discriminator_weight", discriminator_weight, minimum=0)
        check_number("kl_weight", kl_weight, minimum=0)
        check_number("label_robustness", label_robustness, minimum=0, maximum=1)
        check_bool("sample_latent", sample_latent)
        if sigmoid is not None:
            check_bool("sigmoid", sigmoid)
        for name, ours in OF_OTHERS.items():
            if name in kwargs:
                raise TypeError(
                    f"{name}={kwargs[name]!r} is called {ours} here; pass {ours}={kwargs[name]!r}."
                )
        checks.check_arguments("**kwargs", kwargs, CIVAE, VAE)
        if known := [name for name in FROM_SETUP if name in kwargs]:
            raise TypeError(
                f"{known[0]} follows from setup_anndata and cannot be passed, got "
                f"{got(kwargs[known[0]])}; leave it out."
            )
        if kwargs.get("dispersion") == "gene-label":
            raise ValueError(
                "dispersion must not depend on a label, because a free latent point has none, got "
                "'gene-label'; use 'gene', 'gene-batch' or 'gene-cell'."
            )
        if adata is not None:
            checks.check_adata(adata)
            manager = self._get_most_recent_anndata_manager(adata, required=True)
            setup = Setup.from_registry(manager.registry)
        elif registry is not None:
            setup = Setup.from_registry(registry)
        else:
            raise ValueError(
                "CIVAE needs an AnnData that was set up or the registry of a datamodule, got none of "
                "them; pass adata or registry=datamodule.registry."
            )
        if setup.labels_key.startswith("_scvi"):
            raise ValueError(
                "the registry must name the column of the labels, but "
                f"{(registry or {}).get('model_name', 'scvi-tools')} made it without one; use "
                "CIVAE.setup_anndata, or the registry of a BlockDataModule."
            )
        n_classes = len(setup.classes)
        if discriminator_weight != 0 and n_classes < 2:
            raise ValueError(
                f"a discriminator needs at least two classes, but adata.obs[{setup.labels_key!r}] "
                f"holds only {shown(setup.classes)}; choose another labels_key, or train a plain "
                "VAE with discriminator_weight=0."
            )

        default_library = 1.0
        counts, n_obs = np.zeros(n_classes), 0
        found: profile.DataProfile | None = None
        if adata is not None:
            counts = profile.class_counts(np.asarray(adata.obs[checks.LABEL_CODES]), n_classes)
            n_obs = adata.n_obs
            if get_minify_type(adata) is None:
                found = profile.DataProfile.in_adata(
                    adata, setup.layer, setup.size_factor_key, counts
                )
        elif registry is not None and profile.PROFILE in registry:
            found = profile.DataProfile.from_plain(registry[profile.PROFILE])
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
                "likelihood='auto' needs data to choose from, but this model has none; pass "
                "likelihood='nb' for counts, 'normal' for continuous values."
            )
        if setup.size_factor_key is not None and likelihood not in COUNT_LIKELIHOODS:
            raise ValueError(
                f"size_factor_key is for counts, but the likelihood is {likelihood!r}; "
                "leave it out of setup_anndata."
            )
        weights, latent_grad_scale = weights_of_classes(class_weights, counts, n_obs, setup)
        if isinstance(discriminator_weight, str):
            information = found.information if found is not None else None
            if adata is not None and found is not None:
                values = checks.values_of(adata, setup.layer)
                information = pca_information(values, counts=likelihood in COUNT_LIKELIHOODS)
            discriminator_weight = auto_discriminator_weight(
                information, n_latent, robust=label_robustness > 0
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
                label_robustness=label_robustness,
                class_weights=weights,
                latent_grad_scale=latent_grad_scale,
                ordered=setup.parallel and n_classes > 1,
                sample_latent=sample_latent,
                sigmoid=bool(sigmoid),
                **kwargs,
            )
        # scvi-tools stores the managers of all models in the class; without this, no AnnData would be freed.
        weakref.finalize(self, type(self)._per_instance_manager_store.pop, self.id, None)
        self.data_summary_ = None if found is None else found.summary.to_plain()
        if adata is not None:
            self._take(adata, found)
        self._seed = seed
        self.labels = Labels(self.classes)  # no property: IPython does not complete keys of those
        self.temperature_, self.calibration_, self.mapped_ = 1.0, None, False
        self.default_library_ = default_library
        self._model_summary_string = (
            f"CIVAE of {n_classes} classes ({shown(setup.classes, 6)}), with n_hidden: {n_hidden}, "
            f"n_latent: {n_latent}, n_layers: {n_layers}, dropout_rate: {dropout_rate}, "
            f"likelihood: {likelihood}, discriminator_weight: {discriminator_weight}, "
            f"kl_weight: {kl_weight}, class_weights: {class_weights}"
            + (f", label_robustness: {label_robustness}." if label_robustness else ".")
        )
        # The values chosen for "auto" and None are saved, so that a loaded model does not choose again.
        self.init_params_ = self._get_init_params(locals())

    train = _train.train
    calibrate = _calibration.calibrate

    get_latent_representation = _overrides.get_latent_representation
    predict = _prediction.predict
    novelty = _calibration.novelty
    annotate = _annotation.annotate

    decode = _prediction.decode
    interpolate = _interpolation.interpolate
    augment = _augmentation.augment

    save = _saving.save
    load = classmethod(_saving.load)
    load_query_data = classmethod(_queries.load_query_data)
    prepare_query_anndata = classmethod(_queries.prepare_query_anndata)
    load_registry = staticmethod(_saving.load_registry)
    view_setup_args = classmethod(_saving.view_setup_args)
    convert_legacy_save = classmethod(_saving.convert_legacy_save)

    to_device = _overrides.to_device
    minify_adata = _overrides.minify_adata
    transfer_fields = _overrides.transfer_fields
    get_var_names = _overrides.get_var_names
    view_registry = _overrides.view_registry
    view_setup_method_args = _overrides.view_setup_method_args
    update_setup_method_args = _overrides.update_setup_method_args

    @property
    def discriminator_weights(self) -> pd.DataFrame:
        """Weights of the discriminator, classes × latent dimensions."""
        weights = self.linear_classes.weights
        columns = [f"latent_{i}" for i in range(weights.shape[1])]
        return pd.DataFrame(weights, index=pd.Index(self.classes, name="class"), columns=columns)

    def __repr__(self) -> str:
        return repr(describe(self))

    def _repr_html_(self) -> str:
        return describe(self)._repr_html_()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        for i, line in enumerate(repr(self).split("\n")):
            if i:
                printer.break_()
            printer.text(line)


# All other public methods of SCVI, with their arguments checked.
inherit(CIVAE, SCVI)

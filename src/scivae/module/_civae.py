"""The network of CI-VAE: scvi-tools' VAE with one linear classifier on z."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module import VAE
from scvi.module.base import LossOutput, auto_move_data
from scvi.nn import DecoderSCVI, Encoder, FCLayers
from torch import nn
from torch.nn import functional as F

from ..nb.counts import DenseCounts, SparseCounts, sparse_linear, store_by_input
from ..nb.loss import negative_binomial_loss
from ._likelihoods import LIKELIHOODS, ContinuousDecoder
from ._ordered import OrderedLinear
from ._thinning import mask, thin

# With inverse dispersions for more batches than this, the tables of the fused likelihood are slower than the usual loss.
MOST_GROUPS = 8
# Least exponent of the generalized cross-entropy, which is not defined at 0.
LEAST_ROBUSTNESS = 1e-3


def mixed_precision(device: str) -> torch.dtype | None:
    """Type of matrix products under mixed precision on this type of device; ``None`` without it."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def check_finite(x: torch.Tensor | np.ndarray) -> None:
    """Raise if a minibatch or matrix contains NaN or infinity."""
    finite = np.isfinite(x) if isinstance(x, np.ndarray) else x.isfinite()
    if not finite.all():
        raise ValueError(
            "expression values must be finite, but a minibatch holds NaN or infinity: the data "
            "were changed after setup_anndata; set up a clean copy."
        )


def robust_cross_entropy(
    logits: torch.Tensor, y: torch.Tensor, robustness: torch.Tensor | float
) -> torch.Tensor:
    r"""Generalized cross-entropy :math:`(1 - p_y^q) / q` of each cell.

    Its gradient is that of the cross-entropy times :math:`p_y^q`: a cell whose label the network doubts pulls
    less. With :math:`q \to 0` it is the cross-entropy, with 1 the mean absolute error.

    Parameters
    ----------
    logits
        Logits of the classes, shape ``(n_obs, n_classes)``.
    y
        Codes of the labels, shape ``(n_obs,)``.
    robustness
        :math:`q`, in [0, 1].

    References
    ----------
    Zhang and Sabuncu, *Generalized cross entropy loss for training deep neural networks with noisy labels*,
    NeurIPS 2018.
    """
    log_p = -F.cross_entropy(logits, y, reduction="none")
    q = torch.as_tensor(robustness, device=logits.device).clamp(min=LEAST_ROBUSTNESS)
    return -torch.expm1(q * log_p) / q


def covariate_inputs(
    tensors: Mapping[str, Any], n_categories: Iterable[int], like: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Covariates as inputs of layers: of the first one, and of each further one.

    Both have shape ``(n_obs, …)``, joined as in :class:`scvi.nn.FCLayers`; ``None`` if there are none.

    Parameters
    ----------
    tensors
        A minibatch.
    n_categories
        Number of batches and of categories of each categorical covariate; with one, it is left out.
    like
        A tensor of the type that the inputs are to have.
    """
    categories = [tensors[REGISTRY_KEYS.BATCH_KEY]]
    if tensors.get(REGISTRY_KEYS.CAT_COVS_KEY) is not None:
        categories += torch.split(tensors[REGISTRY_KEYS.CAT_COVS_KEY], 1, dim=1)
    coded = [
        F.one_hot(codes.long().squeeze(-1), n).to(like)
        for n, codes in zip(n_categories, categories, strict=True)
        if n > 1
    ]
    numbers = tensors.get(REGISTRY_KEYS.CONT_COVS_KEY)
    first = [*([] if numbers is None else [numbers.to(like)]), *coded]
    return (
        torch.cat(first, -1) if first else None,
        torch.cat(coded, -1) if coded else None,
    )


class NotADistributionError(FloatingPointError):
    """The network returned values that are not the parameters of a distribution.

    Attributes
    ----------
    term
        The term of the loss that uses the distribution: ``"reconstruction"`` or ``"KL"``.
    """

    def __init__(self, term: str):
        super().__init__(
            "the outputs of the network are no longer finite, usually caused by outliers or too "
            "high a learning rate; scale or clip the values, or train with "
            "plan_kwargs={'lr': 2e-4}."
        )
        self.term = term


@contextmanager
def _distribution_for(term: str) -> Iterator[None]:
    """Replace torch's error, whose text contains the whole array, by one that names the term."""
    try:
        yield
    except ValueError as error:
        if "Expected parameter" not in str(error):
            raise
        raise NotADistributionError(term) from None


class CIVAEModule(VAE):
    r"""Class-informed variational auto-encoder.

    The loss of :class:`scvi.module.VAE` plus the cross-entropy of a single linear layer,

    .. math::

        J = {} & L(x, \hat x) + \beta\, CE(y, W z + b) \\
        & + \alpha\, KL[q(z \mid x) \,\|\, N(0, I)].

    Parameters
    ----------
    n_input
        Number of variables (genes, pixels).
    n_classes
        Number of classes. Labels ``>= n_classes`` mean "unlabeled": such cells train everything but
        the discriminator.
    gene_likelihood
        Name of a likelihood: a key of ``LIKELIHOODS``.
    discriminator_weight
        :math:`\beta`, in nats per labeled cell.
    kl_weight
        :math:`\alpha`, the weight of the KL term once its warm-up is over.
    warm_up_discriminator
        Whether :math:`\beta` rises along with :math:`\alpha`, so that the values of cells shape the
        latent space before their labels do.
    label_robustness
        :math:`q` of the generalized cross-entropy, which replaces the cross-entropy; it rises with the
        warm-up. 0: the cross-entropy.
    class_weights
        Weights of the classes in the cross-entropy, shape ``(n_classes,)``; ``None`` for ones.
    latent_grad_scale
        Per-class factor on the classifier gradient that reaches z, shape ``(n_classes,)``; ``None`` for
        ones.
    ordered
        Whether classes have an order, so that their boundaries are parallel; see
        :class:`OrderedLinear`.
    sample_latent
        If ``False``, the encoder's mean is decoded (an auto-encoder).
    sigmoid
        Whether the means of a continuous likelihood are confined to (0, 1).
    **kwargs
        Passed to :class:`scvi.module.VAE`.

    Examples
    --------
    >>> import torch
    >>> from scivae.module import CIVAEModule
    >>> network = CIVAEModule(40, n_classes=3, n_latent=4)
    >>> network.classify(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        n_input: int,
        *,
        n_classes: int,
        gene_likelihood: str = "nb",
        discriminator_weight: float = 1.0,
        kl_weight: float = 1.0,
        warm_up_discriminator: bool = True,
        label_robustness: float = 0.0,
        class_weights: Any = None,
        latent_grad_scale: Any = None,
        ordered: bool = False,
        sample_latent: bool = True,
        sigmoid: bool = False,
        **kwargs,
    ):
        family = LIKELIHOODS[gene_likelihood]
        if not family.counts:
            kwargs["log_variational"] = False
        # The parent builds its own distribution, which ``generative`` converts.
        super().__init__(n_input, gene_likelihood=family.vae, **kwargs)
        self.likelihood = gene_likelihood
        self.family = family
        self.n_classes = n_classes
        self.discriminator_weight = discriminator_weight
        self.kl_weight = kl_weight
        self.warm_up_discriminator = warm_up_discriminator
        self.label_robustness = label_robustness
        self.sample_latent = sample_latent
        if not family.counts:
            layers = self.decoder.px_decoder  # type: ignore[has-type]
            n_latent_and_covariates = layers.fc_layers[0][0].in_features - layers.n_cov
            self.decoder = ContinuousDecoder(
                n_latent_and_covariates,
                n_input,
                sigmoid=sigmoid or family.in_unit_interval,
                n_cat_list=layers.n_cat_list,
                n_layers=self.n_layers,
                n_hidden=self.n_hidden,
                inject_covariates=layers.inject_covariates,
                use_batch_norm=isinstance(layers.fc_layers[0][1], nn.BatchNorm1d),
                use_layer_norm=isinstance(layers.fc_layers[0][2], nn.LayerNorm),
            )
        layer = OrderedLinear if ordered else nn.Linear
        self.discriminator = layer(self.n_latent, n_classes)
        if self.supports_fused_nb:
            store_by_input(self.z_encoder.encoder.fc_layers[0][0])
        weights = torch.ones(n_classes) if class_weights is None else torch.as_tensor(class_weights)
        self.register_buffer("class_weights", weights.float())
        scale = (
            torch.ones(n_classes)
            if latent_grad_scale is None
            else torch.as_tensor(latent_grad_scale)
        )
        # Not saved, because it can be computed from the cells, and files of earlier versions lack it.
        self.register_buffer("latent_grad_scale", scale.float(), persistent=False)

    def train(self, mode: bool = True) -> CIVAEModule:
        """As :meth:`torch.nn.Module.train`; batch normalization that a mapping has frozen stays as it is.

        With statistics of the minibatch, it would cancel the weight of a new batch, which all query cells
        share, and the mapping could not learn it.
        """
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm1d) and layer.momentum == 0:
                layer.eval()
        return self

    def _get_inference_input(
        self,
        tensors: dict[str, torch.Tensor | None],
        full_forward_pass: bool = False,
        thinning: float = 0.0,
        checked: bool = False,
    ) -> dict[str, torch.Tensor | None]:
        """Inputs of the encoder.

        ``thinning`` comes from the training plan (see :func:`thin` and :func:`mask`); ``checked`` means that
        values are known to be finite.
        """
        inputs = super()._get_inference_input(tensors, full_forward_pass=full_forward_pass)
        if "x" in inputs and not checked:
            check_finite(inputs["x"])
        if thinning > 0 and "x" in inputs:
            inputs["library"] = inputs["x"].sum(1, keepdim=True).log()
            inputs["x"] = (thin if self.family.counts else mask)(inputs["x"], thinning)
        return inputs

    @auto_move_data
    def _regular_inference(
        self, x: torch.Tensor, *args, library: torch.Tensor | None = None, **kwargs
    ) -> dict[str, Any]:
        """Posterior of z; ``library`` replaces the log library size computed from ``x``."""
        with _distribution_for("KL"):
            outputs = super()._regular_inference(x, *args, **kwargs)
        if library is not None:
            outputs["library"] = library
        if not self.family.counts:  # continuous values may sum to less than zero
            outputs["library"] = torch.zeros_like(outputs["library"])
        if not self.sample_latent:
            outputs["z"] = outputs["qz"].loc.expand_as(outputs["z"])
        return outputs

    @auto_move_data
    def generative(
        self,
        z: torch.Tensor,
        library: torch.Tensor,
        batch_index: torch.Tensor,
        cont_covs: torch.Tensor | None = None,
        cat_covs: torch.Tensor | None = None,
        size_factor: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        transform_batch: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """Likelihood of the data at latent points; see :meth:`scvi.module.VAE.generative`."""
        with _distribution_for("reconstruction"):
            outputs = super().generative(
                z, library, batch_index, cont_covs, cat_covs, size_factor, y, transform_batch
            )
        outputs["px"] = self.family.distribution(outputs["px"])
        return outputs

    def decode_hidden(self, z: torch.Tensor, tensors: Mapping[str, Any]) -> torch.Tensor:
        """Last hidden layer of the decoder ``(..., n, n_hidden)`` at latent points.

        ``tensors`` holds the covariates of the n points, as a minibatch does.
        """
        batch = tensors[REGISTRY_KEYS.BATCH_KEY]
        inputs, categories = [z], []
        if REGISTRY_KEYS.CONT_COVS_KEY in tensors:
            inputs.append(tensors[REGISTRY_KEYS.CONT_COVS_KEY])
        if self.batch_representation == "embedding":
            inputs.append(self.compute_embedding(REGISTRY_KEYS.BATCH_KEY, batch))
        else:
            categories.append(batch)
        if REGISTRY_KEYS.CAT_COVS_KEY in tensors:
            categories += tensors[REGISTRY_KEYS.CAT_COVS_KEY].unsqueeze(-1).unbind(1)
        return self.decoder.px_decoder(torch.cat(inputs, dim=-1), *categories)

    @property
    def needs_row_sums(self) -> bool:
        """Whether decoded means of counts must be divided by their sum to add up to one.

        This is so with zero inflation, and with size factors, because the decoder of scvi-tools then ends in
        a softplus instead of a softmax.
        """
        family = self.family
        return family.counts and (self.use_size_factor_key or not family.sums_to_one)

    @auto_move_data
    def classify(self, z: torch.Tensor) -> torch.Tensor:
        """Logits ``(..., n_classes)`` of latent points ``(..., n_latent)``."""
        return self.discriminator(z)

    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: torch.Tensor | float = 1.0,
    ) -> LossOutput:
        """Equation 3: reconstruction + alpha · KL + beta · cross-entropy.

        Parameters
        ----------
        tensors, inference_outputs, generative_outputs
            As :meth:`scvi.module.VAE.loss` takes them.
        kl_weight
            Fraction of ``alpha``, and of ``beta``, reached by the warm-up, in [0, 1].
        """
        vae = super().loss(
            tensors, inference_outputs, generative_outputs, kl_weight=kl_weight * self.kl_weight
        )
        return self._with_discriminator(
            inference_outputs["z"],
            tensors[REGISTRY_KEYS.LABELS_KEY],
            kl_weight,
            loss=vae.loss,
            reconstruction_loss=vae.reconstruction_loss,
            kl_local=vae.kl_local,
            extra_metrics=vae.extra_metrics,
        )

    def _with_discriminator(
        self,
        z: torch.Tensor,
        labels: torch.Tensor,
        kl_weight: torch.Tensor | float,
        *,
        loss: torch.Tensor,
        **terms: Any,
    ) -> LossOutput:
        """The loss of a VAE plus beta · cross-entropy at ``z``, shape ``(..., n_obs, n_latent)``.

        The cross-entropy is averaged over all cells, labeled or not. If it were averaged over labeled cells
        only, a few of them would have the weight of a full minibatch and be memorized. The discriminator gets
        the gradient unchanged; the encoder gets it times the ``latent_grad_scale`` of the class.
        """
        true = labels.long().ravel().expand(z.shape[:-1])
        labeled = (true < self.n_classes).reshape(-1)
        # Unlabeled cells are masked rather than removed, because a GPU would have to wait for their number.
        y = true.reshape(-1).clamp(max=self.n_classes - 1)
        still, scale = z.detach(), self.latent_grad_scale.index_select(0, y)
        logits = self.discriminator(still + scale.view(*true.shape, 1) * (z - still))
        logits_of_cells = logits.reshape(-1, self.n_classes)
        if self.label_robustness:
            robustness = self.label_robustness * kl_weight
            cross_entropy = robust_cross_entropy(logits_of_cells, y, robustness)
        else:
            cross_entropy = F.cross_entropy(logits_of_cells, y, reduction="none")
        penalty = cross_entropy * self.class_weights.index_select(0, y) * labeled
        beta = self.discriminator_weight_at(kl_weight)
        return LossOutput(
            loss=loss + beta * penalty.mean(),
            classification_loss=penalty.sum() / labeled.sum().clamp(min=1),
            logits=logits,
            true_labels=true,
            **terms,
        )

    def discriminator_weight_at(self, kl_weight: torch.Tensor | float) -> torch.Tensor | float:
        """Beta at a fraction of the warm-up, which it follows unless ``warm_up_discriminator`` is false."""
        return self.discriminator_weight * (kl_weight if self.warm_up_discriminator else 1.0)

    @property
    def supports_fused_nb(self) -> bool:
        """Whether :meth:`fused_loss` computes exactly the loss of this network.

        Zero inflation and Poisson counts are left out because the fused path gains nothing for them
        (``docs/evidence/tried.md``); covariates, and inverse dispersions of a few batches, are supported.
        """
        layers = self.z_encoder.encoder
        few_groups = self.dispersion == "gene-batch" and self.n_batch <= MOST_GROUPS
        return (
            self.likelihood == "nb"
            and (self.dispersion == "gene" or few_groups)
            and self.latent_distribution == "normal"
            and self.batch_representation == "one-hot"
            and self.use_observed_lib_size
            and not self.use_size_factor_key
            and not self.extra_payload_autotune
            and type(self.z_encoder) is Encoder
            and type(self.decoder) is DecoderSCVI
            and type(layers) is FCLayers
            and isinstance(layers.fc_layers[0][0], nn.Linear)
            and self.px_r.dtype == torch.float32  # the fused kernels are in single precision
        )

    def encode_counts(
        self,
        cells: SparseCounts | DenseCounts,
        tensors: Mapping[str, Any],
        products: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the posterior of cells, each ``(n_obs, n_latent)``.

        ``tensors`` is the minibatch, which has the covariates. ``products`` is the precision in which a dense
        matrix is multiplied by the weights of the first layer.
        """
        values = cells.encoded(self.log_variational)
        layers = self.z_encoder.encoder
        first = layers.fc_layers[0][0]
        with_genes, in_each_layer = self._encoded_covariates(tensors, values)
        if isinstance(cells, SparseCounts):
            hidden = sparse_linear(values, cells, first)
            if with_genes is not None:
                hidden = hidden + F.linear(with_genes, first.weight[:, cells.n_vars :])
        else:
            inputs = values if with_genes is None else torch.cat([values, with_genes], -1)
            if products is None:
                hidden = first(inputs)
            else:
                hidden = F.linear(inputs.to(products), first.weight.to(products)).to(values.dtype)
                hidden = hidden if first.bias is None else hidden + first.bias
        for i, block in enumerate(layers.fc_layers):
            for layer in block:
                if layer is None or layer is first:
                    continue
                if (
                    in_each_layer is not None
                    and isinstance(layer, nn.Linear)
                    and layers.inject_into_layer(i)
                ):
                    hidden = torch.cat([hidden, in_each_layer], -1)
                hidden = layer(hidden)
        mean, logs = self.z_encoder.mean_encoder(hidden), self.z_encoder.var_encoder(hidden)
        return mean, self.z_encoder.var_activation(logs) + self.z_encoder.var_eps

    def _encoded_covariates(
        self, tensors: Mapping[str, Any], like: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Covariates as inputs of the encoder, as :func:`covariate_inputs` returns them."""
        if not self.encode_covariates:
            return None, None
        return covariate_inputs(tensors, self.z_encoder.encoder.n_cat_list, like)

    def fused_loss(
        self,
        tensors: dict[str, Any],
        kl_weight: torch.Tensor | float = 1.0,
    ) -> LossOutput:
        """The result of :meth:`loss`, computed faster with the fused negative binomial.

        Only for networks whose :attr:`supports_fused_nb` is true.

        Parameters
        ----------
        tensors
            A minibatch, with ``SparseCounts`` or ``DenseCounts`` as expression matrix.
        kl_weight
            Fraction of ``alpha``, and of ``beta``, reached by the warm-up, in [0, 1].
        """
        cells: SparseCounts | DenseCounts = tensors[REGISTRY_KEYS.X_KEY]
        device = cells.counts.device.type
        # Under mixed precision, matrix products over all genes, which are most of the work, are in half
        # precision (except the first layer on a CPU, which is sparse). The others are too small to gain from it.
        products = mixed_precision(device)
        with torch.autocast(device, enabled=False):
            mean, variance = self.encode_counts(cells, tensors, products)
            if mean.is_cpu and not mean.isfinite().all():  # on a GPU, the loss is checked later
                raise NotADistributionError("KL")
            z = mean
            if self.sample_latent:
                z = mean + variance.sqrt() * torch.randn_like(mean)
            kl = 0.5 * (variance + mean.square() - 1 - variance.log()).sum(-1)
            decoded = self.decode_hidden(z, tensors)
            log_theta, groups = self.px_r, None
            if self.dispersion == "gene-batch":
                log_theta, groups = self.px_r.t(), tensors[REGISTRY_KEYS.BATCH_KEY].long()[:, 0]
            reconstruction = negative_binomial_loss(
                decoded, self.decoder.px_scale_decoder[0], log_theta, cells, products, groups
            )
            return self._with_discriminator(
                z,
                tensors[REGISTRY_KEYS.LABELS_KEY],
                kl_weight,
                loss=(reconstruction + kl_weight * self.kl_weight * kl).mean(),
                reconstruction_loss=reconstruction,
                kl_local={"kl_divergence_z": kl},
            )

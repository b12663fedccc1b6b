"""The paragraph on methods, with its references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .. import _keys

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

SOURCES = {
    "nabian": "M. Nabian et al. CI-VAE: a class-informed deep variational autoencoder for enhanced "
    "class-specific data interpolation. OpenReview (2023). https://openreview.net/forum?id=jdEXFqGjdh",
    "gayoso": "A. Gayoso et al. A Python library for probabilistic analysis of single-cell omics data. "
    "Nature Biotechnology 40, 163–166 (2022). doi:10.1038/s41587-021-01206-w",
    "kingma": "D. P. Kingma and M. Welling. Auto-encoding variational Bayes. International Conference on "
    "Learning Representations (2014).",
    "flamary": "R. Flamary et al. POT: Python optimal transport. Journal of Machine Learning Research 22, "
    "1–8 (2021).",
    "squair": "J. W. Squair et al. Confronting false discoveries in single-cell differential expression. "
    "Nature Communications 12, 5692 (2021).",
    "smyth": "G. K. Smyth. Linear models and empirical Bayes methods for assessing differential expression "
    "in microarray experiments. Statistical Applications in Genetics and Molecular Biology 3 (2004).",
    "love": "M. I. Love, W. Huber and S. Anders. Moderated estimation of fold change and dispersion for "
    "RNA-seq data with DESeq2. Genome Biology 15, 550 (2014).",
    "winkler": "A. M. Winkler et al. Faster permutation inference in brain imaging. NeuroImage 141, 502–516 "
    "(2016). doi:10.1016/j.neuroimage.2016.05.068",
    "benjamini": "Y. Benjamini and Y. Hochberg. Controlling the false discovery rate: a practical and "
    "powerful approach to multiple testing. Journal of the Royal Statistical Society B 57, 289–300 (1995).",
    "zhang": "Z. Zhang and M. R. Sabuncu. Generalized cross entropy loss for training deep neural networks "
    "with noisy labels. Advances in Neural Information Processing Systems 31 (2018).",
    "badia": "P. Badia-i-Mompel et al. decoupleR: ensemble of computational methods to infer biological "
    "activities from omics data. Bioinformatics Advances 2 (2022).",
}
LIKELIHOOD_NAMES = {
    "nb": "negative binomial", "zinb": "zero-inflated negative binomial", "poisson": "Poisson",
    "normal": "normal", "laplace": "Laplace", "bernoulli": "Bernoulli",
}  # fmt: skip


class _Text:
    """Sentences, and references in the order in which they are first cited."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.cited: list[str] = []

    def cite(self, *keys: str) -> str:
        for key in keys:
            if key not in self.cited:
                self.cited.append(key)
        return "[" + ", ".join(str(self.cited.index(key) + 1) for key in keys) + "]"

    def add(self, sentence: str) -> None:
        self.sentences.append(sentence)


def methods(
    model: CIVAE,
    trends: AnnData | None,
    ranked_attrs: Mapping[str, Any] | None,
    synthetic: AnnData | None,
    enriched: bool,
    controls: Sequence[tuple[str, str]],
) -> tuple[str, list[str]]:
    """The paragraph, and its references in order."""
    text = _Text()
    _of_model(text, model)
    if trends is not None and ranked_attrs is not None:
        _of_trends(text, dict(trends.uns[_keys.UNS]), ranked_attrs, enriched)
    if controls:
        found = " ".join(f"{question} {verdict}" for question, verdict in controls)
        text.add(f"Controls of the path (scivae.tl.check_paths): {found}")
    if synthetic is not None:
        said = synthetic.uns.get(_keys.UNS, {})
        values = (
            "sampled from the likelihood" if str(said.get("values")) == "sampled" else "expected"
        )
        text.add(
            f"{synthetic.n_obs:,} synthetic cells were decoded from latent points between two cells of the "
            f"same class (values: {values}); a point was accepted if the model gave its class at least a "
            "threshold probability."
            if str(said.get("method")) != "normal"
            else f"{synthetic.n_obs:,} synthetic cells were decoded from latent points drawn from the "
            f"normal distribution of their class (values: {values}), within its region."
        )
    return " ".join(text.sentences), [SOURCES[key] for key in text.cited]


def _of_model(text: _Text, model: CIVAE) -> None:
    setup, module = model.setup, model.module
    given = {k: v for group in model.init_params_.values() for k, v in group.items()}
    n_layers, n_hidden = given.get("n_layers", 1), given.get("n_hidden", "?")
    layers = f"{n_layers} hidden layer{'s' if n_layers != 1 else ''} of {n_hidden} units"
    classifier, weight = "without a classifier", ""
    if module.discriminator_weight:
        classifier = f"with one linear classifier of the {len(setup.classes)} classes in “{setup.labels_key}” on its latent space"
        weight = f"{module.discriminator_weight:.3g} for the cross-entropy of the classifier and "
    text.add(
        f"Cells were modeled with CI-VAE {text.cite('nabian')} as implemented in scivae "
        f"{version('scivae-tools')} on scvi-tools {version('scvi-tools')} {text.cite('gayoso')}: a "
        f"variational autoencoder {text.cite('kingma')} {classifier} ({module.n_latent} "
        f"latent dimensions, {layers}, {LIKELIHOOD_NAMES[model.likelihood]} likelihood, weight "
        f"{weight}{module.kl_weight:g} for the KL term)."
    )
    if module.label_robustness:
        text.add(
            "Since labels may be wrong, the generalized cross-entropy "
            f"(q = {module.label_robustness:g}) {text.cite('zhang')} took the place of the cross-entropy."
        )
    if setup.batch_key is not None:
        text.add(f"Batches (“{setup.batch_key}”) were given to encoder and decoder.")
    epochs = epochs_of(model)
    train, held = (
        0 if i is None else len(i) for i in (model.train_indices, model.validation_indices)
    )
    if epochs and train:
        rest = f"; {held:,} cells, stratified by class, were held out" if held else ""
        text.add(
            f"It was trained for {epochs} epochs on {train:,} cells and {len(setup.genes):,} genes{rest}."
        )


def _of_trends(text: _Text, said: dict[str, Any], attrs: Mapping[str, Any], enriched: bool) -> None:
    how = {
        "ot": f" by optimal transport in latent space {text.cite('flamary')}",
        "random": " at random", "nearest": " with the nearest cell", "all": ", each with each",
    }.get(str(said.get("pairing")), "")  # fmt: skip
    ends = "cells of the two groups"
    if said.get("source") is not None:
        inside = f" in {said['label']}" if said.get("label") is not None else ""
        ends = f"cells of “{said['source']}” and “{said['target']}”{inside}"
    text.add(f"Paired {ends}{how} ({said.get('n_pairs', 0):,} pairs) were joined by paths.")
    if said.get("evidence") == "measured":
        donors = " and donors as effects" if len(said.get("donors", ())) > 1 else ""
        family = (
            "negative binomial regression on B-splines with log library size as offset" + donors
        )
        if not str(said.get("scale")).startswith("log1p"):
            family = "regression on B-splines" + (", with donors as effects" if donors else "")
        resamples = ""
        if int(said.get("n_bootstraps", 0)):
            resamples = (
                f" Bands and intervals are 90 % intervals of {int(said['n_bootstraps'])} resamples of "
                f"{str(said.get('unit')).removesuffix('s')}s."
            )
        text.add(
            f"Measured cells were placed on the mean path ({int(said['n_used']):,} of "
            f"{int(said['n_cells']):,} near enough to count), and the expression of each gene was fitted "
            f"along it by penalized {family}.{resamples}"
        )
    if attrs.get("unit") == "donors":
        test = text.cite("squair", "love" if attrs.get("test") == "deseq2" else "smyth")
        summed = "counts summed" if str(said.get("scale")).startswith("log1p") else "means"
        text.add(
            f"Differences between the groups were tested with donors as the units, on {summed} within each donor "
            f"and group ({attrs.get('unit_text')}) {test}, with control of the false discovery rate "
            f"{text.cite('benjamini')}."
        )
    else:
        text.add(
            f"Differences between the groups were tested by permutation of cells within these samples "
            f"{text.cite('winkler')}, with control of the false discovery rate "
            f"{text.cite('benjamini')}; these p-values do not extend to other donors."
        )
    if enriched:
        text.add(
            f"Gene sets were scored with decoupler {text.cite('badia')} and tested with the same units."
        )


def epochs_of(model: CIVAE) -> int:
    """Number of epochs of training in the history."""
    return max((len(values) for values in (model.history_ or {}).values()), default=0)

import numpy as np
import pytest
import torch
from tests.conftest import make_adata, make_model

from scivae.module import COUNT_LIKELIHOODS, LIKELIHOODS
from scivae.module._coding import Covariates, decoded_blocks, likelihood


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("size_factor", [False, True])
def test_fast_means_are_those_of_the_likelihood(name, size_factor):
    counts = name in COUNT_LIKELIHOODS
    if size_factor and not counts:
        return
    adata = make_adata()
    adata.layers["unit"] = np.asarray(adata.X) / adata.X.max()
    setup = {"batch_key": "batch", "layer": "counts" if counts else "unit"}
    if size_factor:
        setup["size_factor_key"] = "size"
    model = make_model(
        adata, likelihood=name, setup={**setup, "categorical_covariate_keys": ["site"],
                                       "continuous_covariate_keys": ["age"]},
    )  # fmt: skip
    encoded = model.codec.encode(adata, np.arange(30))
    ((_, fast),) = decoded_blocks(model.module, encoded.mean, encoded.covariates)
    slow = likelihood(model.module, encoded.mean, encoded.covariates).mean.numpy()
    np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-6)


def test_batch_embeddings():
    adata = make_adata()
    model = make_model(adata, setup={"batch_key": "batch"}, batch_representation="embedding")
    encoded = model.codec.encode(adata, np.arange(10))
    ((_, fast),) = decoded_blocks(model.module, encoded.mean, encoded.covariates)
    slow = likelihood(model.module, encoded.mean, encoded.covariates).mean.numpy()
    np.testing.assert_allclose(fast, slow, rtol=1e-5)


def test_decoded_is_what_scvi_calls_expected_expression(trained):
    expected = trained.get_normalized_expression(
        indices=[0, 1, 2], library_size=1000.0, return_numpy=True
    )
    # That method draws from the posterior; without its noise both are the same.
    trained.module.eval()
    z = trained.get_latent_representation(indices=[0, 1, 2])
    ours = trained.decode(z, library_size=1000.0)
    with torch.inference_mode():
        px = trained.module.generative(
            z=torch.as_tensor(z),
            library=torch.full((3, 1), np.log(1000.0)),
            batch_index=torch.zeros(3, 1, dtype=torch.long),
        )["px"]
    np.testing.assert_allclose(ours, px.get_normalized("mu").numpy(), rtol=1e-5)
    assert expected.shape == ours.shape


@pytest.mark.parametrize(
    ("z", "arguments", "message"),
    [
        (np.zeros((2, 3)), {}, r"z must be of shape \(n, 4\), got \(2, 3\)"),
        (np.zeros(4), {}, r"got \(4,\)"),
        (np.full((1, 4), np.nan), {}, "z must be finite"),
        (np.zeros((2, 4)), {"library_size": np.ones(3)}, r"library_size must be one number or of shape \(2,\)"),
        (np.zeros((2, 4)), {"library_size": -1}, "library_size must be positive"),
    ],
)  # fmt: skip
def test_bad_points(trained, z, arguments, message):
    with pytest.raises(ValueError, match=message):
        trained.decode(z, **arguments)


def test_covariates_of_decode():
    model = make_model(make_adata(), setup={"batch_key": "batch"})
    z = np.zeros((2, 4))
    table = model.adata.obs[["batch"]].iloc[[0, 3]]  # batches one and two
    both = model.decode(z, table)
    assert not np.allclose(both[0], both[1])
    np.testing.assert_allclose(model.decode(z)[0], both[0], rtol=1e-6)  # the first, if left out
    with pytest.raises(ValueError, match="covariate 'batch' must be one of 'one', 'two', got 'x'"):
        model.decode(z, table.assign(batch="x"))
    with pytest.raises(KeyError, match=r"columns of the setup \('batch'\), got 'batsch'"):
        model.decode(z, table.rename(columns={"batch": "batsch"}))
    with pytest.raises(ValueError, match="one row for each of the 1 points, got 2"):
        model.decode(z[:1], table)


def test_concatenated_conditions():
    part = Covariates(np.zeros(2), np.arange(2), np.empty((2, 0), int), np.ones((2, 1)))
    whole = Covariates.concatenate([part, part.take(slice(0, 1))])
    assert whole.batch.tolist() == [0, 1, 0]
    assert whole.categorical.shape == (3, 0)
    assert whole.continuous.shape == (3, 1)

"""Products of matrices, by either library, against double precision."""

from __future__ import annotations

import pytest
import torch

from scivae.nb import products


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request, monkeypatch):
    if request.param == "oneDNN" and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "uses_onednn", lambda: request.param == "oneDNN")


def close(found, expected, n):
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=3e-7 * n)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 128, 500), (64, 17, 2), (128, 2000, 128)])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.usefixtures("library")
def test_products_are_those_of_double_precision(shape, turned):
    m, k, n = shape
    rows, b = torch.randn(2 * m, k)[m:], torch.randn(k, n)
    a = torch.randn(k, m).t() if turned else rows
    if turned:
        b = torch.randn(n, k).t()
    bias, exact = torch.randn(n), a.double() @ b.double()
    close(products.times(a, b), exact, k)
    close(products.times(a, b, bias), exact + bias.double(), k)
    total = products.add_product(None, a, b)
    close(total, exact, k)
    memory = total.data_ptr()
    total = products.add_product(total, a, b)
    close(total, 2 * exact, 2 * k)
    assert total.data_ptr() == memory


@pytest.mark.usefixtures("library")
def test_a_bias_may_have_strides_and_there_may_be_nothing_to_add_up():
    a, b = torch.zeros(4, 7), torch.randn(7, 9)
    for bias in (torch.arange(18.0)[::2], torch.ones(1).expand(9)):
        assert products.times(a, b, bias).equal(bias.expand(4, 9))
    assert products.times(torch.ones(4, 0), torch.ones(0, 9)).equal(torch.zeros(4, 9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("library")
def test_a_product_in_another_precision_is_added_in_single(dtype):
    a, b = torch.randn(5, 7).to(dtype), torch.randn(7, 3).to(dtype)
    total = products.add_product(products.add_product(None, a, b), a, b)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, 2 * (a.float() @ b.float()), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("name", "capability", "uses"),
    [
        ("znver5", "AVX512", True),
        ("znver6", "AVX512", True),
        ("znver5", "AVX2", False),  # PyTorch was told not to use it
        ("znver4", "AVX512", False),
        ("sapphirerapids", "AVX512", False),
        ("apple-m1", "DEFAULT", False),
    ],
)
def test_onednn_is_for_processors_on_which_mkl_leaves_half_idle(
    name, capability, uses, monkeypatch
):
    monkeypatch.setattr(products.llvmlite.binding, "get_host_cpu_name", lambda: name)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    has = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert products.uses_onednn.__wrapped__() is (uses and has)

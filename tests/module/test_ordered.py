import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional as F

from scivae.geometry import LinearClasses
from scivae.module import CIVAEModule, OrderedLinear

numbers = st.floats(-50, 50, width=32)


def layer(direction, first, gaps):
    """A layer with these parameters, whatever an optimizer could have made of them."""
    made = OrderedLinear(len(direction), len(gaps) + 2)
    with torch.no_grad():
        made.direction.copy_(torch.as_tensor(direction))
        made.first.fill_(first)
        made.gaps.copy_(torch.as_tensor(gaps))
    return made.double()


@given(
    direction=hnp.arrays(np.float32, 3, elements=numbers),
    first=numbers,
    gaps=hnp.arrays(np.float32, st.integers(0, 5), elements=numbers),
    ends=hnp.arrays(np.float32, (2, 3), elements=numbers),
)
@settings(max_examples=300, deadline=None)
def test_a_straight_line_passes_the_classes_in_their_order(direction, first, gaps, ends):
    t = torch.linspace(0, 1, 501, dtype=torch.float64)[:, None]
    start, end = torch.as_tensor(ends).double()
    with torch.no_grad():
        made = layer(direction, first, gaps)
        logits = made((1 - t) * start + t * end)
    top, second = logits.topk(2, dim=1).values.T
    classes = logits.argmax(dim=1)[top - second > 1e-6]  # ties have no class
    steps = torch.diff(classes)
    assert (steps >= 0).all() or (steps <= 0).all()


def test_no_class_is_squeezed_out():
    made = layer([2.0, 1.0], 0.3, [-100.0, -100.0, 5.0])
    assert (torch.diff(made.boundaries) > 0).all()
    middles = torch.cat([made.boundaries[:1] - 1, made.boundaries[1:], made.boundaries[-1:] + 1])
    middles[1:-1] = (made.boundaries[:-1] + made.boundaries[1:])[:] / 2
    z = middles[:, None] * made.direction / made.direction.square().sum()  # u'z = middles
    assert made(z).argmax(dim=1).tolist() == [0, 1, 2, 3, 4]


def test_log_odds_of_neighbors_are_distances_to_their_boundary():
    made = layer([0.5, -2.0, 1.0], -1.2, [0.1, 2.0])
    z = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_p = F.log_softmax(made(z), dim=1)
    expected = (z @ made.direction)[:, None] - made.boundaries
    torch.testing.assert_close(torch.diff(log_p, dim=1), expected)


def test_it_is_the_linear_layer_that_geometry_reads():
    made = layer([0.5, -2.0, 1.0], -1.2, [0.1, 2.0])
    classes = LinearClasses(made.weight.detach().numpy(), made.bias.detach().numpy())
    z = np.random.default_rng(0).normal(size=(30, 3))
    np.testing.assert_allclose(classes.logits(z), made(torch.as_tensor(z)).detach(), atol=1e-12)


def test_it_learns_direction_and_boundaries():
    """Labels drawn from known parameters, which maximum likelihood finds again."""
    generator = torch.Generator().manual_seed(0)
    true = layer([1.5, -1.0], -2.0, [1.0, 0.5])
    z = 2 * torch.randn(20_000, 2, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        y = torch.multinomial(true(z).softmax(dim=1), 1, generator=generator).ravel()
    made = OrderedLinear(2, 4).double()
    optimizer = torch.optim.LBFGS(made.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(made(z), y)
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(made.direction, true.direction, atol=0.05, rtol=0)
    torch.testing.assert_close(made.boundaries, true.boundaries, atol=0.08, rtol=0)


def test_one_class_has_no_order():
    with pytest.raises(ValueError, match="at least two"):
        OrderedLinear(4, 1)


def test_a_network_of_ordered_classes_uses_it():
    network = CIVAEModule(20, n_classes=3, n_latent=4, ordered=True)
    assert isinstance(network.discriminator, OrderedLinear)
    assert network.classify(torch.zeros(2, 4)).shape == (2, 3)

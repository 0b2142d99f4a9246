"Stacked networks: gradients by hand against automatic ones, and independence of the stack, for any sizes."
import pytest, torch
from hypothesis import given, settings, strategies as st
from modscale.nets.networks import ModularNet, MonolithicNet, flatten_parameters, random_projections
from modscale.nets.train import fit, gradient_of, minibatches, mse

few = settings(max_examples=25, deadline=None)
sizes = dict(S=st.integers(1, 3), m=st.integers(1, 4), d=st.integers(1, 3), width=st.integers(1, 9),
             depth=st.integers(1, 4), B=st.integers(1, 9), K=st.integers(0, 3))

def make(S, m, d, width, depth, K, seed=0, apart=False):
    if not K: return MonolithicNet(m, d, width, depth, S, seed)
    return ModularNet(random_projections(S, K, m, min(2, m), seed), d, width, depth, seed=seed, apart=apart)

def data(S, n, m, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(S, n, m, generator=g), torch.randn(S, n, d, generator=g)

@few
@given(**sizes, apart=st.booleans())
def test_gradients_by_hand_are_the_automatic_ones(S, m, d, width, depth, B, K, apart):
    net, (x, y) = make(S, m, d, width, depth, K, apart=apart).double(), data(S, B, m, d)
    x, y = x.double(), y.double()
    flat = flatten_parameters(net)
    losses, by_hand = [], []
    for loss in (mse, lambda pred, y: mse(pred, y)):  # the second is not `mse` itself, so it is automatic
        losses.append(gradient_of(net, loss, B)(x, y).clone())
        by_hand.append(flat.grad.clone())
    assert torch.allclose(*losses, rtol=1e-10) and torch.allclose(*by_hand, rtol=1e-9, atol=1e-12)
    assert by_hand[0].abs().sum() > 0

@few
@given(m=st.integers(1, 4), width=st.integers(1, 9), depth=st.integers(1, 3), K=st.integers(0, 3), s=st.integers(0, 2))
def test_a_network_does_not_depend_on_its_stack(m, width, depth, K, s):
    (x, y), n = data(3, 30, m, 1), torch.tensor([10, 20, 30])
    stack, alone = make(3, m, 1, width, depth, K, 5), make(1, m, 1, width, depth, K, 5 + s)
    for net, rows in ((stack, slice(None)), (alone, slice(s, s + 1))):
        def validate(net): return mse(net(x[rows]), y[rows])
        fit(net, minibatches(x[rows], y[rows], n[rows], batch=8), mse, steps=20, validate=validate, every=5)
    with torch.no_grad(): assert torch.allclose(stack(x)[s], alone(x[s:s + 1])[0], rtol=1e-4, atol=1e-5)

@few
@given(S=st.integers(1, 2), K=st.integers(1, 3), s=st.integers(1, 3), d=st.integers(1, 4), B=st.integers(1, 5),
       data=st.data())
def test_a_shared_network_is_many_with_the_same_weights(S, K, s, d, B, data):
    m = data.draw(st.integers(1, 5))
    row = st.lists(st.integers(0, m), min_size=s, max_size=s)            # m is padding
    support = torch.tensor(data.draw(st.lists(row, min_size=K, max_size=K)))
    outputs = torch.stack([torch.tensor(data.draw(st.permutations(range(d)))[:1 + B % d]) for _ in range(K)])
    options = dict(width=3, support=support, outputs=outputs)
    x = torch.randn(S, B, m, generator=torch.Generator().manual_seed(0))
    one = ModularNet(random_projections(S, 1, s, 2), d, share=True, **options)
    many = ModularNet(one.U.repeat_interleave(K, 1), d, **options)
    for p, q in zip(many.body.parameters(), one.body.parameters()): p.data = q.detach().repeat_interleave(K, 0)
    assert torch.allclose(one(x), many(x), atol=1e-5)
    writers = torch.bincount(outputs.flatten(), minlength=d)
    assert one(x).shape == (S, B, d) and not one(x)[..., writers == 0].any()
    for loss in (mse, lambda pred, y: mse(pred, y)):  # `mse` itself must not take the gradient by hand here
        flatten_parameters(many)
        gradient_of(many, loss, B)(x, torch.zeros(S, B, d))
        wanted = torch.autograd.grad(many(x).square().sum(2).mean(1).sum(), list(many.parameters()))
        assert all(torch.allclose(p.grad, g, atol=1e-5) for p, g in zip(many.parameters(), wanted))

def test_losses_that_are_never_finite_are_an_error():
    x, y = data(2, 20, 3, 1)
    y[1] = torch.inf
    net, n = MonolithicNet(3, width=4, S=2), torch.tensor([20, 20])
    with pytest.raises(FloatingPointError, match=r'\[1\]'): fit(net, minibatches(x, y, n, 8), mse, steps=5)
    with pytest.raises(FloatingPointError, match='never finite'):
        def validate(net): return torch.tensor([1., torch.nan])
        fit(MonolithicNet(3, width=4, S=2), minibatches(x, torch.zeros_like(y), n, 8), mse, steps=5, validate=validate)

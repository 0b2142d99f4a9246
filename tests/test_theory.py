"The closed forms of the theory notebooks as properties: limits, monotonicity, identities, and errors that name the argument."
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from modscale.spectrum import effective_dimension, eigenvalues, head_trace, tail_trace
from modscale.theory import predict_loss, simulate_theorem1, theorem1, theorem1_table

fixed = settings(derandomize=True, deadline=None, max_examples=60)
size, dim, growth, variance = st.integers(1, 2000), st.integers(0, 15), st.floats(1.05, 4), st.floats(.01, 100)
part, outputs = st.floats(0, 10), st.integers(1, 4)

# the spectrum
@fixed
@given(p=size, m=dim, Omega=growth, c=variance)
def test_eigenvalues_add_up_to_the_traces(p, m, Omega, c):
    lam = eigenvalues(np.arange(1, p + 1), m, Omega, c)
    assert np.all(lam > 0) and np.all(np.diff(lam) < 0)
    assert lam.sum() == pytest.approx(float(head_trace(p, m, Omega, c)), rel=1e-11)
    assert float(head_trace(p, m, Omega, c) + tail_trace(p, m, Omega, c)) == pytest.approx(c, rel=1e-12)

@fixed
@given(p=st.floats(.01, 1e9), m=dim, Omega=growth)
def test_the_tail_falls_with_p_and_grows_with_m(p, m, Omega):
    assert tail_trace(2*p, m, Omega) < tail_trace(p, m, Omega) < tail_trace(p, m + 1, Omega) < 1

@fixed
@given(st.lists(st.floats(1e-150, 1e150), min_size=1, max_size=30))
def test_the_effective_dimension_lies_between_one_and_the_count(lam):
    assert 1 - 1e-9 <= effective_dimension(lam) <= len(lam) + 1e-9
    assert effective_dimension([1e-3]*len(lam)) == pytest.approx(len(lam))

# Theorem 1
@fixed
@given(n=size, p=size, T1=part, T2=st.floats(1e-6, 10), d=outputs)
def test_losses_in_the_two_regimes(n, p, T1, T2, d):
    train, test = theorem1(n, p, T1, T2, d)
    assert 0 <= train <= d*T2 <= test
    if n*d <= p: assert train == 0
    if n*d > p + 1:
        assert theorem1(n + 1, p, T1, T2, d)[1] < test                            # more data help beyond the peak
        assert theorem1(n, p, T1 + 1, T2, d)[1] == pytest.approx(float(test))     # and the head is free there

@fixed
@given(m=dim, Omega=growth, c=variance, p=size)
def test_limits_of_Theorem_1(m, Omega, c, p):
    train, test = predict_loss(1e15, p, m, Omega, c)                              # n → ∞: the tail is left
    tail = float(tail_trace(p, m, Omega, c))
    assert float(train) == pytest.approx(tail, rel=1e-9) and float(test) == pytest.approx(tail, rel=1e-9)
    assert predict_loss(p, 1e12, m, Omega, c)[1] == pytest.approx(c, rel=1e-6)    # p → ∞ at fixed n: nothing is learned
    assert predict_loss(1e15, p, 0, Omega, c)[1] == pytest.approx(c/(p + 1), rel=1e-9)

@fixed
@given(n=size, p=size, T1=part, T2=part, d=outputs, noise=part)
def test_label_noise_joins_the_tail(n, p, T1, T2, d, noise):
    np.testing.assert_allclose(theorem1(n, p, T1, T2, d, noise), theorem1(n, p, T1, T2 + noise, d))

@fixed
@given(n=size, p=size, m=dim, Omega=growth)
def test_few_parameters_learn_nothing(n, p, m, Omega):
    assume(n > 1)
    train, test = predict_loss(n, 1e-9, m, Omega)                                 # p → 0
    assert float(train) == pytest.approx(1, rel=1e-6) and float(test) == pytest.approx(1, rel=1e-6)

# simulations
def test_the_table_agrees_with_the_theory_at_sizes_outside_the_grid():
    table = theorem1_table([(25, 10, 1, .1, 'power'), (6, 40, 2, 0., 'isotropic')], trials=300, seed=1)
    assert table.dev_se.abs().max() < 4.5 and (table.se >= 0).all() and (table.trials == 300).all()

def test_simulations_repeat_and_depend_on_their_seed():
    one, same, other = (simulate_theorem1(9, 3, np.ones(5), trials=5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other) and one.shape == (2, 5)

@pytest.mark.parametrize('name, call', [
    ('i', lambda: eigenvalues(0, 2, 1.5)), ('p', lambda: tail_trace(-1, 2, 1.5)), ('m', lambda: head_trace(5, 2.5, 1.5)),
    ('Omega', lambda: tail_trace(5, 2, 1)), ('c', lambda: tail_trace(5, 2, 1.5, 0)), ('spectrum', lambda: effective_dimension([[1]])),
    ('T1', lambda: theorem1(5, 5, -1, 1)), ('T2', lambda: theorem1(5, 5, 1, np.inf)),
    ('d', lambda: theorem1(5, 5, 1, 1, 0)), ('noise', lambda: theorem1(5, 5, 1, 1, noise=-1)), ('noise', lambda: predict_loss(5, 5, 2, 1.5, noise=np.nan)),
    ('spectrum', lambda: simulate_theorem1(5, 5, [1, 1])), ('trials', lambda: simulate_theorem1(5, 1, [1], trials=1)),
    ('ridge', lambda: simulate_theorem1(5, 1, [1], ridge=-1)), ('name', lambda: theorem1_table([(5, 5, 1, 0., 'flat')], 2))])
def test_bad_input_names_its_argument(name, call):
    with pytest.raises(ValueError, match=rf'\b{name} must be .*{name}='): call()

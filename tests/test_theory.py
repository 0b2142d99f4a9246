"The closed forms of the theory notebooks as properties: limits, monotonicity, identities, and errors that name the argument."
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from modscale.modular_theory import predict_modular_loss, simulate_theorem2, theorem2, theorem2_table
from modscale.pinv import pinv_norm, pinv_norm_var, sample_pinv_norm, simulate_pinv_norm
from modscale.spectrum import effective_dimension, eigenvalues, head_trace, tail_trace
from modscale.theory import fig3_table, predict_loss, sample_complexity, simulate_theorem1, theorem1, theorem1_table

fixed = settings(derandomize=True, deadline=None, max_examples=60)
size, dim, growth, variance = st.integers(1, 2000), st.integers(0, 15), st.floats(1.05, 4), st.floats(.01, 100)
part, modules, outputs, share = st.floats(0, 10), st.integers(1, 9), st.integers(1, 4), st.floats(0, 1)

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

# F(n, p)
@fixed
@given(n=size, p=size)
def test_F_is_symmetric_and_falls_away_from_the_peak(n, p):
    assert pinv_norm(n, p) == pinv_norm(p, n) and pinv_norm_var(n, p) == pinv_norm_var(p, n)
    assert np.isinf(pinv_norm(n, p)) == (abs(n - p) <= 1) and np.isinf(pinv_norm_var(n, p)) == (abs(n - p) <= 3)
    if n > p + 1: assert pinv_norm(n + 1, p) < pinv_norm(n, p)

@fixed
@given(p=st.integers(5, 10**6))
def test_one_row_is_an_inverse_chi_square(p):
    assert pinv_norm(1, p) == pytest.approx(1/(p - 2)) and pinv_norm_var(1, p) == pytest.approx(2/((p - 2)**2*(p - 4)))

@settings(fixed, max_examples=10)
@given(n=st.integers(1, 60), p=st.integers(1, 60), seed=st.integers(0, 99))
def test_sampled_norms_have_the_mean_F(n, p, seed):
    assume(abs(n - p) >= 8)
    x = sample_pinv_norm(n, p, 2000, seed)
    assert abs(x.mean() - pinv_norm(n, p)) < 6*np.sqrt(pinv_norm_var(n, p)/2000)
    assert np.array_equal(x, sample_pinv_norm(n, p, 2000, np.random.default_rng(seed)))

def test_the_sampler_is_the_same_for_any_split_of_its_rows():
    one, many = (sample_pinv_norm(30, 40, n, 3) for n in (20_000, 600_000))       # 25 rows at a time, and one
    se = np.sqrt(pinv_norm_var(30, 40)*(1/len(one) + 1/len(many)))
    assert abs(one.mean() - many.mean()) < 5*se

def test_there_is_no_mean_where_none_can_be_trusted():
    table = simulate_pinv_norm([(20, 20), (20, 23), (20, 24), (20, 40)], size=50)
    assert table['mean'].isna().tolist() == table.se.isna().tolist() == table.dev_se.isna().tolist() == [True, True, False, False]
    assert table['median'].notna().all() and (table.note != '').tolist() == [True, True, True, False]
    assert table.se[2] == pytest.approx(float(np.sqrt(pinv_norm_var(20, 24)/50)))

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
@given(p=st.floats(1, 1e5), m=dim, Omega=growth, c=variance, ratio=st.floats(.05, 3))
def test_sample_complexity_is_the_last_crossing(p, m, Omega, c, ratio):
    target, tail = ratio*c, float(tail_trace(p, m, Omega, c))
    assume(abs(target/tail - 1) > 1e-6)
    n = float(sample_complexity(target, p, m, Omega, c))
    assert np.isinf(n) == (tail > target)
    if np.isfinite(n):
        assert predict_loss(n, p, m, Omega, c)[1] == pytest.approx(target, rel=1e-6)
        assert predict_loss(1.1*n, p, m, Omega, c)[1] < target

def test_figure_3_grows_with_m_and_with_p():
    table = fig3_table().pivot(index='p', columns='m', values='samples').to_numpy()
    assert table.shape == (9, 8) and (np.diff(table, axis=0) > 0).all() and (np.diff(table, axis=1) > 0).all()

# Theorem 2
@fixed
@given(n=size, p=size, T1=part, T2=part, d=outputs)
def test_one_module_is_Theorem_1(n, p, T1, T2, d):
    np.testing.assert_array_equal(theorem2(n, p, 1, 1, T1, T2, d), theorem1(n, p, T1, T2, d))

@fixed
@given(n=size, p=size, k=modules, T1=part, T2=part, rho=share)
def test_misalignment_and_missing_modules_only_hurt(n, p, k, T1, T2, rho):
    aligned = theorem2(n, p, k, k, T1, T2)
    np.testing.assert_array_equal(aligned, theorem2(n, p, 1, 1, T1, T2))          # at given traces k does not matter
    for train, test in (theorem2(n, p, k, k, T1, T2, rho=rho), theorem2(n, p, k + 1, k, T1, T2)):
        assert train >= aligned[0] - 1e-9 and test >= aligned[1]*(1 - 1e-9) - 1e-9

@fixed
@given(n=size, p=size, k=modules, b=st.integers(0, 4), Omega=growth)
def test_the_modular_prediction_is_one_module_with_its_share_of_p(n, p, k, b, Omega):
    got, T2 = predict_modular_loss(n, p, k, k, b, Omega), tail_trace(p/k, b, Omega)
    np.testing.assert_allclose(got, theorem1(n, p, 1 - T2, T2), rtol=1e-9, atol=1e-12)

# simulations
def test_tables_agree_with_the_theory_at_sizes_outside_the_grids():
    one = theorem1_table([(25, 10, 1, 'power'), (6, 40, 2, 'isotropic')], trials=300, seed=1)
    two = theorem2_table([(40, 2, 3, 5, 1, .5, 'power'), (9, 3, 2, 12, 1, .7, 'isotropic')], trials=300, seed=1)
    for table in (one, two): assert table.dev_se.abs().max() < 4.5 and (table.se >= 0).all() and (table.trials == 300).all()

def test_simulations_repeat_and_depend_on_their_seed():
    for run in (lambda seed: simulate_theorem1(9, 3, np.ones(5), trials=5, seed=seed),
                lambda seed: simulate_theorem2(9, 2, 1, 3, np.ones(5), trials=5, seed=seed)):
        assert run(1) == run(1) != run(2)

@pytest.mark.parametrize('name, call', [
    ('i', lambda: eigenvalues(0, 2, 1.5)), ('p', lambda: tail_trace(-1, 2, 1.5)), ('m', lambda: head_trace(5, 2.5, 1.5)),
    ('Omega', lambda: tail_trace(5, 2, 1)), ('c', lambda: tail_trace(5, 2, 1.5, 0)), ('spectrum', lambda: effective_dimension([[1]])),
    ('p', lambda: pinv_norm(5, np.nan)), ('n', lambda: pinv_norm_var(0, 5)), ('size', lambda: sample_pinv_norm(5, 5, 2.5)),
    ('n', lambda: sample_pinv_norm([5, 6], 5, 2)), ('T1', lambda: theorem1(5, 5, -1, 1)), ('T2', lambda: theorem1(5, 5, 1, np.inf)),
    ('d', lambda: theorem1(5, 5, 1, 1, 0)), ('target', lambda: sample_complexity(-1, 5, 2, 1.5)),
    ('spectrum', lambda: simulate_theorem1(5, 5, [1, 1])), ('trials', lambda: simulate_theorem1(5, 1, [1], trials=1)),
    ('name', lambda: theorem1_table([(5, 5, 1, 'flat')], 2)), ('k', lambda: theorem2(5, 5, 1.5, 1, 1, 1)),
    ('rho', lambda: theorem2(5, 5, 1, 1, 1, 1, rho=1.1)), ('rho', lambda: simulate_theorem2(5, 1, 1, 1, [1], rho=2)),
    ('K', lambda: predict_modular_loss(5, 5, 1, 0, 1, 1.5)), ('b', lambda: predict_modular_loss(5, 5, 1, 1, -1, 1.5)),
    ('q', lambda: simulate_theorem2(5, 1, 1, 0, [1])), ('spectrum', lambda: simulate_theorem2(5, 1, 1, 2, [1]))])
def test_bad_input_names_its_argument(name, call):
    with pytest.raises(ValueError, match=rf'\b{name} must be .*{name}='): call()

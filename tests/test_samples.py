"How samples grow: with the unit of the loss, with the input dimension, with the number of modules."
import numpy as np, pytest
from hypothesis import assume, given, settings, strategies as st
from modscale.theory.paper_figures import FIG2, PAPER_P, READ_LOSS, fig2_errors, fig2_table, fitted_range
from modscale.theory.samples import cheapest_samples, sample_complexity
from modscale.theory.spectrum import tail_trace

fixed = settings(derandomize=True, deadline=None, max_examples=60)
growth = st.floats(1.2, 2)

@fixed
@given(p=st.floats(2, 1e5), m=st.integers(0, 9), Omega=growth, target=st.floats(.05, 2), unit=st.floats(.01, 100))
def test_samples_know_only_the_ratio_of_variance_and_target(p, m, Omega, target, unit):
    assume(abs(float(tail_trace(p, m, Omega))/target - 1) > 1e-6)
    one, other = sample_complexity(target, p, m, Omega), sample_complexity(unit*target, p, m, Omega, unit)
    for name in ('first', 'rise', 'last'):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6, nan_ok=True)

@fixed
@given(p=st.floats(20, 1e5), Omega=growth, target=st.floats(.1, .9))
def test_a_fixed_size_is_of_no_use_from_a_finite_dimension_on(p, Omega, target):
    critical = np.log(np.log(p + 1)/np.log(1/target))/np.log(Omega)
    m = np.arange(0, 60)
    assume(abs(m - critical).min() > 1e-6)
    assert (np.isfinite(sample_complexity(target, p, m, Omega).last) == (m < critical)).all()

@settings(fixed, max_examples=15)
@given(Omega=growth, target=st.floats(.2, .8))
def test_with_the_best_size_growth_is_doubly_exponential(Omega, target):
    m = np.arange(int(np.ceil(np.log(4/np.log(1/target))/np.log(Omega))), 60)      # Ω^m log(1/L) > 4: p >> 1
    n = cheapest_samples(target, m, Omega)[0]
    log_n, m = np.log(n[np.isfinite(n)]), m[np.isfinite(n)]
    assert (np.diff(log_n, 2) > 0).all() and len(m) > 4
    eps = Omega**-m.astype(float)
    assert np.allclose(log_n + np.log(eps) - (1 + eps)/eps*np.log1p(eps), np.log(1/target)/eps, rtol=.01)

@settings(fixed, max_examples=15)
@given(Omega=growth, target=st.floats(.2, .8), b=st.integers(1, 3))
def test_with_given_modules_growth_is_linear(Omega, target, b):
    K = np.arange(1, 12)
    n = cheapest_samples(target, b, Omega, K=K)[0]
    assert np.allclose((n - 1)/K, n[0] - 1, rtol=1e-6)

def test_the_fitted_range():
    m, p = np.meshgrid(np.arange(1, 11), [1., .85*max(PAPER_P), .86*max(PAPER_P)], indexing='ij')
    assert (fitted_range(m, p) == ((m > 1) & (m < 10) & (p < .851*max(PAPER_P)))).all()

def test_what_is_called_a_forecast_lies_in_the_fitted_range():
    m = np.arange(1, 8)                     # half the variance: theory/07_samples says so of m = 2..5, and not of m = 6
    assert fitted_range(m, cheapest_samples(.5, m, 1.57)[1]).tolist() == [2 <= d <= 5 for d in m]

def test_figure_2_is_read_at_all_points_of_its_test_loss():
    known = {(panel, x): value for panel, x, loss, value in FIG2 if loss == 'test'}
    assert {x for panel, x in known if panel == 'm'} == {*range(2, 10)} and len(known) == len({*known})
    assert [known['m', m] for m in range(2, 10)] == sorted(known['m', m] for m in range(2, 10))
    assert fig2_errors(fig2_table()).error.abs().max() < READ_LOSS == .05

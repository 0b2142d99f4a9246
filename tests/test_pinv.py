"F(n, p) as properties: domain, limits, exact recurrences, tails, samplers that agree, reports that hold the truth."
import math, tracemalloc
from fractions import Fraction
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from modscale.base.summary import judge_deviations
from modscale.theory.pinv import (advance, estimate_pinv_norm, honest_mean, pinv_norm, pinv_norm_var, pinv_table,
    pinv_tail_law, plot_pinv, sample_by_blocks, sample_by_rows, sample_pinv_norm, sample_quantiles)

fixed = settings(derandomize=True, deadline=None, max_examples=60)
size, small = st.integers(1, 2000), st.integers(1, 60)
seeds = st.integers(0, 99)

@fixed
@given(n=size, p=size)
def test_F_is_symmetric_and_falls_away_from_the_peak(n, p):
    assert pinv_norm(n, p) == pinv_norm(p, n) and pinv_norm_var(n, p) == pinv_norm_var(p, n)
    assert np.isinf(pinv_norm(n, p)) == (abs(n - p) <= 1) and np.isinf(pinv_norm_var(n, p)) == (abs(n - p) <= 3)
    if n > p + 1: assert pinv_norm(n + 1, p) < pinv_norm(n, p)

@fixed
@given(p=st.integers(5, 10**6), t=st.floats(1, 1e6))
def test_one_row_is_an_inverse_chi_square(p, t):
    assert pinv_norm(1, p) == pytest.approx(1/(p - 2)) and pinv_norm_var(1, p) == pytest.approx(2/((p - 2)**2*(p - 4)))
    a, log_C = pinv_tail_law(1, 6)
    assert log_C - a*np.log(t) == pytest.approx(-3*np.log(2*t) - np.log(6))

@settings(fixed, max_examples=30)
@given(r=st.integers(1, 40), M=st.fractions(1, 60, max_denominator=4))
def test_mean_and_variance_for_real_M_in_exact_fractions(r, M):
    assume(M > r + 3)
    e = A = cS = mean = square = Fraction(0)
    for j in range(1, r + 1):
        k, h = M - j + 1, r - j + 1
        A, D = (1 + 2*h*e + h*(h + 2)*A)/((k - 2)*(k - 4)), (mean + h*cS)/(k - 2)
        e, cS = (1 + h*e)/(k - 2), D + A
        square = square + 2*D + A
        mean += e
    assert float(mean) == pytest.approx(float(pinv_norm(r, float(M))))
    assert float(square - mean**2) == pytest.approx(float(pinv_norm_var(float(M), r)))

@settings(fixed, max_examples=10)
@given(n=small, p=small, seed=seeds)
def test_sampled_norms_have_the_mean_F(n, p, seed):
    assume(abs(n - p) >= 8)
    x = sample_pinv_norm(n, p, 2000, seed)
    assert abs(x.mean() - pinv_norm(n, p)) < 6*np.sqrt(pinv_norm_var(n, p)/2000)
    assert np.array_equal(x, sample_pinv_norm(n, p, 2000, np.random.default_rng(seed)))
    rng = np.random.default_rng(seed)
    assert not np.array_equal(sample_pinv_norm(n, p, 3, rng), sample_pinv_norm(n, p, 3, rng))    # a generator moves on

@settings(fixed, max_examples=20)
@given(rows=st.integers(0, 70), cut=st.integers(0, 70), width=st.integers(1, 3), seed=seeds)
def test_rows_compose_into_the_plain_recurrence(rows, cut, width, seed):
    rng = np.random.default_rng(seed)
    g = rng.gamma(.5, size=(rows, width))
    h, c = rng.gamma(.5, size=(rows, width)), rng.random(width)
    total = rng.random(width)
    got = advance(g[cut:], h[cut:], *advance(g[:cut], h[:cut], c, total))  # any split gives the same
    for a, b in zip(g, h):
        c = (1 + b*c)/a
        total = total + c
    np.testing.assert_allclose(got, (c, total), rtol=1e-11)

@pytest.mark.parametrize('sample', [sample_by_rows, sample_by_blocks])
def test_both_samplers_have_the_exact_mean(sample):
    x = np.concatenate([sample(300, 340, 90, np.random.default_rng(i)) for i in range(10)])      # 181 rows a block
    assert abs(x.mean() - pinv_norm(300, 340)) < 4*np.sqrt(pinv_norm_var(300, 340)/len(x))

def test_parts_of_a_batch_are_independent():
    x = sample_pinv_norm(30, 40, 5000, 3)                                                        # two parts of 2500
    assert len(np.unique(x)) == 5000 and abs(np.corrcoef(x[:2500], x[2500:])[0, 1]) < .1

def test_memory_does_not_grow_with_the_matrix():
    tracemalloc.start()
    x = sample_pinv_norm(100_000, 100_050, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6 and abs(x.mean() - pinv_norm(100_000, 100_050)) < 5*np.sqrt(pinv_norm_var(100_000, 100_050)/3)

@fixed
@given(r=st.integers(1, 10**15), a=st.integers(1, 30))
def test_the_constant_of_the_tail_keeps_its_digits(r, a):
    exact = sum(math.log(r + 2*i) for i in range(a)) - math.lgamma(2*a + 1)  # whole a: a product and a factorial
    assert float(pinv_tail_law(r, r + 2*a - 1)[1]) == pytest.approx(exact, rel=1e-11, abs=1e-11)

def test_there_is_no_mean_where_none_can_be_trusted():
    table = pinv_table(50, settings=[(20, 20), (20, 23), (20, 24), (20, 40)])
    for column in ('mean', 'se', 'dev_se'): assert table[column].isna().tolist() == [True, True, False, False]
    assert table['median'].notna().all() and (table.note != '').tolist() == [True, True, True, False]
    assert table.se[2] == pytest.approx(float(np.sqrt(pinv_norm_var(20, 24)/50)))
    report = estimate_pinv_norm(20, 22, 50)
    assert report.exact_mean == 20 and report.exact_var == np.inf and 'variance' in report.note
    assert np.isnan(report.mean)
    assert len(plot_pinv(table).axes) == 2

@fixed
@given(gap=st.one_of(st.floats(0, 12), st.just(np.inf)), known=st.booleans(), seed=seeds)
def test_a_mean_is_said_only_where_its_error_is_known(gap, known, seed):
    x = np.random.default_rng(seed).exponential(size=50)
    said = honest_mean(x, gap, 4. if known else None)
    allowed = gap >= 8 or (known and gap >= 4)
    assert np.isnan(said['mean']) != allowed and np.isnan(said['se']) != allowed and (said['note'] == '') == (gap >= 8)
    assert said['low'] <= said['median'] <= said['high'] and said['trials'] == 50
    if 4 <= gap < 8 and known: assert said['se'] == pytest.approx((4/50)**.5)

def test_F_agrees_with_a_table_whose_rows_are_independent():
    table = pinv_table(1000, 5)
    judged = judge_deviations(table.dev_se)
    assert judged['count'] == 12 and judged.largest < judged.limit and judged.pvalue > .001
    same = pinv_table(200, 0, [(20, 40)]*2)                                      # a setting has draws of its own
    assert same['mean'].nunique() == 2

@pytest.mark.parametrize('p', [20, 22])
def test_the_tail_holds_where_it_is_reached(p):
    x, (a, log_C) = sample_pinv_norm(20, p, 1000, 0), pinv_tail_law(20, p)
    for level in (.01, .1):
        share = (x > np.exp((log_C - np.log(level))/a)).mean()
        assert abs(share - level) < 6*np.sqrt(level*(1 - level)/1000)

@settings(fixed, max_examples=30)
@given(count=st.integers(1, 400), q=st.floats(.01, .99), seed=seeds)
def test_intervals_enclose_their_quantile(count, q, seed):
    row = sample_quantiles(np.random.default_rng(seed).random(count), [q]).iloc[0]
    assert 0 <= row.low <= row.value <= row.high and row.low < q + 5*np.sqrt(q*(1 - q)/count) + 5/count

@pytest.mark.parametrize('name, call', [
    ('p', lambda: pinv_norm(5, np.nan)), ('n', lambda: pinv_norm_var(0, 5)),
    ('size', lambda: sample_pinv_norm(5, 5, 2.5)),
    ('n', lambda: sample_pinv_norm([5, 6], 5, 2)), ('rng', lambda: sample_pinv_norm(5, 5, 2, 'a')),
    ('n', lambda: pinv_norm(True, 5)), ('p', lambda: pinv_norm(5, '5')),
    ('n', lambda: pinv_tail_law(-1, 5)), ('size', lambda: estimate_pinv_norm(5, 5, 1))])
def test_bad_input_names_its_argument(name, call):
    with pytest.raises(ValueError, match=rf'\b{name} must be .*{name}='): call()

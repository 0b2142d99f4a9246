"Ridge, the law of one run and the planner as properties: limits, monotonicity, identities, errors with names."
import json
from pathlib import Path
import numpy as np, pandas as pd, pytest
from hypothesis import assume, given, settings, strategies as st
from scipy import stats
from modscale.base.summary import judge_deviations
from modscale.theory.loss_law import (check_sizes, log_loss_moments, loss_law_table, loss_quantile, loss_sf,
    sample_losses, sample_study, simulate_task, square_traces)
from modscale.theory.paper_figures import fig2_errors, fig2_table, fig3_errors, fig3_table
from modscale.theory.planner import (fit_spectrum, interval_ends, plan, predict, predict_runs, read_losses,
                                     synthetic_losses)
from modscale.theory.planner_study import (DESIGNS, compare_laws, coverage_table, draw_study, fit_chinchilla,
                                           fit_projected, summarise_coverage, terms)
from modscale.theory.samples import cheapest_samples, optimal_p, sample_complexity
from modscale.theory.ridge import (RIDGE_GRID, fixed_point, optimal_ridge, predict_ridge_loss, ridge_loss,
    ridge_table)
from modscale.theory.spectrum import head_trace, tail_trace
from modscale.theory.theorem1 import named_spectrum, predict_loss, simulate_theorem1, theorem1

fixed = settings(derandomize=True, deadline=None, max_examples=60)
few = settings(fixed, max_examples=25)
size, dim = st.integers(1, 2000), st.integers(0, 9)
growth, variance = st.floats(1.05, 4), st.floats(.01, 100)
small, part = st.integers(1, 80), st.floats(.01, 10)
power = st.floats(0, 2)

def head(p, a): return np.arange(1., p + 1)**-a

# ridge and plain minimum norm
@few
@given(N=small, p=small, a=power, ridge=st.floats(1e-6, 1e3))
def test_the_fixed_point_solves_its_equation(N, p, a, ridge):
    kappa, lam = fixed_point(N, head(p, a), ridge), head(p, a)
    assert (lam/(lam + kappa)).sum() + ridge/kappa == pytest.approx(N, rel=1e-8)

@few
@given(N=st.integers(10, 80), p=st.integers(10, 80), a=power, T2=part)
def test_no_ridge_beats_the_best_one(N, p, a, T2):
    best = ridge_loss(N, head(p, a), T2, optimal_ridge(T2))[1]
    assume(not np.isnan(best))  # NaN: the expansion says that it fails
    for factor in (.5, .9, 1.1, 2, 100):  # G and its slope are approximated apart
        assert not ridge_loss(N, head(p, a), T2, factor*T2)[1] < best*(1 - 1e-2)
    assert T2 <= best <= T2 + head(p, a).sum()

@few
@given(N=small, p=small, a=power, T2=part)
def test_a_large_ridge_predicts_zero(N, p, a, T2):
    total = T2 + head(p, a).sum()
    assert np.allclose(ridge_loss(N, head(p, a), T2, 1e9), total, rtol=1e-4)

@few
@given(N=small, p=small, T1=part, T2=part)
def test_an_isotropic_head_without_ridge_is_Theorem_1(N, p, T1, T2):
    np.testing.assert_allclose(ridge_loss(N, np.full(p, T1/p), T2), theorem1(N, p, T1, T2), rtol=1e-6)

@few
@given(N=small, p=small, a=power, T2=part, ridge=st.floats(.01, 10), d=st.integers(1, 4))
def test_losses_of_d_outputs_are_d_times_those_of_one(N, p, a, T2, ridge, d):
    np.testing.assert_allclose(ridge_loss(N, head(p, a), T2, ridge, d),
                               d*np.array(ridge_loss(N*d, head(p, a), T2, ridge)), rtol=1e-9)

def test_rows_of_the_ridge_table_have_draws_of_their_own_and_honest_errors():
    assert all(share or abs(n*d - p) >= 8 for n, p, d, _, share in RIDGE_GRID)
    table = ridge_table(20, 3, [(6, 12, 1, 'power', 1.), (6, 12, 1, 'power', 1.), (12, 12, 1, 'power', 1.)])
    assert table.simulated.nunique() == 6
    lam = named_spectrum('power', 52)
    own = [simulate_theorem1(6, 12, lam, 1, 20, [3, 1, part], whitened=False, ridge=float(lam[12:].sum()))[part].mean()
           for part in (0, 1)]
    assert table.simulated[2:4].tolist() == pytest.approx(own) and table.se.notna().all()
    # without ridge: no mean so near the peak, and a training loss that only has to be zero
    near, far = (ridge_table(20, 0, [(n, 12, 1, 'power', 0.)]).set_index('loss') for n in (11, 4))
    assert np.isnan(near.simulated['test']) and np.isnan(near.dev_se['test']) and np.isfinite(far.dev_se['test'])
    assert far.simulated['train'] < 1e-9 and far.theory['train'] == 0

# the law of one run
@fixed
@given(n=size, p=size, T1=part, T2=part, q=st.floats(.001, .999))
def test_quantiles_invert_the_distribution_function(n, p, T1, T2, q):
    x = loss_quantile(q, n, p, T1, T2)
    assert T2 < x < np.inf and float(loss_sf(x, n, p, T1, T2)) == pytest.approx(1 - q, abs=1e-5)
    assert loss_quantile(q, n, p, T1, T2, 1) <= loss_quantile(min(.9999, q + .0005), n, p, T1, T2, 1)

@few
@given(n=st.integers(1, 60), p=st.integers(1, 60), T1=part, T2=part, d=st.integers(1, 3), seed=st.integers(0, 99))
def test_sampled_losses_have_the_moments(n, p, T1, T2, d, seed):
    assume(abs(n*d - p) >= 8)
    train, test = sample_losses(n, p, T1, T2, d, size=4000, rng=seed)
    mean, N = theorem1(n, p, T1, T2, d), n*d
    r = min(n*d, p)
    Q = stats.f(r, abs(N - p) + 1, scale=r/(abs(N - p) + 1))                      # the law of the fitted noise
    var = d**2*(T2**2*Q.var() + (T1**2*stats.beta((p - N)/2, N/2).var() if N < p else 0))
    assert abs(test.mean() - mean[1]) < 6*np.sqrt(var/4000)
    freedom = max(N - p, 0)
    assert abs(train.mean() - mean[0]) <= 6*d*T2/N*np.sqrt(2*freedom/4000) + 1e-12

@fixed
@given(p=st.integers(2, 3000), m=dim, Omega=growth, c=variance)
def test_squared_traces(p, m, Omega, c):
    one, two = square_traces(p, m, Omega, c)
    assert 0 < one <= head_trace(p, m, Omega, c)**2*(1 + 1e-9) and 0 < two < tail_trace(p, m, Omega, c)**2*1.02
    assert np.allclose(np.add(*square_traces(p + 1, m, Omega, c)), one + two)

def test_rows_of_the_law_table_have_draws_of_their_own():
    table = loss_law_table(50, 3, [(12, 30), (12, 30)])
    for (i, j), row in zip(((i, j) for i in (0, 1) for j in (0, 1, 2)), table.itertuples()):
        test = simulate_task(12, 30, .8, .2, 50, [3, i, j])[1]
        assert row.share == (test <= row.theory).mean() and row.simulated == np.quantile(test, row.q)
        assert row.low <= row.simulated <= row.high
    assert table.simulated.nunique() == 6

def test_the_law_table_sees_a_law_of_one_parameter_less():
    table = loss_law_table(400, 1, [(15, 20), (20, 15), (19, 20), (8, 20)])
    right = judge_deviations(table.dev_se)
    assert right.largest < right.limit and right.pvalue > .001
    shares = [1 - float(loss_sf(row.theory, row.n, row.p - 1, .8, .2)) for row in table.itertuples()]
    assert judge_deviations((table.share - shares)/table.se).pvalue < .001

def test_the_law_is_finite_at_the_peak():
    mean, var = log_loss_moments(np.array([99., 100, 101]), 100., .8, .2)
    assert np.isfinite(mean).all() and np.isfinite(var).all() and mean.argmax() == 1

# the planner
@fixed
@given(p=st.floats(1.5, 1e5), m=dim, Omega=growth, c=variance, ratio=st.floats(.05, 3), K=st.integers(1, 4),
       d=st.integers(1, 3))
def test_the_loss_at_a_crossing_is_the_target(p, m, Omega, c, ratio, K, d):
    target, tail = ratio*c*d, float(tail_trace(p/K, m, Omega, c))
    assume(abs(ratio*c/tail - 1) > 1e-6 and K <= p)
    cross = sample_complexity(target, p, m, Omega, c, d, K=K)
    def loss(n): return float(theorem1(n, p, head_trace(p/K, m, Omega, c), tail, d)[1])
    assert np.isinf(cross.last) == (tail > ratio*c) and (cross.first <= cross.last)
    for n in (cross.first, cross.rise, cross.last):
        if 0 < n < 1e12: assert loss(float(n)) == pytest.approx(target, rel=1e-6)
    if np.isfinite(cross.last): assert loss(1.1*float(cross.last)) < target
    if 0 < cross.first < np.inf and not np.isnan(cross.rise):
        assert loss(float(cross.first + cross.rise)/2) <= target*(1 + 1e-9)

@fixed
@given(n=st.integers(1, 400), m=dim, Omega=growth, K=st.integers(1, 4), noise=st.sampled_from([0., .2]))
def test_no_p_beats_the_best_one(n, m, Omega, K, noise):
    p, best = optimal_p(n, m, Omega, noise=noise, K=K)
    all_p = np.arange(K, max(3*n + K, p) + 1)
    loss = theorem1(n, all_p, head_trace(all_p/K, m, Omega), tail_trace(all_p/K, m, Omega), noise=noise)[1]
    assert best <= min(1 + noise, np.min(loss))*(1 + 1e-9)
    if p: assert loss[all_p == p][0] == pytest.approx(float(best), rel=1e-9)

@fixed
@given(m=st.integers(0, 4), Omega=st.floats(1.1, 2), target=st.floats(.2, .9), K=st.integers(1, 5))
def test_no_p_needs_fewer_samples_than_the_cheapest(m, Omega, target, K):
    n, _ = cheapest_samples(target, m, Omega, K=K)
    assert n <= sample_complexity(target, np.geomspace(K, 1e8, 3000), m, Omega, K=K).last.min()*(1 + 1e-6)
    assert n < cheapest_samples(target, m + 1, Omega, K=K)[0] and n < cheapest_samples(target, m, Omega, K=K + 1)[0]

@pytest.fixture(scope='module')
def losses(): return synthetic_losses(1.4, .7, .9, runs=80, seed=5)

@pytest.fixture(scope='module')
def fit(losses): return fit_spectrum(losses)

def test_a_fit_recovers_what_made_the_table(fit):
    for name, truth in dict(Omega=1.4, c=.7, p_scale=.9).items():
        low, high = fit.intervals[name]
        assert low < getattr(fit, name) < high and abs(getattr(fit, name)/truth - 1) < .03
    assert not fit.notes and fit.rows == 80

def test_units_of_the_loss_do_not_matter(losses, fit):
    scaled = fit_spectrum(losses.assign(train_loss=1e6*losses.train_loss, test_loss=1e6*losses.test_loss))
    assert scaled.c/fit.c == pytest.approx(1e6, rel=1e-3) and scaled.Omega == pytest.approx(fit.Omega, rel=1e-3)

def test_one_wild_run_does_not_move_the_fit(losses, fit):
    wild = losses.copy()
    wild.loc[wild.test_loss.idxmin(), 'test_loss'] *= 1000
    assert abs(fit_spectrum(wild).Omega/fit.Omega - 1) < .02

def test_copies_and_repeats_are_no_new_runs(losses, fit):
    copied = fit_spectrum(pd.concat([losses, losses, losses], ignore_index=True))
    assert copied.intervals == fit.intervals and copied.rows == 80 and 'copies' in copied.notes[0]
    rng = np.random.default_rng(0)
    repeated = pd.concat([losses.assign(test_loss=losses.test_loss*np.exp(1e-6*rng.standard_normal(80)))
                          for _ in range(3)], ignore_index=True)
    again = fit_spectrum(repeated)
    for name in ('c', 'Omega', 'p_scale'):
        width, once = (one.intervals[name][1] - one.intervals[name][0] for one in (again, fit))
        assert .9 < width/once < 1.5
    alone = fit_spectrum(repeated.assign(group=range(240)))       # told that they are independent, it believes it
    assert np.ptp(alone.intervals['Omega']) < .8*np.ptp(again.intervals['Omega'])

def test_noise_that_nobody_declared_is_found():
    noisy = synthetic_losses(1.57, 1.15, .85, seed=3, noise=.1)
    found, denied = fit_spectrum(noisy), fit_spectrum(noisy, noise=0.)
    assert found.intervals['noise'][0] < .1 < found.intervals['noise'][1] and found.noise == pytest.approx(.1, rel=.1)
    assert found.intervals['Omega'][0] < 1.57 < found.intervals['Omega'][1] < denied.intervals['Omega'][0]
    assert denied.intervals['noise'] == (0, 0)

def test_one_sided_scatter_is_allowed_for():
    late = synthetic_losses(1.57, 1.15, .85, seed=4, undertrained=.2)
    c = fit_spectrum(late)
    assert c.covariance[0, 0] > c.spread**2 and c.intervals['c'][0] < 1.15 < c.intervals['c'][1]

def test_levels_nest_and_draws_have_the_intervals(fit):
    narrow, wide = interval_ends(fit, .5), interval_ends(fit, .95)
    drawn = fit.draw(40_000, 1)
    for name in ('c', 'Omega', 'p_scale'):
        assert wide[name][0] < narrow[name][0] < getattr(fit, name) < narrow[name][1] < wide[name][1]
        inside = np.mean((drawn[name] >= wide[name][0]) & (drawn[name] <= wide[name][1]))
        assert inside == pytest.approx(.95, abs=4*(.95*.05/40_000)**.5)

def test_a_band_of_runs_holds_them(fit):
    new = synthetic_losses(1.4, .7, .9, runs=300, seed=6)
    for level in (.5, .95):
        band = predict_runs(fit, new.n, new.p, new.m, level)
        assert (band.low < band.typical).all() and (band.typical < band.high).all()
        share = new.test_loss.between(band.low, band.high).mean()
        assert level - .1 < share < level + .1
    few = fit_spectrum(synthetic_losses(1.4, .7, .9, runs=5, seed=5))
    if few.notes: assert (predict_runs(few, 100, 97, 5).high == np.inf).all()

def test_no_two_designs_share_their_random_numbers():
    some = [draw_study(design, draw)[1].train_loss.round(12) for design in DESIGNS for draw in range(2)]
    for i, a in enumerate(some):
        assert all(len(set(a) & set(b) - {0.}) == 0 for b in some[:i])

def test_coverage_has_binomial_intervals_that_never_vanish():
    table = coverage_table('denied', 2)
    assert not table[table.constant == 'Omega'].held95.any()      # what the check is there to see
    rows = summarise_coverage(table)
    assert (rows.held95_high - rows.held95_low > .5).all() and set(rows.constant) == {'c', 'Omega', 'p_scale'}

@pytest.mark.parametrize('fit_peer', [fit_chinchilla, fit_projected])
def test_other_laws_find_their_own_constants(fit_peer):
    rng = np.random.default_rng(1)
    runs = pd.DataFrame(dict(n=rng.choice([100, 1000, 10_000], 60), p=rng.choice([97, 1153, 5377], 60),
                             m=rng.integers(2, 9, 60)))
    theta = np.r_[np.log([.1, 5., 3., .4, .6]), np.zeros(5)]
    runs['test_loss'] = np.exp(terms(theta, runs))
    assert np.allclose(fit_peer(runs, 'constant')(runs.assign(m=9)), terms(theta, runs), atol=.01)

def test_the_planner_wins_on_its_own_law():
    losses = draw_study('law', 7)[1]
    error = pd.DataFrame(compare_laws(losses[losses.m < 9], losses[losses.m == 9])).set_index('method').error
    assert error['planner'] < .06 and error['planner'] < error[['chinchilla', 'variable projection']].min()

def test_a_file_and_a_frame_are_the_same(losses, fit, tmp_path):
    losses.to_csv(tmp_path/'losses.csv', index=False)
    assert fit_spectrum(tmp_path/'losses.csv').Omega == pytest.approx(fit.Omega, rel=1e-9)

def test_a_plan_holds_the_fitted_loss(fit):
    table = plan(fit, .5, [2, 3, 30], [385])
    at = table[(table.m == 2) & ~table.best].iloc[0]
    assert fit.predict(at['last'], 385, 2)[1] == pytest.approx(.5, rel=1e-6)
    assert at.last_low <= at['last'] <= at.last_high
    assert np.isinf(table['last'][table.m == 30]).all()

def test_figures_2_and_3():
    assert fig2_errors(fig2_table()).error.abs().max() < .05 and fig3_errors(fig3_table()).error.abs().max() < .05
    table = fig3_table().pivot(index='p', columns='m', values='samples').to_numpy()
    assert table.shape == (9, 8) and (np.diff(table, axis=0) > 0).all() and (np.diff(table, axis=1) > 0).all()

def test_predict_and_plan_commands(run_cli, losses, tmp_path):
    rows = json.loads(run_cli('predict', '--n', 100, 1000, '--p', 97, '--m', 2, 5, '--json', '--figure',
                              'a.png').stdout)
    assert len(rows) == 4 and rows[0]['test'] == pytest.approx(float(predict_loss(100, 97, 2, 1.57)[1]))
    assert (tmp_path/'a.png').stat().st_size > 5000
    losses.to_csv(tmp_path/'losses.csv', index=False)
    done = json.loads(run_cli('plan', 'losses.csv', '--target', .5, '--m', 2, 30, '--p', 385, '--json', '--figure',
                              'b.svg').stdout)
    assert done['fit']['Omega']['low'] < 1.4 < done['fit']['Omega']['high'] and len(done['plan']) == 4
    assert (tmp_path/'b.svg').exists()
    assert 'never' not in run_cli('plan', 'losses.csv', '--target', .5, '--m', 2, '--p', 385).stdout

TABLES = dict(empty='', header='n,p,m,train_loss,test_loss\n', one='n,p,m,train_loss,test_loss\n100,97,2,.1,.2\n',
              missing='n,p,m,train_loss\n' + '100,97,2,.1\n'*6,
              words='n,p,m,train_loss,test_loss\n' + 'a,b,c,d,e\n'*6)

@pytest.mark.parametrize('words, message', [
    (['predict', '--n', '0', '--p', '5', '--m', '2'], 'n must be'),
    (['predict', '--n', '5', '--p', '-1', '--m', '2'], 'p must be'),
    (['predict', '--n', '5', '--p', '5', '--m', '2', '--Omega', '1'], 'Omega=1'),
    (['predict', '--n', '5', '--p', '5', '--m', '2', '--c', '0'], 'c=0'),
    (['predict', '--n', '5', '--p', '5', '--m', '2', '--d', '0'], 'd=0'),
    (['predict', '--n', '5', '--p', '5', '--m', '2', '--K', '0'], 'K=0'),
    (['predict', '--n', '5', '--p', '5', '--m', '2', '--figure', 'a.xyz'], "figure='a.xyz'"),
    (['plan', 'gone.csv', '--target', '1'], 'gone.csv'),
    *((['plan', f'{name}.csv', '--target', '1'], 'table') for name in TABLES)], ids=lambda v: ' '.join(v)
                         if isinstance(v, list) else '')
def test_errors_are_one_line_and_exit_2(capsys, tmp_path, monkeypatch, words, message):
    from modscale.app.cli import main
    monkeypatch.chdir(tmp_path)
    for name, text in TABLES.items(): Path(f'{name}.csv').write_text(text)
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == '' and len(said.err.splitlines()) == 1
    assert said.err.startswith('modscale: ') and message in said.err

good = synthetic_losses(1.5, 1., 1., runs=6)

@pytest.mark.parametrize('name, call', [
    ('head', lambda: ridge_loss(5, [-1, 1], 1)), ('head', lambda: ridge_loss(5, [np.nan], 1)),
    ('ridge', lambda: ridge_loss(5, [1], 1, -1)),
    ('T2', lambda: optimal_ridge(np.nan)), ('noise', lambda: optimal_ridge(1, -1)),
    ('ridge', lambda: predict_ridge_loss(5, 5, 2, 1.5, ridge='none')),
    ('p', lambda: predict_ridge_loss(5, [5, 6], 2, 1.5)), ('n', lambda: check_sizes(0, 1, 1, 1)),
    ('T2', lambda: loss_quantile(.5, 5, 5, 1, 0)),
    ('q', lambda: loss_quantile(1, 5, 5, 1, 1)), ('d', lambda: sample_losses(5, 5, 1, 1, 0)),
    ('Omega', lambda: sample_study(5, 5, 2, .5)),
    ('target', lambda: sample_complexity(-1, 5, 2, 1.5)), ('m', lambda: sample_complexity(1, 5, -2, 1.5)),
    ('K', lambda: sample_complexity(1, 5, 2, 1.5, K=0)),
    ('n', lambda: optimal_p(0, 2, 1.5)), ('c', lambda: cheapest_samples(1, 2, 1.5, 0)),
    ('table', lambda: read_losses(good.drop(columns='m'))),
    ('table', lambda: read_losses(good[:1])), ('table', lambda: read_losses(good.assign(m=1.5))),
    ('table', lambda: read_losses(good.assign(test_loss=np.inf))),
    ('level', lambda: fit_spectrum(good, level=0)), ('p_scale', lambda: fit_spectrum(good, p_scale=-1)),
    ('design', lambda: coverage_table('no', 1)),
    ('p_scale', lambda: predict(5, 5, 2, p_scale=0))])
def test_bad_input_names_its_argument(name, call):
    with pytest.raises(ValueError, match=rf'\b{name} must .*{name}\b'): call()

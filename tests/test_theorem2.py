"Theorem 2 as properties: limits, any directions, subspaces, real Hermite features, and errors that name the argument."
from math import comb
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from structure import cells, root
from modscale.base.summary import judge_deviations
from modscale.theory.real_features import asymptotic_parameters, universality_table
from modscale.theory.spectrum import tail_trace
from modscale.theory.theorem1 import named_spectrum, theorem1
from modscale.theory.theorem2 import (captured_variance, effective_rho, hermite, predict_directions,
    predict_modular_loss, random_share, simulate_hermite, simulate_theorem2, theorem2, theorem2_table, unit_columns,
    whiten_degrees)

fixed = settings(derandomize=True, deadline=None, max_examples=60)
size, growth = st.integers(1, 2000), st.floats(1.05, 4)
part, modules = st.floats(0, 10), st.integers(1, 9)
share, seeds = st.floats(0, 1), st.integers(0, 999)
few, dims = st.integers(1, 4), st.integers(2, 6)

def directions(rng, m, k):
    U = rng.standard_normal((m, k))
    return U/np.linalg.norm(U, axis=0)

# the closed form
@fixed
@given(n=size, p=size, T1=part, T2=part, d=few, noise=part)
def test_one_module_is_Theorem_1_and_noise_is_tail(n, p, T1, T2, d, noise):
    np.testing.assert_array_equal(theorem2(n, p, 1, 1, T1, T2, d), theorem1(n, p, T1, T2, d))
    np.testing.assert_array_equal(theorem2(n, p, 1, 1, T1, T2, d, noise=noise), theorem1(n, p, T1, T2 + noise, d))

@fixed
@given(n=size, p=size, k=modules, T1=part, T2=part, rho=share)
def test_misalignment_and_missing_modules_only_hurt(n, p, k, T1, T2, rho):
    aligned = theorem2(n, p, k, k, T1, T2)
    np.testing.assert_array_equal(aligned, theorem2(n, p, 1, 1, T1, T2))          # at given traces k does not matter
    for train, test in (theorem2(n, p, k, k, T1, T2, rho=rho), theorem2(n, p, k + 1, k, T1, T2)):
        assert train >= aligned[0] - 1e-9 and test >= aligned[1]*(1 - 1e-9) - 1e-9

@fixed
@given(n=size, p=size, k=modules, b=st.integers(0, 4), Omega=growth, noise=part)
def test_the_modular_prediction_is_one_module_with_its_share_of_p(n, p, k, b, Omega, noise):
    got, T2 = predict_modular_loss(n, p, k, k, b, Omega, noise=noise), tail_trace(p/k, b, Omega)
    np.testing.assert_allclose(got, theorem1(n, p, 1 - T2, T2 + noise), rtol=1e-9, atol=1e-12)

@fixed
@given(st.lists(st.tuples(st.floats(.01, 9), share), min_size=1, max_size=9))
def test_the_effective_correlation_lies_among_those_given(pairs):
    lam, rho = np.array(pairs).T
    assert rho.min() - 1e-12 <= effective_rho(lam, rho) <= rho.max() + 1e-12
    assert effective_rho(lam, rho)**2*lam.sum() == pytest.approx(lam @ rho**2, abs=1e-12)

@fixed
@given(p=size, gap=st.integers(-1, 1), k=modules, T1=part)
def test_a_task_without_residual_has_no_peak(p, gap, k, T1):
    "s² = 0 next to n = p, where F is infinite: nothing can be fitted wrongly (theory/06_theorem2, the theorem)."
    n = max(1, p + gap)
    train, test = theorem2(n, p, k, k, T1, 0)
    assert train == 0 and test == pytest.approx(T1*max(0, p - n)/p)

# any directions
@fixed
@given(seed=seeds, m=dims, k=few, K=few, q=few)
def test_captured_variance_grows_with_directions_and_not_with_copies(seed, m, k, K, q):
    rng = np.random.default_rng(seed)
    U, V = directions(rng, m, k), directions(rng, m, K)
    lam, signs = rng.random(q), rng.choice([-1, 1], K)
    got, turn = captured_variance(U, V, lam), np.linalg.qr(rng.standard_normal((m, m)))[0]
    assert -1e-12 <= got <= captured_variance(U, np.hstack([V, directions(rng, m, 1)]), lam) + 1e-9 <= lam.sum() + 1e-8
    for same in (captured_variance(turn @ U, turn @ V, lam), captured_variance(U, V*signs, lam),
                 captured_variance(U, V[:, [0, *range(K)]], lam)):
        assert same == pytest.approx(got, rel=1e-9)
    assert captured_variance(U, np.hstack([V, U]), lam) == pytest.approx(lam.sum())
    ranks = [B.shape[1] for B in whiten_degrees(np.hstack([V, -V]), q)]
    assert ranks == [min(K, comb(m + a - 1, a)) for a in range(1, q + 1)]

@fixed
@given(n=size, theta=st.floats(0, 1.57), k=few, q=few, noise=part)
def test_one_to_one_directions_are_an_effective_correlation(n, theta, k, q, noise):
    U = np.eye(2*k)[:, :k]
    V = np.cos(theta)*np.eye(2*k)[:, :k] + np.sin(theta)*np.eye(2*k)[:, k:]
    lam = np.arange(1., q + 3)**-1.5
    expected = theorem2(n, k*q, k, k, lam[:q].sum(), lam[q:].sum(), 1,
                        effective_rho(lam, np.cos(theta)**np.arange(1, q + 1)), noise)
    np.testing.assert_allclose(predict_directions(n, U, V, q, lam, noise), expected, rtol=1e-9)

@fixed
@given(seed=seeds, n=size, k=few, q=few)
def test_pairs_at_different_angles_have_the_mean_square_correlation(seed, n, k, q):
    theta, lam = np.random.default_rng(seed).uniform(0, 1.5, k), np.arange(1., q + 2)**-1.5
    U, V = np.eye(2*k)[:, :k], np.vstack([np.diag(np.cos(theta)), np.diag(np.sin(theta))])
    rho = np.sqrt([(np.cos(theta)**(2*a)).mean() for a in range(1, q + 1)])
    expected = theorem2(n, k*q, k, k, lam[:q].sum(), lam[q:].sum(), rho=effective_rho(lam, rho))
    np.testing.assert_allclose(predict_directions(n, U, V, q, lam), expected, rtol=1e-9)

# simulations
def test_tables_and_simulations_agree_with_the_theory_outside_the_grids():
    settings = (40, 2, 3, 5, 1, .5, 'power'), (9, 3, 2, 12, 1, .7, 'isotropic'), (40, 2, 2, 2, 1, (1., .5), 'power')
    table = theorem2_table(300, 1, settings)
    assert (table.se >= 0).all() and (table.trials == 300).all() and table.rho.iloc[-1] < 1
    assert ((table.se/table.theory)[table.theory > 0] < .08).all()        # an error of 40 % in a row would show
    U, V = (directions(np.random.default_rng(s), 4, 2) for s in (0, 1))
    expected, spectrum = predict_directions(50, U, V, 3, [3, 2, 1, 1.], .5), [3, 2, 1, 1.]
    runs = {loss: simulate_hermite(50, U, V, 3, spectrum, 400, seed, .5, gaussian=True)
            for seed, loss in enumerate(('train', 'test'))}
    z = [(run[loss] - value)/run[f'{loss}_se'] for (loss, run), value in zip(runs.items(), expected)]
    judged = judge_deviations([*table.dev_se, *z])
    assert judged.largest < judged.limit and judged.pvalue > .001

def test_each_row_of_the_tables_has_draws_of_its_own():
    settings = (40, 2, 3, 5, 1, .5, 'power'), (5, 2, 3, 5, 1, .5, 'power')
    table, lam = theorem2_table(20, 3, settings), named_spectrum('power', 35)
    runs = [simulate_theorem2(40, 2, 3, 5, lam, 1, .5, 20, [3, 0, loss]) for loss in (0, 1)]
    assert table.simulated[:2].tolist() == [runs[0]['train'], runs[1]['test']] and runs[0] != runs[1]
    assert table.theory[2] == 0 and table.dev_se.isna().tolist() == [False, False, True, False]
    alone = theorem2_table(20, 3, settings, row=1)
    assert alone.simulated.tolist() == table.simulated[2:].tolist()
    real = universality_table(20, 3, [(1, 4)]).set_index(['features', 'loss']).simulated
    for kind, features in enumerate(('Hermite', 'Gaussian')):
        spectrum = np.array([1, 2.])**-1.5
        run = simulate_hermite(12, np.eye(3), np.eye(3), 1, spectrum, 20, [3, 0, kind], gaussian=kind == 1)
        assert real[features].tolist() == [run['train'], run['test']]

@pytest.mark.parametrize('n, known', [(4, True), (7, False), (12, False), (17, False), (20, True)])
def test_means_are_quoted_only_where_their_errors_exist(n, known):
    "By theory/02_pinv, step 7: |n − p| of at least 8, with p = 12."
    for run in (simulate_theorem2(n, 3, 3, 4, np.ones(6), trials=9),
                simulate_hermite(n, np.eye(3), np.eye(3), 4, np.ones(6), 9, gaussian=True)):
        assert np.isfinite([run['test'], run['test_se']]).tolist() == [known, known] and bool(run['note']) != known
        assert np.isfinite([run['test_median'], run['train'], run['train_se']]).all()

@fixed
@given(K=dims, more=st.integers(0, 9), degree=few)
def test_random_directions_capture_less_with_more_dimensions_and_higher_degrees(K, more, degree):
    share, m = random_share(K, K + more, degree), K + more
    assert 0 < share <= 1 + 1e-12 and random_share(K, m, 1) == pytest.approx(K/m)
    assert random_share(K, m + 1, degree) < share and random_share(K, m, degree + 1) < share

def test_real_features_cost_more_and_independent_noise_does_not():
    assert asymptotic_parameters([1, 1], 1, 3) == pytest.approx(7)
    assert asymptotic_parameters([1, 1], 1, 3, 0.) == pytest.approx(3)
    A = [asymptotic_parameters(np.ones(q + 1), q, 3) - 3*q for q in range(1, 6)]
    # 9^q/((q + 1)(2q + 1)) ≤ E h_q² h_(q+1)², the last of q terms (theory/11_real_features, step 3)
    alone = [asymptotic_parameters([0]*q + [1], q, 3) - 3*q for q in range(1, 12)]
    assert all(9**q/((q + 1)*(2*q + 1)) - 1 <= cost <= 3*q*9**q for q, cost in enumerate(alone, 1))
    assert np.all(np.diff(np.log(A)) > 1.5) and asymptotic_parameters([1, 1], 2, 3, noise=.1) == pytest.approx(6)
    table = universality_table(300, settings=[(2, 20)]).set_index(['features', 'loss']).ratio
    assert table['Hermite', 'test'] > 1.08 > table['Gaussian', 'test']
    assert table['Hermite', 'train'] < .9 < table['Gaussian', 'train']
    node, weight = np.polynomial.hermite_e.hermegauss(12)
    np.testing.assert_allclose((hermite(node, 6)*weight) @ hermite(node, 6).T/weight.sum(), np.eye(6), atol=1e-10)

@fixed
@given(q=few, k=modules, noise=st.floats(.01, 9), cosine=share)
def test_the_extra_cost_of_real_features_does_not_depend_on_the_number_of_modules(q, k, noise, cosine):
    "At fixed n only noise restores the law (theory/11_real_features, step 2)."
    def extra(k, noise): return asymptotic_parameters(np.ones(q + 2), q, k, cosine, noise) - k*q
    assert extra(k, noise) == pytest.approx(extra(1, noise), rel=1e-6, abs=1e-6)
    assert -1e-6 <= extra(k, 2*noise) <= extra(k, noise) + 1e-6

def test_stored_tables_show_no_deviation_of_a_loss_of_zero():
    "The stored outputs are those of the present code: a loss of exactly 0 has no deviation."
    shown = [''.join(out.get('text') or out.get('data', {}).get('text/plain', []))
             for cell in cells(root/'nbs/theory/06_theorem2.ipynb') for out in cell.get('outputs', [])]
    rows = [line.split() for text in shown for line in text.splitlines() if ' train ' in line]
    zero = [row[-1] for row in rows if row[row.index('train') + 1] == '0.0000']
    assert len(zero) >= 3 and set(zero) == {'NaN'}

def test_simulations_repeat_and_depend_on_their_seed():
    def gaussian(s): return simulate_theorem2(9, 2, 1, 3, np.ones(5), trials=5, seed=s, rho=[1, .5, 0])
    def real(s): return simulate_hermite(9, np.eye(2), np.eye(2), 2, np.ones(3), trials=5, seed=s)
    for run in (gaussian, real): assert run(1) == run(1) != run(2)

@pytest.mark.parametrize('name, call', [
    ('k', lambda: theorem2(5, 5, 1.5, 1, 1, 1)), ('rho', lambda: theorem2(5, 5, 1, 1, 1, 1, rho=1.1)),
    ('rho', lambda: effective_rho([1], [[1]])),
    ('noise', lambda: theorem2(5, 5, 1, 1, 1, 1, noise=-1)),
    ('rho', lambda: simulate_theorem2(5, 1, 1, 3, np.ones(3), rho=[1, 1])),
    ('K', lambda: predict_modular_loss(5, 5, 1, 0, 1, 1.5)), ('b', lambda: predict_modular_loss(5, 5, 1, 1, -1, 1.5)),
    ('q', lambda: simulate_theorem2(5, 1, 1, 0, [1])), ('spectrum', lambda: simulate_theorem2(5, 1, 1, 2, [1])),
    ('spectrum', lambda: effective_rho([0, 1], 1)), ('U', lambda: unit_columns('U', [[1, 2]])),
    ('q', lambda: hermite([1.], 0)), ('K', lambda: random_share(3, 2, 1)), ('degree', lambda: random_share(1, 2, 0)),
    ('U_hat', lambda: captured_variance(np.eye(2), np.eye(3), [1])),
    ('spectrum', lambda: captured_variance(np.eye(2), np.eye(2), [[1]])),
    ('spectrum', lambda: predict_directions(5, np.eye(2), np.eye(2), 3, [1])),
    ('trials', lambda: simulate_hermite(5, np.eye(2), np.eye(2), 1, [1], 1)),
    ('cosine', lambda: asymptotic_parameters([1], 1, 1, 2.)),
    ('cosine', lambda: asymptotic_parameters([1, 1], 1, 1, 'a')),
    ('noise', lambda: asymptotic_parameters([1, 1], 1, 1, 1., [1, 2])),
    ('noise', lambda: predict_directions(5, np.eye(2), np.eye(2), 1, [1], [1, 2])),
    ('noise', lambda: simulate_theorem2(5, 1, 1, 1, [1, 1], noise=[1, 2])),
    ('spectrum', lambda: asymptotic_parameters([1], 1, 1))])
def test_bad_input_names_its_argument(name, call):
    with pytest.raises(ValueError, match=rf'\b{name} must .*{name}='): call()

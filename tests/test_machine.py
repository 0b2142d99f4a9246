"The machine of columns: its kernel, closed forms and choices against what can be had by hand, and where it helps."
import warnings

import numpy as np
import pytest
import torch

from modscale.rule.descent import Data, standard_data
from modscale.tables import machine
from modscale.tables.committee import (LIGHT, Effort, Member, Rung, assemble, blend_weights, effort_of, fit_rung,
                                       folds_of)
from modscale.tables.estimators import ModularBase, ModularRegressor
from modscale.tables.machine import (LEAST_SLOPE, Machine, center_count, choose_machine, column_kernel, column_slopes,
                                     machine_rung, scales_of, solve_machine, with_machine)

QUICK = effort_of('quick')
def draw(*shape, seed=0): return np.random.default_rng(seed).standard_normal(shape)
def target(z): return np.c_[np.sin(2*z[:, 0]) + (z[:, 1] > .2), z[:, 0]*z[:, 1]]

@pytest.fixture(scope='module')
def columns():
    "Columns that vary, their folds, and a rung of modules: data, fold, rung."
    z = draw(60, 3)
    data, *_ = standard_data(z, target(z) + .1*draw(60, 2, seed=1))
    fold = folds_of(60, 4, 0)
    return data, fold, fit_rung(data, fold, 2, 1, 5, 0)

def moved(data, rung, A):
    "The same rows and the same predictions for inputs t A, where A Aᵀ is the identity."
    A = torch.as_tensor(A, dtype=torch.float64)
    def turned(fit):
        (own, linear), kernel = fit.theta.split([len(fit.theta) - len(A), len(A)]), vars(fit.kernel)
        return Member(type(fit.kernel)(**kernel | dict(U=fit.kernel.U @ A)), torch.cat([own, A.mT @ linear]), None,
                      fit.noise)
    x = (data.x.double() @ A).float()
    return Data(x, data.Y, data.weight), Rung('', [turned(fit) for fit in rung.members], rung.rest, rung.spread, 0.)

# kernel and closed forms

def test_the_kernel_is_that_of_numpy():
    A, B = draw(7, 3), draw(5, 3, seed=1)
    by_hand = np.exp(-np.abs(A[:, None] - B[None]).sum(2))
    found = column_kernel(torch.as_tensor(A), torch.as_tensor(B))
    assert np.allclose(found, by_hand, rtol=1e-14) and found.dtype == torch.float64
    factors = [column_kernel(torch.as_tensor(A[:, [j]]), torch.as_tensor(B[:, [j]])) for j in range(3)]
    assert np.allclose(found, factors[0]*factors[1]*factors[2], rtol=1e-14) # a product over columns
    assert column_kernel(torch.as_tensor(A).float(), torch.as_tensor(B).float()).dtype == torch.float64

@pytest.mark.parametrize('weighted', [False, True])
def test_both_closed_forms_are_those_by_hand(weighted):
    z, y, weight = torch.as_tensor(draw(40, 3)), torch.as_tensor(draw(40, 2, seed=1)), None
    if weighted: weight = torch.as_tensor(np.random.default_rng(2).uniform(.2, 3, 40))
    data, K = Data(z, y, weight), column_kernel(z, z).numpy()
    w = np.ones(40) if weight is None else weight.numpy()
    right = np.linalg.solve(K + .1*np.diag(1/w), y.numpy())
    assert np.allclose(solve_machine(z, data, .1), right, rtol=1e-9)
    same = column_kernel(z, z) @ solve_machine(z, data, .1, z)
    assert np.allclose(same, K @ right, atol=1e-6) # all rows as given centres are all rows
    some, C = z[:10], K[:, :10]
    by_hand = np.linalg.solve(C.T @ (w[:, None]*C) + .1*K[:10, :10], C.T @ (w[:, None]*y.numpy()))
    assert np.allclose(C @ solve_machine(z, data, .1, some).numpy(), C @ by_hand, atol=1e-6)

@pytest.mark.parametrize('centers', [None, 15])
def test_a_weight_of_two_is_the_row_twice(centers):
    z, y = torch.as_tensor(draw(40, 3)), torch.as_tensor(draw(40, 1, seed=1))
    at, rows = None if centers is None else z[:centers], torch.arange(40).repeat_interleave(torch.arange(40) % 3 + 1)
    fresh = torch.as_tensor(draw(30, 3, seed=2))
    def fitted(data, at):
        return column_kernel(fresh, data.x if at is None else at) @ solve_machine(data.x, data, .1, at)
    heavy = Data(z, y, (torch.arange(40) % 3 + 1).double())
    assert np.allclose(fitted(heavy, at), fitted(Data(z[rows], y[rows], None), at), atol=1e-9)
    assert not np.allclose(fitted(heavy, at), fitted(Data(z, y, None), at), atol=1e-3)

def test_sums_do_not_depend_on_how_rows_are_cut(monkeypatch):
    z, y = torch.as_tensor(draw(90, 3)), torch.as_tensor(draw(90, 1, seed=1))
    data = Data(z, y, torch.as_tensor(np.random.default_rng(2).uniform(.2, 3, 90)))
    theta = solve_machine(z, data, .1, z[:20])
    one = Machine(torch.eye(3).double(), z[:20], theta, torch.ones(1))
    whole = one.predict(z)[0]
    monkeypatch.setattr(machine, 'ROW_CHUNK', 28)
    assert np.allclose(one.predict(z)[0], whole, rtol=1e-12)
    assert np.allclose(column_kernel(z, z[:20]) @ solve_machine(z, data, .1, z[:20]), whole, atol=1e-8)

def test_rows_that_stand_there_twice_are_no_obstacle():
    z, y = torch.as_tensor(np.repeat(draw(10, 3), 4, 0)), torch.as_tensor(draw(40, 1, seed=1))
    for centers in (None, z, z[:20]):
        assert torch.isfinite(solve_machine(z, Data(z, y, None), 1e-4, centers)).all()

def test_centres_are_as_many_as_are_affordable():
    assert center_count(30, 9000.) == 30 # 30³/3 multiplications
    assert center_count(30, 8999.) == 17 and 17**2*30 <= 8999 < 18**2*30
    assert center_count(10**6, 10.) == 1 and center_count(1, 0.) == 1
    for n in (2, 500, 3107, 3108, 10**5): assert 1 <= center_count(n, 1e10) <= n

# scales

def test_slopes_are_central_differences(columns):
    _, _, rung = columns
    fit, basis, step = rung.members[0], torch.as_tensor(draw(5, 3, seed=3)), 1e-5
    z = torch.as_tensor(draw(50, 5, seed=4)).float()
    t = z.double() @ basis
    def mean(t): return fit.features(t) @ fit.theta
    by_hand = torch.stack([((mean(t + step*b) - mean(t - step*b))/(2*step)).square().sum(1).mean() for b in basis])
    assert fit.theta.shape[1] == 2 # outputs
    assert np.allclose(column_slopes(fit, t, basis), (by_hand/by_hand.mean()).sqrt(), rtol=1e-5)

def test_no_column_is_left_out_for_good(columns):
    _, _, rung = columns
    fit, basis = rung.members[0], torch.cat([torch.eye(3), torch.zeros(1, 3)]).double()
    slopes = column_slopes(fit, torch.as_tensor(draw(50, 3)), basis)
    assert slopes[3] == LEAST_SLOPE and (slopes[:3] > LEAST_SLOPE).all()
    flat = Member(fit.kernel, torch.zeros_like(fit.theta), fit.root, fit.noise)
    assert (column_slopes(flat, torch.as_tensor(draw(50, 3)), basis) == 1).all()

def test_scales_are_tempered_slopes():
    slopes = torch.tensor([4., 1., .25, 1.]).double()
    for temper, width in ((1., 3.), (.5, 1.), (0., 2.)):
        scale = scales_of(slopes, temper, width)
        assert np.allclose(scale/scale[1], slopes**temper)
        assert float(scale.square().mean().sqrt()) == pytest.approx(2/(width*4)) # in units of half the columns
        assert np.allclose(scales_of(7*slopes, temper, width), scale)

def test_a_rotated_basis_changes_nothing(columns):
    "t = z Q: what is computed from t is what is computed from z."
    data, fold, rung = columns
    Q = np.linalg.qr(draw(3, 3, seed=5))[0]
    turned, same = moved(data, rung, Q)
    plain = machine_rung(data, fold, rung, torch.eye(3).double(), QUICK, 0)
    other = machine_rung(turned, fold, same, torch.as_tensor(Q), QUICK, 0)
    assert np.allclose(plain.rest, other.rest, atol=1e-5) and np.allclose(plain.spread, other.spread, rtol=1e-5)
    for a, b in zip(plain.members, other.members):
        assert np.allclose(a.centers, b.centers, atol=1e-5) # scaled columns
        assert np.allclose(a.predict(data.x)[0], b.predict(turned.x)[0], atol=1e-5)

def test_a_constant_column_is_none(columns):
    "It is no part of t; as a column of slope zero it would change the scales of all others."
    data, fold, rung = columns
    whole, more = torch.eye(3).double(), torch.eye(4).double()[:, [0, 1, 3]]
    plain, other = (with_machine([rung], data, fold, basis, QUICK, 0)[1] for basis in (whole, more))
    assert np.allclose(plain.rest, other.rest, rtol=1e-9) and other.members[0].turn.shape == (3, 3)
    nothing = with_machine([rung], data, fold, torch.zeros(2, 3).double(), QUICK, 0)[1] # all are constant
    assert np.isfinite(nothing.rest).all()

# choice

def chosen(columns, seed=0):
    data, fold, rung = columns
    slopes = [column_slopes(one, data.x, torch.eye(3).double()) for one in rung.members]
    return choose_machine(data, fold, slopes, torch.eye(3).double(), seed)

def test_the_choice_is_the_best_of_all_by_hand(columns, monkeypatch):
    monkeypatch.setattr(machine, 'COMPARED_ROWS', 45)
    data, fold, rung = columns
    setting, noise = chosen(columns, 3)
    rows = np.random.default_rng(3).permutation(60)[:45]
    z, Y, errors = data.x.double().numpy(), data.Y.numpy(), {}
    def K(a, b): return np.exp(-np.abs(a[:, None] - b[None]).sum(2))
    for temper in machine.TEMPERS:
        for width in machine.MACHINE_WIDTHS:
            for ridge in machine.MACHINE_RIDGES:
                each = []
                for f in range(3):
                    slopes = column_slopes(rung.members[f], data.x, torch.eye(3).double())
                    held, rest = rows[fold[rows] == f], rows[fold[rows] != f]
                    s = z*scales_of(slopes, temper, width).numpy()
                    theta = np.linalg.solve(K(s[rest], s[rest]) + ridge*np.eye(len(rest)), Y[rest])
                    each.append(((Y[held] - K(s[held], s[rest]) @ theta)**2).mean(0))
                errors[temper, width, ridge] = np.mean(each, 0)
    best = min(errors, key=lambda key: errors[key].mean())
    assert setting == dict(zip(('temper', 'width', 'ridge'), best)) and np.allclose(noise, errors[best], rtol=1e-6)

def test_the_choice_is_the_same_each_time(columns, monkeypatch):
    monkeypatch.setattr(machine, 'MACHINE_WIDTHS', (1., 9.)) # threads that wait for a core make solves slow
    monkeypatch.setattr(machine, 'TEMPERS', (1.,))
    before, threads, found = torch.get_rng_state(), torch.get_num_threads(), []
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            torch.manual_seed(len(found))
            state = torch.get_rng_state()
            found.append(machine_rung(*columns, torch.eye(3).double(), QUICK, 0))
            assert (torch.get_rng_state() == state).all() # no chance of the user's is spent
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(before)
    one, two, again = found
    assert (again.rest == one.rest).all() and (again.spread == one.spread).all()
    assert np.allclose(two.rest, one.rest, rtol=1e-9) and np.allclose(two.spread, one.spread, rtol=1e-9)

def test_members_have_not_seen_the_rows_that_judge_them(columns):
    data, fold, rung = columns
    few = Effort(**vars(QUICK) | dict(work=1e4)) # 20 centres or so
    for effort, count in ((QUICK, 45), (few, center_count(45, 1e4))):
        made = machine_rung(data, fold, rung, torch.eye(3).double(), effort, 0)
        assert [len(one.centers) for one in made.members] == [count]*4 and made.name == 'columns' and made.seconds > 0
        for f, one in enumerate(made.members):
            rest = data.Y - one.predict(data.x)[0]
            assert np.allclose(rest[fold == f], made.rest[fold == f])
            scaled = data.x.double() @ one.turn
            slopes = column_slopes(rung.members[f], data.x[fold != f], torch.eye(3).double())
            share = one.turn.diagonal()/one.turn.diagonal().norm()
            assert any(np.allclose(share, v/v.norm()) for v in (slopes, slopes.sqrt()))
            assert not (one.centers[:, None] == scaled[fold == f][None]).all(2).any()

def test_a_machine_is_added_where_there_are_rows_and_time(columns):
    data, fold, rung = columns
    basis = torch.eye(3).double()
    assert with_machine([rung], data[:2], np.arange(2), basis, QUICK, 0) == [rung]
    assert with_machine([rung], data, fold, basis, QUICK, 0, 0.) == [rung]
    assert with_machine([rung], data, fold, basis, QUICK, 0, -1.) == [rung]
    more = with_machine([rung], data, fold, basis, QUICK, 0, 1.)
    assert more[0] is rung and [one.name for one in more[1:]] == ['columns']
    for n in (3, 4, 5): # what is next to nothing is still something
        z = draw(n, 3)
        few, *_ = standard_data(z, target(z))
        folds = folds_of(n, 4, 0)
        made = with_machine([fit_rung(few, folds, 0, 1, 0, 0)], few, folds, basis, QUICK, 0)
        assert len(made) == 2 and np.isfinite(made[1].rest).all() and (made[1].spread > 0).all()

def test_slopes_are_those_of_the_best_rung(columns, monkeypatch):
    data, fold, rung = columns
    worse, asked = Rung('worse', [], 3*rung.rest, rung.spread, 0.), []
    monkeypatch.setattr(machine, 'machine_rung', lambda data, fold, rung, *_: asked.append(rung))
    for rungs in ([worse, rung], [rung, worse]): with_machine(rungs, data, fold, torch.eye(3).double(), QUICK, 0)
    assert asked == [rung, rung]

# the committee

def test_a_rung_that_is_dropped_is_not_in_the_error_bars():
    "It expects next to any error: with it in the sum, residuals would look small and intervals would be short."
    rng = np.random.default_rng(0)
    good = rng.standard_normal((200, 1))
    bad = rng.standard_normal((200, 1))
    bad = 20*(bad - good*float((good*bad).sum()/(good**2).sum()))
    weight = np.ones(200)
    share = blend_weights(np.c_[good, bad], weight)[1]
    assert 0 < share < LIGHT
    kept = Rung('good', ['a'], good, np.ones((200, 1)), 0.)
    dropped = Rung('bad', ['b'], bad, np.full((200, 1), 1e9), 0.)
    alone, both = assemble([kept], weight), assemble([kept, dropped], weight)
    assert both.members == ['a'] and (both.blend == 1).all() and both.rungs[1]['weight'] == 0
    assert both.scale == pytest.approx(alone.scale, rel=1e-12) and np.allclose(both.tails, alone.tails)
    assert np.allclose(both.left_out, alone.left_out) and alone.scale == pytest.approx(np.sqrt((good**2).mean()))

def fit(X, y, predictor='committee'):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return ModularRegressor('quick', predictor=predictor, read=False).fit(X, y)

def corner(t): return np.where((t[:, 0] > 0) & (t[:, 1] > .3), 2., 0.) + .3*t[:, 2]
def oblique(t): return np.sin(1.5*t @ np.array([.6, .5, .4, .3]))

def test_corners_are_predicted_better_with_it_and_curves_not_worse():
    ratios = {}
    for function in (corner, oblique):
        for seed in range(2):
            X, fresh = draw(200, 4, seed=seed), draw(2000, 4, seed=[seed, 1])
            y = function(X) + .1*draw(200, seed=[seed, 2])
            errors = [np.sqrt(np.mean((fit(X, y, predictor).predict(fresh) - function(fresh))**2))
                      for predictor in ('committee', 'many')]
            ratios.setdefault(function.__name__, []).append(errors[0]/errors[1])
    assert max(ratios['corner']) < .9 and max(ratios['oblique']) < 1.1, ratios

def test_intervals_of_a_smooth_function_without_noise_hold():
    held = []
    for seed in range(3):
        X, fresh = (np.random.default_rng([seed, i]).uniform(-1, 1, (n, 3)) for i, n in enumerate((150, 2000)))
        def smooth(X): return np.sin(2*X[:, 0] + X[:, 1]) + X[:, 2]**2
        low, high = fit(X, smooth(X)).predict_interval(fresh, .9).T
        held.append(np.mean((low <= smooth(fresh)) & (smooth(fresh) <= high)))
    assert min(held) >= .85, held

def test_file_gives_the_machine_back(tmp_path):
    X = draw(80, 4)
    X[:, 2] = 3. # constant: no input of modules
    model = fit(X, np.c_[corner(X), oblique(X)])
    assert any(isinstance(one, Machine) for one in model.committee_.members)
    assert not any(isinstance(one, Machine) for one in fit(X, corner(X), 'many').committee_.members)
    model.save(tmp_path/'model')
    back, fresh = ModularBase.load(tmp_path/'model'), draw(50, 4, seed=1)
    assert (back.predict(fresh) == model.predict(fresh)).all()
    assert (back.predict_interval(fresh) == model.predict_interval(fresh)).all() and back.rungs_ == model.rungs_

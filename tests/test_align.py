"""The learning rule on data that are awkward, and what must not change its result."""
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modscale.nets.tasks import make_task
from modscale.rule.align import align
from modscale.rule.descent import curvature_of, optimise_kernel, slopes_of, standard_data
from modscale.rule.kernel import coverage, in_float64, likeness, member, wide_start
from modscale.rule.leave_one_out import directions_of, leave_one_out
from modscale.rule.search import search_starts

FAST = dict(rounds=1, starts=2)

@pytest.fixture(scope='module')
def data():
    task = make_task('sine', 3, 2, 0)
    return task, *task.sample(200, 0)

@pytest.mark.parametrize('change, message', [
    (dict(x=np.full((200, 2), np.inf)), r'x must be finite, got x\[0, 0\]=inf'),
    (dict(y=np.r_[np.nan, np.zeros(199)]), r'y must be finite, got y\[0\]=nan'),
    (dict(y=np.full(200, 7.)), 'y must not be constant, got 7.0'),
    (dict(y=np.c_[np.arange(200.), np.ones(200)]), 'y must not be constant, got 1.0'),
    (dict(y=np.zeros((200, 1, 1))), r'y must have shape \(200,\) or \(200, d\)'),
    (dict(y=np.zeros(5)), 'y must have shape'),
    (dict(x=np.zeros((9, 3)), y=np.arange(9.)), 'at least 10 rows, got n=9'),
    (dict(K=0), 'K'), (dict(K='many'), "K='many'"), (dict(K=2.5), 'K'), (dict(b=4), 'b=4'), (dict(rounds=-1), 'rounds'),
    (dict(starts=0), 'starts'), (dict(candidates=1), 'candidates'), (dict(steps=0, rule='paper'), 'steps'),
    (dict(rule='none'), "rule='none'"), (dict(K='auto', rule='paper'), "K='auto'"),
    (dict(weight=np.ones(3)), 'weight'), (dict(weight=-np.ones(200)), 'weight'),
])
def test_bad_input_is_named(data, change, message):
    _, x, y = data
    with pytest.raises(ValueError, match=message): align(**dict(x=x, y=y, K=2) | FAST | change)

@pytest.mark.parametrize('kind', ['constant', 'copied', 'one column', 'rank one', 'far', 'tiny y', 'integers',
                                  'float32', 'float16', 'strided', 'pandas', 'ten rows', 'few rows', 'one point',
                                  'offset', 'huge y', 'least y'])
def test_awkward_data_give_a_finite_fit(data, kind):
    _, x, y = data
    K = 2
    if kind == 'constant': x = np.c_[x, np.ones(200)]
    if kind == 'copied': x = np.c_[x, x[:, 0]]
    if kind == 'one column': x = x[:, :1]
    if kind == 'rank one': x = np.repeat(x[:, :1], 3, 1)
    if kind == 'far': x = 1000*x
    if kind == 'tiny y': y = 1e-12*y
    if kind == 'integers': x, y = np.round(3*x).astype(int), np.round(3*y).astype(int)
    if kind == 'float32': x, y = x.astype(np.float32), y.astype(np.float32)
    if kind == 'float16': x, y = x.astype(np.float16), y.astype(np.float16)
    if kind == 'strided': x, y = np.repeat(x, 2, 0)[::2, ::-1], np.repeat(y, 2)[::2]
    if kind == 'one point': x = x[:1] + 1e-6*x # all rows within a millionth of each other
    if kind == 'offset': y = 5000 + 1e-4*y
    if kind == 'huge y': y = 1e30*y
    if kind == 'least y': y = 1e-30*y
    if kind == 'pandas': x, y = pd.DataFrame(x, columns=list('abc')), pd.Series(y)
    if kind == 'ten rows': x, y = x[:10], y[:10]
    if kind == 'few rows': # more modules than rows
        x, y = x[:12], y[:12]
        K = 20
    with warnings.catch_warnings():
        warnings.simplefilter('ignore' if kind == 'few rows' else 'error')
        found = align(x, y, K, **FAST)
    assert found.U.shape == (K, np.shape(x)[1])
    assert np.isfinite(found.predict(np.asarray(x))).all() and np.isfinite(found.objective)
    assert np.allclose(np.linalg.norm(found.U, axis=1), 1, atol=1e-5)

def test_units_of_y_do_not_matter(data):
    _, x, y = data
    one, other = align(x, y, 2, **FAST), align(x, 1e6*y - 3e5, 2, **FAST)
    assert likeness(one.U, other.U).max(1).min() > .999
    np.testing.assert_allclose(other.predict(x), 1e6*one.predict(x) - 3e5, rtol=1e-2, atol=1e3)

def test_a_rotation_of_the_inputs_rotates_the_modules(data):
    task, x, y = data
    R = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    found = align(x @ R, y, 2)
    assert coverage(found.U, task.U @ R) > .999 and found.found

def test_a_weight_counts_rows(data):
    _, x, y = data
    weight = np.where(np.arange(200) < 50, 2., 1.)
    rows = np.r_[np.arange(50), np.arange(200)]
    one, other = align(x, y, 2, weight=weight), align(x[rows], y[rows], 2)
    assert one.objective == pytest.approx(other.objective, abs=.05) and likeness(one.U, other.U).max(1).min() > .999
    assert np.isclose(one.center, other.center) and np.isclose(one.spread, other.spread)

def test_noise_is_not_found():
    g = np.random.default_rng(0)
    assert not align(g.standard_normal((300, 5)), g.standard_normal(300), 5, rounds=2).found

@pytest.mark.parametrize('seed', range(4))
def test_modules_that_fit_noise_are_no_better_than_a_line(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((100, 5))
    line = x @ rng.standard_normal(5) + .5*rng.standard_normal(100) if seed % 2 else rng.standard_normal(100)
    assert not align(x, line, 3, rounds=6).found

def test_fast_sines_are_found_when_detail_is_let_in():
    task = make_task('sine_high', 5, 5, 2)
    found = align(*task.stream(1000, 0), 5, seed=2)
    assert found.found and (likeness(task.U, found.U).max(1) > .95).all()

def test_the_precision_of_directions_is_positive_where_noise_is_small():
    task = make_task('sine_low', 5, 5, 5)
    data = standard_data(*task.stream(1000, 0))[0]
    kernel = wide_start(5, 5, 0, noise=.1)
    kernel.U.copy_(torch.as_tensor(task.U, dtype=torch.float32)[:, None])
    kernel.log_scale.fill_(5)
    exact = in_float64(kernel)
    slopes = slopes_of(exact, data.x.double(), data.Y)
    (M, _), = directions_of(slopes, exact.U)
    J = curvature_of(slopes, exact.U).jacobian()[0]*np.sqrt(len(data))
    Phi, noise = slopes.solved.Phi, slopes.solved.noise
    bottom = np.sqrt(noise.item())*np.eye(Phi.shape[1])
    Q, _ = np.linalg.qr(np.r_[Phi.numpy(), bottom]) # no Gram matrix, which squares what rounding does
    padded = np.r_[J.numpy(), np.zeros((Phi.shape[1], J.shape[1]))]
    rest = padded - Q @ (Q.T @ padded)
    assert np.allclose(M, rest.T @ rest/noise.item(), rtol=0, atol=1e-8*M.diagonal().max())
    assert np.linalg.eigvalsh(M).min() > -1e-14*M.diagonal().max() # J^T(C^-1 J) as it is: -5e-12

def test_rows_far_out_are_left_out_as_a_fit_without_them_says():
    "Where the fit takes up all but a millionth of a row, float32 cannot tell what is left."
    x = np.random.default_rng(0).standard_normal((200, 3))
    rows = standard_data(x, np.sin(2*x[:, 0]) + x[:, 1]**2)[0]
    kernel = in_float64(align(x, np.sin(2*x[:, 0]) + x[:, 1]**2, 2).kernel)
    error, Phi = leave_one_out(kernel, rows).error, kernel.features(rows.x.double())
    bottom = torch.exp(kernel.log_noise/2)*torch.eye(Phi.shape[1], dtype=Phi.dtype)
    for row in error.argsort()[-3:].tolist():
        rest = torch.arange(len(x)) != row
        right = torch.cat([rows.Y[rest], torch.zeros(len(bottom), 1, dtype=Phi.dtype)])
        theta = torch.linalg.lstsq(torch.cat([Phi[rest], bottom]), right).solution
        direct = float((rows.Y[row] - Phi[row] @ theta).square()) # its directions stay as they are
        assert error[row] == pytest.approx(direct, rel=.3) and direct > 1e-3

def test_the_same_seed_gives_the_same_modules(data):
    _, x, y = data
    one, other = (align(x, y, 2, seed=3, **FAST) for _ in range(2))
    np.testing.assert_array_equal(one.U, other.U)

def test_units_near_the_ends_of_float64_do_not_matter(data):
    task, x, y = data
    for scale in (1e-30, 1e30): assert coverage(align(x, scale*y, 2).U, task.U) > .999
    assert coverage(align(x, 5000 + 1e-4*y, 2).U, task.U) > .999

def test_the_number_of_modules_is_found(data):
    task, x, y = data
    found = align(x, y, 'auto')
    assert len(found.U) == 2 and coverage(found.U, task.U) > .99

@pytest.mark.parametrize('noise', [0., .3])
def test_a_linear_target_has_no_modules_and_noise_neither(noise):
    g = np.random.default_rng(1)
    x = g.standard_normal((200, 4)) + 1
    line = align(x, x @ [1., -2, 0, 0] + noise*g.standard_normal(200), 'auto', **FAST)
    assert len(line.U) == 0 and line.linear_share > .9 and not line.found and line.effects(x).shape == (200, 0)
    assert np.std(line.predict(x) - x @ [1., -2, 0, 0]) < .01 + noise/4
    assert len(align(x, g.standard_normal(200), 'auto', **FAST).U) == 0

def test_modules_to_spare_are_not_asked_to_agree(data):
    task, x, y = data
    found = align(x, y, 6)
    assert found.found and coverage(found.U, task.U) > .999 and found.rounds == 0

def test_one_search_is_compared_with_nothing(data):
    assert align(*data[1:], 2, starts=1, rounds=0).found is None

def test_more_parameters_than_rows_are_warned_of(data):
    _, x, y = data
    with pytest.warns(UserWarning, match='K=20 modules have 60 projection parameters, more than the n=50 rows'):
        align(x[:50], y[:50], 20, **FAST)

def test_searches_side_by_side_are_those_one_by_one(data):
    "A stack shares products, not results: its members end where they end alone."
    rows = standard_data(*data[1:])[0]
    both = search_starts(rows, 2, 4, 1, [3, 4])
    for i, seed in enumerate((3, 4)):
        alone = search_starts(rows, 2, 4, 1, [seed])
        assert likeness(member(both.kernels, i).U, member(alone.kernels, 0).U).max(1).min() > .999

class Denormals(TorchDispatchMode):
    "Remembers which tensor operations had denormal numbers among their operands."
    def __init__(self):
        super().__init__()
        self.met = set()
    def __torch_dispatch__(self, function, types, args=(), kw=None):
        for a in args:
            if not isinstance(a, torch.Tensor) or not a.dtype.is_floating_point: continue
            size = a.detach().abs()
            if ((size > 0) & (size < torch.finfo(a.dtype).tiny)).any(): self.met.add(str(function))
        return function(*args, **kw or {})

def test_no_denormal_number_is_met_on_the_way(data):
    "One narrow module, eight wide ones. On some processors a product with denormal numbers takes ten times as long."
    _, x, y = data
    kernel = wide_start(9, 3, seed=0, noise=1.)
    kernel.log_bandwidth[0] = np.log(.15)
    with Denormals() as seen: optimise_kernel(kernel, standard_data(x, y)[0], 3, seed=0)
    width = kernel.log_bandwidth.exp()
    assert seen.met == set() and width.max() > 10*width.min()

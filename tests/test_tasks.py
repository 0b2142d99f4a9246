"Tasks as properties: exact moments, bit-equal parameters, nested streams, inputs out of distribution, and errors that name the argument."
import hashlib
from dataclasses import replace
import numpy as np, pytest
from hypothesis import assume, given, settings, strategies as st
from scipy.special import ndtr
from modscale.nets.tasks import (FAMILIES, INPUTS, UPPER_THIRD, hinge_covariance, hinge_mean, make_task, plot_modules, sine_task,
                                 upper_orthant, wave_moments)

fixed = settings(derandomize=True, deadline=None, max_examples=60)
few = settings(fixed, max_examples=20)
family, dim, modules, seeds = st.sampled_from(FAMILIES), st.integers(1, 9), st.integers(1, 7), st.integers(0, 2**40)
law, inputs, strength = st.sampled_from(['random', 'orthogonal']), st.sampled_from(INPUTS), st.floats(.2, 3)
threshold, corr = st.floats(-3, 3), st.floats(-1, 1)
PARAMETERS = 'U', 'amplitude', 'frequency', 'phase', 'knot', 'side'

def parameters(task): return [getattr(task, name) for name in PARAMETERS if hasattr(task, name)]

def digest(*arrays):
    h = hashlib.sha256()
    for a in arrays: h.update(np.ascontiguousarray(a, dtype='<f8').tobytes())
    return h.hexdigest()[:16]

def drawn(name, m, k, seed, directions='random'):
    assume(directions == 'random' or k <= m)
    return make_task(name, m, k, seed, directions)

# moments
@settings(fixed, max_examples=120)
@given(name=family, m=dim, k=modules, seed=seeds, directions=law)
def test_samples_have_unit_variance(name, m, k, seed, directions):
    _, y = drawn(name, m, k, seed, directions).sample(20_000, seed=0)
    square = (y - y.mean())**2
    assert abs(y.mean()) < 5*y.std()/20_000**.5 and abs(y.var() - 1) < 5*square.std()/20_000**.5

@fixed
@given(name=family, m=dim, k=modules, seed=seeds, directions=law)
def test_the_moments_of_the_modules_add_up(name, m, k, seed, directions):
    mean, cov = drawn(name, m, k, seed, directions).moments()
    assert mean.sum() == pytest.approx(0, abs=1e-10) and cov.sum() == pytest.approx(1, abs=1e-10)
    assert np.allclose(cov, cov.T, atol=1e-12) and np.linalg.eigvalsh(cov).min() > -1e-10
    if directions == 'orthogonal': assert np.allclose(cov, np.diag(np.diag(cov)), atol=1e-12)

@few
@given(name=family, m=dim, k=modules, seed=seeds, center=st.floats(-2, 2), scale=st.floats(.3, 1.3))
def test_moments_elsewhere_are_those_of_samples(name, m, k, seed, center, scale):
    task = make_task(name, m, k, seed)
    mean, cov = task.moments(np.full(m, center/m**.5), scale)
    x = center/m**.5 + scale*np.random.default_rng(seed).standard_normal((40_000, m))
    y = task(x)
    assert abs(y.mean() - mean.sum()) < 5*y.std()/200 and abs(y.var() - cov.sum()) < 5*((y - y.mean())**2).std()/200

@fixed
@given(name=family, k=st.integers(2, 7), seed=seeds, r=st.floats(-.9, .9))
def test_covariances_are_their_series(name, k, seed, r):
    task = replace(make_task(name, 2, k, seed), U=np.array([[1, 0], [r, (1 - r*r)**.5]])[np.arange(k) % 2])
    c, cov = task.hermite(300), task.moments()[1]
    series = (c[:, None, 1:]*c[None, :, 1:]*r**np.arange(1., 301)).sum(-1)
    assert np.allclose(series[::2, 1::2], cov[::2, 1::2], atol=1e-12)                                  # modules of one direction have r = 1

@fixed
@given(r=corr, s=threshold, t=threshold)
def test_orthant_and_hinges(r, s, t):
    p = float(upper_orthant(r, s, t))
    assert max(0, ndtr(-s) - ndtr(t)) - 1e-12 <= p <= ndtr(-max(s, t)) + 1e-12                         # Frechet's bounds, at r = -1 and 1
    assert p == pytest.approx(float(upper_orthant(r, t, s)), abs=1e-14)
    assert p + upper_orthant(-r, s, -t) == pytest.approx(ndtr(-s), abs=1e-12)
    assert hinge_covariance(r, s, t) + hinge_mean(s)*hinge_mean(t) >= -1e-14
    assert hinge_covariance(r, s, t) - hinge_covariance(-r, s, -t) == pytest.approx(r*ndtr(-s), abs=1e-12)      # relu(z) - relu(-z) = z

@pytest.mark.parametrize('r', [-.9, -.4, .3, .95])
@pytest.mark.parametrize('s, t', [(0, 0), (1, -2), (.3, .31), (-1.5, -1.4)])
def test_orthant_and_hinges_by_one_dimensional_quadrature(r, s, t):
    x, w = np.polynomial.legendre.leggauss(400)
    x, w, q = s + (11 - s)*(x + 1)/2, w*(11 - s)/2, (1 - r*r)**.5
    w = w*np.exp(-x*x/2)/(2*np.pi)**.5
    above = (t - r*x)/q                                                                                # given X = x, Y is normal
    assert upper_orthant(r, s, t) == pytest.approx(w @ ndtr(-above), abs=1e-12)
    assert hinge_covariance(r, s, t) + hinge_mean(s)*hinge_mean(t) == pytest.approx(w @ ((x - s)*q*hinge_mean(above)), abs=1e-12)

# values
@fixed
@given(name=family, m=dim, k=modules, seed=seeds)
def test_a_task_is_the_sum_of_its_modules(name, m, k, seed):
    task = make_task(name, m, k, seed)
    x, y = task.sample(50, seed=1)
    g = task.modules(x @ task.U.T)
    assert g.shape == (50, k) and np.allclose(g.sum(1), y, atol=1e-12) and np.array_equal(task(x), y) and y.dtype == x.dtype == np.float64
    moved = x + np.linalg.svd(task.U)[2][-1] if m > k else x                                           # nothing happens
    if name != 'step': assert np.allclose(task(moved), y, atol=1e-9)
    j = seed % k
    z = x @ task.U.T
    z[:, j] += .5
    assert np.array_equal(np.delete(task.modules(z), j, 1), np.delete(g, j, 1))

@fixed
@given(name=st.sampled_from(['sine', 'polynomial', 'hinge', 'step']), m=dim, k=modules, seed=seeds, factor=st.floats(-3, 3))
def test_a_task_is_linear_in_its_amplitudes(name, m, k, seed, factor):
    task, other = make_task(name, m, k, seed), make_task(name, m, k, seed + 1)
    z = np.random.default_rng(seed).standard_normal((20, k))
    both = replace(task, amplitude=task.amplitude + factor*other.amplitude)
    assert np.allclose(both.raw(z), task.raw(z) + factor*replace(task, amplitude=other.amplitude).raw(z), atol=1e-10)

# seeds
@fixed
@given(name=family, m=dim, k=modules, seed=seeds, directions=law)
def test_seeds_give_bit_equal_tasks(name, m, k, seed, directions):
    one, two, other = (drawn(name, m, k, s, directions) for s in (seed, seed, seed + 1))
    assert digest(*parameters(one), one.mean, one.std) == digest(*parameters(two), two.mean, two.std) != digest(*parameters(other), 0, 0)
    assert digest(*parameters(one)) != digest(*parameters(other))
    assert digest(*one.sample(9, 3)) == digest(*two.sample(9, 3)) and digest(one.sample(9, 3)[0]) != digest(one.sample(9, 4)[0])
    if directions == 'orthogonal': assert np.allclose(one.U @ one.U.T, np.eye(k), atol=1e-14)
    assert np.allclose(np.linalg.norm(one.U, axis=1), 1, atol=1e-15)

def test_parameters_are_those_of_every_other_machine():
    "No sines and no matrix products in these; `y` is rounded, as its last bits are not promised."
    task = sine_task(5, 5, seed=3)
    x, y = task.sample(100, seed=1)
    assert digest(task.U, task.amplitude, task.frequency, task.phase) == '1b03f23684a02713'
    assert digest(x) == '87c5eaef2204ba78' and digest(np.round(y, 8) + 0) == 'b62dd7bbb6249ac2'
    assert np.abs(x).max() < 3.65                                                                      # no number of the ziggurat's tail
    cases = [(name, directions) for name in FAMILIES for directions in ('random', 'orthogonal')]
    found = {' '.join(case): digest(*parameters(make_task(case[0], 6, 4, 2, case[1]))) for case in cases}
    assert found == HASHES

HASHES = {
    'sine random': '050adec14d72e028', 'sine orthogonal': 'c7dd49299588686e',
    'sine_low random': '79b631ede487f6ca', 'sine_low orthogonal': 'e35952ddf3cdb8ee',
    'sine_high random': 'fda66e345244bb7c', 'sine_high orthogonal': 'c1f51495f6ae96b5',
    'polynomial random': '7bbc53ac7e96bcdd', 'polynomial orthogonal': '6b02d90c74d78732',
    'hinge random': '6416eb275b1d06a5', 'hinge orthogonal': '71ce20b9248d6eea',
    'step random': '698f714f287a61ed', 'step orthogonal': '89c6803bf4ea0cb8'}

# samples
@fixed
@given(name=family, m=st.integers(2, 9), seed=seeds, n=st.integers(1, 400), more=st.integers(1, 1500), kind=inputs,
       noise=st.sampled_from([0, .3]))
def test_streams_are_nested(name, m, seed, n, more, kind, noise):
    task = make_task(name, m, 3, seed)
    assume(abs(task.U[0] @ task.U[1]) < .9)
    short, long = (task.stream(size, 5, noise, kind) for size in (n, n + more))
    assert all(np.array_equal(a, b[:n]) for a, b in zip(short, long))
    for other in (task.stream(n, 6, noise, kind), task.sample(n, 5, noise, kind)): assert not np.array_equal(short[0], other[0])
    if not noise and name != 'step': assert np.allclose(task(long[0]), long[1], atol=1e-10)

@fixed
@given(name=family, seed=seeds, noise=st.floats(.01, 10), nested=st.booleans())
def test_noise_moves_labels_only(name, seed, noise, nested):
    task = make_task(name, 3, 2, seed)
    draw = task.stream if nested else task.sample
    (x, y), (same, noisy) = draw(4000, 1), draw(4000, 1, noise)
    e = noisy - y
    assert np.array_equal(x, same) and abs(e.var()/noise - 1) < 5*(2/4000)**.5 and abs(np.corrcoef(e, y)[0, 1]) < 5/4000**.5

@fixed
@given(m=st.integers(2, 9), k=st.integers(2, 6), seed=seeds, strength=strength)
def test_inputs_have_the_law_they_claim(m, k, seed, strength):
    task, n = make_task('step', m, k, seed), 4000
    r, q = task.U[0] @ task.U[1], UPPER_THIRD
    assume(abs(r) < .9)
    x = {kind: task.sample(n, 1, inputs=kind, strength=strength)[0] for kind in INPUTS}
    assert np.array_equal(x['wide'], strength*x['gaussian'])
    assert np.linalg.norm(task.drift) == pytest.approx(1) and np.allclose(x['shifted'] - x['gaussian'], strength*task.drift)
    def both(kind): return (x[kind] @ task.U[:2].T > q).all(1)
    P = float(upper_orthant(r, q, q))
    assert both('unseen').all() and not both('seen').any() and abs(both('gaussian').mean() - P) < 5*(P*(1 - P)/n)**.5
    for j in (0, 1): assert ((x['seen'] @ task.U[j] > q).mean() > .3*(1/3 - P)) and (x['seen'] @ task.U[j] < -q).any()

def test_three_modules_together():
    task = make_task('hinge', 4, 3, 1, 'orthogonal')
    x = task.sample(500, 0, inputs='unseen', together=(0, 1, 2))[0]
    assert (x @ task.U.T > UPPER_THIRD).all()
    x = task.sample(500, 0, inputs='seen', together=(0, 1, 2))[0]
    assert not (x @ task.U.T > UPPER_THIRD).all(1).any() and (x @ task.U[:2].T > UPPER_THIRD).all(1).any()

def test_wave_moments_of_one_wave():
    mean, var = wave_moments(np.ones((1, 1)), np.array([[2.]]), np.array([[1.]]), np.array([[np.pi/2]]))          # 2 cos z
    assert mean == pytest.approx(2*np.exp(-.5)) and var == pytest.approx(2*(1 + np.exp(-2)) - 4*np.exp(-1))

def test_pictures():
    assert len(plot_modules(make_task('step', 3, 4)).axes) == 4

# errors
t = make_task('step', 3, 2)
circle = np.array([[1, 0], [-.5, .75**.5], [-.5, -.75**.5]])

@pytest.mark.parametrize('name, call', [
    ('m', lambda: sine_task(0, 1)), ('m', lambda: sine_task(2.5, 1)), ('m', lambda: sine_task([2, 3], 1)), ('k', lambda: sine_task(2, 0)),
    ('seed', lambda: sine_task(2, 2, -1)), ('family', lambda: make_task('cosine', 2, 2)),
    ('directions', lambda: make_task('sine', 2, 2, 0, 'equal')), ('directions', lambda: make_task('sine', 2, 3, 0, 'orthogonal')),
    ('n', lambda: t.sample(2.5, 0)), ('n', lambda: t.sample(0, 0)), ('n', lambda: t.stream('many', 0)),
    ('n', lambda: t.stream([3, 4], 0)), ('seed', lambda: t.stream(3, .5)), ('noise', lambda: t.sample(3, 0, -.1)),
    ('noise', lambda: t.stream(3, 0, [1, 2])), ('noise', lambda: t.stream(3, 0, np.nan)),
    ('inputs', lambda: t.sample(3, 0, inputs='far')), ('strength', lambda: t.sample(3, 0, inputs='wide', strength=0)),
    ('strength', lambda: t.sample(3, 0, inputs='shifted', strength=np.inf)),
    ('together', lambda: t.sample(3, 0, inputs='seen', together=(0, 2))),
    ('together', lambda: t.sample(3, 0, inputs='seen', together=(0, 0))),
    ('together', lambda: t.sample(3, 0, inputs='unseen', together=(0,))),
    ('together', lambda: t.sample(3, 0, inputs='unseen', together=('a', 'b'))),
    ('together', lambda: make_task('step', 1, 2).sample(3, 0, inputs='seen')),
    ('together', lambda: replace(make_task('step', 2, 3), U=circle).sample(3, 0, inputs='seen', together=(0, 1, 2))),
    ('inputs', lambda: replace(t, U=np.array([[1, 0, 0], [-.9998, .0199990, 0]])).sample(3, 0, inputs='unseen')),
    ('x', lambda: t(np.zeros((4, 2)))), ('x', lambda: t(np.full((4, 3), np.inf))), ('x', lambda: t(3.)), ('x', lambda: t('words')),
    ('z', lambda: t.modules(np.zeros((4, 3)))), ('center', lambda: t.moments([1, 2])), ('scale', lambda: t.moments(scale=0)),
    ('degree', lambda: t.hermite(-1))])
def test_bad_input_names_its_argument(name, call):
    with pytest.raises(ValueError, match=rf'^{name} must .*{name}\b'): call()

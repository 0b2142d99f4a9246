"Tables: hostile input is refused by name, what is learned comes back, and no order, unit or scale of weights matters."
import datetime, json, math, warnings
from decimal import Decimal
import numpy as np
import pandas as pd
import pytest
from hypothesis import given as drawn, settings, strategies as st
from scipy import sparse

from modscale.tables import columns as module
from modscale.tables.columns import (Columns, class_labels, check_weights, distinct_rows, input_scale, numeric_targets,
                                     pulled_in, relative_weights, row_order, scale_inputs, standard_targets,
                                     standard_columns, weighted_moments, weighted_quantile)

def frame(n=12):
    "A number with a gap, a number, three levels, a boolean."
    rng = np.random.default_rng(0)
    return pd.DataFrame(dict(mass=np.r_[np.nan, rng.normal(size=n - 1)], age=np.arange(n)*1.,
                             fuel=['a', 'b', 'c']*(n//3), new=[True, False]*(n//2)))

def objects(*values): return pd.DataFrame(dict(x=pd.Series(values, dtype=object)))

bad_tables = [
    (np.arange(3.), ValueError, 'Expected 2D array, got 1D array'),
    (pd.Series([1., 2]), ValueError, 'Expected a 2-dimensional container'),
    (3., ValueError, 'Expected 2D array, got scalar array'),
    (np.zeros((2, 2, 2)), ValueError, 'dim 3'),
    ([[1, 2], [3]], ValueError, 'inhomogeneous'),
    (np.zeros((0, 3)), ValueError, r'0 sample\(s\)'),
    (np.zeros((3, 0)), ValueError, r'0 feature\(s\)'),
    (pd.DataFrame(index=[0, 1]), ValueError, r'0 feature\(s\)'),
    (pd.DataFrame(columns=['a']), ValueError, r'0 sample\(s\)'),
    (sparse.eye(3).tocsr(), TypeError, 'dense data is required'),
    (pd.DataFrame(dict(s=pd.arrays.SparseArray([0., 1]))), TypeError, "column 's'"),
    (np.ones((2, 2))*1j, ValueError, 'Complex data not supported'),
    (pd.DataFrame(dict(z=[1j, 2])), ValueError, "Complex data not supported: column 'z'"),
    (objects(1j, 2), ValueError, "Complex data not supported: column 'x'"),
    ([[1., np.nan]], ValueError, "contains NaN.\nRow 0 of column 'x1'"),
    ([[1., np.inf]], ValueError, "infinity or a value too large.*column 'x1', row 0"),
    ([[1.], [-1e305]], ValueError, "too large.*-1e.305 in column 'x0', row 1"),
    ([[1.], [10**400]], ValueError, "too large.*column 'x0', row 1"),
    ([[None], [2.]], ValueError, "contains NaN.\nRow 0 of column 'x0'"),
    (np.ma.masked_array([[1.], [2]], [[False], [True]]), ValueError, "NaN.\nRow 1 of column 'x0'"),
    (pd.DataFrame(dict(a=pd.array([1, None], 'Int64'))), ValueError, "NaN.\nRow 1 of column 'a'"),
    (pd.DataFrame(dict(a=pd.array([True, None], 'boolean'))), ValueError, "NaN.\nRow 1 of column 'a'"),
    (pd.DataFrame(dict(a=['x', None])), ValueError, "NaN.\nRow 1 of column 'a'"),
    (objects('x', 1.), ValueError, "column 'x' mixes types, 'x' and 1.0"),
    (objects(True, 7.), ValueError, "column 'x' mixes types, True and 7.0"),
    (objects(1., {'a': 1}), TypeError, "column 'x': argument must be a string or a real number"),
    (objects(1., [2]), TypeError, "column 'x': argument must be a string or a real number"),
    (objects(1., b'2'), TypeError, "column 'x': argument must be a string or a real number"),
    (objects(object(), 1), TypeError, "column 'x': argument must be a string or a real number"),
    (objects(datetime.date(2020, 1, 1), None), ValueError, "column 'x' holds dates"),
    (objects(pd.Timestamp(0), None), ValueError, "column 'x' holds dates"),
    (pd.DataFrame(dict(day=pd.to_datetime(['2020-01-01']))), ValueError, "column 'day' holds dates.*days since"),
    (pd.DataFrame(dict(day=pd.to_datetime(['2020-01-01'], utc=True))), ValueError, "column 'day' holds dates"),
    (pd.DataFrame(dict(day=pd.to_timedelta([1], 's'))), ValueError, "column 'day' holds dates"),
    (pd.DataFrame(dict(day=pd.period_range('2020', periods=2, freq='M'))), ValueError, "column 'day' holds dates"),
    (np.array([['2020-01-01']], dtype='M8[D]'), ValueError, 'X holds dates'),
    (pd.DataFrame([[1, 2]], columns=['a', 'a']), ValueError, "two columns of the name 'a'"),
    (pd.DataFrame([[1, 2]], columns=['a', 1]), TypeError, 'string'),
    (pd.DataFrame(dict(name=[f'p{i}' for i in range(40)])), ValueError, "column 'name' has 40 categories in 40 rows"),
    (pd.DataFrame(dict(number=[str(i % 60) for i in range(600)])), ValueError, 'more than 50'),
    ('text', ValueError, 'Expected 2D array'),
    (None, ValueError, 'Expected 2D array'),
]

@pytest.mark.parametrize('X, kind, text', bad_tables)
def test_a_bad_table_is_refused_by_name(X, kind, text):
    with pytest.raises(kind, match=f'(?s){text}'): Columns.learn(X)

@pytest.mark.parametrize('how, text', [
    (dict(missing='mean'), "missing must be one of error, indicator; got missing='mean'"),
    (dict(many=3), 'many must be one of'), (dict(weight=[1., 2]), r'sample_weight must have shape \(12,\)'),
    (dict(least=13), 'minimum of 13 is required')])
def test_a_bad_argument_is_refused_by_name(how, text):
    with pytest.raises(ValueError, match=text): Columns.learn(frame(), **dict(missing='indicator') | how)

@pytest.mark.parametrize('change, kind, text', [
    (lambda X: X.drop(columns='age'), ValueError, 'yet now missing:\n- age'),
    (lambda X: X.assign(more=1), ValueError, 'unseen at fit time:\n- more'),
    (lambda X: X.rename(columns=dict(age='Age')), ValueError, 'unseen at fit time:\n- Age'),
    (lambda X: X.to_numpy()[:, :3], ValueError, 'X has 3 features, but Columns is expecting 4'),
    (lambda X: X.assign(age='old'), ValueError, "column 'age' held numbers in fit, got 'old'"),
    (lambda X: X.assign(age=np.inf), ValueError, "infinity.*column 'age', row 0"),
    (lambda X: X.assign(age=pd.Timestamp(0)), ValueError, "column 'age' holds dates"),
    (lambda X: X.assign(fuel=[['a']]*12), ValueError, "column 'fuel' held categories, got"),
    (lambda X: X.iloc[:0], ValueError, r'0 sample\(s\)')])
def test_new_rows_of_another_kind_are_refused(change, kind, text):
    learned = Columns.learn(frame(), missing='indicator')[0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # an array without names
        with pytest.raises(kind, match=f'(?s){text}'): learned.encode(change(frame()))

def test_without_the_indicator_new_gaps_are_refused_and_with_it_filled():
    X = frame().drop(columns='mass')
    strict, filling = (Columns.learn(X, missing=m)[0] for m in ('error', 'indicator'))
    assert strict.names == filling.names == ['age', 'fuel=a', 'fuel=b', 'fuel=c', 'new=True']
    gaps = X.assign(age=np.nan, fuel=None, new=None)
    with pytest.raises(ValueError, match="Row 0 of column 'age'"): strict.encode(gaps)
    with warnings.catch_warnings():
        warnings.simplefilter('error') # a gap is no unseen level
        assert (filling.encode(gaps) == [5, 0, 0, 0, .5]).all()

def test_what_a_table_becomes():
    learned, A = Columns.learn(frame(), missing='indicator')
    assert learned.names == ['mass', 'mass missing', 'age', 'fuel=a', 'fuel=b', 'fuel=c', 'new=True']
    assert learned.origin.tolist() == [0, 0, 1, 2, 2, 2, 3] and A.dtype == np.float64 and A.flags['C_CONTIGUOUS']
    assert A[0, 0] == np.sort(frame().mass[1:])[5] and A[:, 1].sum() == 1 and (A[:, 3:6].sum(1) == 1).all()
    assert (A[:, 6] == frame().new).all()

@pytest.mark.parametrize('values, names', [
    (pd.Series([1, 2, 2], dtype='Int8'), ['x']), (pd.Series([1.5, 2, 3], dtype='Float64'), ['x']),
    (pd.Series([1, Decimal(2), 3.], dtype=object), ['x']), (pd.Series([1, 2, 3], dtype='uint8'), ['x']),
    (pd.Series([1, 2, 3], dtype='int64[pyarrow]'), ['x']), (pd.Series([1, 2, 3], dtype='float16'), ['x']),
    (pd.Series(['b', 'a', 'c']), ['x=a', 'x=b', 'x=c']),
    (pd.Series(['b', 'a', 'c'], dtype='string'), ['x=a', 'x=b', 'x=c']),
    (pd.Series(['b', 'a', 'a'], dtype='string[pyarrow]'), ['x=b']), (pd.Series(['b', 'b', 'b']), ['x=b']),
    (pd.Series([True, False, True], dtype='boolean'), ['x=True']),
    (pd.Series([True, False, True], dtype=object), ['x=True']),
    (pd.Series(pd.Categorical(['b', 'a', 'c'], ['c', 'b', 'a', 'never'])), ['x=c', 'x=b', 'x=a']),
    (pd.Series(pd.Categorical([3, 1, 2], [3, 1, 2])), ['x=3', 'x=1', 'x=2']),
    (pd.Series(pd.cut([1, 2, 9], [0, 5, 10])), ['x=(5, 10]'])])
def test_a_columns_type_decides(values, names):
    X = pd.DataFrame(dict(x=values))
    learned, A = Columns.learn(X)
    assert learned.names == names and (learned.encode(X) == A).all() and A.shape == (3, len(names))
    if names == ['x']: assert A[:, 0].tolist() == values.astype(float).tolist()

def test_lists_with_text_keep_their_numbers():
    learned, A = Columns.learn([[1.5, 'a'], [2, 'b'], [3, 'c']])
    assert learned.names == ['x0', 'x1=a', 'x1=b', 'x1=c'] and A[:, 0].tolist() == [1.5, 2, 3]
    assert (learned.encode(np.array([[2, 'c']], dtype=object)) == [2, 0, 0, 1]).all()

def test_an_unseen_level_is_none_and_one_warning_says_so():
    learned, _ = Columns.learn(frame(), missing='indicator')
    with pytest.warns(UserWarning) as told: A = learned.encode(frame().assign(fuel=['a', 'gas', 'air']*4, new='maybe'))
    assert len(told) == 1 and "fuel='air', fuel='gas', new='maybe'" in str(told[0].message)
    assert A[:3, 3:6].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]] and (A[:, 6] == .5).all()

def test_the_most_frequent_levels_stay_and_the_rest_is_one():
    X = pd.DataFrame(dict(p=[f'{i:02}' for i in range(60) for _ in range(1 + i)]))
    learned, A = Columns.learn(X, many='other')
    assert learned.names == [f'p={i:02}' for i in range(11, 60)] + ['p=(other)'] and (A.sum(1) == 1).all()
    assert (learned.encode(pd.DataFrame(dict(p=['new', '00']))) == np.eye(50)[49]).all()

@pytest.mark.parametrize('missing', ['error', 'indicator'])
def test_the_state_gives_the_columns_back(missing):
    X = frame() if missing == 'indicator' else frame().fillna(0.)
    learned, A = Columns.learn(X, missing=missing)
    state = learned.state()
    floats = {k: v for k, v in state.items() if isinstance(v, np.ndarray)}
    assert [*floats] == ['fill'] and floats['fill'].dtype == np.float64
    back = Columns.from_state(json.loads(json.dumps({k: v for k, v in state.items() if k != 'fill'})) | floats)
    assert (back.encode(X) == A).all() and (back.encode(X[X.columns[::-1]]) == A).all() and back.names == learned.names
    with pytest.raises(ValueError, match='now missing:\n- age'): back.encode(X.drop(columns='age'))

def test_rows_of_weight_zero_are_not_there():
    X, w = frame(), np.r_[0, np.ones(11)]
    X.loc[0, ['fuel', 'age']] = ['never', 1e6]
    with_, without = Columns.learn(X, w, 'indicator')[0], Columns.learn(X[1:], None, 'indicator')[0]
    assert str(with_.state()) == str(without.state()) and 'mass missing' not in with_.names

def test_the_owner_gets_what_scikit_learn_wants():
    from sklearn.base import BaseEstimator
    class Owner(BaseEstimator): pass
    owner = Owner()
    learned = Columns.learn(frame(), None, 'indicator', owner=owner)[0]
    assert owner.n_features_in_ == 4 and owner.feature_names_in_.tolist() == ['mass', 'age', 'fuel', 'new']
    with pytest.raises(ValueError, match='but Owner is expecting 4'): learned.encode(np.ones((2, 3)), owner)
    with pytest.warns(UserWarning, match='valid feature names, but Owner'): learned.encode(frame().to_numpy(), owner)

@pytest.mark.parametrize('weight, text', [
    ([1., -1, 1], r'must be finite and >= 0, got -1.0 in row 1'), ([1., np.nan, 1], 'got nan in row 1'),
    ([1., np.inf, 1], 'got inf in row 1'), ([0., 0, 0], 'zero in every row'), ([1., 2], r'must have shape \(3,\)'),
    (np.ones((3, 1)), r'must have shape \(3,\)'), (['a', 'b', 'c'], 'must be numbers'), ('balanced', 'must be numbers'),
    ([1., None, 1], 'got nan in row 1'), ([[1], [1, 2], 3], 'must be numbers'), (np.ones(3)*1j, 'must be numbers'),
    (-1, 'got -1.0 in row 0')])
def test_bad_weights_are_refused(weight, text):
    with pytest.raises(ValueError, match=f'sample_weight {text}' if text.startswith('must') else text):
        check_weights(weight, 3)

@pytest.mark.parametrize('value', [0, -1, np.nan, 'all', [1, 2]])
def test_bad_observations_are_refused(value):
    with pytest.raises((ValueError, TypeError), match='observations'): relative_weights(np.ones(3), value)

def same(a, b): return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

def weighted(n=200, m=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, m)), rng.normal(size=(n, 2)), rng.integers(0, 5, n).astype(float)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('scale', [1/300, 10., 1e12, 1e-300, 1e300, math.pi])
def test_the_scale_of_weights_does_not_matter(scale):
    X, Y, w = weighted()
    assert same(distinct_rows(X, Y, w), distinct_rows(X, Y, w*scale))
    assert same(distinct_rows(X, Y, None), distinct_rows(X, Y, np.full(len(X), scale)))

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('discrete', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_repeats_are_whole_weights_and_order_does_not_matter(seed, discrete):
    X, Y, w = weighted(seed=seed)
    if discrete: X, Y = np.sign(X), np.sign(Y) # most rows are tied
    one, times = distinct_rows(X, Y, w), w.astype(int)
    assert same(one, distinct_rows(X.repeat(times, 0), Y.repeat(times, 0), None))
    order = np.random.default_rng(seed).permutation(len(X))
    assert same(one, distinct_rows(X[order], Y[order], w[order]))
    assert len(np.unique(np.c_[one[0], one[1]], axis=0)) == len(one[0])

def test_a_row_nearing_weight_zero_leaves_without_a_jump():
    X, Y, _ = weighted(20)
    sums = [distinct_rows(X, Y, np.r_[w, np.ones(19)])[2].sum() for w in (1e-9, 0.)]
    assert sums == pytest.approx([19, 19], abs=1e-5)

def test_weights_are_ones_without_weights_and_never_count_more_than_rows():
    X, Y, w = weighted()
    assert (distinct_rows(X, Y, None)[2] == 1).all() and (distinct_rows(X, Y, 7)[2] == 1).all()
    assert distinct_rows(X, Y, w**4)[2].sum() < (w > 0).sum()
    assert distinct_rows(X, Y, w, observations=1234)[2].sum() == pytest.approx(1234)

def test_what_weights_cannot_mean_is_said():
    X, Y, _ = weighted(40)
    with pytest.warns(UserWarning, match='sample_weight: the largest is'): distinct_rows(X, Y, np.r_[1e-13,
    np.ones(39)])
    with pytest.warns(UserWarning, match='80 rows are 4 different ones.*say observations=80'):
        distinct_rows(np.arange(80)[:, None] % 4, np.zeros((80, 1)), None)

@settings(max_examples=60, deadline=None)
@drawn(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_the_order_of_rows_is_that_of_the_column_with_most_values(seed, n, m, levels):
    rng = np.random.default_rng(seed)
    A = rng.integers(0, rng.choice([levels, 30], m), (n, m)).astype(float)
    order, new = row_order(A)
    first = np.argmax([len(np.unique(column)) for column in A.T])
    keys = np.c_[A[:, first], np.delete(A, first, 1)]
    assert (keys[order] == keys[np.lexsort(keys.T[::-1])]).all() and sorted(order) == [*range(n)]
    assert (keys[order][new] == np.unique(keys, axis=0)).all()

def test_signed_zeros_are_one_row():
    assert len(distinct_rows(np.array([[0.], [-0.], [1]]), np.zeros((3, 1)), None)[0]) == 2

def test_quantiles_and_moments_are_those_of_repeated_rows():
    X, _, w = weighted(50)
    many = X.repeat(w.astype(int), 0)
    for q in (.1, .25, .5, .75):
        assert (weighted_quantile(X, w, q) == np.quantile(many, q, axis=0, method='inverted_cdf')).all()
    assert weighted_quantile(X, w, (.25, .5)).shape == (2, 3)
    assert np.allclose(weighted_moments(X, w), (many.mean(0), many.std(0)))

@pytest.mark.parametrize('unit', [1e-300, 1e-160, 1e-30, 1., 1e30, 1e160, 1e299])
def test_units_overflow_nothing(unit):
    X, Y, w = weighted()
    X, Y = X/5, Y/5
    t, s = (scale_inputs(x, input_scale(x, w, True)) for x in (X, X*unit))
    assert np.allclose(np.abs(t), np.abs(s)) and np.allclose(standard_targets(Y, w)[0], standard_targets(Y*unit, w)[0])

@pytest.mark.parametrize('tails', ['clip', 'log'])
def test_the_scale_of_weights_does_not_change_the_scale_of_inputs(tails):
    X, _, w = weighted()
    a, b = (input_scale(X, weight, True, tails) for weight in (w, w/3))
    for k in a: assert np.allclose(a[k], b[k])

@pytest.mark.parametrize('tails', ['clip', 'log'])
def test_one_outlier_sets_no_scale_and_order_is_kept(tails):
    x = np.random.default_rng(0).normal(size=(1000, 1))
    far = np.r_[x, [[1e6]]]
    plain, with_ = (input_scale(v, np.ones(len(v)), True, tails) for v in (x, far))
    assert with_['spread'][0] == pytest.approx(plain['spread'][0], rel=.1)
    grid = np.linspace(-20, 20, 101)[:, None]
    z = standard_columns(grid, with_)[:, 0]
    assert (np.diff(z) >= 0).all() and ((np.diff(z) > 0).all() == (tails == 'log'))
    assert pulled_in(far, np.ones(1001), with_)[0] == pytest.approx(1/1001)

@pytest.mark.parametrize('ones', [1, 10, 100, 2500, 5000, 9990])
def test_an_indicator_survives(ones):
    x = np.random.default_rng(0).permutation(np.arange(10_000) < ones)[:, None].astype(float)
    state = input_scale(np.c_[x, np.random.default_rng(1).normal(size=(10_000, 1))], np.ones(10_000), True)
    z = standard_columns(np.c_[x, x], state)[:, 0]
    p = ones/10_000
    assert state['low'][0] <= 0 and state['high'][0] >= 1
    assert np.ptp(z) == pytest.approx(min((p*(1 - p))**-.5, 10)) and abs(z.mean()) < 1e-9

def test_all_levels_of_a_category_are_one_component_less():
    A = np.eye(4)[np.random.default_rng(0).integers(0, 4, 500)]
    assert input_scale(A, np.ones(500), True)['basis'].shape == (4, 3)

def test_constant_columns_are_zero_and_nearly_constant_ones_are_named():
    X, _, w = weighted()
    state = input_scale(np.c_[X, np.full(200, .1), X[:, 0] + 1e12], w, True)
    assert (state['basis'][3] == 0).all() and np.abs(state['basis'][4]).max() > .1 # far from zero, and not constant
    with pytest.warns(UserWarning, match='column 1 has mean 1e.15.*counts as constant'):
        assert (input_scale(X[:, :2] + [0, 1e15], w, True)['basis'][1] == 0).all()
    assert scale_inputs(np.ones((3, 2)), input_scale(np.ones((3, 2)), np.ones(3), True)).tolist() == [[0], [0], [0]]

def test_nearly_collinear_columns_keep_new_rows_near():
    "A new row in which two columns disagree that never did before."
    x = np.random.default_rng(0).normal(size=(2000, 1))
    X = np.c_[x, x + 2e-3*np.random.default_rng(1).normal(size=(2000, 1))]
    t = scale_inputs(np.array([[1., -1]]), input_scale(X, np.ones(2000), True))
    assert np.abs(t).max() < 3

def test_blocks_of_rows_change_nothing(monkeypatch):
    X, _, w = weighted()
    state = input_scale(X, w, True)
    want = scale_inputs(X, state), pulled_in(X, w, state)
    monkeypatch.setattr(module, 'ROW_BLOCK', 20)
    again = input_scale(X, w, True)
    assert all(np.allclose(state[k], again[k]) for k in state)
    assert np.allclose(scale_inputs(X, state), want[0], atol=1e-14) and np.allclose(pulled_in(X, w, state), want[1])

def test_without_standardising_inputs_are_as_they_are():
    X, _, w = weighted()
    assert (scale_inputs(X, input_scale(X, w, False)) == X).all()
    with pytest.raises(ValueError, match='tails must be one of clip, log'): input_scale(X, w, True, 'rank')

@pytest.mark.parametrize('y, kind, text', [
    (None, ValueError, 'requires y to be passed, but the target y is None'),
    ([1., None, 2], ValueError, r'y\[1\] is None'),
    (np.array([1, pd.NA, 2], dtype=object), ValueError, r'y\[1\] is <NA>'),
    ([1., np.nan, 2], ValueError, 'Input y contains NaN.\nRow 1'),
    (pd.Series([1, None, 2], dtype='Int64'), ValueError, 'Input y contains NaN'),
    ([1., np.inf, 2], ValueError, 'Input y contains infinity'),
    ([1., 1e305, 2], ValueError, 'value too large'), (['a', 'b', 'c'], ValueError, "y must be numbers, got 'a'"),
    (['1.5', 2, 3], ValueError, "got '1.5'"), ([[1], [1, 2], [3]], ValueError, 'y must have a regular shape'),
    (np.zeros((3, 2, 2)), ValueError, r'y must have shape .* got shape \(3, 2, 2\)'),
    (np.zeros((3, 0)), ValueError, r'shape \(3, 0\)'),
    (5., ValueError, r'got shape \(\)'), (np.ones(3)*1j, ValueError, 'Complex data not supported: y'),
    (pd.to_datetime(['2020-01-01']*3), ValueError, 'y holds dates'),
    ([datetime.date(2020, 1, 1)]*3, ValueError, 'y holds dates'),
    (sparse.eye(3).tocsr(), TypeError, 'Sparse data was passed as y'),
    ([1., 2], ValueError, r'inconsistent numbers of samples: \[3, 2\]'),
    ([], ValueError, r'inconsistent numbers of samples: \[3, 0\]'),
    (np.ma.masked_array([1., 2, 3], [False, True, False]), ValueError, 'masked'),
    ([{}, 1, 2], ValueError, r'y must be numbers, got \{\}')])
def test_bad_targets_are_refused(y, kind, text):
    with pytest.raises(kind, match=f'(?s){text}'): numeric_targets(y, 3)

@pytest.mark.parametrize('y, text', [
    (None, 'the target y is None'), (['a', None, 'b'], r'y\[1\] is None'), ([0., np.nan, 1], 'Input y contains NaN'),
    (np.array(['a', pd.NA, 'b'], dtype=object), r'y\[1\] is <NA>'),
    (np.array(['a', np.nan, 'b'], dtype=object), r'y\[1\] is nan'),
    (pd.Series(['a', None, 'b'], dtype='string'), 'Input y contains NaN'),
    (pd.Series(['a', None, 'b'], dtype='category'), 'Input y contains NaN'),
    ([0.1, .25, .7], 'Unknown label type: continuous'), (['a', 1, 'b'], "y mixes types, 'a' and 1"),
    ([0., np.inf, 1], 'infinity'),
    (np.zeros((3, 2)), 'y should be a 1d array'), ([0, 1], 'inconsistent numbers'),
    (pd.to_datetime(['2020-01-01']*3), 'y holds dates')])
def test_bad_labels_are_refused(y, text):
    with pytest.raises(ValueError, match=f'(?s){text}'): class_labels(y, 3)

@pytest.mark.parametrize('y, classes', [
    (['b', 'a', 'b'], ['a', 'b']), ([True, False, True], [False, True]), (pd.Series(['b', 'a', 'b']), ['a', 'b']),
    (pd.Series(['b', 'a', 'b'], dtype='category'), ['a', 'b']), (pd.Series([2, 1, 2], dtype='Int64'), [1, 2]),
    (np.array([2, 1, 2], dtype=object), [1, 2]), ([2., 1., 2.], [1., 2.]),
    (pd.Series([True, False, True], dtype='boolean'), [False, True])])
def test_labels_become_numbers(y, classes):
    found, labels = class_labels(y, 3)
    assert found.tolist() == classes and labels.tolist() == [1, 0, 1] and labels.dtype == np.int64

def test_targets_of_every_numeric_type():
    for y in ([1, 2], np.array([1, 2], dtype='f4'), pd.Series([1, 2], dtype='Int64'), np.array([1, Decimal(2)],
    dtype=object),
              pd.DataFrame(dict(y=[1, 2]))):
        assert numeric_targets(y, 2)[0].tolist() == [[1], [2]]
        assert numeric_targets(y, 2)[1] == (np.ndim(y) == 1)
    two = pd.DataFrame(dict(a=pd.array([1, 2], 'Int64'), b=[.5, 1]))
    assert numeric_targets(two, 2)[0].tolist() == [[1, .5], [2, 1]]

def test_what_many_rows_have_is_no_outlier():
    x = np.r_[np.random.default_rng(0).normal(size=(700, 1)), np.full((200, 1), 30.), np.full((100, 1), -40.)]
    state = input_scale(x, np.ones(1000), True)
    assert state['low'][0] == -40 and state['high'][0] == 30 and pulled_in(x, np.ones(1000), state)[0] == 0

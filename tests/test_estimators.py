"The estimators keep scikit-learn's contract, survive awkward tables, and come back from a file as they were."
import os
import pickle

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from modscale.rule.estimators import ModularBase, ModularClassifier, ModularRegressor, plot_module_curves

short = dict(starts=1, rounds=0, max_candidates=2, network_steps=100)

@pytest.mark.filterwarnings('ignore')
@parametrize_with_checks([ModularRegressor(**short), ModularClassifier(**short)])
def test_scikit_learn_contract(estimator, check): check(estimator)

def table(n=80, seed=0):
    X = np.random.default_rng(seed).standard_normal((n, 3))
    return X, np.sin(2*X[:, 0]) + X[:, 1]**2

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('n, m, n_modules', [(2, 1, 1), (5, 3, 20), (9, 30, 'auto'), (40, 1, 'auto')])
def test_few_rows_or_columns_are_no_obstacle(n, m, n_modules):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, m)), rng.standard_normal(n)
    model = ModularRegressor(n_modules, **short).fit(X, y)
    assert np.isfinite(model.predict(X)).all() and model.directions_.shape == (model.n_modules_, m)

@pytest.mark.filterwarnings('ignore')
def test_constant_and_copied_columns_get_no_weight_of_their_own():
    X, y = table()
    plain, padded = ModularRegressor(**short).fit(X, y), ModularRegressor(**short).fit(np.c_[X, np.full(80, 4.)], y)
    assert (padded.directions_[:, 3] == 0).all() and np.allclose(np.linalg.norm(padded.directions_, axis=1), 1)
    copied = ModularRegressor(**short).fit(np.c_[X, X[:, 0]], y)
    assert np.allclose(copied.directions_[:, 0], copied.directions_[:, 3], atol=1e-6)
    assert np.isfinite(plain.predict(X)).all()

@pytest.mark.filterwarnings('ignore')
def test_units_of_the_columns_do_not_matter():
    X, y = table()
    units = np.array([1024., 1/1024, 1.])                                  # powers of two: products are exact
    a, b = ModularRegressor(**short).fit(X, y), ModularRegressor(**short).fit(X*units, y)
    assert np.allclose(a.predict(X), b.predict(X*units))
    assert np.allclose(a.directions_original_, b.directions_original_*units)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('predictor', ['kernel', 'network'])
@pytest.mark.parametrize('kind', ['one output', 'two outputs', 'two classes', 'three classes'])
def test_file_and_pickle_give_the_estimator_back(tmp_path, predictor, kind):
    X, y = table()
    Y = {'one output': y, 'two outputs': np.c_[y, X[:, 2]], 'two classes': np.array(['no', 'yes'])[(y > 1).astype(int)],
         'three classes': np.digitize(y, [.3, 1.5])}[kind]
    model = (ModularClassifier if 'classes' in kind else ModularRegressor)(predictor=predictor, **short).fit(X, Y)
    model.save(tmp_path/'model')
    for back in (ModularBase.load(tmp_path/'model'), pickle.loads(pickle.dumps(model))):
        assert type(back) is type(model) and back.get_params() == model.get_params()
        assert (back.predict(X) == model.predict(X)).all()
        assert (back.module_effects(X) == model.module_effects(X)).all() and (back.shares_ == model.shares_).all()
        assert (back.linear_effect(X) == model.linear_effect(X)).all() and back.linear_share_ == model.linear_share_
        assert back.found_ is model.found_

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('predictor', ['kernel', 'network'])
def test_effects_add_up_to_the_prediction(predictor):
    X, y = table()
    model = ModularRegressor(predictor=predictor, **short).fit(X, y)
    effects, linear = model.module_effects(X), model.linear_effect(X)
    assert np.ptp(model.predict(X) - effects.sum(1) - linear) < 1e-9
    assert np.allclose(effects.mean(0), 0, atol=1e-9) and abs(linear.mean()) < 1e-9
    assert linear.var() == pytest.approx(model.linear_share_*y.var())
    if predictor == 'kernel': assert linear.var() > 0

@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(os.name != 'posix', reason='links and modes of POSIX')
def test_saving_again_keeps_the_target_of_a_link_and_the_mode_of_a_file(tmp_path):
    X, y = table()
    model = ModularRegressor(1, **short).fit(X, y)
    model.save(tmp_path/'model')
    (tmp_path/'model').chmod(0o640)
    (tmp_path/'link').symlink_to('model')
    model.save(tmp_path/'link')
    assert (tmp_path/'link').is_symlink() and (tmp_path/'model').stat().st_mode & 0o777 == 0o640
    assert (ModularBase.load(tmp_path/'link').predict(X) == model.predict(X)).all()
    with pytest.raises(OSError, match='folder'):
        (tmp_path/'folder').mkdir()
        model.save(tmp_path/'folder')

def test_files_that_are_something_else_are_refused(tmp_path):
    from safetensors.numpy import save_file
    with pytest.raises(FileNotFoundError): ModularBase.load(tmp_path/'none')
    save_file(dict(a=np.ones(2)), tmp_path/'foreign')
    (tmp_path/'pickle').write_bytes(pickle.dumps(1))
    (tmp_path/'empty').write_bytes(b'')
    for name in ('foreign', 'pickle', 'empty'):
        with pytest.raises(ValueError, match=name): ModularBase.load(tmp_path/name)

@pytest.mark.parametrize('name, value', [('n_modules', 0), ('n_modules', 'many'), ('predictor', 'tree'), ('starts', 0),
                                         ('device', 'abacus'), ('module_dim', 4), ('module_dim', 0), ('rounds', -1)])
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r}'): ModularRegressor(**{name: value}).fit(*table())

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('b', [2, 3])
@pytest.mark.parametrize('predictor', ['kernel', 'network'])
def test_modules_of_several_coordinates(tmp_path, b, predictor):
    X, y = table()
    model = ModularRegressor(2, module_dim=b, predictor=predictor, **short).fit(X, y)
    z, effects = model.projections(X), model.module_effects(X)
    assert model.directions_.shape == (2, b, 3) and z.shape == (80, 2, b) and effects.shape == (80, 2)
    assert np.ptp(model.predict(X) - effects.sum(1) - model.linear_effect(X)) < 1e-9
    seen = np.einsum('nm,kbm->nkb', X, model.directions_original_)
    assert np.ptp(z - seen, 0).max() < 1e-9 # no outlier is pulled in here
    model.save(tmp_path/'model')
    assert (ModularBase.load(tmp_path/'model').predict(X) == model.predict(X)).all()
    if b == 3:
        with pytest.raises(ValueError, match='module_dim=3'): plot_module_curves(model, X)
    else: assert len(plot_module_curves(model, X).axes) == 4 # two panels and their colour bars

def test_more_coordinates_than_inputs_are_refused():
    X, y = table()
    X[:, 2] = 1
    with pytest.raises(ValueError, match='module_dim=3'): ModularRegressor(module_dim=3, **short).fit(X, y)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('n_modules, m', [(4, 1), (6, 2)])
def test_searches_keep_all_modules_where_directions_are_few(n_modules, m):
    X, y = table(30)
    model = ModularRegressor(n_modules, **short | dict(rounds=1)).fit(X[:, :m], y)
    assert model.n_modules_ == n_modules and model.shares_.shape == (n_modules,)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('noise', [0., .3])
def test_the_verdict_holds_with_and_without_noise(noise):
    X, y = table(200)
    rng = np.random.default_rng(1)
    model = ModularRegressor(2).fit(X, y + noise*y.std()*rng.standard_normal(200))
    assert model.found_ is True and model.agreement_ > .95 and model.turn_ < .03
    assert model.evidence_ > model.linear_evidence_
    far_out = .07 # without noise one row, which a fit without it misses by 3.6 standard deviations, makes it .066
    assert abs(model.left_out_ - noise**2/(1 + noise**2)) < (.05 if noise else far_out)
    shuffled = ModularRegressor(2, rounds=1).fit(X, rng.permutation(y))
    assert shuffled.found_ is False and shuffled.left_out_ > .9

def test_one_search_gives_no_verdict_where_modules_are_better_and_a_negative_one_where_not():
    X, y = table(200)
    one = ModularRegressor(2, starts=1).fit(X, y)
    assert one.found_ is None and np.isnan(one.agreement_)
    with pytest.warns(UserWarning, match='directions'):
        assert ModularRegressor(2, starts=1).fit(X, np.random.default_rng(1).permutation(y)).found_ is False

def linear_table(kind):
    "Targets, or probabilities of classes, that are linear in the inputs."
    rng = np.random.default_rng(3) # a few such tables get a module that is not there: the evidence is a matter of odds
    X = rng.uniform(-1, 1, (200, 3))
    y, drawn = X @ [1., -2., .5] + .5*rng.standard_normal(200), rng.random(200)
    return X, {'one output': y, 'two outputs': np.c_[y, 3*X[:, 1] + 1], 'two classes': drawn < .5 + .4*X[:, 0],
               'three classes': (drawn > .33 + .3*X[:, 0]).astype(int) + (drawn > .66 + .3*X[:, 0])}[kind]

@pytest.mark.parametrize('predictor', ['kernel', 'network'])
@pytest.mark.parametrize('kind', ['one output', 'two outputs', 'two classes', 'three classes'])
def test_a_linear_table_has_no_module_and_all_else(tmp_path, kind, predictor):
    X, y = linear_table(kind)
    classes = 'classes' in kind
    with pytest.warns(UserWarning, match='no module'):
        model = (ModularClassifier if classes else ModularRegressor)(predictor=predictor, max_candidates=4).fit(X, y)
    effects, linear = model.module_effects(X), model.linear_effect(X)
    assert model.n_modules_ == 0 and model.directions_.shape == (0, 3) and model.shares_.shape == (0,)
    assert effects.shape[:2] == (200, 0) and model.projections(X).shape == (200, 0)
    out = model.decision_function(X) if classes else model.predict(X)
    assert np.ptp(out - linear, 0).max() < 1e-9 and model.score(X, y) > (.5 if classes else .8)
    assert model.found_ is False and model.evidence_ == model.linear_evidence_
    model.save(tmp_path/'model')
    back = ModularBase.load(tmp_path/'model')
    assert (back.predict(X) == model.predict(X)).all() and back.directions_.shape == (0, 3)
    with pytest.raises(ValueError, match='n_modules_=0'): plot_module_curves(model, X)

def test_one_class_or_no_weight_is_refused():
    X, y = table()
    with pytest.raises(ValueError, match='one class'): ModularClassifier(**short).fit(X, np.zeros(80))
    with pytest.raises(ValueError, match='sample_weight'): ModularRegressor(**short).fit(X, y, np.zeros(80))

"Tables are read or refused by name; every rival goes through one door; ranks and tests are those by hand."
import json
import math
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from modscale.tables import evidence, fixed_splits, rivals

FAST = dict(MLP_STEPS={math.inf: (32, 100)}, MLP_NETWORKS=2, FOREST_TREES=dict(search=5, final=10), PATIENCE=5,
            BOOSTING_ROUNDS={math.inf: 30}, EBM_ROUNDS=50, EBM_BAGS=dict(search=1, final=1),
            PURSUITS={math.inf: dict(r=(1, 2), degree=(3,))},
            XRFM_KERNELS=dict(l2=(1.,), l1=(1.,)), XRFM_SETTINGS=dict(bandwidth=(5.,), reg=(1e-3, 1e-1)),
            LAPLACE_SETTINGS=dict(width=(3., 9.), ridge=(1e-3, 1e-1)), GP_START_STEPS=20, GP_STEPS={math.inf: 20})

def needed(name):
    package = rivals.TABLE_PACKAGES.get(name, 'numpy')
    return pytest.param(name, marks=pytest.mark.skipif(not find_spec(package), reason=f'{package} is not installed'))

@pytest.fixture
def fast(monkeypatch):
    for name, value in FAST.items(): monkeypatch.setattr(rivals, name, value)

def made_table(n=60, seed=0):
    rng = np.random.default_rng(seed)
    X = np.c_[rng.uniform(-2, 2, (n, 3))*[1, 10, 100], np.full(n, 7.)]
    return X, 5 + 20*X[:, 0] + X[:, 1] + rng.standard_normal(n)

@pytest.fixture
def data(tmp_path, monkeypatch):
    "Files as those of the table servo and of yacht."
    X, y = made_table()
    for folder, file in (('uci10', 'servo'), ('uci20', 'yacht')):
        place = tmp_path/'tables'/folder
        place.mkdir(parents=True)
        pd.DataFrame(X, columns=list('abcd')).assign(y=y).to_csv(place/f'{file}.csv', index=False)
    (tmp_path/'tables'/'uci10'/'servo.fold.txt').write_text('\n'.join(str(i % 10) for i in range(60)) + '\n')
    lines = [' '.join(str(6*(s % 10) + i) for i in (3, 0, 1, 2, 4, 5)) for s in range(20)]
    (tmp_path/'tables'/'uci20'/'yacht.test.txt').write_text('\n'.join(lines) + '\n')
    monkeypatch.delenv('MODSCALE_DATA', raising=False)
    return tmp_path

def test_both_kinds_of_splits_are_read(data, monkeypatch):
    X, y, folds = fixed_splits.read_table_task('servo', data)
    assert X.shape == (60, 4) and np.array_equal(y, made_table()[1]) and np.array_equal(X, made_table()[0])
    assert [f.tolist() for f in folds] == [list(range(f, 60, 10)) for f in range(10)]
    monkeypatch.setenv('MODSCALE_DATA', str(data))
    _, _, tests = fixed_splits.read_table_task('yacht')
    assert len(tests) == 20 and tests[1].tolist() == [6, 7, 8, 9, 10, 11]

def test_other_targets_are_no_inputs(tmp_path):
    place = tmp_path/'tables'/'physics'
    place.mkdir(parents=True)
    (place/'naca0012.csv').write_text('x0,lift,drag\n' + ''.join(f'{i},{i + .5},{-i}\n' for i in range(20)))
    (place/'naca0012.fold.txt').write_text('\n'.join(str(i % 10) for i in range(20)))
    for target, wanted in (('lift', np.arange(20) + .5), ('drag', -np.arange(20.))):
        X, y, _ = fixed_splits.read_table_task(f'naca0012_{target}', tmp_path)
        assert np.array_equal(X[:, 0], np.arange(20)) and X.shape == (20, 1) and np.array_equal(y, wanted)

def test_what_is_missing_is_named(data):
    with pytest.raises(fixed_splits.TableMissing, match='MODSCALE_DATA'): fixed_splits.read_table_task('servo')
    with pytest.raises(fixed_splits.TableMissing, match='stock.csv'): fixed_splits.read_table_task('stock', data)
    (data/'tables'/'uci10'/'servo.fold.txt').unlink()
    with pytest.raises(fixed_splits.TableMissing, match='servo.fold.txt'): fixed_splits.read_table_task('servo', data)
    with pytest.raises(ValueError, match="name='boston'"): fixed_splits.read_table_task('boston', data)

@pytest.mark.parametrize('change, words', [
    (lambda text: text.replace('a,b,c,d,y', 'a,b,c,d,z'), "no column 'y'"),
    (lambda text: text.replace('\n', '\nwhat,1,2,3,4\n', 1), "row 0, column 'a'"),
    (lambda text: text.replace('\n', '\n1,,2,3,4\n', 1), "row 0, column 'b'"),
    (lambda text: text.replace('\n', '\n1,inf,2,3,4\n', 1), "row 0, column 'b'"),
    (lambda text: text + '1,2,3,4,5,6,7\n', 'not a CSV file'), (lambda text: '', 'not a CSV file')])
def test_a_damaged_table_is_named(data, change, words):
    file = data/'tables'/'uci10'/'servo.csv'
    file.write_text(change(file.read_text()))
    with pytest.raises(fixed_splits.TableDamaged, match=words) as e: fixed_splits.read_table_task('servo', data)
    assert 'servo.csv' in str(e.value)

@pytest.mark.parametrize('name, file, text, words', [
    ('servo', 'uci10/servo.fold.txt', '0\n1\n', '2 folds for a table of 60 rows'),
    ('servo', 'uci10/servo.fold.txt', '\n'.join(str(i % 9) for i in range(60)), 'split 9'),
    ('servo', 'uci10/servo.fold.txt', '\n'.join(str(i % 11) for i in range(60)), '10 splits wanted, got 11'),
    ('servo', 'uci10/servo.fold.txt', 'one\n'*60, 'more than row numbers'),
    ('yacht', 'uci20/yacht.test.txt', '0 1\n', '20 splits wanted, got 1'),
    ('yacht', 'uci20/yacht.test.txt', '0 60\n'*20, 'split 0'), ('yacht', 'uci20/yacht.test.txt', '0 0\n'*20, 'split 0'),
    ('yacht', 'uci20/yacht.test.txt', '-1 0\n'*20, 'split 0')])
def test_damaged_splits_are_named(data, name, file, text, words):
    (data/'tables'/file).write_text(text)
    with pytest.raises(fixed_splits.TableDamaged, match=words): fixed_splits.read_table_task(name, data)

def test_least_squares_on_the_splits(data):
    errors = fixed_splits.linear_errors('servo', data)
    X, y = made_table()
    train = np.arange(60) % 10 != 3
    A = np.c_[np.ones(60), X[:, :3]]
    w = np.linalg.solve(A[train].T @ A[train], A[train].T @ y[train])
    assert len(errors) == 10 and np.isclose(errors[3], np.sqrt(np.mean((A[~train] @ w - y[~train])**2)))

@pytest.mark.parametrize('name', [needed(name) for name in rivals.TABLE_RIVALS])
def test_a_rival_predicts_better_than_the_mean(name, data, fast):
    (row,) = rivals.table_row(partial(rivals.rival_in_units, rivals.TABLE_RIVALS[name]), 'servo', 4, name, data).iloc
    assert row.error == '' and row.rmse < .7*row.spread and row.setting and row.seconds > 0 and row.cpu_seconds > 0
    assert (row.table, row.split, row.method, row.n, row.m) == ('servo', 4, name, 54, 4)
    assert np.isfinite(row.loglik) == np.isfinite(row.coverage90) == (name == 'gp')

def test_a_process_knows_its_noise_and_inducing_points_are_near_it(fast, monkeypatch):
    pytest.importorskip('gpytorch')
    monkeypatch.setattr(rivals, 'GP_START_STEPS', 40)
    monkeypatch.setattr(rivals, 'GP_STEPS', {math.inf: 40})
    X, y = made_table(300)
    new, value = made_table(400, seed=1)
    scores = []
    for rows, points in ((2000, 500), (100, 40)):
        monkeypatch.setattr(rivals, 'EXACT_ROWS', rows)
        monkeypatch.setattr(rivals, 'INDUCING', points)
        fit = rivals.rival_in_units(rivals.process_on_table, X, y, 0)
        assert ('exact' in fit.setting) == (rows == 2000) and ('points=40' in fit.setting) == (rows == 100)
        scores.append(rivals.table_scores(fit, new, value))
    for score in scores: # the noise has a standard deviation of one
        assert abs(score['rmse'] - 1) < .15 and abs(score['loglik'] + .5*math.log(2*math.pi*math.e)) < .15
        assert abs(score['coverage90'] - .9) < .07 and abs(score['coverage50'] - .5) < .12

def test_a_large_table_gets_a_tree_of_machines(fast, monkeypatch):
    pytest.importorskip('xrfm')
    monkeypatch.setattr(rivals, 'XRFM_WHOLE', 300)
    monkeypatch.setattr(rivals, 'XRFM_LEAF', 200)
    X, y = made_table(500)
    fit = rivals.rival_in_units(rivals.machine_on_table, X, y, 0)
    new, value = made_table(300, seed=1)
    assert fit.setting.endswith('tree') and np.sqrt(np.mean((fit.predict(new) - value)**2)) < .3*value.std()

def test_standard_units_come_back_and_rows_far_out_are_cut():
    X, y = made_table()
    scale = rivals.scale_of(X, y)
    x = scale.inputs(X)
    assert x.shape == (60, 3) and np.allclose(x.mean(0), 0) and np.allclose(x.std(0), 1)
    far = X.copy()
    far[0, 1] = 1e9
    assert scale.inputs(far)[0, 1] == x[:, 1].max()
    given = dict(predict=lambda x: x[:, :1], setting='', normal=lambda x: (x[:, 0], np.full(len(x), 2.)))
    fit = scale.restored(rivals.TableFit(**given))
    mean, sd = fit.normal(X)
    assert np.allclose(fit.predict(X), mean) and np.allclose(mean, x[:, 0]*y.std() + y.mean())
    assert np.allclose(sd, 2*y.std())
    with pytest.raises(ValueError, match='X must have an input that varies'): rivals.scale_of(np.ones((5, 2)), y[:5])
    with pytest.raises(ValueError, match='y must vary, got y=3.0'): rivals.scale_of(X, np.full(60, 3.))

def test_scores_are_those_by_hand():
    X, y = np.zeros((4, 1)), np.array([0., 1, 2, 10])
    fit = rivals.TableFit(lambda X: np.ones(4), '', lambda X: (np.ones(4), np.full(4, 2.)))
    scores = rivals.table_scores(fit, X, y)
    assert np.isclose(scores['rmse'], math.sqrt((1 + 0 + 1 + 81)/4))
    assert np.isclose(scores['loglik'], -math.log(2) - .5*math.log(2*math.pi) - (1 + 0 + 1 + 81)/4/8)
    assert [scores[f'coverage{level}'] for level in (50, 90, 95)] == [.75, .75, .75]
    own = rivals.TableFit(lambda X: np.ones(4), '', None, lambda X, level: np.array([[0, 20*level]]*4))
    assert rivals.table_scores(own, X, y) | dict(rmse=0) == dict(rmse=0, loglik=pytest.approx(np.nan, nan_ok=True),
                                                                 coverage50=1., coverage90=1., coverage95=1.)
    for wrong in (np.array([1, 2, np.nan, 3]), np.ones(3)):
        with pytest.raises(ArithmeticError): rivals.table_scores(rivals.TableFit(lambda X: wrong, ''), X, y)

def test_folds_are_disjoint_and_complete():
    for n, count in ((90, 3), (5000, 1)):
        folds = rivals.validation_folds(n, 0)
        assert len(folds) == count
        for train, held in folds: assert sorted([*train, *held]) == [*range(n)]
        assert sum(len(held) for _, held in folds) == (n if count == 3 else n//5)

def test_a_search_takes_the_best_and_survives_settings_that_fail(monkeypatch):
    X, y = made_table(90)
    def score(setting, train, held):
        if setting['a'] < 0: raise FloatingPointError('no luck')
        return (setting['a'] - 3)**2 if setting['a'] < 9 else np.nan, len(train[0])
    settings = [dict(a=a) for a in (-1, 5, 2, 9)]
    assert rivals.search_setting(score, settings, X, y, 0) == (dict(a=2), 60)
    with pytest.raises(FloatingPointError, match='no luck'): rivals.search_setting(score, settings[:1], X, y, 0)
    with pytest.raises(ArithmeticError, match='no setting'): rivals.search_setting(score, settings[3:], X, y, 0)
    sizes = []
    def traced(setting, train, held):
        sizes.append(len(train[0]) + len(held[0]))
        return setting['a'], 1
    monkeypatch.setattr(rivals, 'SEARCH_ROWS', 50)
    monkeypatch.setattr(rivals, 'FOLDS_UP_TO', 40)
    assert rivals.search_setting(traced, [dict(a=a) for a in (4, 1, 3, 2)], X, y, 0)[0] == dict(a=1)
    assert sizes == [50]*4 + [90]*3 # all on some rows, the best three on all

def test_drawn_settings_differ_and_come_from_the_grid():
    drawn = rivals.drawn_settings(5, 0, a=(1, 2, 3), b=(4, 5))
    assert len({(s['a'], s['b']) for s in drawn}) == 5 and {s['a'] for s in drawn} <= {1, 2, 3}
    assert drawn == rivals.drawn_settings(5, 0, a=(1, 2, 3), b=(4, 5))
    assert len(rivals.drawn_settings(99, 0, a=(1, 2))) == 2

def test_a_failure_is_a_row_and_the_others_go_on(data):
    def breaks(X, y, seed): raise ArithmeticError('no luck')
    (row,) = rivals.table_row(breaks, 'servo', 0, 'gp', data).iloc
    assert row.error == 'ArithmeticError: no luck' and np.isnan(row.rmse) and np.isnan(row.seconds) and row.n == 54
    with pytest.raises(fixed_splits.TableMissing): rivals.table_row(breaks, 'stock', 0, 'gp', data)

def test_ours_is_given_the_table_as_it_is(data, monkeypatch):
    import sys
    import types
    made = []
    class ModularRegressor:
        rungs_ = [dict(name=name, weight=w) for name, w in (('linear', .2), ('4 modules', .004), ('columns', .796))]
        n_modules_, found_ = 2, False
        def __init__(self, **parameters):
            self.parameters = parameters
            made.append(self)
        def fit(self, X, y):
            self.seen = X.copy()
            return self
        def predict(self, X, return_std=False):
            mean = 5 + 20*X[:, 0] + X[:, 1]
            return (mean, np.ones(len(X))) if return_std else mean
        def predict_interval(self, X, level): return self.predict(X)[:, None] + np.array([-1e3, 1e3])*(level > .5)
    module = types.ModuleType('modscale.tables.estimators')
    module.ModularRegressor = ModularRegressor
    monkeypatch.setitem(sys.modules, 'modscale.tables.estimators', module)
    for study in evidence.table_ours_studies('smoke', ['ours_quick', 'ours_many'], data):
        (row,) = study.run(study.cells)[0].iloc
        assert row.error == '' and row.setting == '0.20 linear + 0.80 columns; 2 modules in doubt' and .5 < row.rmse < 2
        assert row.coverage50 == 0 and row.coverage90 == 1 and -3 < row.loglik < -1
        assert np.array_equal(made[-1].seen, made_table()[0][np.arange(60) % 10 != 0])
    assert [one.parameters for one in made] == [dict(random_state=0, effort='quick'),
                                               dict(random_state=0, effort='usual', predictor='many')]

def test_split_zero_of_all_tables_comes_first_and_large_tables_have_three():
    cells = evidence.table_cells('paper', 'gp')
    assert [cell['split'] for cell in cells] == sorted(cell['split'] for cell in cells)
    assert {cell['table'] for cell in cells[:len(fixed_splits.TABLE_TASKS)]} == set(fixed_splits.TABLE_TASKS)
    count = pd.Series([cell['table'] for cell in cells]).value_counts()
    assert all(count[name] == (3 if task.large else task.splits) for name, task in fixed_splits.TABLE_TASKS.items())
    assert pd.Series([c['table'] for c in evidence.table_cells('paper', 'gp', 99)]).value_counts()['kin8nm'] == 20
    assert len(evidence.table_cells('smoke', 'gp')) == 1
    assert not any(fixed_splits.TABLE_TASKS[cell['table']].large for cell in evidence.table_cells('quick', 'gp'))
    with pytest.raises(ValueError, match="scale='huge'"): evidence.table_cells('huge', 'gp')

def test_each_method_is_a_study_with_its_own_version(monkeypatch, capsys):
    from modscale.lab.version import closure
    studies = evidence.table_rivals_studies('smoke', ['linear', 'forest'])
    names = [{name for _, name in closure(study.run)} for study in studies]
    assert [study.name for study in studies] == ['tables_linear', 'tables_forest']
    assert 'ridge_on_table' in names[0] and 'forest_on_table' not in names[0] and 'fit_ours' not in names[0]
    assert 'forest_of' in names[1] and 'ridge_on_table' not in names[1]
    assert all('read_splits' in found and 'table_scores' in found for found in names)
    for make in (evidence.table_rivals_studies, evidence.table_ours_studies):
        with pytest.raises(ValueError, match="methods='magic'"): make('smoke', ['magic'])
    monkeypatch.setitem(rivals.TABLE_PACKAGES, 'gp', 'no_such_package')
    assert [s.name for s in evidence.table_rivals_studies('smoke', ['linear', 'gp'])] == ['tables_linear']
    assert 'no_such_package' in capsys.readouterr().err

def test_the_command_computes_and_goes_on(data, capsys, monkeypatch):
    from modscale.app.cli import main
    words = ['sweep', 'run', 'tables', '--scale', 'smoke', '--jobs', '1', '--quiet', '--methods', 'linear', 'forest',
             '--out', str(data/'out'), '--data-dir', str(data)]
    monkeypatch.setattr(rivals, 'FOREST_TREES', dict(search=5, final=10))
    assert main(words) == 0 and '2 of 2 cells done, 0 failed' in capsys.readouterr().out
    def never(*_): raise AssertionError('computed again')
    monkeypatch.setattr(rivals, 'timed_fit', never)
    assert main(words) == 0
    assert main([*words[:-1], str(data/'nowhere')]) == 2 and 'servo.csv: missing' in capsys.readouterr().err

def servo(store, data, *methods, splits=10):
    "A sweep of some methods on splits of the table servo, in a folder."
    from modscale.lab.sweep import run_sweep
    make = {True: evidence.table_ours_studies, False: evidence.table_rivals_studies}
    for method in methods:
        (study,) = make[method in rivals.OURS]('paper', [method], data)
        cells = [cell for cell in study.cells if cell['table'] == 'servo' and cell['split'] < splits]
        run_sweep([replace(study, cells=cells)], data/store, jobs=1, progress=False)
    return data/store

def verdicts(out):
    from modscale.app.claims import claims_table, read_run
    claims = claims_table([read_run(out)]).set_index('id')
    return claims[claims.index.str.startswith('tables.')]

def test_sweeps_are_kept_as_a_run_that_claims_read(data, capsys, monkeypatch):
    from modscale.app.claims import part_versions
    from modscale.app.cli import main
    from modscale.app.reproduce import keep_tables
    out, linear = data/'run', servo('one', data, 'linear')
    assert len(keep_tables([linear], out)) == 10 and set(verdicts(out).verdict) == {'not run'}
    ours = servo('two', data, 'ours', splits=2)
    capsys.readouterr()
    assert main(['sweep', 'keep', str(linear), str(ours), '--out', str(out)]) == 0
    assert capsys.readouterr().out == f'modscale: kept 12 rows, {out}\n'
    run, table = json.loads((out/'run.json').read_text()), pd.read_csv(out/'tables.csv')
    assert run['scale'] == 'paper' and [*run['parts']] == ['tables'] and run['parts']['tables']['cells'] == 12
    assert run['parts']['tables']['code'] == part_versions()['tables'] and run['parts']['tables']['seconds'] > 0
    assert list(table) == [*dict.fromkeys(table)] and len(table) == 12 and (out/'figures'/'tables.png').exists()
    again = [evidence.any_row('servo', split, 'linear', data).rmse[0] for split in range(10)]
    assert np.allclose(table.rmse[table.method == 'linear'], again, rtol=1e-9)
    claims, judged = verdicts(out), ['tables.never_worse_than_ridge', 'tables.coverage90']
    assert set(claims.verdict[judged]) <= {'met', 'missed'} and not claims.stale[judged].any()
    assert set(claims.verdict.drop(judged)) == {'not run'}
    both = table[table.split < 2].pivot(index='split', columns='method', values='rmse')
    assert claims.ours[judged[0]] == pytest.approx(np.log(both.ours/both.linear).mean(), abs=1e-6)

def test_only_cells_of_the_present_code_are_kept(data, capsys, monkeypatch):
    from modscale.app.cli import main
    from modscale.app.reproduce import keep_tables, table_records
    from modscale.lab.sweep import demo_study, run_sweep
    store = servo('store', data, 'linear', splits=3)
    studies = evidence.table_rivals_studies('paper', ['forest', 'linear'])
    rows, made = table_records([store, store], studies)
    assert len(rows) == 6 and [one['cells'] for one in made] == [3, 3] and set(rows.method) == {'linear'}
    (data/'other').mkdir()
    (data/'other'/'run.json').write_text('{"scale": "smoke", "dataset": "digits", "seed": 0, "parts": {}}')
    with pytest.raises(ValueError, match="scale='smoke'"): keep_tables([store], data/'other')
    run_sweep(demo_study('smoke'), data/'demo', jobs=1, progress=False)
    capsys.readouterr()
    for folder, message in (('demo', 'stores must hold cells of tables'), ('nowhere', 'no results')):
        assert main(['sweep', 'keep', str(data/folder), '--out', str(data/'run')]) == 2
        said = capsys.readouterr()
        assert said.out == '' and len(said.err.splitlines()) == 1 and message in said.err
    monkeypatch.setattr('modscale.lab.store.code_version', lambda *functions: 'other')
    assert table_records([store], studies)[1] == []
    with pytest.raises(ValueError, match='stores must hold cells'): keep_tables([store], data/'run')
    assert not (data/'run').exists()

def test_the_benchmark_names_what_is_missing(data, capsys, monkeypatch):
    from modscale.app.bench import bench
    from modscale.app.cli import main
    with pytest.raises(fixed_splits.TableMissing, match='MODSCALE_DATA'): bench('tables', 1)
    with pytest.raises(fixed_splits.TableMissing, match='csv: missing'): bench('tables', 1, data)
    for words, message in ((['tables'], 'MODSCALE_DATA'), (['tables', '--data-dir', str(data)], 'missing'),
                           (['fnp', '--data-dir', str(data)], f'data_dir={str(data)!r}')):
        assert main(['bench', *words, '--repeat', '1']) == 2
        said = capsys.readouterr()
        assert said.out == '' and len(said.err.splitlines()) == 1 and message in said.err

def test_the_benchmark_has_a_row_for_each_peer(data, monkeypatch):
    from modscale.app import bench
    monkeypatch.setattr(bench, 'TABLES_SHOWN', ('servo',))
    monkeypatch.setitem(rivals.OURS, 'ours', dict(effort='quick'))
    monkeypatch.setattr(evidence, 'TABLE_RIVALS', {name: rivals.TABLE_RIVALS[name] for name in ('linear', 'laplace')})
    # a rival that is not installed is left out
    monkeypatch.setattr(evidence, 'TABLE_PACKAGES', dict(laplace='no_such_package'))
    (row,) = bench.bench('tables', 2, data).to_dict('records')
    ours, linear = (np.mean([evidence.any_row('servo', split, method, data).rmse[0] for split in range(2)])
                    for method in ('ours', 'linear'))
    assert row['peer'] == 'linear' and row['work'] == 'servo, 2 splits' and row['peer_failed'] == 0
    assert row['ours_rmse'] == pytest.approx(ours) and row['error_ratio'] == pytest.approx(linear/ours)
    assert row['ratio'] == pytest.approx(row['peer_seconds']/row['ours_seconds']) and row['ours_seconds'] > 0

def test_modules_are_held_against_true_gradients(data):
    rng = np.random.default_rng(0)
    X, u = rng.uniform(-1, 1, (120, 5)), np.array([.6, 0, .8, 0, 0])
    assert abs(evidence.gradient_direction(lambda X: np.sin(X @ u), X) @ u) > 1 - 1e-6
    place = data/'tables'/'physics'
    place.mkdir()
    table = pd.DataFrame(X, columns=list('abcde')).assign(y=np.sin(2*X @ u))
    table.to_csv(place/'mhd_uavg.csv', index=False)
    (place/'mhd_uavg.fold.txt').write_text('\n'.join(str(i % 10) for i in range(120)))
    (place/'mhd_uavg.y.subspace.txt').write_text('.9 ' + ' '.join(map(str, u)) + '\n.1 0 1 0 0 0\n')
    (row,) = evidence.subspaces_study('smoke', data).run([dict(table='mhd_uavg', seed=0)])[0].to_dict('records')
    assert row['found'] and row['m'] == 5 and row['chance'] == pytest.approx(math.sqrt(row['K']/5))
    assert row['span'] > .999 and row['first'] > .999
    assert evidence.subspaces_study('smoke').cells == [dict(table='mhd_uavg', seed=0)]

def rows_of(errors):
    "One row a split from {(table, method): errors}."
    return pd.DataFrame([dict(table=table, split=split, method=method, n=900, m=3, rmse=rmse, loglik=np.nan, seconds=1.,
                              cpu_seconds=1., coverage50=np.nan, coverage90=np.nan, coverage95=np.nan,
                              error='' if rmse == rmse else 'ValueError: no')
                         for (table, method), line in errors.items() for split, rmse in enumerate(line)])

def test_ranks_are_those_by_hand():
    rows = rows_of({('yacht', 'a'): [1, 3], ('yacht', 'b'): [2, 1], ('yacht', 'c'): [9, 9],
                    ('servo', 'a'): [1, 1, 1], ('servo', 'b'): [2, 2], ('servo', 'c'): [.5, np.nan]})
    ranks = evidence.method_ranks(rows).set_index('method') # yacht: b, a, c; servo, splits 0 and 1: a, b, c (failed)
    assert ranks['rank'].to_dict() == dict(a=1.5, b=1.5, c=3) and ranks.best.to_dict() == dict(a=1, b=1, c=0)
    assert np.isclose(ranks.se['a'], .5) and (ranks.tables == 2).all()
    with pytest.raises(ValueError, match="got none of 'servo'"):
        evidence.method_ranks(rows_of({('yacht', 'a'): [1], ('yacht', 'b'): [1], ('servo', 'a'): [1]}))

def test_the_corrected_test_is_that_by_hand():
    from scipy import stats
    d = np.array([.1, .3, .2, .4])
    mean, se, p = evidence.corrected_test(d, 1/9)
    by_hand = math.sqrt((1/4 + 1/9)*np.var(d, ddof=1))
    assert np.isclose(mean, .25) and np.isclose(se, by_hand) and np.isclose(p, 2*stats.t.sf(.25/by_hand, 3))
    plain = stats.ttest_1samp(d, 0).pvalue
    assert p > plain and np.isclose(evidence.corrected_test(d, 0)[2], plain)
    assert evidence.corrected_test(np.zeros(3), 1/9) == (0, 0, 1)
    assert evidence.corrected_test(np.ones(3), 1/9) == (1, 0, 0)
    assert np.isnan(evidence.corrected_test([.5], 1/9)[1:]).all()

def test_pairs_are_of_the_same_splits():
    rows = rows_of({('yacht', 'a'): [1, 2, 4, 8], ('yacht', 'b'): [2, 4, 8, 8], ('servo', 'a'): [1],
                    ('servo', 'b'): [2]})
    table = evidence.paired_errors(rows, 'a', 'b').set_index('table')
    mean, se, p = evidence.corrected_test(np.log([.5, .5, .5, 1]), 1/9)
    yacht = table.loc['yacht']
    assert np.isclose(yacht.ratio, math.exp(mean)) and np.isclose(yacht.p, p) and yacht.splits == 4
    assert np.isclose(yacht.low, math.exp(mean - 3.182446*se)) # the 97.5 % quantile of Student's t with 3 degrees
    assert np.isclose(table.ratio['servo'], .5) and np.isnan(table.p['servo'])
    with pytest.raises(ValueError, match="other='z'"): evidence.paired_errors(rows, 'a', 'z')

def test_failures_are_counted_and_shown():
    rows = rows_of({('yacht', 'a'): [1, 3], ('yacht', 'b'): [2, np.nan], ('servo', 'b'): [np.nan]})
    table = evidence.summarise_tables(rows).set_index(['table', 'method'])
    assert table.rmse['yacht', 'a'] == 2 and table.rmse_se['yacht', 'a'] == 1 and table.failed['yacht', 'b'] == 1
    texts = evidence.error_texts(rows)
    assert texts.loc['yacht', 'a'] == '2 ± 1' and texts.loc['yacht', 'b'] == '2 (1 failed)'
    assert texts.loc['servo', 'b'] == '1 failed' and texts.loc['servo', 'a'] == ''

def test_only_splits_of_all_methods_are_compared():
    rows = rows_of({('yacht', 'a'): [1, 3, 5], ('yacht', 'b'): [2, 6], ('servo', 'a'): [4], ('servo', 'b'): [3],
                    ('stock', 'a'): [1]})
    whole = evidence.complete_rows(rows)
    assert whole.table.value_counts().to_dict() == dict(yacht=4, servo=2)
    far = evidence.shortfall(whole) # a: 1 and 4/3, b: 2 and 1
    assert far.index.tolist() == ['a', 'b'] and np.allclose(far.ratio, [math.sqrt(4/3), math.sqrt(2)])
    assert np.allclose(far.worst, [4/3, 2]) and (far.seconds == 1).all()
    for some in (rows, rows[rows.method == 'a'], rows_of({('yacht', 'linear'): [1, 2]})): # drawn whatever there is
        assert len(evidence.plot_ranks(some).axes) == 2

def test_errors_stand_beside_what_was_asked_for():
    rows = rows_of({('yacht', 'ours'): [.2, .3], ('servo', 'ours'): [1], ('energy', 'ours'): [.5],
                    ('energy', 'b'): [.1]})
    table = evidence.against_targets(rows)
    assert table.index.tolist() == ['yacht', 'energy'] and table.met.tolist() == [True, False]
    assert table.rmse.tolist() == [.25, .5] and table.target['yacht'] == evidence.TABLE_TARGETS['yacht']

def test_claims_on_tables_are_those_by_hand():
    from modscale.app.claims import best_rank, coverage_off, table_mean, table_rank, worst_against
    others = {(table, name): [2., 2 + i] for table in ('yacht', 'servo') for i, name in enumerate(rivals.TABLE_RIVALS)}
    rows = rows_of({('yacht', 'ours'): [1, 1], ('servo', 'ours'): [2, 2.5], ('yacht', 'ours_many'): [0, 0],
                    ('servo', 'ours_many'): [9, 99]} | others)
    rows['coverage90'] = rows.split.map({0: .8, 1: .9}) # .85 on both tables
    assert table_rank('ours')(rows) == (1.5, .5, 2) # ours_many is not among them; on servo linear is better
    assert best_rank(rows) == (1.5, .5, 2) # linear: second and first
    few = ('linear', 'gam', 'ours_many')
    assert table_rank('ours_many', few)(rows) == (2, 1, 2)
    assert table_mean('servo')(rows) == (2.25, .25, 2)
    assert table_mean('yacht', 'coverage90')(rows)[0] == pytest.approx(.85)
    assert coverage_off(rows) == (pytest.approx(.05), pytest.approx(0), 2)
    value, se, tables = worst_against('linear')(rows)
    mean, exact, _ = evidence.corrected_test(np.log([1, 1.25]), 1/9)
    assert tables == 2 and value == pytest.approx(mean) and se == pytest.approx(exact*12.7062/1.96, rel=1e-4)
    for measure, lacking in ((table_rank('ours'), 'gp'), (table_rank('ours_many', few), 'gam'), (best_rank, None),
                             (worst_against('linear'), 'linear'), (worst_against('linear'), 'ours')):
        less = rows[rows.method != lacking] if lacking else rows[rows.method == 'ours']
        with pytest.raises(LookupError): measure(less) # a rank among fewer methods is another claim
    apart = rows[(rows.method == 'ours') & (rows.split == 0) | (rows.method == 'linear') & (rows.split == 1)]
    for measure in (table_rank('ours'), best_rank, worst_against('linear')):
        with pytest.raises(LookupError): measure(apart)

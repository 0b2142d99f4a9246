"Every rival goes through one door: directions, a prediction, a time, or an error that is written down."
from importlib.util import find_spec

import numpy as np
import pytest

from modscale.rule import rivals
from modscale.rule.kernel import coverage
from modscale.nets.tasks import make_task

def needed(name):
    package = rivals.NEEDS.get(name, ('numpy',))[0].split('.')[0]
    return pytest.param(name, marks=pytest.mark.skipif(not find_spec(package), reason=f'{package} is not installed'))

@pytest.mark.parametrize('name', [needed(n) for n in rivals.RIVALS])
def test_a_rival_gives_directions_and_predictions(name):
    task = make_task('hinge', 3, 2, 0)
    (x, y), (fx, fy) = task.sample(150, 0), task.sample(1000, 1)
    found = rivals.fit_rival(name, x, y, 2, seed=0)
    loss = np.mean((found.predict(fx) - fy)**2)/fy.var()
    assert loss < 1 and found.seconds > 0 and found.cpu_seconds > 0
    assert (found.U is None) == (name in ('boosting', 'ridge', 'network'))
    if found.U is not None:
        assert found.U.shape == (2, 3) and np.allclose(np.linalg.norm(found.U, axis=1), 1, atol=1e-5)
        assert coverage(found.U, task.U) > (.95 if name in ('ours', 'gp') else .3)

def test_the_process_of_gpytorch_is_the_sum_of_its_modules():
    pytest.importorskip('gpytorch')
    import torch
    kernel = rivals.projected_kernel(torch.eye(3, dtype=torch.float64)[:2]).double()
    a, b = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    width, scale = kernel.base.base_kernel.lengthscale, kernel.base.outputscale
    by_hand = sum(s*torch.exp(-(a[:, None, j] - b[None, :, j])**2/(2*w**2))
                  for j, (w, s) in enumerate(zip(width.flatten(), scale)))
    assert torch.allclose(kernel(a, b).to_dense(), by_hand)
    assert torch.allclose(kernel(a, diag=True), kernel(a).to_dense().diagonal())

def test_an_additive_fit_turns_nothing_and_gives_all_that_an_alignment_has():
    task = make_task('sine', 4, 3, 0)
    x, y = task.sample(300, 0)
    fit = rivals.additive_fit(task.U[::-1], x, y)
    order = [int(np.abs(task.U @ u).argmax()) for u in fit.U]
    assert sorted(order) == [0, 1, 2] and np.allclose(fit.U, task.U[order], atol=1e-6)
    assert (np.diff(fit.share) <= 0).all() and fit.linear_share >= 0 and len(fit.history) == rivals.FIT_STEPS
    assert fit.history[-1] < fit.history[0] - 1 and fit.found is None and fit.seconds > 0
    assert np.allclose(fit.predict(x), fit.effects(x).sum(1) + fit.linear(x) + fit.center)
    assert 1 - np.mean((fit.predict(x) - y)**2)/y.var() > .99

def test_deflation_finds_one_module_and_leaves_its_line_to_the_linear_part():
    rng = np.random.default_rng(0)
    u, x = np.array([.6, .8, 0, 0]), rng.standard_normal((300, 4))
    y = np.cos(2*x @ u) + 3*x[:, 3]
    for rival in (rivals.deflation_rival, rivals.detrended_rival):
        assert abs(rival(x, y, 1, 0).U[0] @ u) > .99

def test_a_feature_machine_learns_its_metric_in_rounds():
    pytest.importorskip('xrfm')
    import torch
    rng = np.random.default_rng(0)
    u, x = np.array([.6, .8, 0, 0]), rng.standard_normal((200, 4))
    y = np.cos(x @ u)
    train = torch.as_tensor(x), torch.as_tensor(y)[:, None]
    setting = dict(bandwidth=2.5, exponent=1.4, reg=1e-4)
    none, some = (rivals.feature_machine(setting, rounds, train) for rounds in (0, 3))
    assert none.M is None or np.allclose(none.M, np.eye(4)) # a kernel ridge regression on the inputs as they are
    values, vectors = np.linalg.eigh(some.M.numpy())
    assert abs(vectors[:, -1] @ u) > .99 and values[-1] > 10*values[-2]
    found = rivals.xrfm_rival(x, 5*y + 7, 2, 0)
    assert abs(found.U[0] @ u) > .98
    fx = rng.standard_normal((1000, 4))
    assert np.mean((found.predict(fx) - 5*np.cos(fx @ u) - 7)**2) < .05*25*np.cos(fx @ u).var()

def test_the_process_goes_on_from_its_better_start(monkeypatch):
    pytest.importorskip('gpytorch')
    steps, starts = [], []
    train = rivals.train_process
    def traced(kernel, X, Y, **settings):
        starts.append(kernel)
        noise, loss = train(kernel, X, Y, steps=settings.get('steps', 3))
        steps.append(loss)
        return noise, loss
    monkeypatch.setattr(rivals, 'train_process', traced)
    rivals.gp_rival(*make_task('sine', 3, 2, 0).sample(60, 0), 2, 0)
    assert len(starts) == 3 and starts[2] is starts[int(np.argmin(steps[:2]))]

def test_a_missing_package_is_a_note_not_an_error(monkeypatch, capsys):
    monkeypatch.setitem(rivals.NEEDS, 'gp', ('no_such_module', 'no-such-package'))
    assert rivals.installed_rivals(['ours', 'gp']) == ['ours']
    assert 'no-such-package' in capsys.readouterr().err

def test_a_failure_is_a_row(monkeypatch):
    def breaks(x, y, K, seed): raise ArithmeticError('no luck')
    monkeypatch.setitem(rivals.RIVALS, 'random', breaks)
    table = rivals.compare_rivals('hinge', 2, 1, 50, [0, 1], ['random', 'ridge']).set_index('rival')
    assert table.failed.to_dict() == dict(random=2, ridge=0) and table.error['random'] == 'ArithmeticError: no luck'
    assert np.isnan(table.r2['random']) and table.r2['ridge'] > .5 and table.tasks.tolist() == [2, 2]

def test_the_study_has_a_row_a_rival_and_task_and_failures_are_rows(monkeypatch):
    def breaks(x, y, K, seed): raise ArithmeticError('no luck')
    monkeypatch.setitem(rivals.RIVALS, 'random', breaks)
    monkeypatch.setitem(rivals.RIVALS, 'ridge', lambda x, y, K, seed: rivals.Found(None, lambda x: np.zeros(len(x))))
    study = rivals.rivals_study('smoke', ['random', 'ridge'])
    tables = study.run(study.cells)
    assert len(study.cells) == len(tables) == 2 and all(len(table) == 1 for table in tables)
    for cell, table in zip(study.cells, tables):                        # the settings come back as they were
        assert {name: table[name].item() for name in cell} == cell
    assert [table.error.item() for table in tables] == ['ArithmeticError: no luck', '']
    assert all(study.cost(cell) > 0 for cell in study.cells)

def test_one_rival_can_be_asked_for_and_what_is_missing_is_told(monkeypatch, capsys):
    every, one = rivals.rivals_study('paper', ['ours', 'ridge']), rivals.rivals_study('paper', ['ridge'])
    assert [cell for cell in every.cells if cell['rival'] == 'ridge'] == one.cells and one.name == every.name
    monkeypatch.setitem(rivals.NEEDS, 'gp', ('no_such_module', 'no-such-package'))
    assert {cell['rival'] for cell in rivals.rivals_study('smoke').cells} <= set(rivals.RIVALS) - {'gp'}
    assert 'no-such-package' in capsys.readouterr().err
    with pytest.raises(ValueError, match="scale='huge'"): rivals.rivals_study('huge')

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

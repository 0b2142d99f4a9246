"Every rival goes through one door: directions, a prediction, a time, or an error that is written down."
import json
from importlib.util import find_spec
import numpy as np, pandas as pd, pytest
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
    by_hand = sum(s*torch.exp(-(a[:, None, j] - b[None, :, j])**2/(2*w**2)) for j, (w, s) in enumerate(zip(width.flatten(), scale)))
    assert torch.allclose(kernel(a, b).to_dense(), by_hand) and torch.allclose(kernel(a, diag=True), kernel(a).to_dense().diagonal())

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

def test_a_study_goes_on_and_one_rival_can_be_run_again(tmp_path, monkeypatch):
    calls, study = [], [('hinge', 2, 1, 50, 2), ('sine', 2, 1, 50, 1)]
    def counted(x, y, K, seed): calls.append(seed); return rivals.Found(None, lambda x: np.zeros(len(x)))
    for name in ('random', 'ridge'): monkeypatch.setitem(rivals.RIVALS, name, counted)
    first = rivals.run_rivals(tmp_path, ['random'], study=study)
    assert len(calls) == 3 and len(first) == 3
    both = rivals.run_rivals(tmp_path, ['random', 'ridge'], study=study)
    assert len(calls) == 6 and len(both) == 6
    again = rivals.run_rivals(tmp_path, ['random', 'ridge'], redo=['ridge'], study=study)
    assert len(calls) == 9 and not again.duplicated(['rival', 'family', 'n', 'seed']).any() and len(again) == 6
    pd.testing.assert_frame_equal(again[again.rival == 'random'].reset_index(drop=True), first)
    record = json.loads((tmp_path/'made.json').read_text())
    assert record['rows'] == 6 and record['failed'] == 0 and 'gpytorch' in record['environment']['versions']

"Arms of the sine-wave comparison: what a cell may be, starts that are stored, sweeps from the command line."
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from modscale.lab.sweep import run_sweep
from modscale.rule.descent import standard_data
from modscale.rule.kernel import coverage
from modscale.sine import arms, starts
from modscale.sine.arms import ArmCell, arm_cells, arm_kind, best_tries, needed_start, needed_starts, run_arms
from modscale.sine.evidence import named_arms
from modscale.sine.starts import StartCell, array_text, start_row, text_array

def modscale(*args):
    return subprocess.run([sys.executable, '-m', 'modscale.app.cli', *map(str, args)], capture_output=True, text=True,
                          timeout=300)

@pytest.mark.parametrize('bad', [dict(arm='best'), dict(K=0), dict(n=19), dict(steps=0), dict(lr=0), dict(start=-1),
                                 dict(family='square'), dict(ridge=0), dict(kernel='linear'), dict(m=2.5)])
def test_a_bad_cell_is_named(bad):
    name = next(iter(bad))
    with pytest.raises(ValueError, match=name): ArmCell(**dict(arm='ours') | bad)

@pytest.mark.parametrize('bad', [dict(rule='best'), dict(ridge=-1), dict(bandwidth=0), dict(kernel='no'), dict(k=0)])
def test_a_bad_start_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): StartCell(**dict(rule='paper') | bad)

def test_numbers_survive_the_table():
    a = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert np.array_equal(text_array(array_text(a), 3, 4), a)
    with pytest.raises(ValueError): text_array(array_text(a), 5, 4)

def test_every_cell_of_a_study_is_there_once_and_needs_starts_that_are_asked():
    for cells in (arms.growth_cells(), arms.longer_cells(), arms.family_cells(), arms.figure2_cells()):
        assert len(set(cells)) == len(cells)
    cells = arms.growth_cells()
    asked = set(needed_starts(cells))
    assert all(needed_start(cell) in asked for cell in cells if cell.arm in ('ours', 'distilled', 'paper'))
    sizes = {(cell.m, cell.k) for cell in cells}
    assert {(m, 5) for m in range(2, 10)} <= sizes and {(m, m) for m in (5, 9, 12, 16, 20, 30)} <= sizes
    assert not {cell.seed for cell in cells} & set(arms.SEARCH_SEEDS)

def test_the_searched_constants_are_those_that_are_used():
    rates = {cell.lr for cell in arms.rate_cells()}
    assert rates == set(arms.RATES_TRIED_SINE) >= set(arms.RATES_USED.values())
    assert any(all(getattr(cell, name) == value for name, value in arms.PAPER_USED.items())
               for cell in arms.paper_cells())

def test_a_start_sees_the_first_samples_alone():
    cell = StartCell('joint', m=3, k=2, n=100, rounds=1)
    task = cell.task()
    x, y = task.stream(100, 0)
    spoiled = y.copy()
    spoiled[cell.cut:] = 1e6
    ends = [starts.find_start(cell, x[:cell.cut], each[:cell.cut])[0] for each in (y, spoiled)]
    assert np.array_equal(*ends) and cell.cut == 80
    row = start_row(**asdict(cell)).iloc[0]
    assert np.array_equal(text_array(row.U, 2, 3), ends[0]) and row.coverage == coverage(ends[0], task.U)

@pytest.mark.parametrize('kernel', starts.KERNELS)
def test_the_papers_rule_lowers_its_own_objective(kernel):
    cell = StartCell('paper', m=3, k=2, n=100, K=3, kernel=kernel, ridge=1., steps=60)
    x, y = cell.task().stream(100, 0)
    data, kernel = standard_data(x, y)[0], starts.paper_start(cell)
    before = float(starts.objective_of(cell)(kernel, data.x, data.Y))
    U = starts.paper_projections(cell, x, y)
    assert np.allclose(np.linalg.norm(U, axis=1), 1, atol=1e-5)
    kernel.U.copy_(torch.as_tensor(U)[:, None])
    assert float(starts.objective_of(cell)(kernel, data.x, data.Y)) < before

def test_networks_of_one_stack_end_as_they_do_alone():
    cells = [cell for cell in arm_cells(('modular', 'oracle'), ((3, 2),), (60, 100), range(2), lr=.01, steps=50)
             if cell.K == 2]
    assert len({arm_kind(asdict(cell)) for cell in cells}) == 1
    together = run_arms(list(map(asdict, cells)))
    for i in (0, len(cells) - 1):
        alone = run_arms([asdict(cells[i])])[0]
        assert np.isclose(alone.test_loss[0], together[i].test_loss[0], rtol=1e-4)

def test_the_best_try_is_chosen_by_validation_and_paid_for():
    rows = pd.DataFrame(dict(family='sine', m=5, k=5, n=[400]*3, seed=[0, 0, 1], steps=10, start=[0, 1, 0],
                             validation_loss=[.3, .2, .1], test_loss=[.1, .4, .2], gflop=[1., 2., 4.]))
    best = best_tries(rows)
    assert best.test_loss.tolist() == [.4, .2] and best.gflop.tolist() == [3., 4.] and best.tries.tolist() == [2, 1]
    assert best_tries(rows, 1).test_loss.tolist() == [.1, .2]

def test_sweeps_of_starts_and_networks_from_the_command_line(tmp_path):
    found = modscale('sweep', 'run', 'sine_starts', '--scale', 'smoke', '--out', tmp_path/'starts', '--quiet')
    assert found.returncode == 0, found.stderr
    table = tmp_path/'starts'/'sine_starts.parquet'
    rows = {}
    for name, more in dict(found=[], stored=['--starts', table]).items():
        out = tmp_path/name
        done = modscale('sweep', 'run', 'sine_growth', '--scale', 'smoke', '--out', out, '--quiet', *more)
        assert done.returncode == 0, done.stderr
        rows[name] = pd.read_parquet(out/'sine_growth.parquet')
    assert len(rows['found']) == len(arms.growth_cells('smoke')) and rows['found'].test_loss.notna().all()
    assert set(arms.ARM_NAMES) == set(rows['found'].arm)
    same = ['test_loss', 'validation_loss', 'kernel_test_loss', 'start_gflop']
    pd.testing.assert_frame_equal(rows['found'][same], rows['stored'][same])
    some = ['sweep', 'run', 'sine_growth', '--scale', 'smoke', '--out', tmp_path/'some', '--quiet', '--methods']
    assert modscale(*some, 'oracle').returncode == 0 and modscale(*some, 'best').returncode == 2
    assert set(pd.read_parquet(tmp_path/'some'/'sine_growth.parquet').arm) == {'oracle'}
    refused = modscale('sweep', 'run', 'align', '--scale', 'smoke', '--out', tmp_path/'x', '--device', 'cpu')
    assert refused.returncode == 2 and "device='cpu'" in refused.stderr and not (tmp_path/'x').exists()

def test_a_stored_start_is_used_and_another_one_found(tmp_path):
    cells = arm_cells(('ours',), ((2, 2),), (100, 400), range(1), steps=20)
    start = needed_start(cells[0])
    row = start_row(**asdict(start)).assign(**asdict(start), cpu_seconds=1234.)
    row.to_parquet(tmp_path/'starts.parquet')
    first, second = run_arms(list(map(asdict, cells)), str(tmp_path/'starts.parquet'))
    assert first.start_seconds[0] == 1234 and 0 < second.start_seconds[0] < 1234
    study = arms.arms_study('few', cells[:1], str(tmp_path/'starts.parquet'))
    assert len(run_sweep(study, tmp_path/'out', jobs=1, progress=False)) == 1

def test_equal_compute_is_never_less_than_ours():
    sizes = dict(family='sine', m=3, k=3, n=100, steps=10, validation_loss=.1, test_loss=.1, width=32, depth=2)
    rows = [dict(arm='ours', seed=seed, start=0, K=3, gflop=1., start_gflop=cost, start_seconds=cost, **sizes)
            for seed, cost in enumerate((.5, np.nan, 4.))]
    rows[1] |= dict(start_seconds=2.) # not counted: two seconds at one operation a second
    rows += [dict(arm='modular', seed=seed, start=start, K=K, gflop=float(K//3), start_gflop=np.nan,
                  start_seconds=np.nan, **sizes)
             for seed in range(3) for K, many in ((3, 5), (6, 3)) for start in range(many)]
    arms_found = named_arms(pd.DataFrame(rows)).set_index(['arm', 'seed'])
    spent = arms_found.gflop['modular, equal compute']
    assert arms_found.gflop['ours'].tolist() == [1.5, 3., 5.] and spent.tolist() == [2., 4., 6.]
    assert arms_found.tries['modular, all tries'].eq(8).all()

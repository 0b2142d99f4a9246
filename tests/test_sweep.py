"A sweep loses nothing: kills at every file operation, dead workers, full disks, damaged parts; and gives one table for any backend."
import json, os, signal, subprocess, sys, threading, time
from pathlib import Path
import numpy as np, pandas as pd, pyarrow.parquet as pq, pytest
from modscale.lab.sweep import demo_run, demo_study, run_sweep
from modscale.base.study import Study, grid
from modscale.lab.store import sweep_status

posix = pytest.mark.skipif(os.name != 'posix', reason='needs signals')

def sweep(study, out, **kw): return run_sweep(study, out, **{'backend': 'sequential', 'progress': False, **kw})
def parts(out): return sorted((Path(out)/'parts').glob('*.parquet'))
def times(out): return {f: f.stat().st_mtime_ns for f in parts(out)}
def study(name, run, cells, **kw): return Study(name, cells, run, modules=('pinv', 'sweep'), **kw)
def wait(condition, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None), 'did not happen'
        time.sleep(.005)

def kinds(cells):
    "Results whose columns and types depend on the cell."
    def table(i):
        if i % 4 == 0: return pd.DataFrame(dict(v=[i, i + 1], word=['a', None]))
        if i % 4 == 1: return pd.DataFrame(dict(v=[i + .5], extra=[True]))
        if i % 4 == 2: return pd.DataFrame(dict(word=pd.Categorical(['b', 'c']), v=[np.nan, 1e-300]))
        return pd.DataFrame(dict(v=[None], word=['d']))
    return [table(c['i']) for c in cells]
def together(cells): return [pd.DataFrame(dict(together=[len(cells)], bytes=[sum(c['need'] for c in cells)])) for _ in cells]
def picky(cells):
    for c in cells:
        if c['i'] == 5 and not Path(c['flag']).exists(): raise ArithmeticError('five is not to my taste')
    return [pd.DataFrame(dict(square=[c['i']**2])) for c in cells]
class Stack:
    alive = most = 0
    def __init__(self): Stack.alive += 1; Stack.most = max(Stack.most, Stack.alive)
    def __del__(self): Stack.alive -= 1
def heavy(cells):
    stack = Stack()
    if any(c['i'] == 5 for c in cells): raise RuntimeError('out of memory')
    return [pd.DataFrame(dict(v=[1])) for _ in cells]
def deadly(cells):
    for c in cells:
        if c['p'] == 50: os.kill(os.getpid(), signal.SIGKILL)
    return demo_run(cells)
def dies_once(cells):
    for c in cells:
        if c['p'] == 50 and not Path(c['flag']).exists(): Path(c['flag']).touch(), os.kill(os.getpid(), signal.SIGKILL)
    return demo_run(cells)
def long(cells): return [pd.DataFrame(dict(v=np.random.default_rng(c['i']).random(c['rows']))) for c in cells]

@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The table of the demonstration, computed in one go."
    return sweep(demo_study(), tmp_path_factory.mktemp('sweep')/'out')

@pytest.mark.parametrize('how', [dict(backend='threading', jobs=3), dict(backend='loky'), dict(jobs=4, memory=2e7)], ids=str)
def test_one_table_for_any_workers_and_groups(undisturbed, tmp_path, how):
    pd.testing.assert_frame_equal(sweep(demo_study(), tmp_path/'out', **how), undisturbed)
    status = sweep_status(tmp_path/'out')
    assert (status['done'], status['missing'], status['failed'], status['coordinator']) == (24, 0, 0, False) and 0 < status['peak_memory_gib'] < 6

@pytest.mark.parametrize('width', [1, 2, 5, 40])
def test_types_do_not_depend_on_groups(tmp_path, width):
    one, other = (sweep(study('kinds', kinds, grid(i=list(range(12)), s=['x']), width=w), tmp_path/str(w)) for w in (3, width))
    pd.testing.assert_frame_equal(one, other)
    assert list(one) == ['i', 's', 'v', 'word', 'extra'] and one.i.is_monotonic_increasing and len(one) == 18
    assert one.v.isna().sum() == 6 and one.v[4] == 1e-300 and one.word.dropna().tolist() == ['a', 'b', 'c', 'd']*3

@posix
@pytest.mark.parametrize('count', [0, 3])
def test_kill_of_the_coordinator(undisturbed, run_cli, tmp_path, count):
    out = tmp_path/'out'
    words = ['sweep', 'run', 'demo', '--scale', 'smoke', '--out', out, '--quiet']
    process = subprocess.Popen([sys.executable, '-m', 'modscale.app.cli', *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(lambda: (out/'running').exists() and len(parts(out)) >= count, process)
    children = {Path('/proc')/c for f in Path(f'/proc/{process.pid}/task').glob('*/children') for c in f.read_text().split()}
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before, status = times(out), sweep_status(out)
    assert status['running'] == 0 and not status['coordinator'] and status['done'] + status['missing'] == 24 and status['missing'] > 0
    pd.testing.assert_frame_equal(sweep(demo_study(), out), undisturbed)
    assert before.items() <= times(out).items() and not [f for f in out.rglob('.*')]
    calls = json.loads((out/'sweep.json').read_text())['calls']
    assert [c.get('killed', False) for c in calls] == [True, False]
    gone = lambda p: not p.exists() or ') Z ' in (p/'stat').read_text()
    if count: wait(lambda: sum(not gone(c) for c in children) <= 2, seconds=20)          # workers go with it; one may never have had work

EVERY_MOMENT = '''
import json, os, signal, sys, time
from pathlib import Path
from modscale.lab.sweep import demo_run, run_sweep
from modscale.base.study import Study, grid
from modscale.lab.store import made_by
import pandas as pd
import modscale.theory.pinv, joblib.parallel, tqdm
made_by()                                                           # once, not in every child
out, cells = Path(sys.argv[1]), grid(n=[5], p=[30, 0, 40, 50], seed=[0])
study = Study('demo', cells, demo_run, width=2, modules=('pinv', 'sweep'))
def child(f):
    pid = os.fork()
    if not pid:
        try: f(); os._exit(0)
        except BaseException as e: print(repr(e), file=sys.stderr); os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def whole(folder): run_sweep(study, folder, backend='sequential', progress=False).to_pickle(folder/'table.pickle')
def killed_at(folder, moment):
    "Die just before the file operation of this number, which is just after the one before it."
    at = [0]
    def counted(real):
        def f(*args, **kw):
            at[0] += 1
            if at[0] == moment: os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kw)
        return f
    for name in ('fsync', 'replace', 'unlink', 'mkdir'): setattr(os, name, counted(getattr(os, name)))
    run_sweep(study, folder, backend='sequential', progress=False)
assert child(lambda: whole(out/'whole')) == 0
expected, moment, left = pd.read_pickle(out/'whole'/'table.pickle'), 1, set()
while (code := child(lambda: killed_at(out/str(moment), moment))) == -signal.SIGKILL:
    folder = out/str(moment)
    before = {f: f.stat().st_mtime_ns for f in folder.glob('parts/*.parquet')}
    left.add(len(before))
    assert child(lambda: whole(folder)) == 0
    pd.testing.assert_frame_equal(pd.read_pickle(folder/'table.pickle'), expected)
    assert all(f.stat().st_mtime_ns == t for f, t in before.items())
    assert not list(folder.rglob('.*')) and not list(folder.glob('running/*')) and len(list(folder.glob('failed/*'))) == 1
    moment += 1
assert code == 0 and len(expected) == 3
print(moment - 1, sorted(left))
'''

@posix
def test_kill_at_every_file_operation(run_python, tmp_path):
    moments, left = run_python(EVERY_MOMENT, tmp_path).stdout.split(' ', 1)
    assert int(moments) > 30 and json.loads(left) == [0, 1, 2]

@posix
def test_one_coordinator_status_and_sigterm(undisturbed, run_cli, tmp_path):
    out = tmp_path/'out'
    words = ['sweep', 'run', 'demo', '--scale', 'quick', '--out', str(out), '--quiet']
    process = subprocess.Popen([sys.executable, '-m', 'modscale.app.cli', *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait(lambda: len(parts(out)) >= 2 and list((out/'running').glob('*.json')), process)
    status = sweep_status(out)
    assert status['coordinator'] and status['running'] > 0 and sum(status[k] for k in ('done', 'running', 'failed', 'missing')) == status['cells'] == 240
    with pytest.raises(OSError, match=f'another coordinator .process {process.pid} on .*out'): sweep(demo_study('quick'), out)
    process.terminate()
    assert process.wait(30) == 130 and 'what is finished is stored' in process.stderr.read()
    after = sweep_status(out)
    assert not after['coordinator'] and after['running'] == after['failed'] == 0 and status['done'] <= after['done'] < 240
    assert not list((out/'running').iterdir()) and after['wall_seconds'] > 0
    said = run_cli('sweep', 'status', out)
    assert said.returncode == 0 and f'{after["done"]} done' in said.stdout and 'nothing is at work' in said.stdout

@posix
def test_dead_worker_of_a_cluster_loses_nothing(undisturbed, tmp_path):
    distributed = pytest.importorskip('distributed')
    out = tmp_path/'out'
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster:
        victim = next(iter(cluster.workers.values())).process.pid
        def kill():
            wait(lambda: len(parts(out)) >= 1)
            os.kill(victim, signal.SIGKILL)
        killer = threading.Thread(target=kill)
        killer.start()
        table = sweep(demo_study(), out, backend='dask', address=cluster.scheduler_address)
        killer.join()
    pd.testing.assert_frame_equal(table, undisturbed)
    assert sweep_status(out)['failed'] == 0
    made = [json.loads(pq.read_schema(f).metadata[b'modscale']) for f in parts(out)]
    assert sum(m['cells'] for m in made) == 24 and all(m['code'] and m['environment']['versions']['numpy'] and m['seconds'] > 0 for m in made)

@posix
@pytest.mark.parametrize('backend', ['loky', 'dask'])
def test_deadly_cell_is_alone_in_failing(tmp_path, backend):
    if backend == 'dask': dask = pytest.importorskip('dask'); pytest.importorskip('distributed'); dask.config.set({'distributed.scheduler.allowed-failures': 0})
    cells = grid(n=[5], p=[30, 50], seed=[0])
    table = sweep(study('deadly', deadly, cells, width=2 if backend == 'loky' else 1), tmp_path/'out', backend=backend)
    assert table.p.tolist() == [30]
    failed, = sweep_status(tmp_path/'out')['failures']
    assert failed['p'] == 50 and failed['error'] in ('TerminatedWorkerError', 'KilledWorker')

@posix
def test_a_process_that_dies_once_costs_nothing(tmp_path):
    cells = grid(n=[5], p=[30, 50, 60], seed=[0], flag=[str(tmp_path/'flag')])
    table = sweep(study('once', dies_once, cells, width=1), tmp_path/'out', backend='loky')
    assert table.p.tolist() == [30, 50, 60] and (tmp_path/'flag').exists() and not sweep_status(tmp_path/'out')['failures']

def test_failed_cell_is_recorded_and_tried_again_on_demand(tmp_path):
    cells = grid(i=list(range(8)), flag=[str(tmp_path/'flag')])
    s = study('picky', picky, cells)
    assert sweep(s, tmp_path/'out').i.tolist() == [0, 1, 2, 3, 4, 6, 7]
    record = json.loads(next((tmp_path/'out'/'failed').iterdir()).read_text())
    assert record['cell'] == cells[5] and record['error'] == 'ArithmeticError' and 'picky' in record['traceback'] and record['when']
    (tmp_path/'flag').touch()
    assert len(sweep(s, tmp_path/'out')) == 7
    assert len(sweep(s, tmp_path/'out', retry_failed=True)) == 8 and not list((tmp_path/'out'/'failed').iterdir())

def test_memory_budget(tmp_path):
    s = study('memory', together, grid(need=[10, 30, 70, 101], i=list(range(9))), group=lambda c: c['need'], memory=lambda c: c['need'], width=5)
    table = sweep(s, tmp_path/'out', jobs=2, memory=200)
    assert (table.bytes <= 100).all() and table.groupby('need').together.max().to_dict() == {10: 5, 30: 3, 70: 1}
    failures = sweep_status(tmp_path/'out')['failures']
    assert [f['need'] for f in failures] == [101]*9 and {f['error'] for f in failures} == {'MemoryError'}
    assert len(sweep(s, tmp_path/'out', jobs=1, memory=200, retry_failed=True)) == 36

def test_a_failed_stack_is_gone_before_its_halves_are_tried(tmp_path):
    assert len(sweep(study('heavy', heavy, grid(i=list(range(8)))), tmp_path/'out')) == 7
    assert Stack.most == 1

def test_damaged_files_are_set_aside_and_made_again(undisturbed, tmp_path, capsys):
    out = tmp_path/'out'
    sweep(demo_study(), out)
    cut, flipped, *_ = parts(out)
    cut.write_bytes(cut.read_bytes()[:-100])
    flipped.write_bytes(bytes(b ^ (i == 99) for i, b in enumerate(flipped.read_bytes())))
    (out/'sweep.json').write_text('{"study": "de')
    (out/'parts'/'.0123.parquet.abcd1234').touch(), (out/'.gitignore').touch()
    pd.testing.assert_frame_equal(sweep(demo_study(), out), undisturbed)
    assert len(list((out/'corrupt').iterdir())) == 3 and not list((out/'parts').glob('.*')) and (out/'.gitignore').exists()
    assert capsys.readouterr().err.count('moved to corrupt/') == 3 and sweep_status(out)['done'] == 24

def test_full_disk(undisturbed, tmp_path, monkeypatch):
    out, real = tmp_path/'out', os.fsync
    def full(handle):
        if len(parts(out)) >= 2: raise OSError(28, 'No space left on device')
        real(handle)
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left on device.*parquet'): sweep(demo_study(), out)
    monkeypatch.undo()
    before = times(out)
    assert len(before) == 2 and not list(out.rglob('.*'))
    pd.testing.assert_frame_equal(sweep(demo_study(), out), undisturbed)
    assert before.items() <= times(out).items()

@posix
def test_file_that_may_not_grow(run_python, tmp_path):
    "A limit of the operating system in place of a full disk: the same path through a real write."
    code = '''
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_sweep import *
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
s = study('long', long, [dict(i=0, rows=9), dict(i=1, rows=100_000), dict(i=2, rows=9)], group=lambda c: c['i'])
try: sweep(s, sys.argv[1])
except OSError as e: print(e)'''
    done = run_python(code, tmp_path/'out', Path(__file__).parent)
    assert 'File too large' in done.stdout and '.parquet' in done.stdout and len(parts(tmp_path/'out')) == 1
    s = study('long', long, [dict(i=0, rows=9), dict(i=1, rows=100_000), dict(i=2, rows=9)], group=lambda c: c['i'])
    assert len(sweep(s, tmp_path/'out')) == 100_018

def test_a_study_may_grow_and_not_shrink_or_mix(tmp_path):
    out, s = tmp_path/'out', lambda *i, name='grow': study(name, picky, [dict(i=v, flag='x') for v in i])
    assert len(sweep(s(1, 2), out)) == 2
    before = times(out)
    assert sweep(s(3, 2, 1), out).square.tolist() == [9, 4, 1] and before.items() <= times(out).items()
    with pytest.raises(ValueError, match="holds 2 cells that are not in this grid, as {'i': 3"): sweep(s(1, 4), out)
    with pytest.raises(ValueError, match="holds the study 'grow', not 'other'"): sweep(s(1, 2, 3, name='other'), out)

def test_other_code_is_computed_again_and_kept(tmp_path, monkeypatch):
    out, s = tmp_path/'out', study('code', picky, grid(i=[1, 2], flag=['x']))
    sweep(s, out)
    monkeypatch.setattr('modscale.lab.results.code_hash', lambda modules=None: 'other')
    assert sweep_status(out)['other_code'] == 2 and sweep_status(out)['missing'] == 2
    assert len(sweep(s, out)) == 2 and len(parts(out)) == 2 and sweep_status(out)['done'] == 2

@pytest.mark.parametrize('words, message', [
    (['run', 'demo', '--out', 'file'], 'file'), (['run', 'demo', '--out', 'file/below'], 'file/below'), (['run', 'fig9', '--out', 'x'], "study='fig9'"),
    (['run', 'demo', '--out', 'x', '--jobs', '0'], 'jobs=0'), (['run', 'demo', '--out', 'x', '--memory', 'nan'], 'memory=nan'),
    (['run', 'demo', '--out', 'x', '--address', 'tcp://a:1'], "address='tcp://a:1'"), (['status', 'nowhere'], "'nowhere'")], ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_errors_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys, words, message):
    from modscale.app.cli import main
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    assert main(['sweep', *words]) == 2
    said = capsys.readouterr()
    assert said.out == '' and len(said.err.splitlines()) == 1 and said.err.startswith('modscale: ') and message in said.err

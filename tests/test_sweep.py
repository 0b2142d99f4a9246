"A sweep loses nothing: kills at every statement, dead workers, full disks, damaged files; one table for any executor."
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modscale.base.study import Study, grid
from modscale.lab import store
from modscale.lab.store import open_store, read_status, study_keys
from modscale.lab.sweep import Jobs, demo_run, demo_study, executor_for, run_sweep

posix = pytest.mark.skipif(os.name != 'posix', reason='needs signals')

def sweep(studies, out, *how, **kw): return run_sweep(studies, out, *how, **{'jobs': 1, 'progress': False, **kw})
def status(out): return read_status(out)[0]
def rows(out, table='cell'):
    with open_store(out, write=False) as opened: return {row[0]: dict(row) for row in opened.rows(table)}
def groups(out):
    "How many groups of cells are stored: each is one transaction, with one time."
    return len({row['finished'] for row in rows(out).values()}) if (Path(out)/'store.sqlite').exists() else 0
def wait(condition, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None), 'did not happen'
        time.sleep(.005)
def gone(process): return not process.exists() or ') Z ' in (process/'stat').read_text()

def kinds(cells):
    "Results whose columns and types depend on the cell."
    def table(i):
        if i % 4 == 0: return pd.DataFrame(dict(v=[i, i + 1], word=['a', None]))
        if i % 4 == 1: return pd.DataFrame(dict(v=[i + .5], extra=[True]))
        if i % 4 == 2: return pd.DataFrame(dict(word=pd.Categorical(['b', 'c']), v=[np.nan, 1e-300]))
        return pd.DataFrame(dict(v=[None], word=['d']))
    return [table(c['i']) for c in cells]
def together(cells):
    need = sum(c['need'] for c in cells)
    return [pd.DataFrame(dict(together=[len(cells)], bytes=[need])) for _ in cells]
def picky(cells):
    for c in cells:
        if c['i'] == 5 and not Path(c['flag']).exists(): raise ArithmeticError('five is not to my taste')
    return [pd.DataFrame(dict(square=[c['i']**2])) for c in cells]
class Stack:
    alive = most = 0
    def __init__(self):
        Stack.alive += 1
        Stack.most = max(Stack.most, Stack.alive)
    def __del__(self): Stack.alive -= 1
def heavy(cells):
    stack = Stack() # noqa: F841 (held while the group runs)
    if any(c['i'] == 5 for c in cells): raise RuntimeError('out of memory')
    return [pd.DataFrame(dict(v=[1])) for _ in cells]
def deadly(cells):
    for c in cells:
        if c['p'] == 50: os.kill(os.getpid(), signal.SIGKILL)
    return demo_run(cells)
def dies_once(cells):
    for c in cells:
        if c['p'] == 50 and not Path(c['flag']).exists():
            Path(c['flag']).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return demo_run(cells)
def long(cells): return [pd.DataFrame(dict(v=np.random.default_rng(c['i']).random(c['rows']))) for c in cells]

@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The table of the demonstration, computed in one go."
    return sweep(demo_study(), tmp_path_factory.mktemp('sweep')/'out')

@pytest.fixture
def slurm(tmp_path, monkeypatch):
    "submitit's jobs as processes here, in place of Slurm's."
    submitit = pytest.importorskip('submitit')
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parent))        # what a job computes must be importable there
    with Jobs(submitit.AutoExecutor(folder=tmp_path/'jobs', cluster='local'), 2) as pool: yield pool

@pytest.mark.parametrize('how', [dict(jobs=3, threads=True), dict(jobs=2), dict(jobs=4, memory=2e7)], ids=str)
def test_one_table_for_any_workers_and_groups(undisturbed, tmp_path, how):
    pool = ThreadPoolExecutor(3) if how.pop('threads', False) else None
    pd.testing.assert_frame_equal(sweep(demo_study(), tmp_path/'out', pool, **how), undisturbed)
    found = status(tmp_path/'out')
    assert (found['done'], found['missing'], found['failed'], found['coordinator']) == (24, 0, 0, False)
    assert 0 < found['peak_memory_gib'] < 6 and found['wall_seconds'] > 0 and found['work_seconds'] > .24

@pytest.mark.parametrize('width', [1, 2, 5, 40])
def test_types_do_not_depend_on_groups(tmp_path, width):
    cells = grid(i=list(range(12)), s=['x'])
    one, other = (sweep(Study('kinds', cells, kinds, width=w), tmp_path/str(w)) for w in (3, width))
    pd.testing.assert_frame_equal(one, other)
    assert list(one) == ['i', 's', 'v', 'word', 'extra'] and one.i.is_monotonic_increasing and len(one) == 18
    assert one.v.isna().sum() == 6 and one.v[4] == 1e-300 and one.word.dropna().tolist() == ['a', 'b', 'c', 'd']*3

def test_several_studies_share_a_store_and_an_executor(undisturbed, tmp_path):
    cells, heard = grid(i=[1, 2, 3, 4], flag=['x']), []
    def finished(study, table):
        heard.append((study.name, len(table), status(tmp_path)['coordinator']))
        assert {s['study']: s['missing'] for s in read_status(tmp_path)}[study.name] == 0
    first, second = Study('first', cells, picky, width=1), Study('second', cells, picky, width=2)
    sweep(first, tmp_path)
    tables = sweep([second, demo_study(), first], tmp_path, jobs=2, finished=finished)
    assert heard == [('first', 4, True), ('second', 4, True), ('demo', 24, True)] and len(rows(tmp_path, 'call')) == 2
    pd.testing.assert_frame_equal(tables['demo'], undisturbed)
    pd.testing.assert_frame_equal(tables['first'], tables['second'])
    with open_store(tmp_path, write=False) as opened:
        made = [opened.made(s) for s in (first, second)]
        assert [m['cells'] for m in made] == [4, 4] and [m['failed'] for m in made] == [0, 0]
        assert made[0]['finished'] < made[1]['finished']
        assert made[0]['environment']['versions']['numpy'] and opened.table(second).equals(tables['second'])

START = '''
import signal, sys
from modscale.lab.sweep import demo_study, run_sweep
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell's job in the background inherits that it is ignored
run_sweep(demo_study(sys.argv[2]), sys.argv[1], progress=False)'''

@posix
@pytest.mark.parametrize('count', [0, 1, 3])
def test_kill_of_the_coordinator(undisturbed, tmp_path, count):
    out = tmp_path/'out'
    process = subprocess.Popen([sys.executable, '-c', START, out, 'smoke'], stderr=subprocess.DEVNULL)
    wait(lambda: (out/'store.sqlite').exists() and rows(out, 'running') and groups(out) >= count, process)
    tasks = Path(f'/proc/{process.pid}/task').glob('*/children')
    children = {Path('/proc')/c for f in tasks for c in f.read_text().split()}
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before, found = rows(out), status(out)
    assert found['running'] == 0 and not found['coordinator'] and found['missing'] > 0
    assert found['done'] + found['missing'] == 24
    pd.testing.assert_frame_equal(sweep(demo_study(), out), undisturbed)
    assert before.items() <= rows(out).items() and not list(out.rglob('.*'))
    assert [row['state'] for row in rows(out, 'call').values()] == ['killed', 'ended']
    if count: wait(lambda: all(map(gone, children)), seconds=20)        # workers go with it

EVERY_MOMENT = '''
import os, signal, sys
from pathlib import Path
import modscale.theory.pinv, tqdm
import pandas as pd
from modscale.base.study import Study, grid
from modscale.lab import store
from modscale.lab.store import open_store
from modscale.lab.sweep import demo_run, run_sweep
from modscale.lab.version import environment
environment()                                                       # once, not in every child
out, study = Path(sys.argv[1]), Study('demo', grid(n=[5], p=[30, 0, 40, 50], seed=[0]), demo_run, width=2)
def child(f):
    pid = os.fork()
    if not pid:
        try: f()
        except BaseException as e: print(repr(e), file=sys.stderr)
        else: os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def whole(folder): run_sweep(study, folder, jobs=1, progress=False).to_pickle(folder/'table.pickle')
def held(folder):
    if not (folder/'store.sqlite').exists(): return {}
    with open_store(folder, write=False) as opened: return {row['key']: dict(row) for row in opened.rows('cell')}
def killed_at(folder, moment):
    "Die just before the statement or file operation of this number, which is just after the one before it."
    at = [0]
    def count(*_):
        at[0] += 1
        if at[0] == moment: os.kill(os.getpid(), signal.SIGKILL)
    def counted(real):
        def f(*args, **kw):
            count()
            return real(*args, **kw)
        return f
    connect = store.connect
    def traced(*args):
        opened = connect(*args)
        opened.db.set_trace_callback(count)
        return opened
    store.connect = traced
    for name in ('fsync', 'replace', 'unlink', 'mkdir'): setattr(os, name, counted(getattr(os, name)))
    run_sweep(study, folder, jobs=1, progress=False)
assert child(lambda: whole(out/'whole')) == 0
expected, moment, left = pd.read_pickle(out/'whole'/'table.pickle'), 1, set()
while (code := child(lambda: killed_at(out/str(moment), moment))) == -signal.SIGKILL:
    folder = out/str(moment)
    before = held(folder)
    left.add(len(before))
    assert child(lambda: whole(folder)) == 0
    pd.testing.assert_frame_equal(pd.read_pickle(folder/'table.pickle'), expected)
    assert before.items() <= held(folder).items() and len(held(folder)) == 3
    with open_store(folder, write=False) as opened:
        assert not opened.rows('running') and len(opened.rows('failure')) == 1
        assert {row['state'] for row in opened.rows('call')} <= {'killed', 'ended'}
    names = {f.name.removeprefix('store.sqlite') for f in folder.iterdir()}
    assert names <= {'', '-wal', '-shm', 'lock', 'table.pickle'}
    moment += 1
assert code == 0 and len(expected) == 3
print(moment - 1, sorted(left))
'''

@posix
def test_kill_at_every_statement_and_file_operation(run_python, tmp_path):
    moments, left = run_python(EVERY_MOMENT, tmp_path).stdout.split(' ', 1)
    assert int(moments) > 60 and json.loads(left) == [0, 1, 3]

@posix
def test_kill_inside_a_commit(undisturbed, tmp_path):
    "A commit appends to the log: whatever part of the log is on the disk, the store holds whole groups."
    out, cut, found = tmp_path/'out', tmp_path/'cut', []
    with open_store(out): pass
    # while a second connection is open, the log is not folded in
    reader = store.connect(out/'store.sqlite', 'mode=ro')
    reader.db.execute('SELECT count(*) FROM cell').fetchone()
    sweep(Study('demo', demo_study().cells, demo_run, width=8), out)
    log = (out/'store.sqlite-wal').read_bytes()
    reader.db.close()
    shutil.copy(out/'store.sqlite', tmp_path/'main')
    assert len(log) > 10_000
    for length in np.linspace(0, len(log), 12, dtype=int):
        shutil.rmtree(cut, ignore_errors=True)
        cut.mkdir()
        shutil.copy(tmp_path/'main', cut/'store.sqlite')
        (cut/'store.sqlite-wal').write_bytes(log[:length])
        found.append(len(rows(cut)))
    assert found == sorted(found) and set(found) <= {0, 8, 16, 24}

@posix
def test_one_coordinator_status_and_sigterm(undisturbed, run_cli, tmp_path):
    out = tmp_path/'out'
    words = ['sweep', 'run', 'demo', '--scale', 'quick', '--out', str(out), '--quiet']
    process = subprocess.Popen([sys.executable, '-m', 'modscale.app.cli', *words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    wait(lambda: groups(out) >= 2 and rows(out, 'running'), process)
    before = status(out)
    assert before['coordinator'] and before['running'] > 0
    assert sum(before[k] for k in ('done', 'running', 'failed', 'missing')) == before['cells'] == 240
    with pytest.raises(BlockingIOError, match=f'another coordinator .process {process.pid} on .*out'):
        sweep(demo_study('quick'), out)
    process.terminate()
    assert process.wait(30) == 130 and 'what is finished is stored' in process.stderr.read()
    after = status(out)
    assert not after['coordinator'] and after['running'] == after['failed'] == 0
    assert before['done'] <= after['done'] < 240
    assert not rows(out, 'running') and after['wall_seconds'] > 0
    assert [row['state'] for row in rows(out, 'call').values()] == ['stopped']
    said = run_cli('sweep', 'status', out, '--json')
    assert said.returncode == 0 and json.loads(said.stdout) == [after]
    said = run_cli('sweep', 'status', out)
    assert said.returncode == 0 and 'demo' in said.stdout and str(after['done']) in said.stdout

@posix
def test_ctrl_c_stops_workers_and_keeps_what_is_finished(tmp_path):
    out = tmp_path/'out'
    process = subprocess.Popen([sys.executable, '-c', START, out, 'paper'], stderr=subprocess.PIPE, text=True)
    wait(lambda: groups(out) >= 2, process)
    tasks = Path(f'/proc/{process.pid}/task').glob('*/children')
    children = {Path('/proc')/c for f in tasks for c in f.read_text().split()}
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0 and process.stderr.read().rstrip().endswith('KeyboardInterrupt')
    found = status(out)
    assert 2 <= found['done'] < 2400 and not found['coordinator'] and not rows(out, 'running')
    wait(lambda: all(map(gone, children)), seconds=20)

@posix
def test_dead_worker_of_a_cluster_loses_nothing(undisturbed, tmp_path):
    distributed = pytest.importorskip('distributed')
    out = tmp_path/'out'
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster:
        victim = next(iter(cluster.workers.values())).process.pid
        def kill():
            wait(lambda: groups(out) >= 1)
            os.kill(victim, signal.SIGKILL)
        killer = threading.Thread(target=kill)
        killer.start()
        with executor_for('dask', 2, cluster.scheduler_address) as pool: table = sweep(demo_study(), out, pool, jobs=2)
        killer.join()
    pd.testing.assert_frame_equal(table, undisturbed)
    assert status(out)['failed'] == 0
    made = rows(out).values()
    assert len(made) == 24
    assert all(m['code'] and json.loads(m['environment'])['versions']['numpy'] and m['seconds'] > 0 for m in made)

@posix
def test_a_cluster_that_is_gone_ends_the_call(tmp_path):
    distributed = pytest.importorskip('distributed')
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, memory_limit=0)
    def end():
        wait(lambda: groups(tmp_path/'out') >= 1)
        cluster.close()
    ender = threading.Thread(target=end)
    ender.start()
    with executor_for('dask', 1, cluster.scheduler_address) as pool:
        with pytest.raises(OSError, match='the cluster is gone'): sweep(demo_study('quick'), tmp_path/'out', pool)
    ender.join()
    assert 0 < status(tmp_path/'out')['done'] < 240

@posix
@pytest.mark.parametrize('name', ['processes', 'dask', 'slurm'])
def test_deadly_cell_is_alone_in_failing(tmp_path, name, request):
    s = Study('deadly', grid(n=[5], p=[30, 50], seed=[0]), deadly, width=2)
    if name == 'dask':
        dask = pytest.importorskip('dask')
        pytest.importorskip('distributed')
        with dask.config.set({'distributed.scheduler.allowed-failures': 0}), executor_for('dask', 2) as pool:
            table = sweep(s, tmp_path/'out', pool, jobs=2)
    else: table = sweep(s, tmp_path/'out', request.getfixturevalue('slurm') if name == 'slurm' else None, jobs=2)
    assert table.p.tolist() == [30]
    failed, = status(tmp_path/'out')['failures']
    assert failed['p'] == 50 and failed['error'] in ('TerminatedWorkerError', 'KilledWorker', 'UncompletedJobError')

@posix
def test_a_process_that_dies_once_costs_nothing(tmp_path):
    cells = grid(n=[5], p=[30, 50, 60], seed=[0], flag=[str(tmp_path/'flag')])
    table = sweep(Study('once', cells, dies_once, width=1), tmp_path/'out', jobs=2)
    assert table.p.tolist() == [30, 50, 60] and (tmp_path/'flag').exists() and not status(tmp_path/'out')['failures']

def test_jobs_of_slurm(undisturbed, tmp_path, slurm):
    table = sweep(Study('demo', demo_study().cells, demo_run, width=12), tmp_path/'out', slurm, jobs=2)
    pd.testing.assert_frame_equal(table, undisturbed)

def test_processes_of_mpi(undisturbed, run_python, tmp_path):
    pytest.importorskip('mpi4py')
    places = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    launch = shutil.which('mpiexec', path=places) or pytest.skip('no mpiexec')
    (tmp_path/'start.py').write_text('''
import sys
from modscale.lab.sweep import demo_study, executor_for, run_sweep
if __name__ == '__main__':
    with executor_for('mpi', 2) as pool: table = run_sweep(demo_study(), sys.argv[1], pool, progress=False)
    table.to_pickle(sys.argv[2])''')
    words = ['-m', 'mpi4py.futures', tmp_path/'start.py', tmp_path/'out', tmp_path/'table']
    # Open MPI starts no more processes than there are cores, and none for root, unless it is told to
    env = dict.fromkeys(('OMPI_ALLOW_RUN_AS_ROOT', 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM'), '1')
    env |= os.environ | dict(PRTE_MCA_rmaps_default_mapping_policy=':oversubscribe')
    words = [launch, '-n', '3', sys.executable, *words]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path/'table'), undisturbed)

def test_failed_cell_is_recorded_and_tried_again_on_demand(tmp_path):
    cells = grid(i=list(range(8)), flag=[str(tmp_path/'flag')])
    s = Study('picky', cells, picky)
    assert sweep(s, tmp_path/'out').i.tolist() == [0, 1, 2, 3, 4, 6, 7]
    with open_store(tmp_path/'out', write=False) as opened: record, = opened.failures(s)
    assert record['settings'] == cells[5] and record['error'] == 'ArithmeticError'
    assert 'picky' in record['traceback'] and record['when']
    (tmp_path/'flag').touch()
    assert len(sweep(s, tmp_path/'out')) == 7
    assert len(sweep(s, tmp_path/'out', retry_failed=True)) == 8 and not rows(tmp_path/'out', 'failure')

def test_memory_budget(tmp_path):
    cells = grid(need=[10, 30, 70, 101], i=list(range(9)))
    s = Study('memory', cells, together, group=lambda c: c['need'], memory=lambda c: c['need'], width=5)
    with ThreadPoolExecutor(2) as pool: table = sweep(s, tmp_path/'out', pool, jobs=2, memory=200)
    assert (table.bytes <= 100).all() and table.groupby('need').together.max().to_dict() == {10: 5, 30: 3, 70: 1}
    failures = status(tmp_path/'out')['failures']
    assert [f['need'] for f in failures] == [101]*9 and {f['error'] for f in failures} == {'MemoryError'}
    assert len(sweep(s, tmp_path/'out', jobs=1, memory=200, retry_failed=True)) == 36

def test_no_more_groups_at_a_time_than_jobs(tmp_path):
    at, most, lock = [0], [0], threading.Lock()
    def counting(cells):
        with lock:
            at[0] += 1
            most[0] = max(most[0], at[0])
        time.sleep(.02)
        with lock: at[0] -= 1
        return [pd.DataFrame(dict(v=[1])) for _ in cells]
    many = Study('many', grid(i=list(range(12))), counting, width=1)
    with ThreadPoolExecutor(8) as pool: sweep(many, tmp_path, pool, jobs=3)
    assert most[0] == 3

def test_a_failed_stack_is_gone_before_its_halves_are_tried(tmp_path):
    assert len(sweep(Study('heavy', grid(i=list(range(8))), heavy), tmp_path/'out')) == 7
    assert Stack.most == 1

def flip(content, at): return content[:at] + bytes([content[at] ^ 4]) + content[at + 1:]

@pytest.mark.parametrize('damage', ['cut', 'page', 'header', 'other', 'empty'])
def test_a_damaged_file_is_set_aside_and_made_again(undisturbed, tmp_path, capsys, damage):
    out, file = tmp_path/'out', tmp_path/'out'/'store.sqlite'
    sweep(demo_study(), out)
    before, content = rows(out), file.read_bytes()
    page = content.index(before[study_keys(demo_study())[9]]['rows'][:60])//4096*4096
    wiped = content[:page] + bytes(4096) + content[page + 4096:]
    broken = dict(cut=content[:-5000], page=wiped, header=flip(content, 3), other=b'something else', empty=b'')[damage]
    file.write_bytes(broken)
    (out/'.gitignore').touch()
    pd.testing.assert_frame_equal(sweep(demo_study(), out), undisturbed)
    kept = {k for k, v in rows(out).items() if before[k] == v}
    assert damage != 'page' or 12 < len(kept) < 24                      # a page costs its own rows
    said = capsys.readouterr().err
    assert [f.read_bytes() for f in (out/'corrupt').rglob('store.sqlite')] == [broken] and (out/'.gitignore').exists()
    assert len(said.splitlines()) == 1 and str(file) in said and 'set aside' in said and status(out)['done'] == 24
    assert not list(out.glob('.store*'))

def test_a_flipped_bit_costs_its_row(undisturbed, tmp_path, capsys):
    out, file = tmp_path/'out', tmp_path/'out'/'store.sqlite'
    sweep(demo_study(), out)
    before, content = rows(out), file.read_bytes()
    key = study_keys(demo_study())[9]
    file.write_bytes(flip(content, content.index(before[key]['rows'][-80:])))
    found = status(out)
    assert (found['done'], found['missing'], found['damaged']) == (23, 1, 1)
    pd.testing.assert_frame_equal(sweep(demo_study(), out), undisturbed)
    assert [k for k, v in rows(out).items() if before[k] != v] == [key]
    assert '1 of its rows were changed' in capsys.readouterr().err

def limited(pragma):
    "Opens stores with a limit of SQLite's own."
    real = store.connect
    def connect(*args):
        opened = real(*args)
        pages = opened.db.execute('PRAGMA page_count').fetchone()[0]
        opened.db.execute(f'PRAGMA {pragma.format(pages + 4)}')
        return opened
    return connect

def test_full_disk(undisturbed, tmp_path, monkeypatch):
    out = tmp_path/'out'
    with open_store(out): pass
    monkeypatch.setattr(store, 'connect', limited('max_page_count={}'))
    with pytest.raises(OSError, match='full.*store.sqlite') as e: sweep(demo_study(), out)
    monkeypatch.undo()
    before = rows(out)
    assert e.value.errno == 28 and 0 < len(before) < 24 and not list(out.rglob('.*'))
    pd.testing.assert_frame_equal(sweep(demo_study(), out), undisturbed)
    assert before.items() <= rows(out).items()

@posix
def test_file_that_may_not_grow(run_python, tmp_path):
    "A limit of the operating system in place of a full disk: the same path through a real write."
    code = '''
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_sweep import *
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
s = Study('long', [dict(i=0, rows=9), dict(i=1, rows=100_000), dict(i=2, rows=9)], long, group=lambda c: c['i'])
try: sweep(s, sys.argv[1])
except OSError as e: print(e)'''
    done = run_python(code, tmp_path/'out', Path(__file__).parent)
    assert 'store.sqlite' in done.stdout and len(rows(tmp_path/'out')) == 1
    s = Study('long', [dict(i=0, rows=9), dict(i=1, rows=100_000), dict(i=2, rows=9)], long, group=lambda c: c['i'])
    assert len(sweep(s, tmp_path/'out')) == 100_018

@posix
def test_read_only(undisturbed, run_python, tmp_path, monkeypatch):
    out = tmp_path/'out'
    sweep(demo_study(), out)
    monkeypatch.setattr(store, 'connect', limited('query_only=1'))
    with pytest.raises(OSError, match='readonly.*store.sqlite'): sweep(demo_study(), out)
    monkeypatch.undo()
    code = '''
import os, sys
sys.path.insert(0, sys.argv[2])
from test_sweep import *
out = Path(sys.argv[1])
with open_store(sys.argv[3], write=False) as opened: opened.table(demo_study()) # what is imported late is so now:
sweep(demo_study(), sys.argv[3])                                    # the other user may not read the environment
if os.geteuid() == 0: os.setuid(65534)                              # for root nothing is read-only
with open_store(out, write=False) as opened: print(len(opened.table(demo_study())), status(out)['done'])
try: sweep(demo_study(), out)
except OSError as e: print(e)'''
    with tempfile.TemporaryDirectory(dir='/tmp') as folder: # a private $TMPDIR would hide it from that user
        shutil.copytree(out, folder, dirs_exist_ok=True)
        for f in Path(folder).iterdir(): f.chmod(0o444)
        Path(folder).chmod(0o555)
        try: read, error = run_python(code, folder, Path(__file__).parent, out).stdout.splitlines()
        finally: Path(folder).chmod(0o755)
    assert read == '24 24' and 'Permission denied' in error and 'lock' in error

def test_a_study_may_grow_and_not_shrink(tmp_path):
    out, s = tmp_path/'out', lambda *i, name='grow': Study(name, [dict(i=v, flag='x') for v in i], picky)
    assert len(sweep(s(1, 2), out)) == 2
    before = rows(out)
    assert sweep(s(3, 2, 1), out).square.tolist() == [9, 4, 1] and before.items() <= rows(out).items()
    with pytest.raises(ValueError, match="holds 2 cells of grow that are not in this grid, as {'i': 3"):
        sweep(s(1, 4), out)
    assert len(sweep(s(1, 2, 3, name='other'), out)) == 3 and len(rows(out)) == 6     # another study has its own cells

def test_other_code_is_computed_again_and_kept(tmp_path, monkeypatch):
    out, s = tmp_path/'out', Study('code', grid(i=[1, 2], flag=['x']), picky)
    sweep(s, out)
    before = study_keys(s)
    for module in ('store', 'sweep'):
        monkeypatch.setattr(f'modscale.lab.{module}.code_version', lambda *functions: 'other')
    assert not set(before) & set(study_keys(s))
    assert status(out)['other_code'] == 2 and status(out)['missing'] == 2
    assert len(sweep(s, out)) == 2 and len(rows(out)) == 4 and status(out)['done'] == 2

@pytest.mark.parametrize('words, message', [
    (['run', 'demo', '--out', 'file'], 'file'),
    (['run', 'demo', '--out', 'file/below'], 'file/below'),
    (['run', 'fig9', '--out', 'x'], "study='fig9'"),
    (['run', 'demo', '--out', 'x', '--jobs', '0'], 'jobs=0'),
    (['run', 'demo', '--out', 'x', '--memory', 'nan'], 'memory=nan'),
    (['run', 'demo', '--out', 'x', '--executor', 'ray'], "executor='ray'"),
    (['run', 'demo', '--out', 'x', '--address', 'tcp://a:1'], "address='tcp://a:1'"),
    (['status', 'nowhere'], "'nowhere'")], ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_errors_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys, words, message):
    from modscale.app.cli import main
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    assert main(['sweep', *words]) == 2
    said = capsys.readouterr()
    assert said.out == '' and len(said.err.splitlines()) == 1
    assert said.err.startswith('modscale: ') and message in said.err

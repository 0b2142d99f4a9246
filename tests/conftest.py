"""Coverage of the library over tests and notebooks together, and the fixtures that start processes.

MODSCALE_COVERAGE=1 measures the coverage of tests, notebooks and the processes that they start.
It is off otherwise: tracing every line of Python takes as long again as running it.
"""
import io, os, shutil, subprocess, sys, tempfile, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]
measured = pytest.StashKey()

def wanted(config):
    "Measure? If asked to, but not if nothing runs, something else is tracing, or coverage is missing or too old."
    if os.environ.get('MODSCALE_COVERAGE') != '1' or config.option.collectonly: return False
    if config.getoption('trace', False): return False
    if sys.gettrace() or hasattr(config, 'workerinput'): return False
    try: import coverage
    except ImportError: return False
    return coverage.version_info >= (7, 10) and coverage.Coverage.current() is None

def pytest_configure(config):
    os.environ.update(MPLBACKEND='Agg', OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '1'))
    if not wanted(config): return
    import coverage
    folder = tempfile.TemporaryDirectory(prefix='coverage-')
    variables = dict(MODSCALE_ROOT=str(root), MODSCALE_COVERAGE_FOLDER=folder.name)
    before = {k: os.environ.get(k) for k in (*variables, 'COVERAGE_PROCESS_CONFIG')}
    os.environ.update(variables)
    cov = coverage.Coverage(config_file=str(root/'tests'/'coveragerc'))
    cov.start()
    config.stash[measured] = cov, folder, before

def pytest_terminal_summary(terminalreporter, config):
    if measured not in config.stash: return
    cov, folder, _ = config.stash[measured]
    cov.stop()
    cov.save()
    terminalreporter.section('coverage of modscale/ by tests and notebooks')
    try:
        cov.combine([folder.name])
        cov.report(file=(table := io.StringIO()), show_missing=True, skip_empty=True)
        terminalreporter.write(table.getvalue())
    except Exception as e: terminalreporter.line(f'no coverage: {e}') # a report never changes the result of the tests

def pytest_unconfigure(config):
    if measured not in config.stash: return
    cov, folder, before = config.stash[measured]
    cov._auto_save = False
    for k, v in before.items(): os.environ.pop(k, None) if v is None else os.environ.update({k: v})
    folder.cleanup()

def pytest_collection_modifyitems(items):
    "Notebooks are looked at last: whoever waits for them keeps no other test waiting."
    items.sort(key=is_notebook)

def is_notebook(item): return getattr(item, 'originalname', '') == 'test_notebook'

@pytest.fixture(scope='session', autouse=True)
def runs(request):
    """The selected notebooks, under way from the first test on: a function of a path to the future of its result.

    One core is left to the other tests until the first notebook is asked for."""
    chosen = [item.callspec.params['nb'] for item in request.session.items if is_notebook(item)]
    cores, started = os.cpu_count() or 1, []
    beside = cores > 1 and len(chosen) < len(request.session.items)
    free = threading.Semaphore(cores - beside)
    kept = [free] if beside else [] # whose last place is for the other tests
    from test_notebooks import run
    def run_one(nb):
        with free: return run(nb, started)
    with ThreadPoolExecutor(cores) as pool:
        futures = {nb: pool.submit(run_one, nb) for nb in chosen}
        def result_of(nb):
            if kept: kept.pop().release()
            return futures[nb]
        yield result_of
        pool.shutdown(wait=False, cancel_futures=True) # after -x or Ctrl-C nothing goes on
        for p in started:
            if p.poll() is None: p.kill()

@pytest.fixture
def run_cli(tmp_path):
    "Run the command line in a process of its own, in an empty folder: `run_cli('theory', '--help', env={...}).stdout`."
    def run(*args, env=None, timeout=120, **kw):
        return subprocess.run([sys.executable, '-m', 'modscale.app.cli', *map(str, args)], text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL,
                              **{'capture_output': True, 'cwd': tmp_path, **kw}, env={**os.environ, **(env or {})})
    return run

@pytest.fixture
def run_python(tmp_path):
    "Run Python code in a process of its own, with the library of this checkout, in any folder; fails with its output."
    def run(code, *args, cwd=tmp_path, check=True):
        code = f'import sys; sys.path[0] = {str(root)!r}\n{code}'
        done = subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=cwd, text=True, capture_output=True,
                              timeout=300)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done
    return run

@pytest.fixture
def checkout(tmp_path):
    "A copy of this checkout, to export, clean and build in; without what git ignores."
    junk = shutil.ignore_patterns('.git', '.venv', '__pycache__', '.*_cache', '.ipynb_checkpoints', '.hypothesis',
                                  '*.egg-info', '_docs', '_proc', 'build', 'dist', 'modscale-out')
    return Path(shutil.copytree(root, tmp_path/'checkout', ignore=junk))

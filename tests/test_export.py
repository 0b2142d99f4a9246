"The library, the README and the notebooks agree, and nothing in them belongs to one machine."
import ast, re, shutil, subprocess, sys
import pytest

from structure import code, exported, module, notebooks, place, root, rooms, stem

each = pytest.mark.parametrize('nb', notebooks, ids=stem)

def texts(folder, pattern):
    "The files of a folder: path in it to content."
    return {str(f.relative_to(folder)): f.read_text(encoding='utf-8') for f in sorted(folder.rglob(pattern))}

def differing(old, new): return sorted(f for f in {*old, *new} if old.get(f) != new.get(f))

def test_library_is_what_the_notebooks_export(checkout, run_python, monkeypatch):
    monkeypatch.delenv('IN_TEST', raising=False) # nbdev_export does nothing if it is set
    for f in (checkout/'modscale').rglob('*.py'): f.unlink() # a module without a notebook does not come back
    run_python('from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=checkout)
    assert differing(texts(root/'modscale', '*.py'), texts(checkout/'modscale', '*.py')) == [], 'run nbdev-export'

def test_notebooks_are_clean(checkout, run_python):
    run_python('from nbdev.clean import nbdev_clean; nbdev_clean()', cwd=checkout)
    assert differing(texts(root/'nbs', '*.ipynb'), texts(checkout/'nbs', '*.ipynb')) == [], 'run nbdev-clean'

def test_readme_is_the_index(checkout, run_python):
    figures = lambda folder: {f.name: f.read_bytes() for f in folder.glob('nbs/_readme/*')}
    run_python("from modscale.app.docs import main; main(['readme'])", cwd=checkout)
    old, new = ((folder/'README.md').read_text(encoding='utf-8') for folder in (root, checkout))
    assert old == new, 'run modscale-docs readme'
    assert figures(root) == figures(checkout), 'run modscale-docs readme'

def imported(source):
    "Modules, and names in modules, that a cell imports from this package."
    for o in ast.walk(ast.parse(source)):
        if isinstance(o, ast.Import): yield from (a.name for a in o.names)
        if isinstance(o, ast.ImportFrom) and o.module:
            yield o.module
            yield from (f'{o.module}.{a.name}' for a in o.names)

def test_the_rooms_are_all_there():
    assert {nb.parent.name for nb in notebooks} == {*rooms, 'nbs'}
    assert {f.parent.name for f in (root/'modscale').rglob('*.py')} - {'modscale'} <= set(rooms)

@each
def test_a_notebook_imports_only_from_earlier_ones(nb):
    number = {f'modscale.{module(f)}': place(f) for f in notebooks if module(f)}
    later = [m for _, source in code(nb) for m in imported(source) if number.get(m, (-1, '')) > place(nb)]
    assert later == []

def test_no_traces_of_a_machine():
    if not shutil.which('git'): pytest.skip('git is missing')
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=root,
                            capture_output=True)
    if listed.returncode: pytest.skip('not a git repository')
    folders = rb'(?<![\w.}])/(?:work|root|home|tmp|Users|opt)/[\w.]|[A-Z]:\\\\Users'
    traces = re.compile(folders + rb'|pypi\.[\w.-]+|pythonhosted|index-url')
    found = []
    for name in listed.stdout.decode().split('\0'):
        if not name or not (root/name).is_file() or name == 'tests/test_export.py': continue
        found += [f'{name}: {m[0].decode()}' for m in traces.finditer((root/name).read_bytes())]
    assert found == []

def test_import_is_quick_and_light():
    "Well below the third of a second that a user would notice; NumPy alone takes about as long as all of this."
    timed = ('import sys, time; t = time.perf_counter(); import modscale; '
             'print(time.perf_counter() - t); print(*sys.modules)')
    outs = [subprocess.run([sys.executable, '-c', timed], cwd=root, capture_output=True, text=True,
                           check=True).stdout for _ in range(3)]
    assert min(float(out.split()[0]) for out in outs) < .3
    assert {'numpy', 'torch', 'pandas', 'matplotlib', 'sphinx', 'nbdev'} & set(outs[0].split()) == set()

def test_the_front_door_is_lazy(run_python):
    out = run_python('import modscale as ms; print(len(ms.__all__)); import sys; ms.pinv_norm(9, 4); print("torch" in '
                     'sys.modules)').stdout
    assert int(out.split()[0]) >= 20 and out.split()[1] == 'False'

def test_no_name_has_two_meanings():
    "A public name is defined in one module of the package."
    places = {}
    for nb in notebooks:
        for _, source in exported(nb):
            for o in ast.parse(source).body:
                targets = [t.id for t in getattr(o, 'targets', []) if isinstance(t, ast.Name)]
                for name in [*targets, *([o.name] if hasattr(o, 'name') else [])]: places.setdefault(name,
                                                                                                     set()).add(stem(nb))
    twice = {name: sorted(found) for name, found in places.items() if len(found) > 1 and name != 'main'}
    assert twice == {}

@pytest.mark.parametrize('name', ['docs', 'cli'])
def test_commands_start_without_heavy_imports(name, run_python):
    if not (root/'modscale'/'app'/f'{name}.py').exists(): pytest.skip(f'no modscale.app.{name}')
    loaded = run_python(f'import modscale.app.{name}; print(*sys.modules)').stdout.split()
    assert {'torch', 'matplotlib', 'sphinx', 'nbdev', 'nbconvert'} & set(loaded) == set()

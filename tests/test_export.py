"The library, the README and the notebooks agree, and nothing in them belongs to one machine."
import ast, json, re, shutil, subprocess, sys, time
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]
notebooks = sorted((root/'nbs').glob('*.ipynb'))
each = pytest.mark.parametrize('nb', notebooks, ids=lambda nb: nb.stem)

def code(nb):
    "The code cells of a notebook: (directives, source without directives and magics)."
    for cell in json.loads(nb.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'code': continue
        lines = ''.join(cell['source']).splitlines()
        marks = [line[2:].split() for line in lines if line.startswith('#|')]
        yield marks, '\n'.join(line for line in lines if not re.match(r'#\||\s*[%!]', line))

def module(nb):
    "The module that a notebook exports to, None if it exports nothing."
    return next((m[1] for marks, _ in code(nb) for m in marks if m[0] == 'default_exp'), None)

def texts(folder, pattern): return {str(f.relative_to(folder)): f.read_text(encoding='utf-8') for f in sorted(folder.rglob(pattern))}

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
    run_python("from modscale.docs import main; main(['readme'])", cwd=checkout)
    assert (root/'README.md').read_text(encoding='utf-8') == (checkout/'README.md').read_text(encoding='utf-8'), 'run modscale-docs readme'
    assert figures(root) == figures(checkout), 'run modscale-docs readme'

@each
def test_a_notebook_imports_only_lower_numbers(nb):
    number = {module(f): f.name for f in notebooks if f.name[0].isdigit()}
    imported = set()
    for _, source in code(nb):
        for o in ast.walk(ast.parse(source)):
            if isinstance(o, ast.Import): imported |= {a.name for a in o.names}
            if isinstance(o, ast.ImportFrom) and o.module == 'modscale': imported |= {f'modscale.{a.name}' for a in o.names}
            elif isinstance(o, ast.ImportFrom): imported.add(o.module)
    below = [m for m in imported if m.startswith('modscale.')]
    assert [m for m in below if number.get(m[9:], '') > nb.name] == []

@each
def test_exported_cells_are_short(nb):
    long = [source.strip().splitlines()[0] for marks, source in code(nb) if ['export'] in marks and len(source.strip().splitlines()) >= 40]
    assert long == []

@each
def test_a_notebook_states_its_claim(nb):
    first = ''.join(json.loads(nb.read_text(encoding='utf-8'))['cells'][0]['source']).splitlines()
    assert first[0].startswith('# ') and any(line.startswith('> ') for line in first)

def test_no_traces_of_a_machine():
    if not shutil.which('git'): pytest.skip('git is missing')
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=root, capture_output=True)
    if listed.returncode: pytest.skip('not a git repository')
    traces = re.compile(rb'(?<![\w.}])/(?:work|root|home|tmp|Users|opt)/[\w.]|[A-Z]:\\\\Users|pypi\.[\w.-]+|pythonhosted|index-url')
    found = []
    for name in listed.stdout.decode().split('\0'):
        if not name or not (root/name).is_file() or name == 'tests/test_export.py': continue
        found += [f'{name}: {m[0].decode()}' for m in traces.finditer((root/name).read_bytes())]
    assert found == []

def test_import_is_quick_and_light():
    timed = 'import sys, time; t = time.perf_counter(); import modscale; print(time.perf_counter() - t); print(*sys.modules)'
    outs = [subprocess.run([sys.executable, '-c', timed], cwd=root, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert min(float(out.split()[0]) for out in outs) < 0.5
    assert {'torch', 'pandas', 'matplotlib', 'sphinx', 'nbdev'} & set(outs[0].split()) == set()

@pytest.mark.parametrize('name', ['docs', 'cli'])
def test_commands_start_without_heavy_imports(name, run_python):
    if not (root/'modscale'/f'{name}.py').exists(): pytest.skip(f'no modscale.{name}')
    loaded = run_python(f'import modscale.{name}; print(*sys.modules)').stdout.split()
    assert {'torch', 'matplotlib', 'sphinx', 'nbdev', 'nbconvert'} & set(loaded) == set()

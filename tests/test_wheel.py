"What is published: an sdist, the wheel built from it, and that wheel in an environment without the development tools."
import email, os, shutil, subprocess, sys, venv, zipfile
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]
held = sorted(f.relative_to(root).as_posix() for f in (root/'modscale').rglob('*')
              if f.is_file() and '__pycache__' not in f.parts)
modules = [name for name in held if name.endswith('.py')]
rooms = {m.split('/')[1] for m in modules if m.count('/') == 2}
# the tools build and test what is not this checkout, so they are not measured
plain = {k: v for k, v in os.environ.items() if not k.startswith('COVERAGE_') and k != 'PYTHONPATH'}
tools = ['nbdev', 'fastcore', 'execnb', 'IPython', 'ipykernel', 'sphinx', 'myst_nb', 'nbconvert', 'pytest',
         'hypothesis', 'coverage']
block = f'''
import sys
class Block:
    "Stands in for an environment without the dev extra."
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {tools!r}: raise ModuleNotFoundError('not a runtime requirement: ' + name)
sys.meta_path.insert(0, Block())
'''

def run(*command, cwd, check=True):
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=plain, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built from the sdist, which is built from a copy of the checkout."
    tmp = tmp_path_factory.mktemp('wheel')
    junk = '.*', '__pycache__', '*.egg-info', '_docs', '_proc', 'build', 'dist', 'nbs', 'tests', 'results'
    shutil.copytree(root, tmp/'tree', ignore=shutil.ignore_patterns(*junk))
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', tmp/'dist', tmp/'tree', cwd=tmp)
    return next((tmp/'dist').glob('*.whl'))

@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Python of a fresh environment with the wheel in it. It borrows the heavy runtime packages from this one through
    its search path (a .pth file there is not read, so this checkout is not on it), and refuses to import development
    tools."""
    home = tmp_path_factory.mktemp('venv')
    venv.create(home, with_pip=False)
    python = home/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    purelib = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
    site = Path(run(python, '-c', purelib, cwd=home).stdout.strip())
    pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', '--no-index']
    run(*pip, wheel, cwd=home)
    packages = [p for p in sys.path if p.endswith(('site-packages', 'dist-packages'))]
    (site/'borrow.pth').write_text('\n'.join(packages) + '\n')
    (site/'block_tools.py').write_text(block)
    (site/'block_tools.pth').write_text('import block_tools\n')
    return python

def test_wheel_holds_the_library_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(n for n in names if '.dist-info/' not in n) == held and len(held) > len(modules) + 1
    assert {f'modscale/{room}/__init__.py' for room in rooms} < {*held} and {'base', 'lab', 'app'} < rooms
    assert any(n.endswith('.dist-info/licenses/LICENSE') for n in names)

def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as z:
        read = lambda end: z.read(next(n for n in z.namelist() if n.endswith('.dist-info/' + end))).decode()
        meta, scripts = email.message_from_string(read('METADATA')), read('entry_points.txt')
    lines = (root/'settings.ini').read_text(encoding='utf-8').splitlines()
    ini = dict(line.split(' = ', 1) for line in lines if ' = ' in line)
    assert (meta['Name'], meta['Version']) == ('modscale', ini['version'])
    assert meta['Requires-Python'] == '>=' + ini['min_python']
    assert 'Apache' in (meta['License-Expression'] or meta['License']) and meta['Summary'] == ini['description']
    runtime = [r for r in meta.get_all('Requires-Dist') if 'extra ==' not in r]
    assert len(runtime) == len(ini['requirements'].split()) and not any(r.startswith(tuple(tools)) for r in runtime)
    assert all(s.replace('=', ' = ') in scripts for s in ini['console_scripts'].split())

def test_the_tools_are_really_missing(installed, tmp_path):
    assert 'not a runtime requirement: nbdev' in run(installed, '-c', 'import nbdev', cwd=tmp_path, check=False).stderr

def test_every_module_imports_from_the_wheel(installed, tmp_path):
    names = [m[:-3].replace('/', '.').removesuffix('.__init__') for m in modules]
    code = f'import importlib\nfor n in {names!r}: print(importlib.import_module(n).__file__)'
    out = run(installed, '-c', code, cwd=tmp_path).stdout
    assert all(line.startswith(str(installed.parents[1])) for line in out.split()) and len(out.split()) == len(names)

def test_the_wheel_has_what_its_commands_read(installed, tmp_path):
    "The claims are a table and the report has a template: files beside the modules."
    code = 'from modscale.app.claims import all_claims; print(len(all_claims()))'
    assert int(run(installed, '-c', code, cwd=tmp_path).stdout) > 100

def test_command_line_of_the_wheel(installed, tmp_path):
    assert 'usage' in run(installed.parent/'modscale', '--help', cwd=tmp_path).stdout

def test_docs_command_says_what_is_missing(installed, tmp_path):
    done = run(installed.parent/'modscale-docs', 'build', cwd=tmp_path, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and 'checkout' in done.stderr

"The site: every notebook a page, figures and mathematics drawn, the interface searchable, nothing loaded from elsewhere."
import json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from modscale.docs import exported, external_requests, page_name

root = Path(__file__).resolve().parents[1]
notebooks = {page_name(f): json.loads(f.read_text(encoding='utf-8')) for f in sorted((root/'nbs').glob('*.ipynb'))}

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('docs')/'site'
    command = f'import sys; sys.path[0] = {str(root)!r}\nfrom modscale.docs import main; main()'
    done = subprocess.run([sys.executable, '-c', command, 'build', '--out', out], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out

def test_every_notebook_is_a_page_in_order(site):
    pages = re.findall(r'<a class="reference internal" href="([\w-]+)\.html">', (site/'index.html').read_text(encoding='utf-8'))
    assert list(dict.fromkeys(p for p in pages if p != 'index'))[:len(notebooks) - 1] == [p for p in notebooks if p != 'index']
    assert all((site/f'{p}.html').is_file() for p in notebooks)

def test_nothing_is_loaded_from_elsewhere(site): assert external_requests(site) == []

def test_interface_is_on_the_page_and_in_the_search(site):
    index = (site/'searchindex.js').read_text(encoding='utf-8')
    for page, nb in notebooks.items():
        text = (site/f'{page}.html').read_text(encoding='utf-8')
        missing = [name for name in exported(nb) if f'>{name}<' not in text or name.lower().split('_')[0] not in index]
        assert missing == [], f'{page}: {missing}'

def test_stored_figures_are_shown(site):
    for page, nb in notebooks.items():
        stored = sum('image/png' in o.get('data', {}) for c in nb['cells'] if '#| hide' not in ''.join(c['source']) for o in c.get('outputs', []))
        shown = len(re.findall(r'<img [^>]*src="_images/', (site/f'{page}.html').read_text(encoding='utf-8')))
        assert shown >= stored, page

def test_a_browser_draws_the_mathematics_and_finds_words(site, tmp_path):
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('no chromium')
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update',
             '--disable-sync', f'--user-data-dir={tmp_path}', '--virtual-time-budget=10000', '--dump-dom']
    def dom(address): return subprocess.run([chromium, *flags, address], capture_output=True, text=True, timeout=120).stdout
    assert 'mjx-container' in dom((site/'symbols.html').as_uri())
    assert 'page matching' in (found := dom((site/'search.html').as_uri() + '?q=real_above')) or 'pages matching' in found

"The site: every notebook a page, figures and mathematics drawn, the interface searchable, nothing loaded from elsewhere."
import json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from modscale.app.docs import exported, external_requests, page_name

root = Path(__file__).resolve().parents[1]
notebooks = {page_name(f): json.loads(f.read_text(encoding='utf-8')) for f in sorted((root/'nbs').glob('*.ipynb'))}

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('docs')/'site'
    command = f'import sys; sys.path[0] = {str(root)!r}\nfrom modscale.app.docs import main; main()'
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

def formulas(site):
    "Every formula of the site as Sphinx wrote it."
    found = [re.findall(r'<(span|div) class="math notranslate[^>]*>(.*?)</\1>', (site/f'{p}.html').read_text(encoding='utf-8'), re.S) for p in notebooks]
    return [f'<{tag} class="math notranslate nohighlight">{tex}</{tag}>' for page in found for tag, tex in page]

def test_no_dollar_is_left_in_the_text(site):
    for page in notebooks:
        text = (site/f'{page}.html').read_text(encoding='utf-8')
        text = re.sub(r'<(pre|code|script|style|svg)\b.*?</\1>|<(span|div) class="math notranslate.*?</\2>|<[^>]*>', '', text, flags=re.S)
        assert re.findall(r'.*\$.*', text) == [], f'{page}: mathematics that MyST does not recognise'

@pytest.fixture(scope='module')
def dom(site, tmp_path_factory):
    "What a browser makes of a page of the site, as HTML."
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('no chromium')
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update',
             '--disable-sync', f'--user-data-dir={tmp_path_factory.mktemp("profile")}', '--virtual-time-budget=20000', '--dump-dom']
    def dom(page, query=''):
        return subprocess.run([chromium, *flags, (site/page).as_uri() + query], capture_output=True, text=True, timeout=120).stdout
    return dom

def test_a_browser_draws_every_formula(site, dom):
    page, all_ = (site/'symbols.html').read_text(encoding='utf-8'), formulas(site)
    scripts = re.findall(r'<script\b[^>]*>[^<]*</script>', page)
    mathjax = '\n'.join(s for s in scripts if 'mathjax' in s.lower())
    (site/'formulas.html').write_text(f'<html><head>{mathjax}</head><body>{" ".join(all_)}</body></html>', encoding='utf-8')
    drawn = dom('formulas.html')
    (site/'formulas.html').unlink()
    wrong = re.findall(r'data-mjx-error="[^"]*"|<mjx-mtext[^>]*color: red', drawn) # red: an unknown command
    assert wrong == [] and len(re.findall('<mjx-container', drawn)) == len(all_) > 0

def test_a_browser_searches_without_a_server(dom):
    found = re.search(r'found (\d+|one) pages? matching', dom('search.html', '?q=real_above'))
    assert found and found[1] != '0'

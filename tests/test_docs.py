"The site: every notebook a page in its room, figures and mathematics drawn, searchable, nothing loaded from elsewhere."
import html, json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
from modscale.app.docs import exported, external_requests, notebook_files, page_name
from structure import rooms

root = Path(__file__).resolve().parents[1]
files = [root/'nbs'/file for file in notebook_files(root)]
notebooks = {page_name(f.relative_to(root/'nbs')): json.loads(f.read_text(encoding='utf-8')) for f in files}

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('docs')/'site'
    command = f'import sys; sys.path[0] = {str(root)!r}\nfrom modscale.app.docs import main; main()'
    done = subprocess.run([sys.executable, '-c', command, 'build', '--out', out], cwd=root, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out

def sidebar(site):
    "The contents beside the index page: captions and pages, in order."
    text = (site/'index.html').read_text(encoding='utf-8')
    text = text[text.index('<div class="sidebar-tree">'):text.index('<div class="main">')]
    caption, page = r'<span class="caption-text">([^<]+)<', r'<a class="reference internal" href="([\w/-]+)\.html">'
    return re.findall(f'{caption}|{page}', text)

def test_every_notebook_is_a_page_in_order(site):
    pages = [page for _, page in sidebar(site) if page]
    assert len({*notebooks}) == len(files) == len([*(root/'nbs').rglob('[0-9]*.ipynb')]) + 1
    assert pages == [p for p in notebooks if p != 'index'] and all((site/f'{p}.html').is_file() for p in notebooks)

def test_the_contents_have_a_part_for_each_room(site):
    parts, at = {}, None
    for caption, page in sidebar(site):
        at = caption or at
        if page: parts.setdefault(at, set()).add(page.split('/')[0])
    assert [*parts.values()] == [{room} for room in rooms] and len(parts) == len(rooms)

def test_a_result_is_told_without_its_code(site):
    hidden = [(page, cell) for page, nb in notebooks.items() for cell in nb['cells']
              if ''.join(cell['source']).startswith('#| echo: false') and 'say(' in ''.join(cell['source'])]
    for page, cell in hidden:
        text = re.sub(r'<[^>]*>', '', (site/f'{page}.html').read_text(encoding='utf-8'))
        call = next(line for line in ''.join(cell['source']).splitlines() if 'say(' in line)
        assert call not in html.unescape(text) and 'text/markdown' in cell['outputs'][0]['data'], page
    assert hidden

def test_nothing_is_loaded_from_elsewhere(site): assert external_requests(site) == []

def test_interface_is_on_the_page_and_in_the_search(site):
    index = (site/'searchindex.js').read_text(encoding='utf-8')
    for page, nb in notebooks.items():
        text = (site/f'{page}.html').read_text(encoding='utf-8')
        missing = [name for name in exported(nb) if f'>{name}<' not in text or name.lower().split('_')[0] not in index]
        assert missing == [], f'{page}: {missing}'

def test_stored_figures_are_shown(site):
    for page, nb in notebooks.items():
        visible = [c for c in nb['cells'] if '#| hide' not in ''.join(c['source'])]
        stored = sum('image/png' in o.get('data', {}) for c in visible for o in c.get('outputs', []))
        shown = len(re.findall(r'<img [^>]*src="(?:\.\./)?_images/', (site/f'{page}.html').read_text(encoding='utf-8')))
        assert shown >= stored, page

def formulas(site):
    "Every formula of the site as Sphinx wrote it."
    pattern = re.compile(r'<(span|div) class="math notranslate[^>]*>(.*?)</\1>', re.S)
    found = [pattern.findall((site/f'{p}.html').read_text(encoding='utf-8')) for p in notebooks]
    return [f'<{tag} class="math notranslate nohighlight">{tex}</{tag}>' for page in found for tag, tex in page]

def test_no_dollar_is_left_in_the_text(site):
    for page in notebooks:
        text = (site/f'{page}.html').read_text(encoding='utf-8')
        drawn = r'<(pre|code|script|style|svg)\b.*?</\1>|<(span|div) class="math notranslate.*?</\2>|<[^>]*>'
        text = re.sub(drawn, '', text, flags=re.S)
        assert re.findall(r'.*\$.*', text) == [], f'{page}: mathematics that MyST does not recognise'

@pytest.fixture(scope='module')
def dom(site, tmp_path_factory):
    "What a browser makes of a page of the site, as HTML."
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: pytest.skip('no chromium')
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
             '--disable-component-update', '--disable-sync', f'--user-data-dir={tmp_path_factory.mktemp("profile")}',
             '--virtual-time-budget=20000', '--dump-dom']
    def dom(page, query=''):
        command = [chromium, *flags, (site/page).as_uri() + query]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    return dom

def test_a_browser_draws_every_formula(site, dom):
    page, all_ = (site/'base'/'symbols.html').read_text(encoding='utf-8'), formulas(site)
    scripts = re.findall(r'<script\b[^>]*>[^<]*</script>', page)
    mathjax = '\n'.join(s for s in scripts if 'mathjax' in s.lower())
    page = f'<html><head>{mathjax}</head><body>{" ".join(all_)}</body></html>'
    (site/'base'/'formulas.html').write_text(page, encoding='utf-8')
    drawn = dom('base/formulas.html')
    (site/'base'/'formulas.html').unlink()
    wrong = re.findall(r'data-mjx-error="[^"]*"|<mjx-mtext[^>]*color: red', drawn) # red: an unknown command
    assert wrong == [] and len(re.findall('<mjx-container', drawn)) == len(all_) > 0

def test_a_browser_searches_without_a_server(dom):
    found = re.search(r'found (\d+|one) pages? matching', dom('search.html', '?q=real_above'))
    assert found and found[1] != '0'

"""Tables over notebooks: a symbol of the common one (base/01_symbols) has the same name in code in every notebook's own
table, and the index lists every notebook, as it is stored and in the README."""
import re
import pytest
from structure import cells, notebooks, root, stem

def table(nb):
    "Rows of a notebook's symbol tables: (its symbols, its names in code)."
    for cell in cells(nb):
        lines = ''.join(cell['source']).splitlines()
        if cell['cell_type'] != 'markdown' or not any(re.match(r'\| *Symbol', line) for line in lines): continue
        for line in lines:
            found = re.match(r'\|(.*?)(?<!\\)\|(.*?)\|', line)
            if found and '$' in found[1]:
                symbols = [part for one in re.findall(r'\$([^$]*)\$', found[1])
                           for part in re.split(r',(?![^(]*\))(?:\\ )?\s*', one.split('=')[0])]
                yield symbols, re.findall(r'`([^`]*)`', found[2])

tables = {stem(nb): rows for nb in notebooks if (rows := [*table(nb)])}
# those without a name in code (N, ε) have none to compare
common = {symbol: names for symbols, names in tables.pop('base/01_symbols') for symbol in symbols if names}
local = {('sine/05_samples_needed', 'S')}  # tasks a point, as its table says

def clashes(rows):
    "Common symbols that a table gives another name."
    return {symbol: names for symbols, names in rows for symbol in symbols if symbol in common and names
            and not any(re.search(rf'\b{name}\b', one) for name in common[symbol] for one in names)}

def test_the_search_finds_what_it_should():
    assert {'n', 'p', r'\Omega', 'T_1', 'T_2', r'\hat U_j', 'F(n,p)'} <= {*common} and len(tables) > 15
    assert [*clashes([(['c', 'n'], ['share', 'n']), (['q'], ['c'])])] == ['c']

@pytest.mark.parametrize('name', tables)
def test_a_symbol_has_one_name(name):
    assert [symbol for symbol in clashes(tables[name]) if (name, symbol) not in local] == []

def listed(text):
    "The notebooks of the index's table, in order; the links of the README start at the project's root."
    return re.findall(r'^\| \[(\w+/\w+)\]\((?:nbs/)?\1\.ipynb\) \|', text, re.M)

def test_the_index_lists_every_notebook():
    want, index = [stem(nb) for nb in notebooks if stem(nb) != 'index'], root/'nbs'/'index.ipynb'
    outputs = [out.get('data', {}) for cell in cells(index) for out in cell.get('outputs', [])]
    stored = [''.join(data.get('text/markdown', '')) for data in outputs]
    for text in (*filter(listed, stored), (root/'README.md').read_text(encoding='utf-8')):
        assert listed(text) == want, 'run nbs/index.ipynb, then modscale-docs readme'
    assert any(map(listed, stored)) and 'theory/11_real_features' in want

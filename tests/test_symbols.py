"A symbol of the common table (base/01_symbols) has the same name in code in every notebook's own table."
import re
import pytest
from structure import cells, notebooks, stem

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
local = {('sine/04_samples_needed', 'S')}  # tasks a point, as its table says

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

"House style, as CONTRIBUTING states it: what can be checked, in the library and in the notebooks."
import ast, subprocess, sys
import pytest
from structure import code, directives, exported, notebooks, root, stem

each = pytest.mark.parametrize('nb', notebooks, ids=stem)
longest = 30 # lines of a definition

def statements(nb, *kinds):
    "All statements of some kinds in the code cells of a notebook."
    for _, source in code(nb):
        yield from (o for o in ast.walk(ast.parse(source)) if isinstance(o, kinds))

def shown(node): return ast.unparse(node)[:100]

def test_ruff():
    "Unused and undefined names, lines of at most 120 characters, functions by `def`: see pyproject.toml."
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--output-format', 'concise', 'modscale', 'nbs',
                           'tests'],
                          cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

@each
def test_an_exported_cell_is_one_short_definition(nb):
    for cell, source in exported(nb):
        defined = [o for o in ast.parse(source).body if isinstance(o,
                                                                   (ast.FunctionDef, ast.ClassDef,
                                                                    ast.AsyncFunctionDef))]
        # tiny relatives may stand together: up to three lines each
        large = [o.name for o in defined if len(ast.get_source_segment(source, o).splitlines()) > 3]
        assert len(large) <= 1, f'cell {cell}: {large}'
        if large and len(defined) > 1: assert False, f'cell {cell}: {[o.name for o in defined]}'

@each
def test_definitions_are_short(nb):
    for cell, source in exported(nb):
        for o in ast.walk(ast.parse(source)):
            if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = len(ast.get_source_segment(source, o).splitlines())
                assert lines <= longest, f'cell {cell}: {o.name} has {lines} lines'

@each
def test_one_statement_is_one_idea(nb):
    joined = [shown(o) for o in statements(nb, ast.Expr) if isinstance(o.value, ast.Tuple)
              and any(isinstance(part, ast.Call) for part in o.value.elts[:-1])]
    packed = [shown(o) for o in statements(nb, ast.Assign) if isinstance(o.value, ast.Tuple)
              and isinstance(o.targets[0], ast.Tuple) and len(o.targets[0].elts) > 2]
    assert joined == [] and packed == []

@each
def test_imports_have_cells_of_their_own(nb):
    for marks, source in code(nb):
        body = ast.parse(source).body
        imports = [isinstance(o, (ast.Import, ast.ImportFrom)) for o in body]
        assert all(imports) or not any(imports), f'split this cell:\n{source[:200]}'

@each
def test_a_notebook_states_its_claim(nb):
    first = directives(nb)[0]
    assert first[0].startswith('# ') and any(line.startswith('> ') for line in first)

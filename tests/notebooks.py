"""Runs one notebook in this process: `python tests/notebooks.py nbs/theory/03_theorem1.ipynb`.
Exit status 1 and the failing cell if one fails.
The cell that runs is named on stderr, so that whoever stops this knows where it was.

nbdev decides which cells run (its `tst_flags` are skipped, unless MODSCALE_TEST_FLAGS names them). An exported cell
runs under the file name and line numbers that it has in `modscale/`: it is the same code (test_export.py checks
that), so it counts in the coverage.
"""
import os, re, sys, traceback
from pathlib import Path
from execnb.shell import CaptureShell
from nbdev.config import get_config
from nbdev.test import nb_test_cells

root = Path(__file__).resolve().parents[1]

def places(nb):
    "For each exported cell of a notebook, by id: its file in the library and the lines before its code there."
    found, name = {}, nb.relative_to(root/'nbs').as_posix()
    for file in (root/'modscale').rglob('*.py'):
        for i, line in enumerate(file.read_text(encoding='utf-8').splitlines(), start=1):
            m = re.match(rf'# %% \S*/nbs/{re.escape(name)} #(\S+)$', line)
            if m: found[m[1]] = (str(file), i)
    return found

class Shell(CaptureShell):
    "A shell that compiles a cell as lines of a module, if it is told which"
    place = None

    def transform_cell(self, raw):
        code = super().transform_cell(raw)
        if not self.place: return code
        above = next(i for i, line in enumerate(code.splitlines()) if line.strip() and not line.startswith('#|'))
        return '\n' * self.place[1] + '\n'.join(code.splitlines()[above:]) + '\n'

def run(nb):
    "Run the notebook; returns an error message, empty if all is well."
    os.environ['IN_TEST'] = '1' # nbdev_export() in a cell does nothing
    skip, force = str(get_config(nb.parent).tst_flags).split(), os.environ.get('MODSCALE_TEST_FLAGS', '').split()
    cells, found, shell = nb_test_cells(nb, skip, force), places(nb), Shell(nb)
    # IPython's name of a cell; it also keeps the cell's source, which for a module is its file
    named = shell.compile.cache
    shell.compile.cache = lambda *args, **kw: shell.place[0] if shell.place else named(*args, **kw)
    os.chdir(nb.parent)
    for cell in cells:
        shell.place = found.get(cell.id)
        print(f'running cell {cell.idx_ + 1} ({cell.id})', file=sys.stderr, flush=True)
        shell.cell(cell)
        if shell.exc:
            error = ''.join(traceback.format_exception(shell.exc))
            return f'{nb.name}, cell {cell.idx_ + 1} ({cell.id}):\n\n{cell.source}\n\n{error}'
    return ''

if __name__ == '__main__':
    error = run(Path(sys.argv[1]).resolve())
    print(error, end='', flush=True)
    sys.exit(bool(error))

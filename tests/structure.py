"The rooms, their notebooks in reading order, and the code in them: what several tests look at."
import json, re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parents[1]

def settings():
    "settings.ini, as setup.py reads it."
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(root/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

rooms = settings()['rooms'].split()

def place(nb):
    "Where a notebook stands in the reading order; the index is last, as it may show anything."
    room = nb.parent.name
    return (rooms.index(room) if room in rooms else len(rooms), nb.name)

notebooks = sorted((root/'nbs').rglob('*.ipynb'), key=place)

def stem(nb):
    "A notebook's room and name, for people."
    return nb.relative_to(root/'nbs').with_suffix('').as_posix()

def cells(nb): return json.loads(nb.read_text(encoding='utf-8'))['cells']

def directives(nb):
    "The lines of each cell."
    return [''.join(cell['source']).splitlines() for cell in cells(nb)]

def plain(cell):
    "A code cell's (directives, source without directives and magics)."
    lines = ''.join(cell['source']).splitlines()
    marks = [line[2:].split() for line in lines if line.startswith('#|')]
    return marks, '\n'.join(line for line in lines if not re.match(r'#\||\s*[%!]', line))

def code(nb):
    "The code cells of a notebook: (directives, source without directives and magics)."
    return [plain(cell) for cell in cells(nb) if cell['cell_type'] == 'code']

def exported(nb):
    "The exported cells of a notebook: (id, source)."
    for cell in cells(nb):
        if cell['cell_type'] != 'code': continue
        marks, source = plain(cell)
        if any(m[0] in ('export', 'exports') for m in marks): yield cell['id'], source

def module(nb):
    "The module that a notebook exports to, None if it exports nothing."
    return next((m[1] for marks, _ in code(nb) for m in marks if m[0] == 'default_exp'), None)

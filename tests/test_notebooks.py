"Every notebook runs, each in a process of its own and within its time; they start with the first test (conftest.py)."
import subprocess, sys, time
import pytest

from structure import notebooks, root, stem

budget = 300 # seconds, with every core busy and other tests beside
longer = {} # exceptions: room and name of a notebook, to seconds

def run(nb, started):
    "Run one notebook; returns (what went wrong, empty if nothing, and seconds)."
    limit, t = longer.get(stem(nb), budget), time.monotonic()
    p = subprocess.Popen([sys.executable, str(root/'tests'/'notebooks.py'), str(nb)], text=True, cwd=root,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.append(p)
    try: out, err = p.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        p.kill()
        at = p.communicate()[1].strip().splitlines()[-1:]
        return f'{nb.name} took longer than its budget of {limit} s, {"".join(at) or "starting"}', time.monotonic() - t
    error = out or err[-3000:] # a crash leaves nothing on stdout
    return error if p.returncode else '', time.monotonic() - t

@pytest.mark.parametrize('nb', notebooks, ids=stem)
def test_notebook(nb, runs):
    error, seconds = runs(nb).result()
    if error: pytest.fail(f'{nb.name} failed after {seconds:.1f} s\n{error}', pytrace=False)

def test_there_are_notebooks(): assert notebooks

"`modscale train` and the image studies over real processes: kills, several processes, real images, bad arguments."
import gzip, json, os, random, signal, struct, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np, pandas as pd, pytest
from modscale.images import study as image_study
from modscale.app.cli import main
from modscale.images.compose import ComposeCell, run_compose
from modscale.images.study import (fig4b_study, image_controls_study, image_samples_study, permuted_study,
                                   rates_study)
from modscale.lab.train_images import train_images
from modscale.images.data import load_images

root = Path(__file__).resolve().parents[1]
small = '--k 3 --samples 4096 --batch 32 --b 8 --width 32 --test 400 --permute --minutes 0'.split()
plain = {k: v for k, v in os.environ.items()
         if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')}
plain |= dict(PYTHONPATH=str(root), OMP_NUM_THREADS='1')

def command(*args): return [sys.executable, '-m', 'modscale.app.cli', 'train', *map(str, args)]

def train(*args, cwd, processes=1, timeout=300):
    start = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}', '-m',
             'modscale.app.cli', 'train', *map(str, args)]
    return subprocess.run(start if processes > 1 else command(*args), cwd=cwd, env=plain, capture_output=True,
                          text=True, timeout=timeout)

def numbers(folder):
    "What a run measured, without times, memory and the number of processes."
    made = json.loads((folder/'result.json').read_text())
    return {k: v for k, v in made.items() if 'seconds' not in k
            and k not in ('peak_memory_gib', 'environment', 'processes')}

@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp('undisturbed')
    done = train('ours', *small, '--out', 'run', cwd=out)
    assert done.returncode == 0, done.stderr
    return numbers(out/'run')

def step_of(folder): return max((int(f.name[5:17]) for f in folder.glob('step-*.ckpt')), default=0)

def test_a_killed_run_ends_with_the_numbers_of_an_undisturbed_one(undisturbed, tmp_path):
    kept, chance, kills = tmp_path/'run'/'checkpoints', random.Random(0), []
    for _ in range(2):
        p = subprocess.Popen(command('ours', *small, '--out', 'run'), cwd=tmp_path, env=plain,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = step_of(kept) + chance.randint(5, 40)
        while p.poll() is None and step_of(kept) < goal: time.sleep(.005)
        p.kill()
        assert p.wait() == -signal.SIGKILL and not (tmp_path/'run'/'result.json').exists()
        kills.append(step_of(kept))
    newest = max(kept.glob('step-*.ckpt'))
    newest.write_bytes(newest.read_bytes()[:-1000])  # and the disk loses the end of a file
    done = train('ours', *small, '--out', 'run', cwd=tmp_path)
    assert done.returncode == 0 and newest.name in done.stderr, done.stderr
    assert 0 < kills[0] < kills[1] < 128 and numbers(tmp_path/'run') == undisturbed

def test_two_processes_have_the_result_of_one(undisturbed, tmp_path):
    done = train('ours', *small, '--out', 'run', cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    both = numbers(tmp_path/'run')
    assert json.loads((tmp_path/'run'/'result.json').read_text())['processes'] == 2
    # sums are rounded in another order
    for name in ('accuracy', 'unseen', 'noise_0.5'): assert abs(both[name] - undisturbed[name]) <= .005, name
    assert both['purity'] == undisturbed['purity'] and both['p'] == undisturbed['p']
    done = train('ours', *small, '--batch', 33, '--out', 'odd', cwd=tmp_path, processes=2)
    assert done.returncode and 'batch must be divisible by the number of processes' in done.stderr

def test_the_same_command_on_fashion_mnist(tmp_path):
    "Files of the real format, made up: black borders, one grey level a class inside."
    rng = np.random.default_rng(0)
    for stem, size in (('train', 2000), ('t10k', 500)):
        y = rng.integers(10, size=size).astype(np.uint8)
        x = np.zeros((size, 28, 28), np.uint8)
        x[:, 4:24, 4:24] = np.clip(20*y[:, None, None] + rng.integers(0, 60, (size, 20, 20)), 0, 255)
        for part, a, rank in (('images-idx3', x, 3), ('labels-idx1', y, 1)):
            data = struct.pack(f'>{1 + rank}I', 2048 + rank, *a.shape) + a.tobytes()
            (tmp_path/f'{stem}-{part}-ubyte.gz').write_bytes(gzip.compress(data))
    done = train('ours', '--dataset', 'fashion-mnist', '--data-dir', '.', *small, '--out', 'run', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = numbers(tmp_path/'run')
    assert found['dataset'] == 'fashion-mnist' and found['purity'] > .98 and found['served'] == 1
    assert found['accuracy'] > .2
    assert abs(found['assigned'] - 400/784) < .05  # borders carry nothing, and no module sees them

def test_real_images_of_eight_positions(tmp_path):
    "The rule on CIFAR-10 (the JPEG copy), permuted, 24,576 inputs, within 6 GiB."
    if not (Path(os.environ.get('MODSCALE_DATA') or '.')/'cifar10').is_dir():
        pytest.skip('MODSCALE_DATA holds no CIFAR-10')
    done = train('ours', '--dataset', 'cifar10',
                 *'--k 8 --samples 10240 --b 8 --width 32 --test 500 --permute'.split(), '--out', 'run', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path/'run'/'result.json').read_text())
    assert made['purity'] >= .98 and made['served'] >= 1 and made['assigned'] > .99 and made['peak_memory_gib'] < 6

BAD = {'k must be': 'ours --k 0', 'b must be at most the 6': 'ours --b 65', "method='magic'": 'magic',
       'k=2000': 'ours --k 2000',
       'n=8': 'ours --samples 8', 'share must be False for modular': 'modular --share', 'lr=-1': 'ours --lr -1',
       "precision='float8'": 'ours --precision float8', 'cuda': 'ours --device cuda:77',
       'nowhere': 'ours --dataset cifar10 --data-dir nowhere', 'minutes=-1': 'ours --minutes -1'}

@pytest.mark.parametrize('message', BAD)
def test_bad_arguments_end_in_one_line(message, capsys, tmp_path):
    assert main(['train', *BAD[message].split(), '--out', str(tmp_path/'run')]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count('\n') == 1 and not told.out, told.err

def test_a_folder_holds_one_run(tmp_path):
    digits = load_images('digits')
    cell = ComposeCell('oracle', k=2, n=320, batch=32, b=4, width=8, test=50)
    train_images(cell, digits, tmp_path)
    with pytest.raises(ValueError, match='seed'): train_images(replace(cell, seed=1), digits, tmp_path)

def test_every_method_meets_the_same_samples_steps_and_widths():
    "Cells of one k and seed differ in what modules see and write and in the rate; not in data, steps, batch or width."
    for study in (fig4b_study('paper', 'cifar10'), permuted_study('paper', 'cifar10')):
        table = pd.DataFrame(study.cells)
        same = table.drop(columns=['arm', 'method', 'share', 'lr'])
        assert (same.groupby(['k', 'seed']).nunique(dropna=False) == 1).all().all() and table.n.min() >= 200_000
        assert table.arm.nunique() >= 5
        assert set(table[table.method.isin(['ours', 'oracle'])].groupby('arm').size()) == {8*5}
    rates = pd.DataFrame(rates_study('paper', 'cifar10').cells)
    assert rates.validate.all() and set(rates.seed).isdisjoint(table.seed)
    samples, controls = (pd.DataFrame(s('paper', 'cifar10').cells) for s in (image_samples_study, image_controls_study))
    assert len(samples.n.unique()) == 5 and (samples.n*samples.passes).max() == table.n.max()
    assert set(controls.k) == {4, 8}

def test_test_images_are_not_seen_by_the_search_for_rates(monkeypatch):
    digits = load_images('digits')
    study = rates_study('smoke', 'digits')
    cell = next(c for c in study.cells if c['arm'] == 'ours')
    blind = replace(digits, test_x=np.zeros_like(digits.test_x))
    expected = study.run([cell])[0]
    image_study.images_of.cache_clear()
    monkeypatch.setattr(image_study, 'load_images', lambda *_: blind)
    got = study.run([cell])[0]
    image_study.images_of.cache_clear()
    assert got.accuracy.equals(expected.accuracy) and got.confusion.equals(expected.confusion)

def test_a_run_is_the_same_twice_and_changes_with_its_seed():
    digits = load_images('digits')
    cell = dict(k=2, n=640, batch=32, b=4, width=16, test=200, permute=True, align_steps=5)
    for method in ('monolithic', 'modular', 'paper', 'ours', 'oracle'):
        a, b, c = (run_compose(ComposeCell(method, seed=seed, **cell), digits) for seed in (0, 0, 1))
        assert a.confusion.equals(b.confusion) and not a.confusion.equals(c.confusion), method

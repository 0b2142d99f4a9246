"`modscale train` and the image studies over real processes: kills, several processes, real images, bad arguments."
import gzip, json, os, random, signal, struct, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from modscale.app.cli import main
from modscale.images import arms, convolution
from modscale.images.compose import IMAGE_METHODS, ComposeCell, run_compose, shrink
from modscale.lab.train_images import train_images
from modscale.images.data import CLASSES, SHAPES, load_images

root = Path(__file__).resolve().parents[1]
small = '--k 3 --samples 4096 --batch 32 --b 8 --width 32 --test 400 --permute --minutes 0'.split()
LASSO = 'lasso', *small, '--decay', '.5', '--penalty', '1'
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

def whole_run(folder, *args):
    "What an undisturbed run measures."
    done = train(*args, '--out', 'run', cwd=folder)
    assert done.returncode == 0, done.stderr
    return numbers(folder/'run')

@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory): return whole_run(tmp_path_factory.mktemp('undisturbed'), 'screen', *small)

def step_of(folder): return max((int(f.name[5:17]) for f in folder.glob('step-*.ckpt')), default=0)

def killed_twice(folder, *args):
    "What a run measures that was killed twice and whose last checkpoint was cut, and the steps at the kills."
    kept, chance, kills = folder/'run'/'checkpoints', random.Random(0), []
    for _ in range(2):
        p = subprocess.Popen(command(*args, '--out', 'run'), cwd=folder, env=plain, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        goal = step_of(kept) + chance.randint(5, 40)
        while p.poll() is None and step_of(kept) < goal: time.sleep(.005)
        p.kill()
        assert p.wait() == -signal.SIGKILL and not (folder/'run'/'result.json').exists()
        kills.append(step_of(kept))
    newest = max(kept.glob('step-*.ckpt'))
    newest.write_bytes(newest.read_bytes()[:-1000])  # and the disk loses the end of a file
    done = train(*args, '--out', 'run', cwd=folder)
    assert done.returncode == 0 and newest.name in done.stderr, done.stderr
    return numbers(folder/'run'), kills

def test_a_killed_run_ends_with_the_numbers_of_an_undisturbed_one(undisturbed, tmp_path):
    resumed, kills = killed_twice(tmp_path, 'screen', *small)
    assert 0 < kills[0] < kills[1] < 128 and resumed == undisturbed

def test_a_killed_lasso_shrinks_its_weights_once_a_step(tmp_path):
    "What acts between two steps, decay and penalty, is neither left out nor done twice where a run goes on."
    for name in ('whole', 'killed'): (tmp_path/name).mkdir()
    expected = whole_run(tmp_path/'whole', *LASSO)
    resumed, kills = killed_twice(tmp_path/'killed', *LASSO)
    assert 0 < kills[0] < kills[1] < 128 and resumed == expected
    # and both act
    cell = ComposeCell(**{name: expected[name] for name in ComposeCell.__dataclass_fields__})
    weaker = [replace(cell, **{name: 0.}) for name in ('decay', 'penalty')]
    found = [run_compose(one, load_images('digits')).purity_trained[0] for one in (cell, *weaker)]
    assert found[0] == expected['purity_trained'] > max(found[1:]) + .01

def test_the_penalty_sets_weights_of_an_input_to_exactly_zero():
    "For any penalty; longer rows lose that length and keep their direction."
    g = torch.Generator().manual_seed(0)
    for penalty in torch.rand(500, generator=g, dtype=torch.float64).mul(.1).tolist():
        net = torch.nn.Module()
        U = torch.nn.functional.normalize(torch.randn(1, 2, 6, 4, generator=g), dim=3)
        length = penalty*torch.tensor([0., .5, .999, 1.001, 3., 50.])
        net.U = torch.nn.Parameter(U*length[:, None])
        shrink(net, 0., penalty)
        assert not net.U[:, :, :3].any(), penalty
        left = (U*(length - penalty)[:, None])[:, :, 3:]
        assert torch.allclose(net.U[:, :, 3:], left, rtol=1e-3, atol=1e-6*penalty) and net.U[:, :, 3:].any(3).all()

def test_decay_shrinks_every_weight():
    net = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in net.parameters()]
    shrink(net, .25, 0.)
    assert all(torch.equal(p, .75*was) for p, was in zip(net.parameters(), before))

def test_two_processes_have_the_result_of_one(undisturbed, tmp_path):
    done = train('screen', *small, '--out', 'run', cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    both = numbers(tmp_path/'run')
    assert json.loads((tmp_path/'run'/'result.json').read_text())['processes'] == 2
    # sums are rounded in another order
    for name in ('accuracy', 'unseen', 'noise_0.5'): assert abs(both[name] - undisturbed[name]) <= .005, name
    assert both['purity'] == undisturbed['purity'] and both['p'] == undisturbed['p']
    done = train('screen', *small, '--batch', 33, '--out', 'odd', cwd=tmp_path, processes=2)
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
    done = train('screen', '--dataset', 'fashion-mnist', '--data-dir', '.', *small, '--out', 'run', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = numbers(tmp_path/'run')
    assert found['dataset'] == 'fashion-mnist' and found['purity'] > .98 and found['served'] == 1
    assert found['accuracy'] > .2
    assert abs(found['assigned'] - 400/784) < .05  # borders carry nothing, and no module sees them

def test_real_images_of_eight_positions(tmp_path):
    "The screen on CIFAR-10 (the JPEG copy), permuted, 24,576 inputs, within 6 GiB."
    if not (Path(os.environ.get('MODSCALE_DATA') or '.')/'cifar10').is_dir():
        pytest.skip('MODSCALE_DATA holds no CIFAR-10')
    done = train('screen', '--dataset', 'cifar10',
                 *'--k 8 --samples 10240 --b 8 --width 32 --test 500 --permute'.split(), '--out', 'run', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path/'run'/'result.json').read_text())
    assert made['purity'] >= .98 and made['served'] >= 1 and made['assigned'] > .99 and made['peak_memory_gib'] < 6

BAD = {'k must be': 'screen --k 0', 'b must be at most the 6': 'screen --b 65', "method='magic'": 'magic',
       "method='ours'": 'ours', 'k=2000': 'screen --k 2000', 'n=8': 'screen --samples 8',
       'share must be False for monolithic': 'monolithic --share', 'penalty is for lasso': 'modular --penalty 1',
       'decay=-1': 'lasso --decay -1', "loss='hinge'": 'paper --loss hinge', 'lr=-1': 'screen --lr -1',
       "precision='float8'": 'screen --precision float8', 'cuda': 'screen --device cuda:77',
       'nowhere': 'screen --dataset cifar10 --data-dir nowhere', 'minutes=-1': 'screen --minutes -1'}

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

def cells_of(study): return pd.DataFrame(study('paper', 'cifar10').cells)

STUDIES = (arms.images_study, arms.image_large_study, arms.image_shared_study, arms.image_paper_study,
           arms.image_controls_study)

def test_every_arm_meets_the_same_samples_steps_and_tests():
    """Cells of one k, n and seed differ in what modules see, write and are told, and in the settings of the search.

    Not in data, steps, batch or test."""
    for study in STUDIES[:3]:
        table = cells_of(study)
        same = table.drop(columns=['arm', 'method', 'share', 'write', 'align_labels', *arms.SEARCHED_NAMES])
        assert (same.groupby(['k', 'n', 'seed']).nunique(dropna=False) == 1).all().all()
        assert table.groupby('arm')[['k', 'n', 'seed']].agg(list).map(sorted).map(str).nunique().eq(1).all()
        assert table.n.max() >= 200_000 and table.seed.nunique() == 3 and (table.passes == 1).all()
        assert not table.validate.any() and not table.images.notna().any()
    images, large, shared, paper, controls = map(cells_of, STUDIES)
    assert set(images.arm) == set(arms.IMAGE_ARMS) and set(images.groupby('arm').size()) == {6*3}
    assert large.n.max() >= 1_000_000 and large[large.k == 4].n.nunique() == 5
    assert shared.permute.all() and not images.permute.any()
    assert set(shared[shared.share].method) == {'screen', 'oracle'}
    assert set(paper.k) == set(controls.k) == {4, 8}
    for detail in arms.NET_CHANGES: assert {f'paper, {detail}', f'modular, {detail}'} <= set(paper.arm)

def test_every_arm_has_the_same_search():
    "All but the oracle, which has the settings of the screen; as many trials, on samples that no study has."
    search = cells_of(arms.image_search_study)
    assert set(search.arm) == set(arms.IMAGE_ARMS) - {'oracle'} and not search.duplicated().any()
    assert search.validate.all() and search.n.nunique() == search.seed.nunique() == search.test.nunique() == 1
    counts = search[search.k == 4].groupby('arm').size()
    trials = {arm: arms.SEARCH_TRIALS_RULE if arm.startswith('paper') else arms.SEARCH_TRIALS for arm in counts.index}
    assert counts.to_dict() == trials and arms.SEARCH_TRIALS_RULE >= arms.SEARCH_TRIALS
    assert search[search.k == 8].groupby('arm').size().eq(arms.FINAL_DRAWS).all()
    lr = [[drawn['lr'] for drawn in arms.search_draws(space, arms.SEARCH_TRIALS)] for space in arms.SPACES.values()]
    assert all(rates == lr[0] for rates in lr)
    assert all(arms.SEARCH_SEED not in set(cells_of(study).seed) for study in STUDIES)
    assert all(arms.settings_of('oracle', k) == arms.settings_of('screen', k) for k in range(1, 9))

def test_convolutions_have_the_same_samples_search_and_compute():
    table = cells_of(convolution.image_convolution_study)
    trials, runs = table[table.validate], convolution.trained_pictures(table)
    for rows, seeds in ((trials, {arms.SEARCH_SEED}), (runs, {0, 1, 2})):
        assert set(rows.seed) == seeds and set(rows.method) == set(convolution.PICTURE_METHODS)
        assert rows.groupby('method')[['seed', 'n', 'k', 'batch', 'test']].agg(list).map(str).nunique().eq(1).all()
    assert trials.groupby('method').lr.agg(tuple).nunique() == 1 and trials.n.max() < runs.n.min()
    about = 4, SHAPES['cifar10'], len(CLASSES['cifar10'])
    mine = convolution.picture_flops('shared', *about, 16)
    for layout in convolution.LAYOUTS:
        channels = convolution.channels_of(layout, *about, 16)
        spent = convolution.picture_flops(layout, *about, channels)
        assert .97 < spent/mine < 1.03, layout

MEASURED = ['accuracy', 'unseen', 'noise_0.5', 'purity', 'purity_trained']

@pytest.mark.parametrize('arm', ['modular', 'paper', 'lasso', 'screen'])
def test_test_images_are_not_seen_by_the_search_for_settings(arm, monkeypatch):
    digits = load_images('digits')
    study = arms.image_search_study('smoke', 'digits')
    cell = next(c for c in study.cells if c['arm'] == arm and c['k'] == 4)
    blind = replace(digits, test_x=255 - digits.test_x, test_y=np.roll(digits.test_y, 1))
    def searched(data):
        arms.images_of.cache_clear()
        monkeypatch.setattr(arms, 'load_images', lambda *_: data)
        return study.run([cell])[0][MEASURED]
    expected, got = searched(digits), searched(blind)
    arms.images_of.cache_clear()
    pd.testing.assert_frame_equal(got, expected)

def test_a_run_is_the_same_twice_and_changes_with_its_seed():
    digits = load_images('digits')
    usual = dict(k=2, n=640, batch=32, b=4, width=16, test=200, permute=True, align_steps=5, decay=.1)
    for method in IMAGE_METHODS:
        cell = usual | dict(penalty=1.) if method == 'lasso' else usual
        a, b, c = (run_compose(ComposeCell(method, seed=seed, **cell), digits) for seed in (0, 0, 1))
        assert a.confusion.equals(b.confusion) and not a.confusion.equals(c.confusion), method

"""The main job from the command line: complete at smoke scale, resumable after a kill, shown by a browser, honest
about bad input."""
import io, json, os, re, shutil, signal, sqlite3, subprocess, sys, time
from contextlib import closing
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd, pytest
from modscale.app import bench
from modscale.app.claims import table_claims
from modscale.app.docs import external_requests
from modscale.app.parts import Setup, all_parts
from modscale.app.reproduce import check_call

PARTS = ('pinv', 'theorem1', 'ridge', 'loss_law', 'theorem2', 'universality', 'fig1', 'fig2', 'fig3', 'plan',
         'plan_heldout', 'align', 'thresholds', 'counts', 'ablation', 'growth', 'longer', 'families', 'fig2_trained',
         'images', 'image_large', 'image_shared', 'image_paper', 'image_controls', 'image_search', 'image_rotated',
         'image_harder', 'image_convolution', 'image_groups')
TIMED = ['work', 'ours_seconds', 'peer', 'peer_seconds', 'ratio'] # of a benchmark
TIMES = ['start_seconds'] # all that may differ between two runs of the same cells

def write_images(folder, seed=0):
    "A CIFAR-10 Parquet pair of the real layout, with images that their class determines."
    import pyarrow as pa, pyarrow.parquet as pq
    from PIL import Image
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(0, 256, (10, 32, 32, 3))
    def encode(label):
        buffer = io.BytesIO()
        Image.fromarray(np.clip(prototypes[label] + rng.normal(0, 40, (32, 32, 3)), 0,
                                255).astype(np.uint8)).save(buffer, 'PNG')
        return dict(bytes=buffer.getvalue(), path=f'{label}.png')
    folder.mkdir(parents=True)
    for split, size in (('train', 400), ('test', 200)):
        labels = np.arange(size) % 10
        pq.write_table(pa.table(dict(img=[encode(l) for l in labels], label=labels)), folder/f'{split}.parquet')

@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    "A smoke run on digits, once for all tests here: (folder, what it printed)."
    out = tmp_path_factory.mktemp('reproduce')/'out'
    done = subprocess.run([sys.executable, '-m', 'modscale.app.cli', 'reproduce', '--scale', 'smoke', '--out', out],
                          capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return out, done

def test_smoke_computes_every_claim(digits):
    out, done = digits
    claims = pd.read_csv(out/'claims.csv')
    # their sizes are not in the smoke grid
    others = r'sine\.(ratio|growth|vs_oracle|rule_share|paper|families)'
    larger = claims.id.str.match(others)
    small = [f'align.{name}' for name in (
        'recovered.m5k5n400', 'seconds.m5k5n400', 'speedup.m5k5n400', 'recovered.noise', 'threshold.m5k5',
        'doubted.m5k5', 'K_auto.m5k5', 'similarity.m5k5n400')]
    # decided if a run happened to fail
    maybe = claims.id == 'align.failures_noticed.m5k5'
    larger |= claims.id.str.startswith('images.n1e6.')
    designs = 'random|rough|capped|repeated|undertrained|late|one_task|noisy|heldout_rough'
    larger |= claims.id.str.match(rf'plan\.(coverage|.*\.({designs})(\.|$))')
    larger |= claims.id.str.startswith('align.') & ~claims.id.isin(small) & ~maybe
    tables = claims.id.str.startswith('tables.') # of other people: they are read only when they are named
    larger |= tables
    assert len(claims) > 20 and claims.id.is_unique and set(claims.verdict[~larger & ~maybe]) <= {'met', 'missed'}
    assert set(claims.verdict[larger]) == {'not run'} and larger.sum() == 101 + tables.sum()
    assert tables.sum() == len(table_claims())
    images = claims.set_index('id').verdict.filter(regex=r'^images\.')
    for name in ('paper_gap.k8', 'flat', 'gap_oracle.max', 'purity', 'lasso', 'groups_found', 'rotated.purity'):
        assert images[f'images.{name}'] in ('met', 'missed'), name
    assert f'of {len(claims)} claims' in done.stdout and 'left' in done.stderr

def test_tables_are_read_only_when_they_are_named(tmp_path):
    setup = Setup(scale='smoke', device='cpu')
    assert tuple(part.name for part in check_call(setup, tmp_path, None)) == PARTS
    named = check_call(setup, tmp_path, ['tables_subspaces', 'fig3', 'tables'])
    assert [part.name for part in named if part.tables] == ['tables', 'tables_subspaces'] and len(named) == 3
    assert {name for name, part in all_parts().items() if part.tables} == {*all_parts()} - {*PARTS}

def test_every_part_leaves_numbers_and_figures(digits):
    out, _ = digits
    for part in PARTS:
        assert len(pd.read_csv(out/f'{part}.csv')), part
        for name in json.loads((out/'figures'/f'{part}.json').read_text()):
            for kind in ('png', 'svg'): assert (out/'figures'/f'{name}.{kind}').stat().st_size > 5000

def test_run_json_says_what_made_it(digits):
    out, _ = digits
    run = json.loads((out/'run.json').read_text())
    assert (run['scale'], run['dataset'], run['seed']) == ('smoke', 'digits', 0) and set(run['parts']) == set(PARTS)
    assert all(p['seconds'] >= 0 and p['cells'] > 0 for p in run['parts'].values())
    assert run['environment']['versions']['torch'] and run['environment']['cpu'] and run['peak_memory_gib'] < 4
    assert str(Path.home()) not in (out/'run.json').read_text() and str(out) not in (out/'run.json').read_text()

def test_the_rule_finds_modules_and_beats_the_monolithic_network(digits):
    out, _ = digits
    claims = pd.read_csv(out/'claims.csv').set_index('id').verdict
    for name in ('align.recovered.m5k5n400', 'align.similarity.m5k5n400', 'images.purity', 'fig3.max_rel_err'):
        assert claims[name] == 'met', name
    at_8 = pd.read_csv(out/'images.csv').query('k == 8').set_index('arm').accuracy
    assert at_8['screen'] > at_8['monolithic'] + .1 and abs(at_8['screen'] - at_8['oracle']) < .1
    growth = pd.read_csv(out/'growth.csv').query('m == 5 and k == 5 and n == 400')
    assert growth.test_loss[growth.arm == 'ours'].item() < growth.test_loss[growth.arm == 'monolithic'].min()

def stored(out, study=None):
    "The finished cells of a run's store, of one study or all: key to when it was finished."
    with closing(sqlite3.connect(f'file:{out/"store.sqlite"}?mode=ro', uri=True)) as db:
        rows = db.execute('SELECT key, finished, study FROM cell').fetchall()
    return {key: finished for key, finished, name in rows if study in (None, name)}

def test_second_run_redoes_only_what_is_missing(digits, run_cli, tmp_path):
    out = Path(shutil.copytree(digits[0], tmp_path/'out'))
    before = stored(out)
    # all cells of one stack: alone, a network is a product of another size, which processors round otherwise
    of_a_stack = '''study = 'growth' AND (started, finished) =
        (SELECT started, finished FROM cell WHERE study = 'growth' LIMIT 1)'''
    with closing(sqlite3.connect(out/'store.sqlite')) as db, db:
        gone = {key for key, in db.execute(f'SELECT key FROM cell WHERE {of_a_stack}')}
        db.executemany('DELETE FROM cell WHERE key = ?', [(key,) for key in gone])
    assert 0 < len(gone) < len(stored(digits[0], 'growth'))
    (out/'figures'/'fig3.png').unlink()
    done = run_cli('reproduce', '--scale', 'smoke', '--out', out)
    assert done.returncode == 0, done.stderr
    after = stored(out)
    assert (out/'figures'/'fig3.png').exists() and set(after) == set(before)
    assert {key for key in after if after[key] != before[key]} == gone
    old, new = (pd.read_csv(folder/'growth.csv').drop(columns=TIMES) for folder in (digits[0], out))
    pd.testing.assert_frame_equal(old, new)

def test_kill_loses_nothing(digits, run_cli, tmp_path):
    out = tmp_path/'out'
    command = [sys.executable, '-m', 'modscale.app.cli', 'reproduce', '--scale', 'smoke', '--only', 'growth', '--quiet']
    p = subprocess.Popen([*command, '--out', out], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    def count():
        try: return len(stored(out))
        except sqlite3.OperationalError: return 0 # not made yet
    end = time.monotonic() + 120
    while count() < 2 and time.monotonic() < end: time.sleep(.05)
    p.send_signal(signal.SIGKILL)
    assert p.wait() == -signal.SIGKILL
    before = stored(out)
    assert 2 <= len(before) < len(stored(digits[0], 'growth'))
    done = run_cli('reproduce', '--scale', 'smoke', '--only', 'growth', '--out', out)
    assert done.returncode == 0, done.stderr
    assert before.items() <= stored(out).items()
    undisturbed, resumed = (pd.read_csv(folder/'growth.csv').drop(columns=TIMES) for folder in (digits[0], out))
    pd.testing.assert_frame_equal(undisturbed, resumed)

def test_the_report_grows(tmp_path):
    "A call that ends with an error has written the parts before it."
    from modscale.app import reproduce as r
    setup = Setup(scale='smoke', device='cpu')
    growing = r.Growing(setup, tmp_path, [all_parts()['fig3'], all_parts()['fig1']])
    study = growing.parts['fig3'].sweep(setup)
    from modscale.lab.sweep import run_sweep
    run_sweep(study, tmp_path, jobs=1, progress=False, finished=growing.finished)
    page = (tmp_path/'report.html').read_text(encoding='utf-8')
    assert 'id="fig3"' in page and 'id="fig1"' not in page
    assert set(json.loads((tmp_path/'run.json').read_text())['parts']) == {'fig3'}

def test_the_report_opens_with_what_stands(digits):
    page = (digits[0]/'report.html').read_text(encoding='utf-8')
    order = ['<ol class="found">', 'alt="growth_losses"', 'alt="images"', 'id="claims"', 'id="pinv"', 'id="others"']
    places = [page.index(mark) for mark in order]
    assert places == sorted(places) and 2 <= page.count('<li>') <= 5
    assert 'not run' not in page[:page.index('id="others"')]

def test_claims_of_other_code_are_stale(digits, run_cli, tmp_path):
    def stale(folder):
        return {row['id']: row['stale'] for row in json.loads(run_cli('claims', '--results', folder, '--json').stdout)}
    assert not any(stale(digits[0]).values())
    out = Path(shutil.copytree(digits[0], tmp_path/'out'))
    run = json.loads((out/'run.json').read_text())
    run['parts']['pinv']['code'] = 'other'
    (out/'run.json').write_text(json.dumps(run))
    assert {id for id, is_stale in stale(out).items() if is_stale} == {'pinv.max_dev_se', 'theory.max_dev_se',
                                                                       'theory.deviations'}

def test_smoke_on_cifar10(run_cli, tmp_path):
    env = dict(MODSCALE_DATA=os.environ.get('MODSCALE_DATA', ''))
    # without the real images: the same files, made up
    if not (Path(env['MODSCALE_DATA'] or '.')/'cifar10').is_dir():
        write_images(tmp_path/'data'/'cifar10')
        env['MODSCALE_DATA'] = str(tmp_path/'data')
    done = run_cli('reproduce', '--scale', 'smoke', '--only', 'images', '--dataset', 'cifar10', '--out', 'out', env=env,
                   timeout=600)
    assert done.returncode == 0, done.stderr
    claims = pd.read_csv(tmp_path/'out'/'claims.csv').set_index('id')
    of_images = claims[claims.index.str.startswith('images.')]
    assert set(of_images.verdict) == {'met', 'missed', 'not run'} and of_images.paper.notna().sum() == 5
    assert claims.verdict['images.purity'] == 'met'
    images = pd.read_csv(tmp_path/'out'/'images.csv')
    assert images.accuracy[(images.arm == 'screen') & (images.k == 1)].item() > .2
    assert json.loads((tmp_path/'out'/'run.json').read_text())['images'].startswith('Parquet')

def test_report_needs_no_other_host(digits):
    out, _ = digits
    assert external_requests(out) == []
    page = (out/'report.html').read_text()
    assert page.count('<img ') == len(list((out/'figures').glob('*.svg'))) and not re.search(r'<script|@import|url\(',
                                                                                             page)

@pytest.mark.skipif(not shutil.which('chromium'), reason='needs chromium')
def test_report_in_a_browser(digits, tmp_path):
    "Every figure is drawn: the page, with a line that writes down the width of each image, and no name that resolves."
    probe = ('<script>addEventListener("load",()=>{document.body.dataset.widths='
             '[...document.images].map(i=>i.naturalWidth).join(" ")})</script></body>')
    (tmp_path/'page.html').write_text((digits[0]/'report.html').read_text().replace('</body>', probe))
    flags = ('--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking '
             '--disable-component-update --disable-sync '
             '--host-resolver-rules=MAP\t*\t~NOTFOUND --virtual-time-budget=5000').split(' ')
    done = subprocess.run(['chromium', *[f.replace('\t', ' ') for f in flags], f'--user-data-dir={tmp_path/"profile"}',
                           '--dump-dom', (tmp_path/'page.html').as_uri()],
                          capture_output=True, text=True, timeout=120)
    widths = re.search(r'data-widths="([\d ]+)"', done.stdout)
    assert widths, done.stderr[-2000:]
    widths = [int(w) for w in widths[1].split()]
    assert len(widths) == len(list((digits[0]/'figures').glob('*.svg'))) and min(widths) > 100

def test_claims_command(digits, run_cli):
    rows = json.loads(run_cli('claims', '--results', digits[0], '--json').stdout)
    assert {'id', 'claim', 'notebook', 'paper', 'ours', 'se', 'count', 'verdict'} <= set(rows[0])
    text = run_cli('claims', '--results', digits[0].parent).stdout
    assert all(r['id'] in text for r in rows)

def test_claims_come_from_the_files(digits, run_cli, tmp_path):
    out = Path(shutil.copytree(digits[0], tmp_path/'out'))
    table = pd.read_csv(out/'images.csv')
    changed = (table.arm == 'screen') & (table.k == 8)
    table.assign(accuracy=table.accuracy.where(~changed, .01)).to_csv(out/'images.csv', index=False)
    (out/'pinv.csv').unlink()
    rows = {r['id']: r for r in json.loads(run_cli('claims', '--results', out, '--json').stdout)}
    alone = table.accuracy[(table.arm == 'screen') & (table.k == 1)].item()
    assert rows['images.flat']['verdict'] == 'missed' and rows['images.flat']['ours'] == pytest.approx(.01 - alone)
    assert rows['images.gap_oracle.max']['verdict'] == 'missed' and rows['images.gap_oracle.max']['ours'] > .2
    assert rows['pinv.max_dev_se']['verdict'] == 'not run' and rows['pinv.max_dev_se']['ours'] is None

def test_bench_command(run_cli):
    rows = json.loads(run_cli('bench', 'fnp', '--repeat', '1', '--json').stdout)
    assert all(set(r) == set(TIMED) and r['ratio'] > 0 for r in rows)
    assert {'torch.linalg.svdvals, 1 thread', 'Gram matrix and Cholesky, 1 thread'} <= {r['peer'] for r in rows}

def test_the_rule_meets_its_rivals_and_its_first_edition(tmp_path, monkeypatch):
    "`bench align` on the smallest size and without the slow rivals."
    path = tmp_path/'first_order.csv'
    stored = pd.read_csv(bench.FIRST_ORDER)
    stored[(stored.m == 5) & (stored.n == 400)].to_csv(path, index=False)
    monkeypatch.setattr(bench, 'first_order_rows', partial(bench.first_order_rows, path=path))
    rivals = ['random', 'paper', 'detrended', 'boosting', 'ridge', 'network']
    monkeypatch.setattr(bench, 'rival_rows', partial(bench.rival_rows, rivals=rivals))
    rows = bench.bench('align', 1).set_index('peer')
    scored = {f'{who}_{v}' for who in ('ours', 'peer') for v in ('coverage', 'r2')}
    assert set(rows) == {*TIMED, *scored, 'peer_failed'} - {'peer'} and (rows.ratio > 0).all()
    assert {'exact RBF kernel, Cholesky', *rivals} <= set(rows.index)
    assert rows.index.str.startswith('first-order').sum() == 1
    assert rows.peer_coverage['random'] < rows.ours_coverage['random'] and np.isnan(rows.peer_coverage['boosting'])

def bad(words, message, **files): return pytest.param(words, message, files, id=' '.join(words))

@pytest.mark.parametrize('words, message, files', [
    bad(['reproduce', '--only', 'fig9'], "only='fig9'"),
    bad(['reproduce', '--seed', '-1'], 'seed=-1'),
    bad(['reproduce', '--device', 'tpu'], "device='tpu'"),
    bad(['reproduce', '--out', 'file'], "out='file'", file=''),
    bad(['reproduce', '--scale', 'smoke', '--only', 'fig3', '--out', 'run'], "holds a run with scale='paper'",
        run='{"scale": "paper", "dataset": "digits", "seed": 0, "parts": {}}'),
    bad(['reproduce', '--only', 'images', '--dataset', 'cifar10', '--data-dir', 'nowhere'], 'nowhere'),
    bad(['claims'], "'results'"),
    bad(['claims', '--results', 'run'], 'run.json', run='{"scale": '),
    bad(['bench', 'magic'], "name='magic'"),
    bad(['bench', 'fnp', '--repeat', '0'], 'repeat=0')])
def test_errors_are_one_line_and_exit_2(run_cli, tmp_path, words, message, files):
    for name, text in files.items():
        path = tmp_path/name if name == 'file' else tmp_path/name/'run.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    done = run_cli(*words)
    assert done.returncode == 2 and done.stdout == ''
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith('modscale: ') and message in done.stderr

def test_truncated_image_file_is_named(run_cli, tmp_path):
    write_images(tmp_path/'data'/'cifar10')
    path = tmp_path/'data'/'cifar10'/'train.parquet'
    path.write_bytes(path.read_bytes()[:-1000])
    done = run_cli('reproduce', '--scale', 'smoke', '--only', 'images', '--dataset', 'cifar10', '--data-dir', 'data')
    assert done.returncode == 2 and 'train.parquet' in done.stderr and len(done.stderr.splitlines()) == 1

def test_usage_errors_and_help(run_cli):
    assert run_cli().returncode == 2 and run_cli('reproduce', '--scale', 'huge').returncode == 2
    listed = run_cli('reproduce', '--list').stdout
    assert all(re.search(rf'^{p}\s', listed, re.M) for p in PARTS)
    assert re.fullmatch(r'modscale \d+\.\d+\.\d+\n', run_cli('--version').stdout)

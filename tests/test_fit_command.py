"`modscale fit` and `modscale apply`, as someone uses them who does not program: from a file to a model and a page."
import io, json, re, shutil, subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modscale.app.cli import main
from modscale.tables import report
from modscale.tables.estimators import ModularBase
from modscale.tables.report import (FOLDS, Judged, Lesson, fold_numbers, lesson_of, mean_error, read_data_file,
                                    row_folds, score_row, score_words)

def made(n=120, seed=0):
    "A bent mix of two columns, a category, gaps, weights, a name a row, and a class."
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(dict(name=[f'case {i}' for i in range(n)], x=rng.normal(size=n), z=rng.normal(size=n),
                              kind=rng.choice(['red', 'green', 'blue'], n)))
    table['y'] = np.sin(1.5*table.x + table.z) + (table.kind == 'red') + .1*rng.normal(size=n)
    table['sort'] = np.where(table.x + .3*rng.normal(size=n) > 0, 'yes', 'no')
    table.loc[rng.random(n) < .08, 'z'] = np.nan
    table.loc[rng.random(n) < .08, 'kind'] = None
    return table.assign(weight=rng.integers(1, 4, n)).round(4)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tables')
    made().to_csv(folder/'made.csv', index=False)
    return folder

@pytest.fixture(scope='module')
def fitted(folder):
    "What the command says, after it wrote model and page."
    import contextlib
    out, err = io.StringIO(), io.StringIO()
    words = ['fit', str(folder/'made.csv'), '--target', 'y', '--drop', 'sort', '--weight', 'weight', '--effort',
             'quick', '--report', str(folder/'made.html'), '--save', str(folder/'made.model'), '--json']
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main(words)
    assert code == 0, err.getvalue()
    return json.loads(out.getvalue()), err.getvalue()

def test_scores_and_progress(fitted):
    said, told = fitted
    rows = {row['model']: row for row in said['scores']}
    assert list(rows) == ['modscale', 'ridge', 'boosting', 'constant'] and said['rows'] == 120
    assert rows['modscale']['rmse'] < rows['ridge']['rmse'] < rows['constant']['rmse']
    assert rows['modscale']['r2'] > .8 and .75 < rows['modscale']['coverage'] <= 1
    assert rows['ridge']['against'] == 'worse than ours' and rows['ridge']['coverage'] is None
    assert said['columns'] == ['x', 'z', 'kind'] and any('name: left out' in note for note in said['notes'])
    order = ['read 120 rows', 'fitting numbers of y', 'wrote the model', 'scoring modscale', 'wrote the page']
    assert [told.index(text) for text in order] == sorted(told.index(text) for text in order)
    assert all(line.startswith('modscale: ') for line in told.splitlines())

def test_the_page(fitted, folder):
    said, text = fitted[0], (folder/'made.html').read_text(encoding='utf-8')
    assert not re.search(r'(?:src|href)\s*=\s*"(?!data:)|@import|url\(|<script', text)
    assert not re.search(r'https?://', re.sub(r'base64,[\w+/=]*', '', text)) and 'built-in' not in text
    assert text.count('data:image/') >= 1 and 'red (' in text and 'modscale apply made.model' in text
    for row in said['scores']: assert f'{row["r2"]:.3f}' in text
    assert f'{100*said["scores"][0]["coverage"]:.1f} %' in text and 'name: left out' in text
    assert (said['doubt'] in text) and ('class="verdict found"' in text) == said['found']

@pytest.mark.skipif(not shutil.which('chromium'), reason='needs chromium')
@pytest.mark.parametrize('width', [500, 1200]) # chromium makes no window below 500
def test_the_page_in_a_browser(fitted, folder, tmp_path, width):
    "Every picture is drawn, and the page is no wider than the window."
    probe = ('<script>addEventListener("load",()=>{document.body.dataset.seen=[innerWidth,'
             'document.documentElement.scrollWidth,...[...document.images].map(i=>i.naturalWidth)].join(" ")})</script>'
             '</body>')
    (tmp_path/'page.html').write_text((folder/'made.html').read_text().replace('</body>', probe))
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
             '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND',
             '--virtual-time-budget=3000', f'--window-size={width},900', f'--user-data-dir={tmp_path/"profile"}']
    done = subprocess.run(['chromium', *flags, '--dump-dom', (tmp_path/'page.html').as_uri()], capture_output=True,
                          text=True, timeout=120)
    seen = re.search(r'data-seen="([\d ]+)"', done.stdout)
    assert seen, done.stderr[-2000:]
    window, page, *images = map(int, seen[1].split())
    assert page <= window == width and len(images) >= 1 and min(images) > 100

def test_a_model_predicts_new_rows(fitted, folder, capsys):
    model = ModularBase.load(folder/'made.model')
    new = made(30, 1).drop(columns=['y', 'weight'])
    new.to_csv(folder/'new.csv', index=False, sep=';', decimal=',')
    assert main(['apply', str(folder/'made.model'), str(folder/'new.csv')]) == 0
    out = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(out) == [*new, 'y_predicted', 'y_std', 'y_low', 'y_high'] and len(out) == 30
    frame = new[['x', 'z', 'kind']].assign(kind=new.kind.astype('category'))
    mean, spread = model.predict(frame, return_std=True)
    np.testing.assert_allclose(out.y_predicted, mean, rtol=2e-6)
    np.testing.assert_allclose(out.y_std, spread, rtol=2e-6)
    assert np.sqrt(np.mean((out.y_predicted - made(30, 1).y)**2)) < .6*made().y.std()
    words = ['apply', str(folder/'made.model'), str(folder/'new.csv'), '--level', '.5', '--json', '--out',
             str(folder/'out.json')]
    assert main(words) == 0 and capsys.readouterr().out == ''
    rows = json.loads((folder/'out.json').read_text())
    assert len(rows) == 30 and rows[3]['y_high'] < out.y_high[3] and rows[3]['name'] == 'case 3'
    words = ['apply', str(folder/'made.model'), str(folder/'new.csv'), '--out', str(folder/'out.parquet')]
    assert main(words) == 0 and pd.read_parquet(folder/'out.parquet').y_std.tolist() == out.y_std.tolist()

def test_what_the_model_has_not_seen(fitted, folder, capsys):
    (folder/'odd.csv').write_text('extra,kind,z,x\n007,purple,,1\n,NA,.5,\n')
    assert main(['apply', str(folder/'made.model'), str(folder/'odd.csv')]) == 0
    said = capsys.readouterr()
    assert "kind='purple'" in said.err and len(said.err.splitlines()) == 1
    lines = said.out.splitlines()
    assert lines[1].startswith('007,purple,,1,') and lines[2].startswith(',NA,.5,,') and len(lines) == 3

def test_classes(folder, capsys):
    words = ['fit', str(folder/'made.csv'), '--target', 'sort', '--drop', 'y', 'weight', '--effort', 'quick', '--save',
             str(folder/'sort.model'), '--report', str(folder/'sort.html')]
    assert main(words) == 0
    assert 'log_loss' in capsys.readouterr().out.splitlines()[0]
    text = (folder/'sort.html').read_text()
    assert 'log loss' in text and 'it is \\ said' in text and 'one of 2 classes: no, yes' in text
    assert main(['apply', str(folder/'sort.model'), str(folder/'made.csv'), '--out', str(folder/'sorted.csv')]) == 0
    out = pd.read_csv(folder/'sorted.csv')
    assert (out['sort=no'] + out['sort=yes']).round(5).eq(1).all() and (out.sort_predicted == out.sort).mean() > .8

def test_a_crash_does_not_lose_the_model(folder, monkeypatch):
    def crash(*_): raise RuntimeError('out of luck')
    monkeypatch.setattr(report, 'score_lesson', crash)
    with pytest.raises(RuntimeError):
        main(['fit', str(folder/'made.csv'), '--target', 'y', '--effort', 'quick', '--save', str(folder/'kept.model')])
    assert ModularBase.load(folder/'kept.model').target_ == 'y'

def test_a_rival_that_fails_costs_nothing(monkeypatch, folder):
    def crash(*_): raise RuntimeError('out of luck')
    monkeypatch.setitem(report.MODELS, 'boosting', crash)
    lesson = lesson_of(read_data_file(folder/'made.csv'), 'y', drop=('sort',))
    rows = report.score_lesson(lesson, 'quick').table.set_index('model')
    assert rows.against.boosting == 'RuntimeError: out of luck' and np.isnan(rows.rmse.boosting)
    assert rows.r2.modscale > .8

FILES = dict(empty='', header='a,y\n', one='a,y\n1,2\n', few='a,y\n1,2\n3,4\n', twice='a,a,y\n1,2,3\n',
             same='a,y\n' + '1,2\n2,2\n'*8, gone='a,y\n' + '1,\n2,\n'*8, alone='y\n' + '1\n2\n'*8,
             long='a,y\n1,2\n1,2,3\n', names='a,y\n' + ''.join(f'{i},word {i}\n' for i in range(60)),
             minus='a,y,w\n' + '1,2,-1\n2,3,1\n'*8, endless='a,y\n' + '1,2\n2,inf\n'*8,
             dates='day,y\n' + '2024-01-01,2\n2024-01-02,3\n'*8, numbers='1,2\n3,4\n', spreadsheet='PK\x03\x04rest')

@pytest.mark.parametrize('words, message', [
    (['nowhere.csv', '--target', 'y'], 'not there'), (['empty.csv', '--target', 'y'], 'is empty'),
    (['header.csv', '--target', 'y'], 'no rows'), (['one.csv', '--target', 'y'], 'one row'),
    (['few.csv', '--target', 'y'], '10 rows'), (['twice.csv', '--target', 'y'], "two columns of the name 'a'"),
    (['same.csv', '--target', 'y'], 'target must vary'), (['gone.csv', '--target', 'y'], 'a value in several rows'),
    (['alone.csv', '--target', 'y'], 'no column to learn from'), (['long.csv', '--target', 'y'], 'line 3'),
    (['names.csv', '--target', 'y'], '60 different texts'), (['minus.csv', '--target', 'y', '--weight', 'w'], "'w'"),
    (['endless.csv', '--target', 'y'], 'target must be finite'), (['dates.csv', '--target', 'y'], 'no column to learn'),
    (['numbers.csv', '--target', 'y'], 'first row'), (['spreadsheet.csv', '--target', 'y'], 'save it as CSV'),
    (['.', '--target', 'y'], 'a folder'), (['minus.csv', '--target', 'Y'], "did you mean 'y'?"),
    (['minus.csv', '--target', 'y', '--drop', 'q'], 'it has a, y, w'), (['minus.csv'], 'target'),
    (['minus.csv', '--target', 'y', '--drop', 'y'], "target='y'"),
    (['minus.csv', '--target', 'y', '--effort', 'huge'], "effort='huge'"),
    (['minus.csv', '--target', 'y', '--effort', 'nan'], "effort='nan'"),
    (['minus.csv', '--target', 'y', '--seed', '-1'], 'seed must be'),
    (['minus.csv', '--target', 'y', '--save', 'minus.csv'], 'different files'),
    (['minus.csv', '--target', 'y', '--report', 'no/such/page.html'], 'can be written to')],
    ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_errors_are_one_line_and_exit_2(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items(): Path(f'{name}.csv').write_text(text)
    assert main(['fit', *words]) == 2
    said = capsys.readouterr()
    assert said.out == '' and len(said.err.splitlines()) == 1, said
    assert said.err.startswith('modscale: ') and message in said.err, said.err
    assert {f.stem for f in tmp_path.iterdir()} == {*FILES}

@pytest.mark.parametrize('text, message', [
    ('x,z\n1,2\n', 'lacks columns that the model needs: kind'), ('x,z,kind\nlow,2,red\n', "'low'"),
    ('x,z,kind,y_std\n1,2,red,3\n', "'y_std' already"), ('x,z,kind\n', 'no rows')])
def test_errors_of_apply(fitted, folder, capsys, text, message):
    (folder/'wrong.csv').write_text(text)
    assert main(['apply', str(folder/'made.model'), str(folder/'wrong.csv')]) == 2
    said = capsys.readouterr()
    assert said.out == '' and len(said.err.splitlines()) == 1 and message in said.err

def test_no_model_and_damaged_ones(folder, fitted, capsys):
    data = (folder/'made.model').read_bytes()
    (folder/'cut.model').write_bytes(data[:len(data)//2])
    for name in ('cut.model', 'made.csv', 'none.model'):
        assert main(['apply', str(folder/name), str(folder/'made.csv')]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    for more in (['--level', '1'], ['--out', str(folder/'made.model')], ['--out', str(folder)]):
        assert main(['apply', str(folder/'made.model'), str(folder/'made.csv'), *more]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert (folder/'made.model').read_bytes() == data

@pytest.mark.parametrize('write', [
    lambda t, f: t.to_csv(f, index=False), lambda t, f: t.to_csv(f, index=False, sep='\t', encoding='utf-8-sig'),
    lambda t, f: t.to_csv(f, index=False, sep=';', decimal=',', encoding='latin-1'),
    lambda t, f: t.to_csv(f, index=False, encoding='utf-16'),
    lambda t, f: t.to_csv(f, index=False, sep='|', na_rep='NaN')])
def test_all_files_of_one_table_are_the_same(tmp_path, write):
    table = made(40).assign(kind=lambda t: t.kind.replace('red', 'brün'))
    table.to_parquet(tmp_path/'table.parquet')
    write(table, tmp_path/'table.csv')
    one, two = (lesson_of(read_data_file(tmp_path/f'table.{end}'), 'y', 'weight') for end in ('csv', 'parquet'))
    pd.testing.assert_frame_equal(one.X, two.X)
    assert one.y.tolist() == two.y.tolist() and one.weight.tolist() == two.weight.tolist()

def test_whole_numbers_are_asked_about(tmp_path):
    made(60).assign(grade=np.arange(60) % 3).to_csv(tmp_path/'a.csv', index=False)
    file = read_data_file(tmp_path/'a.csv')
    asked = lesson_of(file, 'grade')
    assert not asked.classes and 'say --classify' in asked.notes[0]
    sorted_ = lesson_of(file, 'grade', classify=True)
    assert sorted_.classes and sorted_.y.dtype == np.int64 and not any('classify' in note for note in sorted_.notes)

@pytest.mark.parametrize('n, rare', [(50, 0), (50, 3), (499, 4), (23, 0)])
def test_folds(n, rare):
    y = np.array(['a']*(n//2) + ['b']*(n - n//2 - rare) + ['c']*rare)
    fold = fold_numbers(y, FOLDS, True, 3)
    assert (fold[y == 'c'] == -1).all() and (fold[y != 'c'] >= 0).all()
    for one in 'ab':
        counts = np.bincount(fold[y == one], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(fold_numbers(np.arange(n), FOLDS, False, 3))) <= 1

def test_equal_rows_are_held_out_together(tmp_path):
    pd.concat([made(40), made(40)[:30]]).to_csv(tmp_path/'twice.csv', index=False)
    lesson = lesson_of(read_data_file(tmp_path/'twice.csv'), 'y', drop=('name',))
    fold, repeats = row_folds(lesson, 0)
    alike = lesson.X.assign(y=lesson.y).duplicated()
    assert repeats == alike.sum() == 30
    folds = pd.Series(fold).groupby([lesson.X.x, lesson.X.z.fillna(9), lesson.y]).nunique()
    assert (folds == 1).all()

def test_scores_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, r2_score
    rng = np.random.default_rng(0)
    y, weight = rng.normal(size=50), rng.uniform(.5, 2, 50)
    lesson = Lesson(None, 'y', None, y, weight, False, [])
    ours, other = Judged(y + rng.normal(size=50)), Judged(y + 3*rng.normal(size=50))
    row = score_row(lesson, other, ours)
    assert row['rmse']**2 == pytest.approx(mean_squared_error(y, other.predicted, sample_weight=weight))
    assert row['r2'] == pytest.approx(r2_score(y, other.predicted, sample_weight=weight))
    assert row['against'] == 'worse than ours' and score_row(lesson, ours, other)['against'] == 'better'
    assert score_row(lesson, Judged(ours.predicted.copy()), ours)['against'] == 'no clear difference'
    labels = rng.choice(['u', 'v', 'w'], 50)
    p = rng.dirichlet(np.ones(3), 50)
    row = score_row(Lesson(None, 'y', None, labels, weight, True, []), Judged(p), Judged(p))
    assert row['log_loss'] == pytest.approx(log_loss(labels, p, sample_weight=weight))
    right = accuracy_score(labels, np.array(['u', 'v', 'w'])[p.argmax(1)], sample_weight=weight)
    assert row['accuracy'] == pytest.approx(right)
    mean, error = mean_error(y, np.ones(50))
    assert mean == pytest.approx(y.mean()) and error == pytest.approx(y.std()/50**.5)

def test_the_sentence_is_fair():
    "A rival that wins is named; where a constant does as well, nothing was learned."
    def words(against, rmse):
        table = pd.DataFrame(dict(model=['modscale', 'ridge', 'boosting', 'constant'], rmse=rmse, against=against))
        return score_words(Lesson(None, 'y', None, None, None, False, []), report.Scores(table, None, None, ''))
    worse, same = 'worse than ours', 'no clear difference'
    assert 'clearly the smallest' in words(['', worse, worse, worse], [1, 2, 3, 4])
    assert 'ridge cannot be told' in words(['', same, worse, worse], [1, 2, 3, 4])
    assert 'ridge is clearly better' in words(['', 'better', worse, worse], [2, 1, 3, 4])
    assert 'boosting; modscale cannot be told' in words(['', worse, same, worse], [2, 3, 1.9, 4])
    assert 'not clearly better than a constant' in words(['', same, worse, same], [2, 1.9, 3, 2])

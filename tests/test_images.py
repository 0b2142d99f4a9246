"Image data: every format is read exactly or refused by name, places are tried in order, the task is exact."
import gc, gzip, hashlib, io, os, pickle, resource, socket, struct, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from pathlib import Path
import numpy as np
import pyarrow as pa, pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.stats import chi2
import modscale.images.data as images
import modscale.images.task as tasks
from modscale.images.data import CLASSES, SHAPES, DataCorrupt, DataNotFound, ImageData, load_images
from modscale.images.task import NOISE_LEVELS, ComposeTask, batches_ahead, held_out, made_ahead

N = dict(train=40, test=20)

def made(dataset, seed=0):
    "Random images for both splits; labels 0..9 in turn."
    rng = np.random.default_rng(seed)
    return {s: (rng.integers(0, 256, (n, *SHAPES[dataset]), dtype=np.uint8), np.arange(n) % 10) for s, n in N.items()}

def encode(a, kind='png', **kw):
    Image.fromarray(a.squeeze()).save(b := io.BytesIO(), kind, **kw)
    return b.getvalue()

def parquet(file, x, y, image='img', label='label', raw=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [dict(bytes=encode(a), path=f'{i}.png') for i, a in enumerate(x)] if raw is None else raw
    pq.write_table(pa.table({image: cells, label: pa.array(list(y))}), file, row_group_size=8)

def write_parquet(folder, data):
    for s, (x, y) in data.items(): parquet(folder/f'{s}.parquet', x, y)

def write_shards(folder, data):
    for s, (x, y) in data.items():
        for i, part in enumerate(np.array_split(np.arange(len(y)), 3)):
            parquet(folder/f'{s}-{i:05}-of-00003.parquet', x[part], y[part], 'image', 'labels')

def write_idx(folder, data, gz=False):
    folder.mkdir(parents=True, exist_ok=True)
    for s, stem in (('train', 'train'), ('test', 't10k')):
        for a, part, r in ((data[s][0][..., 0], 'images-idx3', 3), (data[s][1].astype(np.uint8), 'labels-idx1', 1)):
            raw = struct.pack(f'>{1 + r}I', 2048 + r, *a.shape) + a.tobytes()
            (folder/f'{stem}-{part}-ubyte{".gz" * gz}').write_bytes(gzip.compress(raw) if gz else raw)

def write_gz(folder, data): write_idx(folder, data, gz=True)

def write_tree(folder, data, names=None):
    for s, (x, y) in data.items():
        for i, (a, label) in enumerate(zip(x, y)):
            f = folder/s/(names or CLASSES['cifar10'])[label]/f'{i:03}.png'
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_bytes(encode(a))

def same(got, data):
    for s, (x, y) in data.items():
        assert getattr(got, f'{s}_x').dtype == np.uint8 and getattr(got, f'{s}_y').dtype == np.int64
        assert np.array_equal(getattr(got, f'{s}_x'), x) and np.array_equal(getattr(got, f'{s}_y'), y)

@pytest.fixture
def alone(tmp_path, monkeypatch):
    "No data anywhere but in a cache folder of this test, which is empty, and no network."
    monkeypatch.delenv('MODSCALE_DATA', raising=False)
    monkeypatch.setattr(images, 'cache_folder', lambda: tmp_path/'cache')
    def refused(*a, **kw): raise socket.gaierror(-2, 'Name or service not known')
    monkeypatch.setattr(socket, 'getaddrinfo', refused)
    return tmp_path

FORMATS = [('cifar10', '', write_parquet, 'Parquet: train.parquet, test.parquet'),
           ('cifar10', 'cifar10', write_shards, 'Parquet: train-00000-of-00003'),
           ('cifar10', 'cifar10', write_tree, 'class folders: train/, test/'),
           ('cifar10', '', write_tree, 'class folders: train/, test/'),
           ('fashion-mnist', '', write_idx, 'IDX: train-images-idx3-ubyte, '),
           ('fashion-mnist', 'FashionMNIST/raw', write_gz, 'IDX: train-images-idx3-ubyte.gz'),
           ('fashion-mnist', 'fashion_mnist', write_idx, 'IDX'),
           ('fashion-mnist', 'fashion-mnist', write_parquet, 'Parquet')]

@pytest.mark.parametrize('dataset, sub, write, source', FORMATS)
def test_round_trip(tmp_path, dataset, sub, write, source):
    data = made(dataset)
    write(tmp_path/sub, data)
    got = load_images(dataset, tmp_path)
    same(got, data)
    assert got.name == dataset and got.source.startswith(source) and str(tmp_path) not in got.source
    assert got.classes == CLASSES[dataset]
    few = load_images(dataset, tmp_path, limit=15)
    same(few, {'train': [a[:15] for a in data['train']], 'test': [a[:3] for a in data['test']]})

NAMES = ['t_shirt_top', 'TROUSER', *CLASSES['fashion-mnist'][2:9], 'ankle-boot']

@pytest.mark.parametrize('names', [[str(i) for i in range(10)], NAMES])
def test_class_folders_by_number_or_loose_name(tmp_path, names):
    data = made('fashion-mnist')
    write_tree(tmp_path, data, names)
    same(load_images('fashion-mnist', tmp_path), data)

def test_jpeg_is_decoded_as_pillow_decodes_it(tmp_path):
    data = made('cifar10')
    raw = {s: [encode(a, 'jpeg', quality=75) for a in x] for s, (x, _) in data.items()}
    for s, (x, y) in data.items():
        parquet(tmp_path/f'{s}.parquet', x, y, raw=[dict(bytes=b, path=None) for b in raw[s]])
    want = np.stack([np.asarray(Image.open(io.BytesIO(b))) for b in raw['train']])
    assert np.array_equal(load_images('cifar10', tmp_path).train_x, want) and not np.array_equal(want, data['train'][0])

def test_grey_pictures_become_rgb_and_16_bits_are_refused(tmp_path):
    data = made('cifar10')
    write_tree(tmp_path, data)
    first = tmp_path/'train/airplane/000.png'
    grey = data['train'][0][0, :, :, 0]
    first.write_bytes(encode(grey))
    assert np.array_equal(load_images('cifar10', tmp_path).train_x[0], np.repeat(grey[..., None], 3, 2))
    Image.fromarray(grey.astype(np.uint16) * 256).save(first)
    with pytest.raises(DataCorrupt, match='000.png: image of 32 x 32 pixels, mode I'): load_images('cifar10', tmp_path)

@pytest.mark.parametrize('write', [write_parquet, write_shards, write_tree])
def test_limit_decodes_no_more_than_needed(tmp_path, monkeypatch, write):
    write(tmp_path, made('cifar10'))
    calls, decode = [], images.decode
    monkeypatch.setattr(images, 'decode', lambda *a: calls.append(a) or decode(*a))
    load_images('cifar10', tmp_path, limit=10)
    assert len(calls) == 10 + 2

def test_digits_need_no_file(alone):
    d = load_images('digits')
    assert d.train_x.shape == (1438, 8, 8, 1) and d.test_x.shape == (359, 8, 8, 1)
    assert set(np.unique(d.train_x)) <= {round(255 * v / 16) for v in range(17)}
    few = load_images('digits', limit=100)
    same(few, {'train': (d.train_x[:100], d.train_y[:100]), 'test': (d.test_x[:20], d.test_y[:20])})

# --- CIFAR-10's own batches -------------------------------------------------------------------------------------------

def write_batches(folder, data):
    folder.mkdir(parents=True, exist_ok=True)
    parts = {**{f'data_batch_{i + 1}': [a[i * 8:i * 8 + 8] for a in data['train']] for i in range(5)},
             'test_batch': data['test']}
    for name, (x, y) in parts.items():
        (folder/name).write_bytes(pickle.dumps(dict(data=x.transpose(0, 3, 1, 2).reshape(len(x), -1),
                                                    labels=y.tolist())))
    return {name: hashlib.md5((folder/name).read_bytes()).hexdigest() for name in parts}

@pytest.mark.parametrize('sub', ['cifar-10-batches-py', 'cifar10/cifar-10-batches-py', ''])
def test_batches_round_trip_when_checksums_fit(tmp_path, monkeypatch, sub):
    from torchvision.datasets import CIFAR10
    data = made('cifar10')
    sums = list(write_batches(tmp_path/sub, data).items())
    monkeypatch.setattr(CIFAR10, 'train_list', sums[:5])
    monkeypatch.setattr(CIFAR10, 'test_list', sums[5:])
    same(load_images('cifar10', tmp_path), data)
    few = load_images('cifar10', tmp_path, limit=10)
    assert few.source == 'CIFAR-10 batches: data_batch_1, data_batch_2, test_batch'
    (tmp_path/sub/'data_batch_3').unlink()
    with pytest.raises(DataCorrupt, match='data_batch_3: missing'): load_images('cifar10', tmp_path)

def test_batch_with_a_wrong_checksum_is_never_unpickled(tmp_path, monkeypatch):
    write_batches(tmp_path, made('cifar10'))
    def never(*a, **kw): raise AssertionError('unpickled')
    monkeypatch.setattr(pickle, 'loads', never)
    with pytest.raises(DataCorrupt, match='test_batch: truncated or altered'): load_images('cifar10', tmp_path)

# --- damage is named --------------------------------------------------------------------------------------------------

def spoilt(x, y, what):
    "Cells and labels of a Parquet file of which row 13 is wrong."
    cells, labels = [dict(bytes=encode(a, 'jpeg'), path='') for a in x], y.tolist()
    if what == 'cut': cells[13]['bytes'] = cells[13]['bytes'][:200]
    if what == 'noise': cells[13]['bytes'] = b'no image at all'
    if what == 'null image': cells[13] = None
    if what == 'null bytes': cells[13]['bytes'] = None
    if what == 'size': cells[13]['bytes'] = encode(x[13, :31])
    if what == 'label': labels[13] = 10
    if what == 'negative label': labels[13] = -1
    if what == 'null label': labels[13] = None
    return cells, labels

@pytest.mark.parametrize('what, message', [
    ('cut', 'not a readable image'), ('noise', 'not a readable image'), ('null image', 'no image bytes'),
    ('null bytes', 'no image bytes'), ('size', 'image of 31 x 32 pixels'), ('label', 'label 10 not'),
    ('negative label', 'label -1 not'), ('null label', 'label None not')])
def test_parquet_names_the_row(tmp_path, what, message):
    data = made('cifar10')
    write_parquet(tmp_path, data)
    cells, labels = spoilt(*data['train'], what)
    parquet(tmp_path/'train.parquet', None, labels, raw=cells)
    with pytest.raises(DataCorrupt, match=f'train.parquet, row 13: {message}'): load_images('cifar10', tmp_path)
    assert len(load_images('cifar10', tmp_path, limit=13).train_y) == 13  # the rows before it are fine

@pytest.mark.parametrize('split', ['train', 'test'])
def test_a_corrupt_jpeg_is_named_by_file_and_row(tmp_path, split):
    data = made('cifar10')
    raw = {s: [encode(a, 'jpeg', quality=75) for a in x] for s, (x, _) in data.items()}
    good = raw[split][7]
    scan = good.index(b'\xff\xda')
    broken = dict(half=good[:len(good) // 2], head=good[:scan], empty=b'', zeros=bytes(len(good)),
                  start=b'\x00' + good[1:],
                  bomb=good.replace(b'\x00\x20\x00\x20', b'\xff\xff\xff\xff', 1))     # a header that says 65535 x 65535
    for what, cell in broken.items():
        raw[split][7] = cell
        for s, (x, y) in data.items():
            parquet(tmp_path/f'{s}.parquet', None, y, raw=[dict(bytes=b, path=None) for b in raw[s]])
        with pytest.raises(DataCorrupt, match=f'{split}.parquet, row 7: ') as e: load_images('cifar10', tmp_path)
        assert str(tmp_path/f'{split}.parquet') in str(e.value), what

def test_broken_parquet_files_are_named(tmp_path):
    data = made('cifar10')
    write_shards(tmp_path, data)
    shard = tmp_path/'train-00001-of-00003.parquet'
    whole = shard.read_bytes()
    for broken in (whole[:len(whole) // 2], b'', whole[:4] + bytes(len(whole) - 4)):
        shard.write_bytes(broken)
        with pytest.raises(DataCorrupt, match='train-00001-of-00003.parquet: not a complete Parquet file'):
            load_images('cifar10', tmp_path)
    damaged = bytearray(whole)
    damaged[10:2000] = bytes(1990)  # pages broken, footer whole
    shard.write_bytes(damaged)
    with pytest.raises(DataCorrupt, match='train-00001-of-00003.parquet'): load_images('cifar10', tmp_path)
    shard.unlink()
    with pytest.raises(DataCorrupt, match='not one complete set of shards'): load_images('cifar10', tmp_path)

def test_parquet_names_files_with_bad_text_and_rows_with_bad_labels(tmp_path):
    data = made('cifar10')
    write_parquet(tmp_path, data)
    file, whole = tmp_path/'train.parquet', (tmp_path/'train.parquet').read_bytes()
    assert b'7.png' in whole
    file.write_bytes(whole.replace(b'7.png', b'\xff\xfe\xff\xfe\xff'))                     # a path that is not UTF-8
    with pytest.raises(DataCorrupt, match='train.parquet: not a complete Parquet file'):
        load_images('cifar10', tmp_path)
    parquet(file, data['train'][0], [bool(v % 2) for v in data['train'][1]])
    with pytest.raises(DataCorrupt, match='train.parquet, row 0: label (True|False) not 0..9'):
        load_images('cifar10', tmp_path)

def test_source_says_which_files_hold_jpeg_pictures(tmp_path):
    data = made('cifar10')
    write_parquet(tmp_path, data)
    raw = [dict(bytes=encode(a, 'jpeg'), path='') for a in data['train'][0]]
    parquet(tmp_path/'train.parquet', [], data['train'][1], raw=raw)
    assert load_images('cifar10', tmp_path).source == 'Parquet: train.parquet (JPEG), test.parquet'

def test_parquet_columns_splits_and_doubles(tmp_path):
    data = made('cifar10')
    write_parquet(tmp_path, data)
    parquet(tmp_path/'train.parquet', *data['train'], label='fine_label')
    with pytest.raises(DataCorrupt, match='train.parquet: columns img .or image. and label wanted'):
        load_images('cifar10', tmp_path)
    parquet(tmp_path/'train.parquet', data['train'][0][:0], [], raw=pa.array([], pa.struct([('bytes', pa.binary())])))
    with pytest.raises(DataCorrupt, match='train.parquet: holds no images'): load_images('cifar10', tmp_path)
    (tmp_path/'train.parquet').unlink()
    with pytest.raises(DataCorrupt, match='Parquet of the train split are missing'): load_images('cifar10', tmp_path)
    write_parquet(tmp_path, data)
    parquet(tmp_path/'train-00000-of-00001.parquet', *data['train'])
    with pytest.raises(DataCorrupt, match='not one complete set'): load_images('cifar10', tmp_path)  # never both copies

IDX_DAMAGE = [
    ('train-images-idx3', lambda b: b[:-9], 'bytes of data do not fit'),
    ('t10k-images-idx3', lambda b: b + b'x', 'bytes of data do not fit'),
    ('train-images-idx3', lambda b: b[:7], 'not a complete IDX file'),
    ('train-labels-idx1', lambda b: bytes(4) + b[4:], 'header'),
    ('train-images-idx3', lambda b: b[:8] + struct.pack('>I', 32) + b[12:], 'header'),
    ('train-images-idx3', lambda b: b[:4] + b'\xff' * 4 + b[8:], 'header'),
    ('t10k-labels-idx1', lambda b: b[:-1] + b'\x0a', 'row 19: label 10 not 0..9'),
    ('train-labels-idx1', lambda b: b[:4] + struct.pack('>I', 39) + b[8:-1], '39 labels')]

@pytest.mark.parametrize('gz', [False, True])
def test_broken_idx_files_are_named(tmp_path, gz):
    data, end = made('fashion-mnist'), '.gz' * gz
    write_idx(tmp_path, data, gz)
    pack = gzip.compress if gz else bytes
    for name, spoil, message in IDX_DAMAGE:
        f = tmp_path/f'{name}-ubyte{end}'
        before = f.read_bytes()
        f.write_bytes(pack(spoil(gzip.decompress(before) if gz else before)))
        with pytest.raises(DataCorrupt, match=f'{f.name}[:,] .*{message}'): load_images('fashion-mnist', tmp_path)
        f.write_bytes(before)
    if gz:
        f = tmp_path/'train-images-idx3-ubyte.gz'
        before = f.read_bytes()
        flipped = bytes([*before[:-6], before[-6] ^ 1, *before[-5:]])  # gzip's own checksum
        for broken in (before[:-1], before[:500], before[:5], flipped):
            f.write_bytes(broken)
            with pytest.raises(DataCorrupt, match=f.name): load_images('fashion-mnist', tmp_path)
    f.unlink()
    with pytest.raises(DataCorrupt, match='one is missing'): load_images('fashion-mnist', tmp_path)

def test_broken_class_folders_are_named(tmp_path):
    data = made('cifar10')
    write_tree(tmp_path, data)
    (tmp_path/'train/cat/notes.txt').write_text('not an image')
    same(load_images('cifar10', tmp_path), data)
    broken = tmp_path/'test/dog/005.png'
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataCorrupt, match='005.png: not a readable image'): load_images('cifar10', tmp_path)
    (tmp_path/'test/dog').rename(tmp_path/'test/hound')
    with pytest.raises(DataCorrupt, match='test: one folder for each of .*dog'): load_images('cifar10', tmp_path)

# --- files from anywhere ----------------------------------------------------------------------------------------------

OTHER_FORMATS = ['gif', 'bmp', 'tiff', 'eps', 'ppm', 'webp']

@pytest.mark.parametrize('kind', OTHER_FORMATS)
def test_only_png_and_jpeg_are_decoded(tmp_path, monkeypatch, kind):
    "Whatever its name, and in both formats that hold encoded pictures; Ghostscript is never started."
    from PIL import EpsImagePlugin
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *a, **kw: pytest.fail('Ghostscript was started'))
    data = made('cifar10')
    write_tree(tmp_path/'tree', data)
    (tmp_path/'tree/train/dog/005.png').write_bytes(encode(data['train'][0][5], kind))
    with pytest.raises(DataCorrupt, match='005.png: not a readable image'): load_images('cifar10', tmp_path/'tree')
    write_parquet(tmp_path, data)
    cells = [dict(bytes=encode(a, kind if i == 5 else 'png'), path='') for i, a in enumerate(data['train'][0])]
    parquet(tmp_path/'train.parquet', None, data['train'][1], raw=cells)
    with pytest.raises(DataCorrupt, match='train.parquet, row 5: not a readable image'):
        load_images('cifar10', tmp_path)

SPECIAL = {'cifar10': [(write_tree, 'train/cat/003.png'), (write_parquet, 'train.parquet')],
           'fashion-mnist': [(write_idx, 'train-images-idx3-ubyte'), (write_gz, 't10k-labels-idx1-ubyte.gz')]}

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='pipes in folders are of POSIX systems')
@pytest.mark.parametrize('dataset, write, name', [(d, *case) for d, cases in SPECIAL.items() for case in cases])
def test_pipes_and_devices_are_not_opened(tmp_path, dataset, write, name):
    "A pipe would hang, a device would be read until memory ends."
    write(tmp_path, made(dataset))
    (tmp_path/name).unlink()
    os.mkfifo(tmp_path/name)
    with pytest.raises(DataCorrupt, match=f'{Path(name).name}: missing, or not a plain file'):
        load_images(dataset, tmp_path)
    (tmp_path/name).unlink()
    (tmp_path/name).symlink_to('/dev/zero')
    with pytest.raises(DataCorrupt, match=f'{Path(name).name}: missing, or not a plain file'):
        load_images(dataset, tmp_path)

def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    write_tree(tmp_path, made('cifar10'))
    with (tmp_path/'test/cat/003.png').open('r+b') as f: f.truncate(2**32)                  # takes no room on the disk
    with pytest.raises(DataCorrupt, match='003.png: more than 1048576 bytes'): load_images('cifar10', tmp_path)

def test_a_gzip_bomb_is_refused_within_bounds(tmp_path):
    "A few MB that unpack to 784: the header is not believed."
    write_gz(tmp_path, made('fashion-mnist'))
    with gzip.open(tmp_path/'train-images-idx3-ubyte.gz', 'wb', 1) as f:
        f.write(struct.pack('>4I', 2051, 10**6, 28, 28))
        for _ in range(100): f.write(bytes(784*10**4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataCorrupt, match='train-images-idx3-ubyte.gz: .*header'):
        load_images('fashion-mnist', tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100*1024  # KiB on Linux, bytes elsewhere

def test_the_bytes_that_were_hashed_are_the_ones_unpickled(tmp_path, monkeypatch):
    "A file that changes between checksum and pickle changes nothing."
    from torchvision.datasets import CIFAR10
    data = made('cifar10')
    sums = list(write_batches(tmp_path, data).items())
    monkeypatch.setattr(CIFAR10, 'train_list', sums[:5])
    monkeypatch.setattr(CIFAR10, 'test_list', sums[5:])
    loads = pickle.loads
    def swapped(given, **kw):
        for f in tmp_path.iterdir(): f.write_bytes(pickle.dumps('other bytes'))
        return loads(given, **kw)
    monkeypatch.setattr(pickle, 'loads', swapped)
    got = images.read_batches(tmp_path, 'cifar10', 'test')
    assert np.array_equal(got[0], data['test'][0])

def test_parquet_with_doubled_columns_or_odd_times_is_named(tmp_path):
    data = made('cifar10')
    write_parquet(tmp_path, data)
    x, y = data['train']
    cells, labels = pa.array([dict(bytes=encode(a), path='') for a in x]), pa.array(list(y))
    far = pa.array([2**62]*len(y), pa.timestamp('us'))
    for columns, names in (([cells, cells, labels], ['img', 'img', 'label']), ([cells, far], ['img', 'label']),
                           ([cells, labels, labels], ['img', 'label', 'label'])):
        pq.write_table(pa.Table.from_arrays(columns, names), tmp_path/'train.parquet')
        with pytest.raises(DataCorrupt, match='train.parquet'): load_images('cifar10', tmp_path)

# --- places and download ----------------------------------------------------------------------------------------------

def test_order_of_places(alone, monkeypatch):
    a, b, c = (made('cifar10', seed) for seed in range(3))
    write_parquet(alone/'cache/cifar10', c)
    same(load_images('cifar10'), c)
    monkeypatch.setenv('MODSCALE_DATA', str(alone/'env'))
    same(load_images('cifar10'), c)  # the variable names a folder without the data
    write_parquet(alone/'env', b)
    same(load_images('cifar10'), b)
    write_tree(alone/'env/cifar10', a)
    same(load_images('cifar10'), a)  # a subfolder with the name comes before the folder itself
    (alone/'given').mkdir()
    with pytest.raises(DataNotFound) as e: load_images('cifar10', alone/'given')
    assert 'given' in str(e.value) and str(alone/'env') not in str(e.value) and str(alone/'cache') not in str(e.value)
    write_parquet(alone/'given', b)
    same(load_images('cifar10', str(alone/'given')), b)

def test_not_found_says_what_where_and_how(alone, monkeypatch):
    monkeypatch.setenv('MODSCALE_DATA', str(alone/'env'))
    with pytest.raises(DataNotFound) as e: load_images('cifar10', download=False)
    for part in ('train*.parquet', 'cifar-10-batches-py', 'train/<class>', str(alone/'env'), str(alone/'cache'),
                 'download=False',
                 'MODSCALE_DATA', 'data_dir'):
        assert part in str(e.value)
    assert isinstance(e.value, FileNotFoundError) and not (alone/'cache').exists()

@pytest.mark.parametrize('dataset', ['cifar10', 'fashion-mnist'])
def test_download_without_a_network_fails_fast_and_leaves_nothing(alone, dataset):
    before, start = socket.getdefaulttimeout(), time.monotonic()
    with pytest.raises(DataNotFound, match='Download: failed .*Name or service not known') as e: load_images(dataset)
    assert e.value.__cause__ is not None and time.monotonic() - start < 10
    assert list((alone/'cache').iterdir()) == [] and socket.getdefaulttimeout() == before

def test_download_from_a_silent_server_ends(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10
    monkeypatch.setattr(images, 'cache_folder', lambda: tmp_path)
    with socket.create_server(('127.0.0.1', 0)) as server:  # accepts and never answers
        monkeypatch.setattr(CIFAR10, 'url', f'http://127.0.0.1:{server.getsockname()[1]}/x.tar.gz')
        for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(name, raising=False)
        start = time.monotonic()
        with pytest.raises(OSError): images.download_images('cifar10', timeout=0.3)
    assert time.monotonic() - start < 5 and list(tmp_path.iterdir()) == []

class FakeFashion:
    "Stands in for torchvision's class: writes the files, or only half of them and then the connection breaks."
    broken = False
    def __init__(self, root, download):
        folder = Path(root)/'FashionMNIST/raw'
        write_idx(folder, made('fashion-mnist'))
        (folder/'t10k-labels-idx1-ubyte.gz').write_bytes(b'archive')
        if self.broken: raise ConnectionResetError('connection lost')

def test_download_is_complete_or_not_there(alone, monkeypatch):
    import torchvision
    monkeypatch.setattr(torchvision.datasets, 'FashionMNIST', FakeFashion)
    monkeypatch.setattr(FakeFashion, 'broken', True)
    with pytest.raises(DataNotFound, match='connection lost'): load_images('fashion-mnist')
    assert list((alone/'cache').iterdir()) == []
    write_idx(alone/'cache/.part-killed/FashionMNIST/raw', made('fashion-mnist'))  # what a killed process leaves behind
    with pytest.raises(DataNotFound): load_images('fashion-mnist')
    monkeypatch.setattr(FakeFashion, 'broken', False)
    same(load_images('fashion-mnist'), made('fashion-mnist'))
    assert sorted(f.name for f in (alone/'cache').iterdir()) == ['.part-killed', 'fashion-mnist']
    assert not list((alone/'cache/fashion-mnist').rglob('*.gz'))
    monkeypatch.setattr(images, 'download_images', lambda d: pytest.fail('downloaded twice'))
    same(load_images('fashion-mnist'), made('fashion-mnist'))

def test_another_process_was_faster(alone, monkeypatch):
    import torchvision
    class Slow(FakeFashion):
        def __init__(self, root, download):
            write_idx(alone/'cache/fashion-mnist', made('fashion-mnist', seed=7))
            super().__init__(root, download)
    monkeypatch.setattr(torchvision.datasets, 'FashionMNIST', Slow)
    same(load_images('fashion-mnist'), made('fashion-mnist', seed=7))

@pytest.mark.skipif(not (Path(os.environ.get('MODSCALE_DATA') or 'nowhere')/'cifar10').is_dir(),
                    reason='MODSCALE_DATA holds no cifar10')
def test_real_cifar10():
    d = load_images('cifar10', limit=2000)
    assert d.train_x.shape == (2000, 32, 32, 3) and d.test_x.shape == (400, 32, 32, 3)
    assert np.bincount(d.train_y, minlength=10).min() > 120 and 0.4 < d.train_x.mean() / 255 < 0.55
    x, y = ComposeTask(d, k=8, permute=True).batch(0, 64, 'unseen')
    assert x.shape == (64, 8 * 3072) and abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1 and held_out(y.numpy()).all()

# --- the task ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def digits(): return load_images('digits')

@pytest.mark.parametrize('k, held', [(2, 20), (3, 200)])
def test_held_out_sets_are_exact(digits, k, held):
    "By enumeration: sizes; by drawing: all that is allowed and nothing else, equally often, every position uniform."
    every = set(product(range(10), repeat=k))
    out = {c for c in every if sum(c) % 5 == 0}
    assert len(out) == held == held_out(np.array(sorted(every))).sum()
    for split, allowed in (('train', every - out), ('seen', every - out), ('unseen', out)):
        n = 60 * len(allowed)
        index, y = ComposeTask(digits, k=k, seed=5).indices(0, n, split)
        combos, count = np.unique(y, axis=0, return_counts=True)
        assert set(map(tuple, combos.tolist())) == allowed
        assert chi2.sf(((count - 60)**2 / 60).sum(), len(allowed) - 1) > 1e-4
        for position in y.T:
            count = np.bincount(position, minlength=10)
            assert chi2.sf(((count - n / 10)**2 / (n / 10)).sum(), 9) > 1e-4
        source = digits.train_y if split == 'train' else digits.test_y
        assert np.array_equal(source[index], y)

def test_a_fifth_is_held_out_for_every_k():
    "Against all combinations one by one; for large k against how many combinations have each sum."
    for k, q in ((2, 10), (3, 10), (4, 10), (6, 5), (2, 15)):
        assert 5*held_out(np.array(list(product(range(q), repeat=k)))).sum() == q**k
    sums = one = np.ones(10, dtype=object)                  # beyond 64 bits
    for k in range(2, 41):
        sums = np.convolve(sums, one)
        assert 5*sums[::5].sum() == 10**k == sums.sum()
    assert not held_out(np.arange(10)[:, None]).any()

@pytest.mark.parametrize('k', range(2, 9))
def test_no_combination_of_training_is_held_out(digits, k):
    "Also in samples whose number is large, and for other seeds."
    for seed, start in ((0, 0), (1, 10**7)):
        drawn = {s: ComposeTask(digits, k=k, seed=seed).indices(start, 5000, s)[1] for s in tasks.SPLITS}
        assert all((y.sum(1) % 5 == 0).all() == (s == 'unseen') for s, y in drawn.items())
        assert not (drawn['train'].sum(1) % 5 == 0).any() and not (drawn['seen'].sum(1) % 5 == 0).any()

def test_no_image_of_training_is_in_a_test(digits):
    "Training pixels are even, test pixels odd: every single input tells which."
    even, odd = digits.train_x // 2 * 2, digits.test_x // 2 * 2 + np.uint8(digits.test_x < 255)
    odd = np.where(odd % 2, odd, odd - 1).astype(np.uint8)
    task = ComposeTask(with_(digits, train_x=even, test_x=odd), k=3, permute=True)
    mean, std = task.scale
    for split in task.splits:
        v = np.rint((task.batch(0, 3000, split)[0].double().numpy() * std + mean) * 255).astype(int)
        assert (v % 2 == (split != 'train')).all()

def test_repeated_images_are_counted(digits):
    assert digits.repeats().tolist() == []
    x = digits.test_x.copy()
    x[3], x[200], x[358] = digits.train_x[0], digits.train_x[1437], digits.train_x[0]
    x[4] = digits.train_x[1]
    x[4, 0, 0, 0] ^= 1                                                                  # all but one bit
    assert with_(digits, test_x=x).repeats().tolist() == [3, 200, 358]

def test_without_holdout_every_combination_is_drawn(digits):
    task = ComposeTask(digits, k=2, holdout=False)
    assert task.splits == ('train', 'seen') and len(np.unique(task.indices(0, 5000)[1], axis=0)) == 100
    single = ComposeTask(digits, k=1)
    assert single.splits == ('train', 'seen') and set(single.indices(0, 500, 'seen')[1].ravel()) == set(range(10))
    for t in (task, single):
        with pytest.raises(ValueError, match="split='unseen'"): t.batch(0, 4, 'unseen')

def test_every_image_of_a_class_is_drawn_equally_often(digits):
    index, y = ComposeTask(digits, k=3).indices(0, 40_000, 'seen')
    for c in range(10):
        count = np.bincount(index[y == c], minlength=len(digits.test_y))[digits.test_y == c]
        assert chi2.sf(((count - count.mean())**2 / count.mean()).sum(), len(count) - 1) > 1e-5

@pytest.mark.parametrize('split', ['train', 'seen', 'unseen'])
@pytest.mark.parametrize('permute', [False, True])
def test_samples_do_not_depend_on_the_batch(digits, split, permute):
    task = ComposeTask(digits, k=3, seed=1, permute=permute)
    x, y = task.batch(900, 1500, split, noise=0.2)  # three chunks
    for start, size in ((900, 1), (1023, 2), (1024, 1), (1500, 600), (2399, 1)):
        a, b = ComposeTask(digits, k=3, seed=1, permute=permute).batch(start, size, split, noise=0.2)
        assert (a == x[start - 900:start - 900 + size]).all() and (b == y[start - 900:start - 900 + size]).all()
    assert task.batch(10**9, 2, split)[1].shape == (2, 3)
    assert (task.indices(0, 50, split)[0] != task.indices(1024, 50, split)[0]).mean() > 0.8  # chunks differ

@pytest.fixture(scope='module')
def coloured():
    "Images of CIFAR-10's size, made up."
    (x, y), (z, w) = made('cifar10').values()
    return ImageData('made up', '', x, y, z, w, CLASSES['cifar10'])

def direct(task, start, size, split, noise=0.):
    "Samples by the shortest formula: one generator a chunk, whole arrays, one operation after the other."
    x, y = (task.data.train_x, task.data.train_y) if split == 'train' else (task.data.test_x, task.data.test_y)
    s, index, labels = tasks.SPLITS.index(split), [], []
    members, first, total = tasks.class_index(y, task.n_classes)
    for chunk in range(start // 1024, (start + size - 1) // 1024 + 1):
        rng = np.random.default_rng((task.seed, s, chunk))
        held = split == 'unseen' if len(task.splits) == 3 else None
        labels.append(tasks.draw_classes(rng, 1024, task.k, task.n_classes, held))
        index.append(members[first[labels[-1]] + rng.integers(total[labels[-1]])])
    here = slice(start % 1024, start % 1024 + size)
    index, labels = np.concatenate(index)[here], np.concatenate(labels)[here]
    v = x.reshape(len(x), -1)[index].reshape(size, task.m)
    if task.permute: v = v[:, task.order]
    mean, std = tasks.pixel_scale(task.data.train_x)
    out = torch.from_numpy(v).float().mul_(1 / (255 * std)).sub_(mean / std)
    for i, row in enumerate(out):
        e = np.random.default_rng((task.seed, s, start + i, 1)).standard_normal(task.m, dtype=np.float32)
        if noise: row.add_(torch.from_numpy(e), alpha=noise)
    return out, torch.from_numpy(labels)

@pytest.mark.parametrize('split', ['train', 'seen', 'unseen'])
@pytest.mark.parametrize('permute', [False, True])
def test_samples_are_bitwise_those_of_the_direct_formula(digits, coloured, split, permute):
    for data, k in ((coloured, 8), (coloured, 2), (digits, 1), (digits, 5)):
        task = ComposeTask(data, k=k, seed=4, permute=permute)
        if split not in task.splits: continue
        for start, size, noise in ((0, 1, 0.), (1010, 37, 0.), (3, 25, .5), (0, 1200 if data is digits else 128, 0.)):
            x, y = task.batch(start, size, split, noise)
            want = direct(task, start, size, split, noise)
            assert torch.equal(x, want[0]) and torch.equal(y, want[1]) and x.dtype == torch.float32
            assert x.is_contiguous()

def test_other_types_and_devices(digits):
    task = ComposeTask(digits, k=3, permute=True)
    x, y = task.batch(0, 20, noise=.5)
    for dtype in ('bfloat16', torch.bfloat16):
        assert torch.equal(task.batch(0, 20, noise=.5, dtype=dtype)[0], x.bfloat16())
    assert task.batch(0, 20, dtype='float32')[0].dtype == torch.float32
    far, labels = task.batch(0, 20, noise=.5, device='meta')  # a device without memory: the path that others take
    assert far.device.type == labels.device.type == 'meta' and far.shape == x.shape and far.dtype == x.dtype

def test_many_threads_share_a_task(digits):
    "The kept chunk is replaced all the time; what comes out may be changed by its owner."
    task, jobs = ComposeTask(digits, k=3, permute=True), list(product(range(0, 12_000, 700), tasks.SPLITS))
    want = {job: ComposeTask(digits, k=3, permute=True).indices(job[0], 300, job[1]) for job in jobs}
    def work(seed):
        for i in np.random.default_rng(seed).permutation(len(jobs) * 5) % len(jobs):
            index, y = task.indices(jobs[i][0], 300, jobs[i][1])
            if not (np.array_equal(index, want[jobs[i]][0]) and np.array_equal(y, want[jobs[i]][1])): return jobs[i]
            index[:] = y[:] = -1
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(8) as pool: assert [wrong for wrong in pool.map(work, range(8)) if wrong] == []
    finally: sys.setswitchinterval(interval)

# --- batches ahead ----------------------------------------------------------------------------------------------------

def threads(): return [t.name for t in threading.enumerate() if t.name.startswith('made_ahead')]

@pytest.mark.parametrize('ahead', [0, 1, 2, 5])
def test_batches_ahead_are_the_batches(digits, ahead):
    task = ComposeTask(digits, k=3, permute=True)
    got = list(batches_ahead(task, 100, start=9, stop=16, split='unseen', ahead=ahead, noise=.25, dtype='bfloat16'))
    assert len(got) == 7 and threads() == [] and list(batches_ahead(task, 100, start=4, stop=4, ahead=ahead)) == []
    for b, (x, y) in enumerate(got, start=9):
        want = task.batch(b * 100, 100, 'unseen', noise=.25, dtype='bfloat16')
        assert torch.equal(x, want[0]) and torch.equal(y, want[1])
    endless = batches_ahead(task, 100, ahead=ahead)
    assert torch.equal([x for x, _ in islice(endless, 30)][29], task.batch(2900, 100)[0])
    endless.close()
    assert threads() == []

@pytest.mark.parametrize('n', [1, 30, 64, 100, 128, 320, 1000, 2000])
def test_passes_over_the_same_samples(digits, n):
    task = ComposeTask(digits, k=2)
    x, y = task.batch(0, n)
    for b, (xb, yb) in enumerate(batches_ahead(task, 64, start=3, stop=45, n=n), start=3):
        at = torch.arange(b * 64, b * 64 + 64) % n
        assert torch.equal(xb, x[at]) and torch.equal(yb, y[at])
    assert b == 44

def test_batches_are_made_ahead_in_one_other_thread_and_no_further():
    made, begun = [], threading.Event()
    def make(i):
        made.append((i, threading.get_ident()))
        if len(made) >= 3: begun.set()
        return i
    results = made_ahead(make, range(100), 2)
    # nothing before the first is asked for
    assert made == [] and threads() == [] and next(results) == 0 and begun.wait(10)
    time.sleep(.05)
    assert [i for i, _ in made] == [0, 1, 2] and len({t for _, t in made} | {threading.get_ident()}) == 2
    assert list(results) == list(range(1, 100)) and threads() == []
    made.clear()
    results = made_ahead(make, range(100), 0)
    assert next(results) == 0 and made == [(0, threading.get_ident())]

def test_an_error_in_the_thread_is_raised_where_its_batch_is_due(digits, monkeypatch):
    task, sample = ComposeTask(digits, k=2), tasks.sample_batch
    def broken(task, start, *args, **how):
        if start == 30: raise MemoryError('no room for batch 3')
        return sample(task, start, *args, **how)
    monkeypatch.setattr(ComposeTask, 'batch', broken)
    for ahead in (0, 1, 4):
        results = batches_ahead(task, 10, ahead=ahead)
        for b in range(3): assert torch.equal(next(results)[0], task.batch(b * 10, 10)[0])
        with pytest.raises(MemoryError, match='no room for batch 3') as e: next(results)
        assert any(entry.name == 'broken' for entry in e.traceback) and threads() == []
        with pytest.raises(StopIteration): next(results)

def test_the_thread_ends_with_its_consumer(digits):
    task = ComposeTask(digits, k=2)
    def closed(g): g.close()
    def failed(g):
        with pytest.raises(KeyError): g.throw(KeyError('in the loop'))
    for end in (closed, failed):
        results = batches_ahead(task, 10, ahead=3)
        next(results)
        assert len(threads()) == 1
        end(results)
        assert threads() == []
    for _ in batches_ahead(task, 10, ahead=3): break  # nobody holds the generator any more
    gc.collect()
    assert threads() == []
    batches_ahead(task, 10, ahead=3).close()  # never begun

def test_a_process_ends_with_a_generator_half_way():
    program = ("from modscale.images.data import *; from modscale.images.task import *;"
               "g = batches_ahead(ComposeTask(load_images('digits'), k=2), 10, ahead=3); next(g); next(g);"
               "import threading; print(threading.active_count())")
    out = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and out.stdout == '2\n' and out.stderr == ''

BAD_AHEAD = {'batch=0': dict(batch=0), 'start=-1': dict(start=-1), 'stop=2': dict(start=3, stop=2),
             'ahead=-1': dict(ahead=-1),
             'ahead=1.5': dict(ahead=1.5), 'n=0': dict(n=0), "split='all'": dict(split='all')}

@pytest.mark.parametrize('message', BAD_AHEAD)
def test_bad_arguments_of_batches_ahead_are_named_at_once(digits, message):
    with pytest.raises(ValueError, match=message):
        batches_ahead(ComposeTask(digits, k=2), **{'batch': 8} | BAD_AHEAD[message])

def test_seed_and_split_change_the_samples(digits):
    base = ComposeTask(digits, k=3).indices(0, 200)[0]
    assert (base != ComposeTask(digits, k=3, seed=1).indices(0, 200)[0]).mean() > 0.9
    seen, train = (ComposeTask(digits, k=3).indices(0, 200, split)[1] for split in ('seen', 'train'))
    assert (seen != train).mean() > 0.8

def test_layout_and_standardisation(digits):
    task, mixed = ComposeTask(digits, k=3), ComposeTask(digits, k=3, permute=True)
    assert task.m == mixed.m == 192 and task.n_classes == 10
    pixels = digits.train_x / 255
    want = ((pixels - pixels.mean()) / pixels.std())[task.indices(0, 50)[0]].reshape(50, 3, 64)
    x, z = task.batch(0, 50)[0].numpy(), mixed.batch(0, 50)[0].numpy()
    assert x.dtype == np.float32 and np.allclose(x.reshape(50, 3, 64), want, atol=1e-5)
    assert np.array_equal(task.blocks, np.repeat(range(3), 64)) and not np.array_equal(mixed.blocks, task.blocks)
    for j in range(3):
        assert np.array_equal(z[:, mixed.block(j)], x[:, j * 64:j * 64 + 64])
        assert set(np.flatnonzero(mixed.blocks == j)) == set(mixed.block(j))
    assert sorted(mixed.order) == list(range(192)) and 28 < (mixed.blocks[:64] > 0).sum() < 58  # 43 on average, sd 3

def test_noise_has_the_stated_size_and_scales(digits):
    task = ComposeTask(digits, k=4)
    clean, *noisy = (task.batch(0, 400, 'seen', noise=s)[0].double() for s in (0, *NOISE_LEVELS))
    levels = [(x - clean) / s for x, s in zip(noisy, NOISE_LEVELS)]
    e = levels[0]
    assert abs(e.std().item() - 1) < 5 / np.sqrt(2 * e.numel()) and abs(e.mean().item()) < 5 / np.sqrt(e.numel())
    assert all((other - e).abs().max() < 1e-5 for other in levels)  # the same draws
    assert abs(np.corrcoef(e[0], e[1])[0, 1]) < 0.3

def test_images_are_held_once(digits):
    tasks = [ComposeTask(digits, k=k) for k in range(1, 9)]
    assert all(t.data.train_x is digits.train_x for t in tasks)

def test_mean_and_standard_deviation_are_exact():
    x = np.random.default_rng(0).integers(0, 200, (1500, 5, 4, 3), dtype=np.uint8)
    assert tasks.pixel_scale(x) == pytest.approx(((x / 255).mean(), (x / 255).std()), rel=1e-12)

def with_(d, **kw): return ImageData(**{**{f: getattr(d, f) for f in d.__dataclass_fields__}, **kw})

BAD = {'k=0': lambda d: ComposeTask(d, k=0), 'k=1.5': lambda d: ComposeTask(d, k=1.5),
       'k=360 with 359': lambda d: ComposeTask(d, k=360),
       'seed=-1': lambda d: ComposeTask(d, k=2, seed=-1),
       "train_y .* without '3'": lambda d: ComposeTask(with_(d, train_x=d.train_x[d.train_y != 3],
                                                             train_y=d.train_y[d.train_y != 3]), k=2),
       "test_y .* without '3'": lambda d: ComposeTask(with_(d, test_x=d.test_x[d.test_y != 3],
                                                            test_y=d.test_y[d.test_y != 3]), k=2),
       'holdout=True with 9 classes': lambda d: ComposeTask(
           with_(d, train_y=d.train_y % 9, test_y=d.test_y % 9, classes=d.classes[:9]), k=2),
       'train_x=0 everywhere': lambda d: ComposeTask(with_(d, train_x=d.train_x * 0), k=2),
       r'test_y\[0\]=-1': lambda d: with_(d, test_y=d.test_y * 0 - 1),
       r'train_y must be 0..8, got': lambda d: with_(d, classes=d.classes[:9]),
       'train_x must be uint8': lambda d: with_(d, train_x=d.train_x / 255),
       'train_y must be int64 .1438,.': lambda d: with_(d, train_y=d.train_y[:-1]),
       'got uint8': lambda d: with_(d, train_y=d.train_y.astype('u1')),
       'test_x must be images of shape': lambda d: with_(d, test_x=d.test_x[:, :4]),
       "dataset='imagenet'": lambda d: load_images('imagenet'), 'limit=0': lambda d: load_images('digits', limit=0),
       "split='validation'": lambda d: ComposeTask(d, k=2).batch(0, 4, 'validation'),
       'start=-1': lambda d: ComposeTask(d, k=2).batch(-1, 4),
       'j=2': lambda d: ComposeTask(d, k=2).block(2),
       'size=0': lambda d: ComposeTask(d, k=2).batch(0, 0),
       'noise=-0.1': lambda d: ComposeTask(d, k=2).batch(0, 4, noise=-0.1),
       "dtype='float16'": lambda d: ComposeTask(d, k=2).batch(0, 4, dtype='float16'),
       'noise=nan': lambda d: ComposeTask(d, k=2).batch(0, 4, noise=float('nan'))}

@pytest.mark.parametrize('message', BAD)
def test_bad_arguments_are_named(digits, message):
    with pytest.raises(ValueError, match=message): BAD[message](digits)

def test_examples_are_drawn(digits):
    fig = ComposeTask(digits, k=4, permute=True).show(2, split='unseen', noise=0.3)
    assert len(fig.axes) == 4
    labels = [int(t.get_text()) for t in fig.axes[0].get_xticklabels()]
    assert labels == ComposeTask(digits, k=4, permute=True).batch(0, 1, 'unseen')[1][0].tolist()

def test_import_is_light():
    heavy = "('torch', 'torchvision', 'PIL', 'sklearn', 'pyarrow', 'matplotlib')"
    subprocess.run([sys.executable, '-c',
                    f'import sys, modscale.images.task; sys.exit(any(m in sys.modules for m in {heavy}))'], check=True)

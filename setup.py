"Packaging for modscale: every value comes from settings.ini; pyproject.toml only declares the build backend."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages
from setuptools.command.sdist import sdist as _sdist

class sdist(_sdist):
    "An sdist has to carry settings.ini, which this file reads (no MANIFEST.in needed)"
    def make_release_tree(self, base_dir, files): super().make_release_tree(base_dir, [*files, 'settings.ini'])

here = Path(__file__).resolve().parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
words = lambda k: cfg.get(k, '').split()
extras = ('bench', 'dask', 'mpi', 'rivals', 'slurm')
tested = ('dask', 'mpi', 'rivals', 'slurm') # what tests use; mpi4py has its MPI from `openmpi` there

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], license=cfg['license'], project_urls={'Repository': cfg['git_url']},
    keywords=words('keywords'), classifiers=['Programming Language :: Python :: 3'], python_requires='>=' + cfg['min_python'],
    packages=find_packages(include=[cfg['lib_name'], cfg['lib_name'] + '.*']),
    package_data={cfg['lib_name'] + '.app': ['*.html', '*.csv'],      # the report's template, the claims
                  cfg['lib_name'] + '.tables': ['*.html']},           # the template of a table's report
    install_requires=words('requirements'),
    extras_require={**{extra: words(f'{extra}_requirements') for extra in extras},
                    'dev': words('dev_requirements') + [name for extra in tested for name in words(f'{extra}_requirements')]},
    entry_points={'console_scripts': words('console_scripts'),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    cmdclass={'sdist': sdist}, zip_safe=False)

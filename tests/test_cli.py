"The command line from outside: consoles that know few characters, readers that leave, shells that complete."
import shutil, subprocess, sys
import pytest

modscale = [sys.executable, '-m', 'modscale.app.cli']

@pytest.mark.parametrize('encoding', ['ascii', 'cp1252', 'utf-8'])
@pytest.mark.parametrize('words', [['--help'], ['predict', '--n', '9', '--p', '5', '--m', '2'], ['plan']], ids=' '.join)
def test_any_console_will_do(run_cli, words, encoding):
    done = run_cli(*words, env=dict(PYTHONIOENCODING=encoding), encoding=encoding)
    assert done.returncode == (2 if words == ['plan'] else 0), done.stderr
    assert 'Traceback' not in done.stderr and (done.stdout or done.stderr).strip()

def test_comments_beside_settings_are_the_help(run_cli):
    text = ' '.join(run_cli('predict', '--help', env=dict(COLUMNS='500')).stdout.split())
    assert 'variance of the label noise (default: 0.0)' in text and 'modules of the networks' in text
    text = ' '.join(run_cli('train', '--help', env=dict(COLUMNS='500')).stdout.split())
    assert 'images side by side' in text and '{float32,bfloat16}' in text and '--samples' in text

@pytest.mark.parametrize('shell', ['bash', 'zsh', 'fish'])
def test_shells_complete_commands_and_options(run_cli, shell, tmp_path):
    script = run_cli('--tyro-print-completion', shell).stdout
    assert all(word in script for word in ('reproduce', 'screen-samples', 'fashion-mnist', 'retry-failed'))
    (tmp_path/'script').write_text(script)
    if shutil.which(shell): assert subprocess.run([shell, '-n', tmp_path/'script'], capture_output=True).returncode == 0
    if shell != 'bash' or not shutil.which('bash'): return
    typed = 'COMP_WORDS=(modscale train --align-b); COMP_CWORD=2; _tyro_modscale modscale; echo "${COMPREPLY[@]}"'
    done = subprocess.run(['bash', '-c', f'. {tmp_path/"script"}; {typed}'], capture_output=True, text=True)
    assert done.stdout.split() == ['--align-bandwidth', '--align-batch']

def test_a_reader_may_leave():
    with subprocess.Popen([*modscale, 'predict', '--n', *map(str, range(1, 3000)), '--p', '5', '--m', '2', '--json'],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b'' and process.wait() == 0

def test_debugging_shows_the_traceback(run_cli):
    words = ['predict', '--n', '0', '--p', '5', '--m', '2']
    assert len(run_cli(*words).stderr.splitlines()) == 1
    assert 'Traceback' in run_cli(*words, env=dict(MODSCALE_DEBUG='1')).stderr

def test_help_waits_for_nothing_heavy(run_python):
    code = ('import sys\nfrom modscale.app.cli import main\n'
            'try: main(["--help"])\nexcept SystemExit: print(*sys.modules)')
    loaded = run_python(code).stdout.split()
    assert {'torch', 'numpy', 'pandas', 'matplotlib', 'scipy'} & {*loaded} == set()

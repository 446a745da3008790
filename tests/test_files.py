"""Files that are ours: nothing of anyone's is replaced or removed, by any command that writes."""

import json
import os
import signal
import subprocess
import sys
import threading

import nbformat
import pytest
from processes import hand_on_interrupts, until
from tiny import make_notebook, names

from labutils import NOTEBOOKS
from labutils.course import files
from labutils.errors import RunError, UsageError

FOREIGN = "or has been changed since; move it away, or name another place with --"


def content(folder):
    """What lies in a folder, but for our own list."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".labutils")
    }


# A folder


def test_files_are_written_and_replaced_while_they_are_as_they_were_written(tmp_path):
    folder = files.Folder(tmp_path / "new" / "out", "test")
    folder.write({"a.txt": "one", "below/b.bin": b"\x00"})
    files.Folder(tmp_path / "new" / "out", "test").write({"a.txt": "two"})
    assert content(folder.path) == {"a.txt": b"two", "below/b.bin": b"\x00"}
    assert sorted(folder.written()) == ["a.txt", "below/b.bin"]
    assert names(folder.path) == ["a.txt", "below"]  # no temporary file is left


@pytest.mark.parametrize("what", ["foreign", "changed", "link", "folder", "dead link"])
def test_what_is_not_ours_is_refused_and_nothing_is_written(what, tmp_path):
    folder = files.Folder(tmp_path / "out", "test")
    folder.write({"a.txt": "one"} if what == "changed" else {"z.txt": "one"})
    target = folder.path / "a.txt"
    if what in ("foreign", "changed"):
        target.write_text("theirs")
    elif what == "folder":
        target.mkdir()
    else:
        (tmp_path / "theirs").write_text("theirs")
        target.symlink_to(tmp_path / ("theirs" if what == "link" else "nowhere"))
    before = content(tmp_path)
    with pytest.raises(UsageError, match=FOREIGN):
        folder.check(["b.txt", "a.txt"])
    with pytest.raises(UsageError, match=FOREIGN):
        folder.write({"b.txt": "new", "a.txt": "new"})
    folder.remove(["a.txt"])
    assert content(tmp_path) == before
    assert os.path.lexists(target)


def test_the_same_content_is_no_conflict_and_force_replaces(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    files.Folder(tmp_path, "test").write({"a.txt": "one"})
    (tmp_path / "a.txt").write_text("theirs")
    files.Folder(tmp_path, "test").write({"a.txt": "two"}, force=True)
    assert (tmp_path / "a.txt").read_text() == "two"


def test_force_replaces_all_or_none(tmp_path):
    folder = files.Folder(tmp_path, "test")
    (tmp_path / "b.txt").mkdir()
    (tmp_path / "a.txt").write_text("answers")
    with pytest.raises(UsageError, match=FOREIGN):
        folder.write({"a.txt": "new", "b.txt": "new"}, force=True)
    assert (tmp_path / "a.txt").read_text() == "answers"
    assert names(tmp_path) == ["a.txt", "b.txt"]


def test_only_our_unchanged_files_and_empty_folders_are_removed(tmp_path):
    folder = files.Folder(tmp_path, "test")
    folder.write({"x/a": "1", "x/b": "2", "y/z/c": "3"})
    (tmp_path / "x" / "b").write_text("theirs")
    folder.remove(["x/a", "x/b", "y/z/c", "none"])
    assert content(tmp_path) == {"x/b": b"theirs"}
    assert names(tmp_path) == ["x"]


def test_replacing_all_keeps_what_others_put_there(tmp_path):
    folder = files.Folder(tmp_path, "test")
    folder.replace_all({"index.html": "1", "old.html": "1", "s/a.css": "1"}, "pages/")
    folder.write({"other": "1"})
    (tmp_path / "pages" / "CNAME").write_text("theirs")
    folder.replace_all({"index.html": "2", "new.html": "2"}, "pages/")
    assert content(tmp_path) == {
        "other": b"1",
        "pages/CNAME": b"theirs",
        "pages/index.html": b"2",
        "pages/new.html": b"2",
    }
    assert sorted(folder.written()) == ["other", "pages/index.html", "pages/new.html"]


@pytest.mark.parametrize("lost", ["", "\n", '{"file": "z", "sha256": "x", "by": "test"}\n[1]\n\x00'])
def test_a_list_that_lost_its_lines_makes_nothing_ours(lost, tmp_path):
    files.Folder(tmp_path, "test").write({"a.txt": "one"})
    (tmp_path / files.LIST).write_text(lost)
    folder = files.Folder(tmp_path, "test")
    with pytest.raises(UsageError, match=FOREIGN):
        folder.write({"a.txt": "two"})
    folder.write({"b.txt": "one"})
    folder.write({"b.txt": "two"})
    assert content(tmp_path) == {"a.txt": b"one", "b.txt": b"two"}


@pytest.mark.parametrize("what", ["text", "json", "link", "folder", "pipe"])
def test_what_has_the_name_of_the_list_and_is_none_is_refused(what, tmp_path):
    place, folder = tmp_path / files.LIST, files.Folder(tmp_path, "test")
    if what == "folder":
        place.mkdir()
    elif what == "pipe":
        os.mkfifo(place)
    elif what == "link":
        (tmp_path / "mine.txt").write_text("theirs")
        place.symlink_to(tmp_path / "mine.txt")
    else:
        place.write_text({"text": "my notes\n", "json": '{"file": 3}\n'}[what])
    with pytest.raises(UsageError, match=r"\.labutils is no list of labutils; move it away"):
        folder.write({"a.txt": "one"})
    assert not (tmp_path / "a.txt").exists()


def test_a_command_leaves_what_another_has_written(tmp_path):
    files.Folder(tmp_path, "sweep").write({"run.ipynb": "1"})
    pages = files.Folder(tmp_path, "site")
    pages.replace_all({"index.html": "1"})
    pages.replace_all({"other.html": "1"})
    assert content(tmp_path) == {"run.ipynb": b"1", "other.html": b"1"}
    with pytest.raises(UsageError, match="was not written by labutils site"):
        pages.write({"run.ipynb": "2"})
    files.Folder(tmp_path, "sweep").write({"run.ipynb": "3"})  # it still knows its own


def test_the_list_is_read_on_where_it_was_read_before(tmp_path):
    first, second = files.Folder(tmp_path, "test"), files.Folder(tmp_path, "test")
    first.write({"a": "1"})
    second.write({"b": "1"})
    assert sorted(first.written()) == ["a", "b"]
    second.replace_all({"c": "1"})
    assert first.written() == ["c"]


def test_a_list_whose_last_line_a_power_cut_left_open_serves_on(tmp_path):
    folder = files.Folder(tmp_path, "test")
    folder.write({"a.txt": "one"})
    with (tmp_path / files.LIST).open("a") as file:
        file.write('{"file": "c.tx')
    folder.write({"a.txt": "two", "b.txt": "one"})
    assert content(tmp_path) == {"a.txt": b"two", "b.txt": b"one"}


def test_a_full_disk_leaves_all_or_none(tmp_path, monkeypatch):
    folder = files.Folder(tmp_path / "out", "test")
    folder.write({"a.txt": "one"})
    written = []

    def full_after_one(path, content):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        path.write_bytes(content)

    monkeypatch.setattr(files, "_write_through", full_after_one)
    with pytest.raises(RunError, match=r"cannot write to .*out \(No space left on device\)"):
        folder.write({"a.txt": "two", "b.txt": "two"})
    assert content(tmp_path) == {"out/a.txt": b"one"}
    assert names(folder.path) == ["a.txt"]


def test_temporary_files_of_a_killed_process_are_removed_and_of_a_living_one_kept(tmp_path):
    source = "import os, sys; from labutils.course import files; print(files._temporary_name())"
    dead = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout.strip()
    living = files._temporary_name()
    theirs = ".labutils-elsewhere-1-1.tmp"
    for name in (dead, living, theirs):
        (tmp_path / name).touch()
    files.Folder(tmp_path, "test").write({"a": "1"})
    assert [(tmp_path / name).exists() for name in (dead, living, theirs)] == [False, True, True]


def test_many_processes_may_write_to_one_folder(tmp_path):
    source = (
        "import sys; from labutils.course import files\n"
        "for n in range(30): files.Folder(sys.argv[1], 'test').write({f'{sys.argv[2]}-{n}': 'x', sys.argv[2]: str(n)})"
    )
    command = [sys.executable, "-c", source, str(tmp_path)]
    running = [subprocess.Popen([*command, name]) for name in "abc"]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert len(files.Folder(tmp_path, "test").written()) == 93


@pytest.mark.parametrize("place", ["file", "file/below", "shut/below", "n" * 300])
def test_a_place_that_cannot_be_written_to_is_refused_in_a_sentence(place, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "shut").symlink_to("/proc/1")  # where even root makes no folder
    with pytest.raises(RunError, match=r"cannot write to .*name another place with --output"):
        files.Folder(tmp_path / place, "test").check(["a"])


# The commands


def lesson_in(folder, stem="50_mine", *sources):
    folder.mkdir(parents=True, exist_ok=True)
    return make_notebook(folder / f"{stem}.ipynb", *sources)


@pytest.mark.parametrize(
    "command",
    [
        ("run", "proj/notebooks/50_mine.ipynb", "-o", "proj"),
        ("run", "proj/notebooks/50_mine.ipynb", "-o", "proj/notebooks"),
        ("run", "proj/notebooks/50_mine.ipynb", "-o", "link"),
        ("sweep", "proj/notebooks/50_mine.ipynb", "-o", "proj/notebooks"),
        ("sweep", "proj/notebooks/50_mine.ipynb", "-o", "proj/sub/../notebooks"),
        ("site", "proj/notebooks/50_mine.ipynb", "-o", "proj/notebooks"),
        ("student", "proj/notebooks/50_mine.ipynb", "-o", "proj/notebooks", "--force"),
        ("run", "00", "--quick", "-o", str(NOTEBOOKS.parent)),
        ("run", "00", "--quick", "-o", str(NOTEBOOKS)),
        ("sweep", "00", "-o", str(NOTEBOOKS)),
        ("site", "00", "-o", str(NOTEBOOKS)),
        ("student", "00", "-o", str(NOTEBOOKS), "--force"),
    ],
    ids=" ".join,
)
def test_nothing_is_written_over_or_among_what_is_read(command, labutils, tmp_path, monkeypatch):
    lesson_in(tmp_path / "proj" / "notebooks")
    (tmp_path / "proj" / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "proj")
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path), content(NOTEBOOKS)
    status, _, errors = labutils(*command)
    assert status == 2
    assert "where notebooks that are read lie; name another folder with --output" in errors
    assert len(errors.splitlines()) == 1
    assert (content(tmp_path), content(NOTEBOOKS)) == before
    assert not list(NOTEBOOKS.glob(".labutils*"))


def test_a_run_leaves_the_answers_of_a_handed_out_copy(labutils, tmp_path):
    path, out = lesson_in(tmp_path / "mine"), tmp_path / "handout"
    assert labutils("student", path, "-o", out / "notebooks")[0] == 0
    copy = out / "notebooks" / path.name
    copy.write_text(copy.read_text().replace("A tiny lesson", "My answer"))
    before = content(tmp_path)
    status, _, errors = labutils("run", path, "-o", out)
    assert (status, FOREIGN in errors) == (2, True)
    assert content(tmp_path) == before


def test_an_executed_notebook_that_was_worked_on_is_kept(labutils, tmp_path):
    path, out = lesson_in(tmp_path / "mine"), tmp_path / "out"
    assert labutils("run", path, "-o", out)[0] == 0
    executed = out / "notebooks" / path.name
    executed.write_text(executed.read_text().replace("A tiny lesson", "My notes"))
    before = content(out)
    status, _, errors = labutils("run", path, "-o", out)
    assert (status, FOREIGN in errors, content(out) == before) == (2, True, True)
    assert labutils("sweep", path, "-g", "n=1,2", "-o", tmp_path / "runs")[0] == 0
    swept = tmp_path / "runs" / f"{path.stem},n=1.ipynb"
    swept.write_text(swept.read_text().replace("A tiny lesson", "My notes"))
    lesson_in(tmp_path / "mine", "50_mine", "print('changed')")
    before = content(tmp_path / "runs")
    status, _, errors = labutils("sweep", path, "-g", "n=1,2", "-o", tmp_path / "runs")
    assert (status, FOREIGN in errors, content(tmp_path / "runs") == before) == (2, True, True)


def test_an_interrupted_repeat_keeps_what_an_earlier_run_finished(labutils, tmp_path):
    out, started = tmp_path / "out", tmp_path / "started"
    path = lesson_in(tmp_path / "mine")
    assert labutils("run", path, "-o", out)[0] == 0
    before = content(out)
    lesson_in(
        tmp_path / "mine", "50_mine", f"import time\nopen({str(started)!r}, 'w').close()\ntime.sleep(60)"
    )
    hand_on_interrupts()
    command = [sys.executable, "-m", "labutils", "run", str(path), "-o", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        assert until(started.exists, seconds=120)
        driver.send_signal(signal.SIGINT)
        driver.send_signal(signal.SIGINT)  # the impatient
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130
    said = "labutils: interrupted; finished notebooks are kept, unfinished ones were not written"
    assert errors.strip() == said
    assert content(out) == before


def test_a_failed_repeat_keeps_what_an_earlier_run_finished(labutils, tmp_path):
    out = tmp_path / "out"
    path = lesson_in(tmp_path / "mine")
    assert labutils("run", path, "-o", out)[0] == 0
    before = (out / "notebooks" / path.name).read_bytes()
    lesson_in(tmp_path / "mine", "50_mine", "1 / 0")
    status, _, errors = labutils("run", path, "-o", out)
    assert (status, "ZeroDivisionError" in errors) == (1, True)
    assert (out / "notebooks" / path.name).read_bytes() == before
    assert names(out / "notebooks") == ["50_mine.failed.ipynb", "50_mine.ipynb"]
    lesson_in(tmp_path / "mine")
    assert labutils("run", path, "-o", out)[0] == 0
    assert names(out / "notebooks") == ["50_mine.ipynb"]


@pytest.mark.parametrize(
    "place", ["notebooks/50_mine.ipynb", "results.csv", "pages/index.html", "pages/50_mine.html"]
)
def test_a_run_refuses_foreign_files_in_its_way_before_anything_runs(place, labutils, tmp_path):
    ran = tmp_path / "ran"
    path, out = lesson_in(tmp_path / "mine", "50_mine", f"open({str(ran)!r}, 'w').close()"), tmp_path / "out"
    (out / place).parent.mkdir(parents=True)
    (out / place).write_text("theirs")
    status, _, errors = labutils("run", path, "-o", out)
    assert (status, FOREIGN in errors) == (2, True)
    assert content(out) == {place: b"theirs"}
    assert not ran.exists()


def test_a_broken_notebook_of_somebody_does_not_disturb_a_run(labutils, tmp_path):
    path, out = lesson_in(tmp_path / "mine"), tmp_path / "out"
    (out / "notebooks").mkdir(parents=True)
    (out / "notebooks" / "theirs.ipynb").write_text('{"cells": [')
    status, _, errors = labutils("run", path, "-o", out)
    assert (status, errors) == (0, "")
    assert (out / "notebooks" / "theirs.ipynb").read_text() == '{"cells": ['
    assert not (out / "pages" / "theirs.html").exists()


@pytest.mark.parametrize("command", ["run", "site", "student"])
def test_two_notebooks_of_one_name_are_refused_before_anything_runs(command, labutils, tmp_path):
    paths = [lesson_in(tmp_path / name) for name in ("one", "two")]
    status, _, errors = labutils(command, *paths, "-o", tmp_path / "out")
    assert (status, "named 50_mine" in errors) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_notebook_named_like_another_page_is_refused_before_anything_runs(labutils, tmp_path):
    status, _, errors = labutils("run", lesson_in(tmp_path / "mine", "results"), "-o", tmp_path / "out")
    assert (status, "a page of the site is named results; rename the notebook" in errors) == (2, True)
    assert not (tmp_path / "out").exists()


def page_in(folder, stem="50_a"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A")]), path)
    return path


def test_pages_are_not_put_over_somebodys_site(labutils, tmp_path):
    web = tmp_path / "webroot"
    for name in ("index.html", "CNAME", ".git/HEAD", "slides/index.html"):
        (web / name).parent.mkdir(parents=True, exist_ok=True)
        (web / name).write_text("theirs")
    path, before = page_in(tmp_path / "nb"), content(web)
    status, _, errors = labutils("site", path, "-o", web)
    assert (status, FOREIGN in errors) == (2, True)
    assert content(web) == before


@pytest.mark.parametrize("link", [False, True])
def test_pages_go_beside_other_files_and_again_keep_them(link, labutils, tmp_path, monkeypatch):
    web = tmp_path / "webroot"
    web.mkdir()
    (web / "CNAME").write_text("theirs")
    if link:
        (tmp_path / "link").symlink_to(web)
    monkeypatch.chdir(web)
    output = tmp_path / "link" if link else "."
    first, second = page_in(tmp_path / "nb"), page_in(tmp_path / "nb", "51_b")
    assert labutils("site", first, "-o", output)[0] == 0
    assert (web / "50_a.html").exists()
    assert labutils("site", second, "-o", output)[0] == 0
    assert not (web / "50_a.html").exists()
    assert (web / "51_b.html").exists()
    assert (web / ".nojekyll").exists()
    assert (web / "CNAME").read_text() == "theirs"
    assert not link or (tmp_path / "link").is_symlink()


def test_a_killed_site_leaves_nothing_beside_the_pages(tmp_path):
    path, out = page_in(tmp_path / "nb"), tmp_path / "web" / "out"
    command = [sys.executable, "-m", "labutils", "site", str(path), "-o", str(out)]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(scratch)}) as process:
        assert until(lambda: list(scratch.rglob("50_a.ipynb")), seconds=120)
        process.kill()
    assert not out.parent.exists()
    assert names(tmp_path) == ["nb", "scratch"]


def test_a_collected_table_and_figure_replace_only_their_own(labutils, tmp_path):
    path, table, figure = (
        lesson_in(tmp_path / "mine"),
        tmp_path / "t" / "table.csv",
        tmp_path / "f" / "figure.png",
    )
    assert labutils("sweep", path, "-g", "n=1,2", "-o", tmp_path / "runs")[0] == 0
    command = ("collect", tmp_path / "runs", "-o", table, "--plot", figure, "-x", "n", "-y", "square")
    assert labutils(*command)[0] == labutils(*command)[0] == 0
    figure.write_bytes(b"theirs")
    table.write_bytes(b"theirs")
    status, _, errors = labutils(*command)
    assert (status, FOREIGN in errors) == (2, True)
    assert figure.read_bytes() == table.read_bytes() == b"theirs"


def test_a_sweep_begun_by_the_version_before_goes_on_and_repeats_nothing(labutils, tmp_path):
    path, out = lesson_in(tmp_path / "mine"), tmp_path / "runs"
    assert labutils("sweep", path, "-g", "n=1,2", "-o", out)[0] == 0
    for leftover in out.glob(".labutils*"):  # that version kept no list
        leftover.unlink()
    before = content(out)
    status, printed, _ = labutils("sweep", path, "-g", "n=1,2,3", "-o", out)
    assert status == 0
    assert "2 of 3 runs are finished, 1 to do" in printed
    assert {name: content(out)[name] for name in before} == before


def test_two_sweeps_of_one_folder_lose_nothing(tmp_path):
    path, out = lesson_in(tmp_path / "mine"), tmp_path / "runs"
    command = [sys.executable, "-m", "labutils", "sweep", str(path), "-o", str(out), "-j", "1", "-g"]
    both = [
        subprocess.Popen([*command, f"n={values}"], stdout=subprocess.DEVNULL) for values in ("1,2", "2,3")
    ]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert names(out) == [f"50_mine,n={n}.ipynb" for n in (1, 2, 3)]
    assert all(json.loads((out / name).read_text())["metadata"]["labutils"]["seconds"] for name in names(out))


@pytest.mark.parametrize("name", ["50_mine.failed", ".50_mine"])
def test_a_notebook_with_the_name_of_a_failed_or_hidden_one_is_refused(name, labutils, tmp_path):
    path = lesson_in(tmp_path / "mine", name)
    for command in ("run", "sweep"):
        status, _, errors = labutils(command, path, "-o", tmp_path / "out")
        assert (status, "has the name of a hidden or failed notebook; rename it" in errors) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changed", ["notebooks/50_a.ipynb", "results.csv"])
def test_what_somebody_changes_while_a_run_goes_on_is_kept_and_so_is_the_run(changed, labutils, tmp_path):
    out, go = tmp_path / "out", tmp_path / "go"
    first, second = lesson_in(tmp_path / "mine", "50_a"), lesson_in(tmp_path / "mine", "51_b")
    assert labutils("run", first, second, "-o", out)[0] == 0
    wait = f"import os, time\nopen({str(tmp_path / 'started')!r}, 'w').close()\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)"
    lesson_in(tmp_path / "mine", "50_a", wait)

    def change():
        if until((tmp_path / "started").exists, seconds=120):
            (out / changed).write_text("theirs")
        go.touch()

    changer = threading.Thread(target=change)
    changer.start()
    status, printed, errors = labutils("run", first, second, "-o", out)
    changer.join()
    assert status == 1
    assert "51_b: done" in printed
    assert FOREIGN in errors
    assert (out / changed).read_text() == "theirs"
    kept = ["50_a.kept1.ipynb"] if changed.startswith("notebooks") else []
    assert names(out / "notebooks") == sorted(["50_a.ipynb", *kept, "51_b.ipynb"])


def test_collect_writes_table_and_figure_or_neither(labutils, tmp_path):
    path, figure = lesson_in(tmp_path / "mine"), tmp_path / "figure.png"
    assert labutils("sweep", path, "-g", "n=1,2", "-o", tmp_path / "runs")[0] == 0
    figure.write_text("theirs")
    command = (
        "collect",
        tmp_path / "runs",
        "-o",
        tmp_path / "t.csv",
        "--plot",
        figure,
        "-x",
        "n",
        "-y",
        "square",
    )
    status, _, errors = labutils(*command)
    assert (status, "name another place with --plot" in errors) == (2, True)
    assert not (tmp_path / "t.csv").exists()

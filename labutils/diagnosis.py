"""What is amiss on this machine, in plain words, for lesson 00. Nothing is fetched, and nothing raises."""

import os
import re
import sys
from importlib import metadata
from pathlib import Path

OLDEST_PYTHON = (3, 11)  # as in pyproject.toml
PROJECT = Path(__file__).resolve().parents[1]


def report():
    """Print a line for each finding: what is good, or what is amiss and what to do about it.

    It looks at Python, its environment, torch with torchvision, the data sets, the processor's cores and the GPU.
    """
    for look in (_python, _environment, _torch, _mnist, _moby_dick, _processor, _gpu):
        try:
            print(look())
        except Exception as error:  # noqa: BLE001 - whatever is broken, the other lines are still wanted
            name = look.__name__.strip("_")
            print(f"{name}: cannot be looked at ({_in_brief(error)}); mend what the lines above name")


def _python():
    version, oldest = (".".join(map(str, numbers)) for numbers in (sys.version_info[:3], OLDEST_PYTHON))
    if tuple(sys.version_info[:2]) < OLDEST_PYTHON:
        mend = f"install Python {oldest} or later, delete the folder .venv, and run make lab"
        return f"Python {version}: older than {oldest}, which the course needs; {mend}"
    return f"Python {version}: good"


def _environment():
    own = PROJECT / ".venv"
    if not own.is_dir():
        return "Environment: not made by make install; good, if it was made from environment.yml"
    if own.resolve() != Path(sys.prefix).resolve():
        mend = "close JupyterLab, and run make lab in the course's folder"
        return f"Environment: this kernel runs in {sys.prefix}, not in the course's .venv; {mend}"
    return "Environment: the course's own .venv, good"


def _torch():
    try:
        torch, vision = metadata.version("torch"), metadata.version("torchvision")
    except metadata.PackageNotFoundError as error:
        return f"{error.name}: not installed; run make install again, which takes up where it stopped"
    torch, vision = torch.split("+")[0], vision.split("+")[0]  # 2.13.0+cpu is a build of 2.13.0
    both, pip = f"torch {torch} with torchvision {vision}", f"{sys.executable} -m pip install"
    pins = [re.match(r"torch *\(?== *([^),;+ ]+)", line) for line in metadata.requires("torchvision") or ()]
    for pin in filter(None, pins):
        if pin[1] != torch:
            needs = f"it was made for torch {pin[1]}"
            return f"torchvision {vision} does not fit torch {torch}: {needs}; {pip} torch=={pin[1]}"
    try:
        from labutils.data.vision import import_torchvision, lacks_operators

        import_torchvision()
    except Exception as error:  # noqa: BLE001 - a broken installation raises what it likes
        mend = f"{pip} --force-reinstall torch=={torch} torchvision=={vision}"
        return f"{both}: cannot be imported ({_in_brief(error)}); {mend}"
    without = ", but for its compiled operators, which no lesson uses" if lacks_operators() else ""
    return f"{both}: good{without}"


def _mnist():
    return _data_set("mnist")


def _moby_dick():
    return _data_set("moby-dick")


def _data_set(name):
    from labutils.data import cache, catalogue

    title, state = catalogue.TITLES[name], catalogue.state(name)
    if state == "whole":
        return f"{title}: whole in the data cache, good"
    found = {"damaged": "damaged", "absent": "not there"}[state]
    stands_in = catalogue.STAND_INS[name]
    bundled = catalogue.BUNDLED[stands_in]
    taken = f"the bundled {bundled.kind} {bundled.extent}, with which numbers differ from the text"
    if catalogue.state(stands_in) != "whole":
        mend = f"git checkout labutils/{bundled.path.name}"
        taken = f"nothing, as the bundled {bundled.kind} is missing or damaged, too ({mend})"
    then = f"a lesson tries to fetch it, and otherwise takes {taken}"
    fetch = f"{sys.executable} -m labutils data {name} fetches it"
    return f"{title}: {found} in the data cache, {cache.cache_folder()}; {then}; {fetch}"


def _processor():
    # A container or a cluster's scheduler may lend fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1:
        return "Processor: 1 core, fine; lessons that train networks side by side take about twice as long"
    return f"Processor: {cores} cores, good"


def _gpu():
    from labutils import training

    device = training.pick_device("auto")
    if device.type != "cpu":
        return f"GPU: found ({device.type}), good; training uses it"
    slow = "only much larger settings, such as hidden_dim = 2048 in lesson 08, are slow"
    return f"GPU: none found, fine; lessons state their minutes without one, and {slow}"


def _in_brief(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:160]

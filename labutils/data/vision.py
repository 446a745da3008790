"""torchvision, imported also where its compiled operators are broken."""

# Keeps the operator schemas alive: they vanish with the object that defines them.
_operators = None


def import_torchvision():
    """Import torchvision, also beside a torch that lacks the operators its wheel was compiled for.

    A CPU-only torch with the registry's torchvision wheel is a common install, and breaks on import with
    "operator torchvision::nms does not exist" (pytorch/pytorch issue 122494): the wheel's compiled operators
    look for CUDA libraries and fail silently, and torchvision then describes operators nobody defined.
    Declaring the two missing schemas lets the import go on; data sets and transforms do not need them.

    Returns
    -------
    module
    """
    global _operators
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        _operators = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def lacks_operators():
    """Whether `import_torchvision` had to do without torchvision's compiled operators."""
    return _operators is not None

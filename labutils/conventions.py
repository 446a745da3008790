"""What notebooks and the programs that read them agree on: types, keys, tags, colours."""

RECORD_TYPE = "application/x-labutils+json"  # of an output that holds what lesson.record was given
METADATA = "labutils"  # key of the metadata in which an executed notebook says what it is a run of

# Tags of cells
PARAMETERS = "parameters"
SCRATCH = "scratch"  # what a lesson writes out, and tests compare with the library
SOLUTION = "solution"  # of the exercise before it
FOLDED = {  # roles whose code is folded, and what the fold is called; all else is the lesson, and stays open
    "setup": "Setup",
    "figure": "Figure",
    "check": "Check",
    SOLUTION: "Solution",
}
CHECK = (
    "nbval-check-output"  # its output must hold for any parameters: the check of an exercise, among others
)

# Okabe and Ito's colours, told apart by colour-blind readers, each with a marker of its own. Violet and brown stand
# for their sky blue and orange, whose contrast to white is below the 3:1 that lines need.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#9933FF", "#A34729", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# Columns that a table of records adds to the results, so that no result may have their names.
ORIGIN = ("notebook", "file", "run_seconds", "commit", "cpu", "cores", "gpu", "versions")

"""With which settings does SCANVI classify best, when few cells have a label?

    python benchmarks/scanvi_settings.py --first-seed 5 --seeds 7

The row "SCANVI, tuned" of the study of few labels has the settings that are best here: weight of the labels, epochs and learning rate. They are
chosen as those of CI-VAE were, on blood and on colon types, on splits that no table reports (seeds 5 and
6), with 5 % of the labels. Scored are the held-out cells of these splits. All start from one trained scVI, which knows no labels.
"""

from __future__ import annotations

from _methods import SCANVI, SCANVI_CANDIDATES
from _rules import REPORTING, check_choice
from _study import Study, run, text_of
from class_kept import Row
from few_labels import KEPT, WRONG, measure, prepare

CHOSEN_ON = ("colon_crc", "pbmc_kang")
check_choice(CHOSEN_ON, REPORTING)

METHODS = {
    name: Row(lambda settings=settings: SCANVI(**settings))
    for name, settings in SCANVI_CANDIDATES.items()
}

STUDY = Study(
    name="scanvi_settings",
    title="Settings of SCANVI",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[{"data": name, KEPT: 5, WRONG: 0} for name in CHOSEN_ON],
    prepare=prepare,
    measure=measure,
    options=lambda parser: parser.add_argument("--n-genes", type=int, default=1000),
    quick={"only": ["data=colon_crc"]},
    time="CPU time, s",
)

if __name__ == "__main__":
    run(STUDY)
